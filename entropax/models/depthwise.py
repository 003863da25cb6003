"""A depthwise convolution that is fast on the CPU.

XLA's own takes a loop over single numbers there. Written as a sum of shifted images, one for each
entry of the kernel, each times a number for each channel, it is one loop over memory.
"""

import functools
from collections.abc import Sequence
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from entropax.types import Array

_LAYOUT = ("NHWC", "HWIO", "NHWC")


def depthwise_convolution(
    x: Array, kernel: Array, strides: Sequence[int], padding: Any, **options: Any
) -> Array:
    r"""A drop-in for `jax.lax.conv_general_dilated`, to be passed to linen's `nn.Conv`.

    $$y_{b,p,q,c} = \sum_{i,j} k_{i,j,c}\, x_{b,p+i-r,q+j-s,c}, \qquad
      r = (k_h - 1) / 2, \quad s = (k_w - 1) / 2.$$

    Values and derivatives of any order and mode are those of `jax.lax.conv_general_dilated`. It
    takes effect where JAX runs on the CPU by default, on images `[b, h, w, c]` with kernels
    `[kh, kw, 1, c]` of odd sides, a group for each channel, step 1, `"SAME"` padding and no
    dilation; other convolutions are passed on as they are. Sums are in float32 at least.

    Args:
      x: the images.
      kernel: the kernel.
      strides: two numbers.
      padding: `"SAME"`, `"VALID"` or two pairs.
      options: those of `jax.lax.conv_general_dilated`.

    >>> import flax.linen as nn
    >>> layer = nn.Conv(
    ...     8, (7, 7), feature_group_count=8, conv_general_dilated=depthwise_convolution
    ... )
    """
    if not _applies(x, kernel, strides, padding, **options):
        return lax.conv_general_dilated(x, kernel, strides, padding, **options)
    dtype = jnp.promote_types(jnp.result_type(x, kernel), jnp.float32)
    y = _depthwise(x.astype(dtype), kernel[:, :, 0].astype(dtype))
    return y.astype(options.get("preferred_element_type") or jnp.result_type(x, kernel))


def _applies(x: Array, kernel: Array, strides: Sequence[int], padding: Any, **options: Any) -> bool:
    if jax.default_backend() != "cpu" or x.ndim != 4 or x.dtype != kernel.dtype:
        return False
    numbers = lax.conv_dimension_numbers(x.shape, kernel.shape, options.get("dimension_numbers"))
    height, width, _, outputs = kernel.shape
    half = [(height // 2, height // 2), (width // 2, width // 2)]
    plain = [
        numbers == lax.conv_dimension_numbers(x.shape, kernel.shape, _LAYOUT),
        options.get("feature_group_count", 1) == x.shape[-1] == outputs,
        options.get("batch_group_count", 1) == 1,
        height % 2 == width % 2 == 1,
        tuple(strides) == (1, 1),
        padding == "SAME" or (not isinstance(padding, str) and [*map(tuple, padding)] == half),
    ]
    dilations = [options.get(name) for name in ("lhs_dilation", "rhs_dilation")]
    return all(plain) and all(each is None or set(each) == {1} for each in dilations)


# Compiled by themselves, so that a network that is not compiled does not dispatch term by term, and
# one that is traces blocks of one shape once.
@jax.custom_jvp
@jax.jit
def _depthwise(x: Array, kernel: Array) -> Array:
    """Images `[b, h, w, c]` by a kernel `[kh, kw, c]`."""
    height, width = kernel.shape[:2]
    padded = _padded(x, (height // 2, height // 2), (width // 2, width // 2))
    return functools.reduce(
        jnp.add,
        (
            padded[:, i : i + x.shape[1], j : j + x.shape[2]] * kernel[i, j]
            for i, j in product(range(height), range(width))
        ),
    )


@jax.jit
def _scattered(x: Array, kernel: Array) -> Array:
    """The same, written such that its transpose reads shifted images as `_depthwise` does."""
    height, width = kernel.shape[:2]
    y = functools.reduce(
        jnp.add,
        (
            _padded(x * kernel[i, j], (height - 1 - i, i), (width - 1 - j, j))
            for i, j in product(range(height), range(width))
        ),
    )
    return y[:, height // 2 : height // 2 + x.shape[1], width // 2 : width // 2 + x.shape[2]]


def _padded(x: Array, rows: tuple[int, int], columns: tuple[int, int]) -> Array:
    edges = [(0, 0, 0), (*rows, 0), (*columns, 0), (0, 0, 0)]
    return lax.pad(x, jnp.zeros((), x.dtype), edges)


def _jvp(primals: tuple[Array, Array], tangents: tuple[Any, Any]) -> tuple[Array, Array]:
    (x, kernel), (x_dot, kernel_dot) = primals, tangents
    shares = []
    if not isinstance(x_dot, SymbolicZero):
        shares.append(_scattered(x_dot, kernel))
    if not isinstance(kernel_dot, SymbolicZero):
        shares.append(_depthwise(x, kernel_dot))
    return _depthwise(x, kernel), sum(shares[1:], start=shares[0])


_depthwise.defjvp(_jvp, symbolic_zeros=True)
