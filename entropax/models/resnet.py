"""Residual networks, for small images and for those of ImageNet."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float

from entropax.convolution import convolution
from entropax.types import Array

_CHOICES = {
    "block": ("basic", "bottleneck"),
    "shortcut": ("projection", "zeros", "convolution"),
    "norm": ("batch", "group"),
}
# He et al.: a bottleneck puts out four times the channels that it has inside.
_EXPANSION = 4
_GROUPS_OF_NORM = 32


class ResNet(nn.Module):
    """A 3x3 convolution, stages of residual blocks, the mean over space, one dense layer.

    A basic block is two 3x3 convolutions with BatchNorm, the input added before the last ReLU; a
    bottleneck is a 1x1, a 3x3 and a 1x1 convolution with a quarter of the channels inside. The
    first block of every stage but the first halves the resolution, in its first 3x3 convolution;
    where resolution or width change, the input passes a 1x1 convolution with BatchNorm first, or is
    subsampled and gets channels of zeros on both sides. With three stages and such zeros this is
    the network for CIFAR of He et al., section 4.2; with a large stem and four stages those of
    their table 1; with groups the ResNeXt of Xie et al. `models.architectures` has them by name.

    Attributes:
      num_classes: number of logits.
      widths: channels of each stage.
      blocks: of each stage; one number for all, or one for each.
      shortcut: `"projection"`, the 1x1 convolution, `"convolution"`, the same without BatchNorm, or
        `"zeros"` (option A of He et al.; the first is their option B).
      padding: `"SAME"` or, as torch has it, 1 pixel on every side of a 3x3 convolution, 3 of a 7x7.
        They differ where the resolution is halved.
      conv_init: initialiser of every convolution.
      dense_init: initialiser of the dense layer's matrix; its bias begins with 0, as those of the
        BatchNorm layers do, whose scales begin with 1.
      block: `"basic"` or `"bottleneck"`.
      large_stem: whether the first convolution is 7x7 with stride 2, and a maximum over 3x3 with
        stride 2 follows: a quarter of the resolution before the first block.
      stem_width: channels of the first convolution; None for those of the first stage.
      groups: of the 3x3 convolution in a bottleneck.
      group_width: channels of a group in the first stage, in later ones more in proportion to the
        width; None for a quarter of the width in all groups together.
      norm: `"batch"`, or `"group"` for GroupNorm with 32 groups, which knows no batch.
      epsilon: added to variances.
      use_bias: whether convolutions have biases.
      dtype: of the activations, for mixed precision; None for that of the images. Parameters,
        running statistics, the arithmetic of normalisation, features and logits are float32 at
        least.

    Call it with `train=True` (and `mutable=["batch_stats"]`) to update running statistics. The
    method `features` returns what the dense layer sees:

    >>> import jax
    >>> from entropax.models import running_statistics
    >>> module = ResNet(num_classes=10, widths=(8, 16), blocks=1)
    >>> variables = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    >>> features = running_statistics(module, method="features")
    >>> features(variables, jnp.zeros((5, 8, 8, 1))).shape
    (5, 16)

    Reference: K. He et al., "Deep residual learning for image recognition" (2015), table 1 and
    section 4.2; S. Xie et al., "Aggregated residual transformations for deep neural networks"
    (2017), figure 3c; Y. Wu and K. He, "Group normalization" (2018).
    """

    num_classes: int
    widths: Sequence[int] = (16, 32, 64)
    blocks: int | Sequence[int] = 2
    shortcut: str = "projection"
    padding: str | int = "SAME"
    conv_init: nn.initializers.Initializer = nn.initializers.he_normal()
    dense_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    block: str = "basic"
    large_stem: bool = False
    stem_width: int | None = None
    groups: int = 1
    group_width: int | None = None
    norm: str = "batch"
    epsilon: float = 1e-5
    use_bias: bool = False
    dtype: Any = None

    def setup(self) -> None:
        """Make the layers."""
        numbers = self.stage_blocks
        self._check()
        convolved = partial(
            _Convolution,
            init_fn=self.conv_init,
            padding=self.padding,
            norm=self.norm,
            epsilon=self.epsilon,
            use_bias=self.use_bias,
            dtype=self.dtype,
        )
        size, stride = (7, 2) if self.large_stem else (3, 1)
        self.stem = convolved(self.stem_width or self.widths[0], size, stride)
        residual = []
        for stage, (width, number) in enumerate(zip(self.widths, numbers, strict=True)):
            for block in range(number):
                stride = 2 if stage and not block else 1
                inside = self._width_inside(width) if self.block == "bottleneck" else None
                residual.append(
                    _Block(width, stride, convolved, self.shortcut, inside, self.groups)
                )
        self.residual = residual
        self.head = nn.Dense(self.num_classes, kernel_init=self.dense_init)

    def __call__(
        self, x: Float[Array, "b h w channels"], train: bool = False
    ) -> Float[Array, "b c"]:
        """Return the logits `[b, num_classes]` of images `[b, h, w, channels]`."""
        return self.head(self.features(x, train))

    def features(
        self, x: Float[Array, "b h w channels"], train: bool = False
    ) -> Float[Array, "b d"]:
        """Return the last layer but one, `[b, widths[-1]]`."""
        x = nn.relu(self.stem(x, train))
        if self.large_stem:
            side = self.padding
            padding = side if isinstance(side, str) else ((side, side), (side, side))
            x = nn.max_pool(x, (3, 3), (2, 2), padding)
        for block in self.residual:
            x = block(x, train)
        return jnp.mean(x.astype(jnp.promote_types(x.dtype, jnp.float32)), axis=(1, 2))

    @property
    def stage_blocks(self) -> tuple[int, ...]:
        """The number of blocks of each stage; the submodules count through: `residual_0`, ...

        Raises:
          ValueError: no stage, a stage without blocks, or another number of stages than `widths`.
        """
        blocks, widths = self.blocks, tuple(self.widths)
        numbers = (blocks,) * len(widths) if isinstance(blocks, int) else tuple(blocks)
        if not widths or len(numbers) != len(widths) or min(numbers) < 1:
            raise ValueError(
                "`widths` must name at least one stage, and `blocks` be at least 1, one number or "
                f"one for each stage, got {widths} and {blocks}."
            )
        return numbers

    def _check(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                known = ", ".join(repr(choice) for choice in choices)
                raise ValueError(f"`{name}` must be one of {known}, got {getattr(self, name)!r}.")
        if self.block == "basic" and (self.groups != 1 or self.group_width is not None):
            raise ValueError(
                "Groups belong to block='bottleneck', got block='basic' with "
                f"groups={self.groups} and group_width={self.group_width}."
            )

    def _width_inside(self, width: int) -> int:
        if self.group_width is None:
            return width // _EXPANSION
        return self.groups * self.group_width * width // self.widths[0]


class _Convolution(nn.Module):
    """A convolution, and its normalisation."""

    width: int
    size: int
    stride: int
    init_fn: nn.initializers.Initializer
    padding: str | int
    norm: str
    epsilon: float
    use_bias: bool
    dtype: Any
    groups: int = 1
    normalised: bool = True

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        side = self.padding
        padding = side if isinstance(side, str) else side * (self.size // 2)
        x = nn.Conv(
            self.width,
            (self.size, self.size),
            (self.stride, self.stride),
            padding=padding,
            feature_group_count=self.groups,
            use_bias=self.use_bias,
            dtype=self.dtype,
            kernel_init=self.init_fn,
            conv_general_dilated=convolution,
            name="conv",
        )(x)
        if not self.normalised:
            return x
        options: dict[str, Any] = {"epsilon": self.epsilon, "dtype": self.dtype, "name": "norm"}
        if self.norm == "group":
            return nn.GroupNorm(_GROUPS_OF_NORM, **options)(x)
        return nn.BatchNorm(use_running_average=not train, momentum=0.9, **options)(x)


class _Block(nn.Module):
    """Convolutions round which the input is added: two, or three with `inside` channels within."""

    width: int
    stride: int
    convolution: Callable[..., _Convolution]
    shortcut: str
    inside: int | None
    groups: int

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        layer, width, inside = self.convolution, self.width, self.inside
        if inside is None:
            y = nn.relu(layer(width, 3, self.stride, name="first")(x, train))
            y = layer(width, 3, 1, name="second")(y, train)
        else:
            y = nn.relu(layer(inside, 1, 1, name="first")(x, train))
            y = layer(inside, 3, self.stride, groups=self.groups, name="second")(y, train)
            y = layer(width, 1, 1, name="third")(nn.relu(y), train)
        if x.shape != y.shape:
            if self.shortcut == "zeros":
                x = x[:, :: self.stride, :: self.stride]
                more = self.width - x.shape[-1]
                x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (more // 2, more - more // 2)))
            else:
                normalised = self.shortcut == "projection"
                x = layer(width, 1, self.stride, normalised=normalised, name="shortcut")(x, train)
        return nn.relu(x + y)
