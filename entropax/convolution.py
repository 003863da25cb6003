"""A convolution whose gradient is fast inside a compiled loop on the CPU.

The gradient of a convolution with respect to its input is a convolution by the mirrored kernel with
its two channel axes exchanged. Inside the body of a `lax.scan`, XLA leaves this exchange to the
convolution, and the CPU has no fast code for that layout: adaptation of a small network then spends
most of its time there. Here the axes are exchanged first.
"""

from collections.abc import Sequence
from typing import Any

import jax
from jax import lax
from jax.custom_derivatives import SymbolicZero

from entropax.types import Array

# What the function below is named in a jaxpr: by it `entropax.kernels` knows the exact rule.
NAME = "entropax_convolution"
_LAYOUT = ("NHWC", "HWIO", "NHWC")
_EXCHANGED = ("NHWC", "HWOI", "NHWC")
# Measured: from 6 x 6 inputs on it is 1.3 to 2.5 times as fast, below that up to 3 times slower.
_SMALLEST_SIDE = 6


def convolution(
    x: Array, kernel: Array, strides: Sequence[int], padding: Any, **options: Any
) -> Array:
    """A drop-in for `jax.lax.conv_general_dilated`, to be passed to linen's `nn.Conv`.

    Values and derivatives of any order and mode are those of `jax.lax.conv_general_dilated`; only
    the order of the work differs. It takes effect on images `[b, h, w, i]` with kernels
    `[kh, kw, i, o]` in one group, unless the images are tiny; other convolutions are passed on as
    they are.

    Args:
      x: the images.
      kernel: the kernel.
      strides: two numbers.
      padding: `"SAME"`, `"VALID"` or two pairs.
      options: those of `jax.lax.conv_general_dilated`.

    >>> import flax.linen as nn
    >>> layer = nn.Conv(8, (3, 3), conv_general_dilated=convolution)
    """
    if not exchangeable(x.shape, kernel.shape, **options):
        return lax.conv_general_dilated(x, kernel, strides, padding, **options)

    @jax.custom_jvp
    def entropax_convolution(x: Array, kernel: Array) -> Array:
        return lax.conv_general_dilated(x, kernel, strides, padding, **options)

    def jvp(primals: tuple[Array, Array], tangents: tuple[Any, Any]) -> tuple[Array, Array]:
        (x, kernel), (x_dot, kernel_dot) = primals, tangents
        shares = []
        if not isinstance(x_dot, SymbolicZero):
            shares.append(exchanged(x_dot, kernel, strides, padding, **options))
        if not isinstance(kernel_dot, SymbolicZero):
            shares.append(entropax_convolution(x, kernel_dot))
        return entropax_convolution(x, kernel), sum(shares[1:], start=shares[0])

    entropax_convolution.defjvp(jvp, symbolic_zeros=True)
    return entropax_convolution(x, kernel)


def exchangeable(x: tuple[int, ...], kernel: tuple[int, ...], **options: Any) -> bool:
    """Whether exchanging the channels is possible and, by the shapes, worth while."""
    if len(x) != 4:
        return False
    numbers = lax.conv_dimension_numbers(x, kernel, options.get("dimension_numbers"))
    images = lax.conv_dimension_numbers(x, kernel, _LAYOUT)
    one_group = options.get("feature_group_count", 1) == options.get("batch_group_count", 1) == 1
    return numbers == images and one_group and min(x[1:3]) >= _SMALLEST_SIDE


def exchanged(
    x: Array, kernel: Array, strides: Sequence[int], padding: Any, **options: Any
) -> Array:
    """The convolution, written such that its transpose has the layout that is fast."""
    numbers = {**options, "dimension_numbers": _EXCHANGED}
    return lax.conv_general_dilated(x, kernel.swapaxes(2, 3), strides, padding, **numbers)
