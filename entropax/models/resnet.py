"""A residual network for small images."""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float

from entropax.convolution import convolution
from entropax.types import Array


class ResNet(nn.Module):
    """A 3x3 convolution, stages of residual blocks, the mean over space, one dense layer.

    A block is two 3x3 convolutions with BatchNorm, the input added before the last ReLU. The first
    block of every stage but the first halves the resolution; where resolution or width change, the
    input passes a 1x1 convolution with BatchNorm first, or is subsampled and gets channels of zeros
    on both sides. With three stages and such zeros this is the network for CIFAR of He et al.,
    section 4.2.

    Attributes:
      num_classes: number of logits.
      widths: channels of each stage.
      blocks: of each stage.
      shortcut: `"projection"`, the 1x1 convolution, or `"zeros"` (options B and A of He et al.).
      padding: of the 3x3 convolutions, `"SAME"` or, as torch has it, 1 pixel on every side. They
        differ where the resolution is halved.
      conv_init: initialiser of every convolution.
      dense_init: initialiser of the dense layer's matrix; its bias begins with 0, as those of the
        BatchNorm layers do, whose scales begin with 1.

    Call it with `train=True` (and `mutable=["batch_stats"]`) to update running statistics. The
    method `features` returns what the dense layer sees:

    >>> import jax
    >>> from entropax.models import running_statistics
    >>> module = ResNet(num_classes=10, widths=(8, 16), blocks=1)
    >>> variables = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    >>> features = running_statistics(module, method="features")
    >>> features(variables, jnp.zeros((5, 8, 8, 1))).shape
    (5, 16)

    Reference: K. He et al., "Deep residual learning for image recognition" (2015).
    """

    num_classes: int
    widths: Sequence[int] = (16, 32, 64)
    blocks: int = 2
    shortcut: str = "projection"
    padding: str | int = "SAME"
    conv_init: nn.initializers.Initializer = nn.initializers.he_normal()
    dense_init: nn.initializers.Initializer = nn.initializers.lecun_normal()

    def setup(self) -> None:
        """Make the layers."""
        if self.blocks < 1 or not self.widths:
            raise ValueError(
                f"`widths` must name at least one stage, and `blocks` be at least 1, got "
                f"{tuple(self.widths)} and {self.blocks}."
            )
        if self.shortcut not in ("projection", "zeros"):
            raise ValueError(f"`shortcut` must be 'projection' or 'zeros', got {self.shortcut!r}.")
        self.stem = _Convolution(self.widths[0], 3, 1, self.conv_init, self.padding)
        residual = []
        for stage, width in enumerate(self.widths):
            for block in range(self.blocks):
                stride = 2 if stage and not block else 1
                residual.append(_Block(width, stride, self.conv_init, self.shortcut, self.padding))
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
        for block in self.residual:
            x = block(x, train)
        return jnp.mean(x, axis=(1, 2))


class _Convolution(nn.Module):
    """A convolution without bias, and BatchNorm."""

    width: int
    size: int
    stride: int
    init_fn: nn.initializers.Initializer
    padding: str | int

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        x = nn.Conv(
            self.width,
            (self.size, self.size),
            (self.stride, self.stride),
            padding=self.padding,
            use_bias=False,
            kernel_init=self.init_fn,
            conv_general_dilated=convolution,
            name="conv",
        )(x)
        return nn.BatchNorm(use_running_average=not train, momentum=0.9, name="norm")(x)


class _Block(nn.Module):
    """Two convolutions round which the input is added."""

    width: int
    stride: int
    init_fn: nn.initializers.Initializer
    shortcut: str
    padding: str | int

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        def convolved(x: Array, size: int, stride: int, name: str) -> Array:
            padding = self.padding if size > 1 else 0
            layer = _Convolution(self.width, size, stride, self.init_fn, padding, name=name)
            return layer(x, train)

        y = convolved(nn.relu(convolved(x, 3, self.stride, "first")), 3, 1, "second")
        if x.shape != y.shape:
            if self.shortcut == "projection":
                x = convolved(x, 1, self.stride, "shortcut")
            else:
                x = x[:, :: self.stride, :: self.stride]
                more = self.width - x.shape[-1]
                x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (more // 2, more - more // 2)))
        return nn.relu(x + y)
