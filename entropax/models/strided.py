"""A network of strided convolutions and dense layers, without normalisation, as torch has it."""

import math
import re
from collections.abc import Sequence

import flax.linen as nn
from jaxtyping import Float

from entropax.convolution import convolution
from entropax.models.inputs import InputFormat
from entropax.models.recognition import Recognised
from entropax.models.tensors import Tensors
from entropax.types import Array

_KERNEL = 4
_WEIGHT = re.compile(r"\d+\.weight")


class StridedCNN(nn.Module):
    """4x4 convolutions with stride 2, each halving the resolution; then dense layers; ReLU between.

    The network of the MNIST experiments of E. Wong and J. Z. Kolter, "Provable defenses against
    adversarial examples via the convex outer adversarial polytope" (2018), section 4.2.

    Attributes:
      num_classes: number of logits.
      widths: channels of each convolution.
      hidden: width of each dense layer but the last.

    `train` changes nothing; it is there so that any loop can call this network and `ConvNet` alike.
    The method `features` returns what the last layer sees.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> module = StridedCNN(num_classes=10)
    >>> variables = module.init(jax.random.key(0), jnp.zeros((1, 28, 28, 1)))
    >>> sum(leaf.size for leaf in jax.tree.leaves(variables))
    166406
    """

    num_classes: int
    widths: Sequence[int] = (16, 32)
    hidden: Sequence[int] = (100,)

    def setup(self) -> None:
        """Make the layers."""
        self.conv = [
            nn.Conv(width, (_KERNEL, _KERNEL), (2, 2), padding=1, conv_general_dilated=convolution)
            for width in self.widths
        ]
        self.dense = [nn.Dense(width) for width in self.hidden]
        self.head = nn.Dense(self.num_classes)

    def __call__(
        self, x: Float[Array, "b h w channels"], train: bool = False
    ) -> Float[Array, "b c"]:
        """Return the logits `[b, num_classes]` of images `[b, h, w, channels]`."""
        return self.head(self.features(x, train))

    def features(
        self, x: Float[Array, "b h w channels"], train: bool = False
    ) -> Float[Array, "b d"]:
        """Return the last layer but one, `[b, hidden[-1]]`."""
        for conv in self.conv:
            x = nn.relu(conv(x))
        x = x.reshape(len(x), -1)
        for dense in self.dense:
            x = nn.relu(dense(x))
        return x


def recognise(tensors: Tensors) -> Recognised | None:
    """Find a `StridedCNN` in an `nn.Sequential` of torch, `0.weight`, `2.weight`, ...

    Layers alternate with ReLU; one more number is taken by the layer that flattens what the last
    convolution puts out. The images are squares in [0, 1], as large as the first dense layer says.

    Returns:
      None: these are tensors of another family.
    """
    numbers = sorted(int(name[: -len(".weight")]) for name in tensors if _WEIGHT.fullmatch(name))
    kernels = [tensors[f"{number}.weight"] for number in numbers]
    convolutions = sum(kernel.ndim == 4 for kernel in kernels)
    places = [2 * i + (i >= convolutions) for i in range(len(kernels))]
    axes = [4] * convolutions + [2] * (len(kernels) - convolutions)
    if len(set(axes)) < 2 or numbers != places or axes != [kernel.ndim for kernel in kernels]:
        return None
    sizes = {kernel.shape[2:] for kernel in kernels[:convolutions]}
    channels, inputs = len(kernels[convolutions - 1]), kernels[convolutions].shape[1]
    side = math.isqrt(inputs // channels)
    if sizes != {(_KERNEL, _KERNEL)} or channels * side**2 != inputs:
        return None

    module = StridedCNN(
        num_classes=len(kernels[-1]),
        widths=tuple(len(kernel) for kernel in kernels[:convolutions]),
        hidden=tuple(len(kernel) for kernel in kernels[convolutions:-1]),
    )
    paths = {
        str(number): f"conv_{i}" if i < convolutions else f"dense_{i - convolutions}"
        for i, number in enumerate(numbers)
    }
    paths[str(numbers[-1])] = "head"
    # Torch flattens channel by channel, linen pixel by pixel.
    flat = kernels[convolutions].reshape(-1, channels, side, side).transpose(0, 2, 3, 1)
    first = f"{numbers[convolutions]}.weight"
    tensors = {**tensors, first: flat.reshape(len(flat), -1)}
    pixels, colours = side * 2**convolutions, kernels[0].shape[1]
    expected = InputFormat(pixels, pixels, mean=(0.0,) * colours, std=(1.0,) * colours)
    return Recognised(module, tensors, paths.get, expected)
