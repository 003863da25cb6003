"""ConvNeXt: a convolutional network with the habits of a vision transformer."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float

from entropax.convolution import convolution
from entropax.models.depthwise import depthwise_convolution
from entropax.types import Array


class ConvNeXt(nn.Module):
    r"""Patches of 4 x 4 pixels, stages of blocks, the mean over space, LayerNorm, one dense layer.

    A block adds to each place what a 7x7 convolution of each channel by itself and then a small
    network make of it, times a number for each channel:

    $$x \leftarrow x + \gamma \odot \text{MLP}(\text{LN}(\text{Conv}_{7\times7}(x))).$$

    Between stages LayerNorm and a 2x2 convolution halve the resolution; what does not fill a square
    at the lower or right edge is dropped. LayerNorm runs over the channels of a place, so there is
    no layer that knows a batch. There is no stochastic depth.

    Attributes:
      num_classes: number of logits.
      widths: channels of each stage.
      blocks: of each stage, as many numbers as `widths`.
      layer_scale: what $\gamma$ begins with.
      epsilon: added to the variances.
      dtype: of the activations, such as `jnp.bfloat16`; by default that of image and parameters.
        Parameters, LayerNorm, the mean over space and logits stay in float32.

    The method `features` returns what the dense layer sees. `train` changes nothing; it is there so
    that any loop can call this network and `ConvNet` alike. By default this is ConvNeXt-T;
    ConvNeXt-S has blocks (3, 3, 27, 3), and so have B and L, with first widths of 128 and 192.

    Reference: Z. Liu et al., "A ConvNet for the 2020s" (2022), section 2 and figure 4.

    >>> import jax
    >>> from entropax.models import running_statistics
    >>> module = ConvNeXt(num_classes=10, widths=(8,), blocks=(1,))
    >>> variables = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    >>> features = jax.jit(running_statistics(module, method="features"))
    >>> features(variables, jnp.zeros((5, 8, 8, 3))).shape
    (5, 8)
    """

    num_classes: int
    widths: Sequence[int] = (96, 192, 384, 768)
    blocks: Sequence[int] = (3, 3, 9, 3)
    layer_scale: float = 1e-6
    epsilon: float = 1e-6
    dtype: Any = None

    def setup(self) -> None:
        """Check the options and make the last layer."""
        if not self.widths or len(self.widths) != len(self.blocks) or min(self.blocks) < 1:
            raise ValueError(
                "`widths` and `blocks` must be as long as each other, with at least one block in "
                f"every stage, got {tuple(self.widths)} and {tuple(self.blocks)}."
            )
        self.head = nn.Dense(self.num_classes)

    def __call__(
        self, x: Float[Array, "b h w channels"], train: bool = False
    ) -> Float[Array, "b c"]:
        """Return the logits `[b, num_classes]` of images `[b, h, w, channels]`."""
        return self.head(self.features(x, train))

    @nn.compact
    def features(
        self, x: Float[Array, "b h w channels"], train: bool = False
    ) -> Float[Array, "b d"]:
        """Return the last layer but one, `[b, widths[-1]]`."""
        smallest = 4 * 2 ** (len(self.widths) - 1)
        if min(x.shape[1:3]) < smallest:
            raise ValueError(
                f"Images must have sides of at least {smallest} pixels, got {x.shape[1]} x "
                f"{x.shape[2]}."
            )
        for stage, (width, blocks) in enumerate(zip(self.widths, self.blocks, strict=True)):
            if stage:
                x = nn.LayerNorm(self.epsilon, self.dtype, name=f"reduction{stage}_norm")(x)
                x = self._squares(width, 2, f"reduction{stage}")(x)
            else:
                x = self._squares(width, 4, "stem")(x)
                x = nn.LayerNorm(self.epsilon, self.dtype, name="stem_norm")(x)
            for block in range(blocks):
                name = f"stage{stage}_block{block}"
                x = _Block(self.layer_scale, self.epsilon, self.dtype, name=name)(x)
        x = jnp.mean(x.astype(jnp.promote_types(x.dtype, jnp.float32)), axis=(1, 2))
        return nn.LayerNorm(self.epsilon, name="norm")(x)

    def _squares(self, width: int, side: int, name: str) -> nn.Conv:
        """A convolution of squares that touch and do not overlap."""
        return nn.Conv(
            width,
            (side, side),
            (side, side),
            padding="VALID",
            dtype=self.dtype,
            conv_general_dilated=convolution,
            name=name,
        )


class _Block(nn.Module):
    """A depthwise convolution and a network for each place, added to their input."""

    layer_scale: float
    epsilon: float
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "b h w d"]) -> Float[Array, "b h w d"]:
        width = x.shape[-1]
        y = nn.Conv(
            width,
            (7, 7),
            feature_group_count=width,
            dtype=self.dtype,
            conv_general_dilated=depthwise_convolution,
            name="conv",
        )(x)
        y = nn.LayerNorm(self.epsilon, self.dtype, name="norm")(y)
        y = nn.gelu(nn.Dense(4 * width, dtype=self.dtype, name="mlp0")(y), approximate=False)
        y = nn.Dense(width, dtype=self.dtype, name="mlp1")(y)
        scale = self.param("layer_scale", nn.initializers.constant(self.layer_scale), (width,))
        return x + y * scale.astype(y.dtype)
