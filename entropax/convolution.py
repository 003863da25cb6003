"""A convolution that is fast on the CPU, and whose gradient is fast inside a compiled loop.

A convolution by a kernel of one pixel is a product of matrices, pixels by channels. On the CPU, XLA
needs up to 1.7 times as long for it if it is not written as one.

The gradient of a convolution with respect to its input is a convolution by the mirrored kernel with
its two channel axes exchanged. Inside the body of a `lax.scan`, XLA leaves this exchange to the
convolution, and the CPU has no fast code for that layout: adaptation of a small network then spends
most of its time there. Here the axes are exchanged first.

XLA's convolution in groups is slow on the CPU: there every group is convolved by itself.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from entropax.types import Array

# What the function below is named in a jaxpr: by it `entropax.kernels` knows the exact rule.
NAME = "entropax_convolution"
_LAYOUT = ("NHWC", "HWIO", "NHWC")
_EXCHANGED = ("NHWC", "HWOI", "NHWC")
# Measured: from 6 x 6 inputs on it is 1.3 to 2.5 times as fast, below that up to 3 times slower.
_SMALLEST_SIDE = 6
# Measured with 2 to 64 groups of 4 to 32 channels: 2 to 4 times as fast. Depthwise ones stay whole.
_FEWEST_CHANNELS = 4
# Measured with 32 groups: a loop over single groups takes up to 1.6 times as long as none, but
# without a loop compilation takes 3 times as long; this is close to the best of both.
_UNROLLED_GROUPS = 4


def convolution(
    x: Array, kernel: Array, strides: Sequence[int], padding: Any, **options: Any
) -> Array:
    """A drop-in for `jax.lax.conv_general_dilated`, to be passed to linen's `nn.Conv`.

    Values and derivatives of any order and mode are those of `jax.lax.conv_general_dilated`; only
    the order of the work differs. It takes effect on images `[b, h, w, i]` with kernels
    `[kh, kw, i, o]` if the kernel is a single pixel without padding or dilation, or the images are
    not tiny, and, compiled for the CPU, in groups of several channels; other convolutions are
    passed on as they are.

    Args:
      x: the images.
      kernel: the kernel.
      strides: two numbers.
      padding: `"SAME"`, `"VALID"` or two pairs.
      options: those of `jax.lax.conv_general_dilated`.

    >>> import flax.linen as nn
    >>> layer = nn.Conv(8, (3, 3), conv_general_dilated=convolution)
    """
    if pointwise(x.shape, kernel.shape, strides, padding, **options):
        return product(x, kernel, strides, **options)
    if divisible(x.shape, kernel.shape, **options):

        def whole(x: Array, kernel: Array) -> Array:
            return lax.conv_general_dilated(x, kernel, strides, padding, **options)

        def parts(x: Array, kernel: Array) -> Array:
            return divided(x, kernel, strides, padding, **options)

        return lax.platform_dependent(x, kernel, cpu=parts, default=whole)
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
    return plain(x, kernel, **options) and min(x[1:3]) >= _SMALLEST_SIDE


def exchanged(
    x: Array, kernel: Array, strides: Sequence[int], padding: Any, **options: Any
) -> Array:
    """The convolution, written such that its transpose has the layout that is fast."""
    numbers = {**options, "dimension_numbers": _EXCHANGED}
    return lax.conv_general_dilated(x, kernel.swapaxes(2, 3), strides, padding, **numbers)


def pointwise(
    x: tuple[int, ...],
    kernel: tuple[int, ...],
    strides: Sequence[int],
    padding: Any,
    **options: Any,
) -> bool:
    """Whether every result is a product of one pixel's channels with the kernel."""
    if not plain(x, kernel, **options) or kernel[:2] != (1, 1) or 0 in x:
        return False
    if isinstance(padding, str):  # a single pixel is never padded
        unpadded = padding.upper() in ("SAME", "SAME_LOWER", "VALID")
    else:
        unpadded = all(number == 0 for pair in padding for number in pair)
    dilation = options.get("lhs_dilation")
    return unpadded and (dilation is None or all(number == 1 for number in dilation))


def product(x: Array, kernel: Array, strides: Sequence[int], **options: Any) -> Array:
    """The convolution by a kernel of one pixel, as a product of matrices."""
    b, h, w, i = x.shape
    if tuple(strides) != (1, 1):
        x = lax.slice(x, (0, 0, 0, 0), (b, h, w, i), (1, *strides, 1))
    precision = options.get("precision")
    preferred = options.get("preferred_element_type")
    channels = (((3,), (0,)), ((), ()))
    matrix = kernel.reshape(kernel.shape[2:])
    return lax.dot_general(
        x, matrix, channels, precision=precision, preferred_element_type=preferred
    )


def divisible(x: tuple[int, ...], kernel: tuple[int, ...], **options: Any) -> bool:
    """Whether there are groups, large enough to be convolved one by one."""
    groups = options.get("feature_group_count", 1)
    single = {**options, "feature_group_count": 1}
    return plain(x, kernel, **single) and groups > 1 and kernel[2] >= _FEWEST_CHANNELS


def divided(x: Array, kernel: Array, strides: Sequence[int], padding: Any, **options: Any) -> Array:
    """The convolution, one group after the other."""
    groups = options["feature_group_count"]
    single = {**options, "feature_group_count": 1}

    def step(_: None, pair: tuple[Array, ...]) -> tuple[None, Array]:
        images, kernels = pair
        return None, convolution(images, kernels, strides, padding, **single)

    pairs = tuple(jnp.moveaxis(a.reshape(*a.shape[:3], groups, -1), 3, 0) for a in (x, kernel))
    _, results = lax.scan(step, None, pairs, unroll=min(groups, _UNROLLED_GROUPS))
    return jnp.moveaxis(results, 0, 3).reshape(*results.shape[1:4], -1)


def plain(x: tuple[int, ...], kernel: tuple[int, ...], **options: Any) -> bool:
    """Whether these are images and a kernel in the layout of linen, in one group."""
    if len(x) != 4:
        return False
    numbers = lax.conv_dimension_numbers(x, kernel, options.get("dimension_numbers"))
    images = lax.conv_dimension_numbers(x, kernel, _LAYOUT)
    one_group = options.get("feature_group_count", 1) == options.get("batch_group_count", 1) == 1
    return numbers == images and one_group
