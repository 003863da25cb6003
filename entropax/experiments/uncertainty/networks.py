"""A few small classifiers of different kinds, for a comparison that needs no files."""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float

from entropax.models.convnet import ConvNet
from entropax.models.resnet import ResNet
from entropax.models.transformer import VisionTransformer
from entropax.types import Array


class Dense(nn.Module):
    """Fully connected layers with ReLU.

    Attributes:
      num_classes: number of logits.
      widths: of the hidden layers.
    """

    num_classes: int
    widths: Sequence[int] = (64,)

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w channels"], train: bool = False
    ) -> Float[Array, "b c"]:
        """Return the logits `[b, num_classes]` of images `[b, h, w, channels]`."""
        x = jnp.reshape(x, (len(x), -1))
        for width in self.widths:
            x = nn.relu(nn.Dense(width)(x))
        return nn.Dense(self.num_classes)(x)


# By name, for a number of classes and a side of the images, or a divisor of both of its sides.
NETWORKS: dict[str, Callable[[int, int], nn.Module]] = {
    "linear": lambda classes, side: Dense(classes, ()),
    "mlp-16": lambda classes, side: Dense(classes, (16,)),
    "mlp-64": lambda classes, side: Dense(classes, (64,)),
    "mlp-256x3": lambda classes, side: Dense(classes, (256, 256, 256)),
    "convnet-8": lambda classes, side: ConvNet(classes, (8, 16)),
    "convnet-batch": lambda classes, side: ConvNet(classes, norm="batch"),
    "convnet-group": lambda classes, side: ConvNet(classes, norm="group"),
    "convnet-layer": lambda classes, side: ConvNet(classes, norm="layer"),
    "resnet-8": lambda classes, side: ResNet(classes, (8, 16), 1),
    "resnet-16": lambda classes, side: ResNet(classes, (16, 32), 1),
    "transformer-32": lambda classes, side: VisionTransformer(
        classes, patch_size=_patch_size(side), width=32, num_blocks=2
    ),
    "transformer-64": lambda classes, side: VisionTransformer(
        classes, patch_size=_patch_size(side), width=64, num_blocks=2
    ),
}


def _patch_size(side: int) -> int:
    """The largest that divides the image and leaves at least 4 patches along it."""
    sizes = (size for size in range(1, side + 1) if side % size == 0 and side // size >= 4)
    return max(sizes, default=1)
