"""A small convolutional classifier."""

from collections.abc import Sequence

import flax.linen as nn
from jaxtyping import Float

from entropax.convolution import convolution
from entropax.types import Array


class ConvNet(nn.Module):
    """Blocks of 3x3 convolution with stride 2, normalisation and ReLU, then one dense layer.

    Every block halves the resolution; the dense layer sees all that is left, so that the variables
    belong to one size of image.

    Attributes:
      num_classes: number of logits.
      features: channels of each block.
      norm: `"batch"`, `"group"` (one group for every 8 channels) or `"layer"`.

    Call it with `train=True` (and `mutable=["batch_stats"]`) to update running statistics. Its
    adapted parameters are those of `norm0`, `norm1`, ...

    >>> import jax, jax.numpy as jnp
    >>> module = ConvNet(num_classes=10)
    >>> variables = module.init(jax.random.key(0), jnp.zeros((1, 28, 28, 1)))
    >>> module.apply(variables, jnp.zeros((5, 28, 28, 1))).shape
    (5, 10)
    """

    num_classes: int
    features: Sequence[int] = (32, 64, 64)
    norm: str = "batch"

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w channels"], train: bool = False
    ) -> Float[Array, "b c"]:
        """Return the logits `[b, num_classes]` of images `[b, h, w, channels]`."""
        for i, width in enumerate(self.features):
            x = nn.Conv(
                width,
                (3, 3),
                (2, 2),
                use_bias=False,
                conv_general_dilated=convolution,
                name=f"conv{i}",
            )(x)
            x = nn.relu(self._normalisation(f"norm{i}", width, train)(x))
        return nn.Dense(self.num_classes, name="head")(x.reshape(len(x), -1))

    def _normalisation(self, name: str, width: int, train: bool) -> nn.Module:
        if self.norm == "batch":
            return nn.BatchNorm(use_running_average=not train, momentum=0.9, name=name)
        if self.norm == "group":
            return nn.GroupNorm(num_groups=max(1, width // 8), name=name)
        if self.norm == "layer":
            return nn.LayerNorm(name=name)
        raise ValueError(f"`norm` must be 'batch', 'group' or 'layer', got {self.norm!r}.")
