r"""Layers: the places where a parameter multiplies an activation.

At such a place the derivative of the outputs with respect to the parameter $W$ is a sum of outer
products over the positions $p$ at which $W$ is applied (one in a dense layer, every pixel in a
convolution, every token in an embedding), separately for each group $b$ of channels:

$$\frac{\partial y_c}{\partial W_{bkf}} = \sum_p a_{bpk}\, g_{cbpf},$$

with the activations $a$ that the layer reads and the cotangents $g$ of what it writes. A `Layer`
brings both into this form for one example.
"""

import itertools
import math
from collections.abc import Callable, Hashable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import JaxprEqn, Literal, Var, primitives
from jaxtyping import Float, Int, Num

from entropax.types import Array


class Layer(NamedTuple):
    """How one operation applies a parameter.

    Attributes:
      layout: how the parameter's axes map to `[b, k, f]`; the derivatives of two layers that share
        a parameter add up position by position if their layouts are equal.
      data: which operand of the operation is the activation.
      activations: `operand -> a [b, p, k]`, or the row numbers `[p]` that an embedding looks
        up, -1 where there is no such row.
      cotangents: `cotangent of the result -> g [b, p, f]`.
      lookup: whether `activations` gives row numbers.
    """

    layout: Hashable
    data: int
    activations: Callable[[Array], Array]
    cotangents: Callable[[Array], Float[Array, "b p f"]]
    lookup: bool = False


def shaped(atom: Var | Literal) -> jax.ShapeDtypeStruct:
    """Shape and dtype of an operand or a result."""
    return jax.ShapeDtypeStruct(atom.aval.shape, atom.aval.dtype)  # type: ignore[attr-defined]


def layer_of(eqn: JaxprEqn, weight: int) -> Layer | None:
    """The layer that an operation is to its operand number `weight`, or None if it is not one."""
    if eqn.primitive is primitives.dot_general_p:
        return _dense(eqn, weight)
    if eqn.primitive is primitives.conv_general_dilated_p and weight == 1:
        return _convolution(eqn)
    if eqn.primitive is primitives.gather_p and weight == 0:
        return _embedding(eqn)
    return None


def _dense(eqn: JaxprEqn, weight: int) -> Layer:
    contracting, batching = eqn.params["dimension_numbers"]
    data = 1 - weight
    x, w = shaped(eqn.invars[data]), shaped(eqn.invars[weight])
    x_free = _others(x.ndim, contracting[data], batching[data])
    w_free = _others(w.ndim, contracting[weight], batching[weight])
    groups = math.prod(x.shape[i] for i in batching[data])
    inputs = math.prod(x.shape[i] for i in contracting[data])
    positions = math.prod(x.shape[i] for i in x_free)
    outputs = math.prod(w.shape[i] for i in w_free)

    def activations(x: Array) -> Float[Array, "b p k"]:
        x = x.transpose(*batching[data], *x_free, *contracting[data])
        return x.reshape(groups, positions, inputs)

    def cotangents(g: Array) -> Float[Array, "b p f"]:
        if data == 0:
            return g.reshape(groups, positions, outputs)
        return g.reshape(groups, outputs, positions).swapaxes(1, 2)

    layout = ("dense", w.shape, tuple(batching[weight]), tuple(contracting[weight]))
    return Layer(layout, data, activations, cotangents)


def _others(ndim: int, *axes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(i for i in range(ndim) if all(i not in group for group in axes))


def _convolution(eqn: JaxprEqn) -> Layer | None:
    if eqn.params["batch_group_count"] != 1:
        return None
    numbers = eqn.params["dimension_numbers"]
    groups = eqn.params["feature_group_count"]
    w = shaped(eqn.invars[1])
    window = tuple(w.shape[i] for i in numbers.rhs_spec[2:])

    def activations(x: Array) -> Float[Array, "b p k"]:
        x = x.transpose(numbers.lhs_spec[0], *numbers.lhs_spec[2:], numbers.lhs_spec[1])
        offsets = patches(
            x,
            window,
            strides=eqn.params["window_strides"],
            padding=eqn.params["padding"],
            lhs_dilation=eqn.params["lhs_dilation"],
            rhs_dilation=eqn.params["rhs_dilation"],
        )
        offsets = offsets.reshape(-1, math.prod(window), groups, x.shape[-1] // groups)
        return offsets.transpose(2, 0, 1, 3).reshape(groups, len(offsets), -1)

    def cotangents(g: Array) -> Float[Array, "b p f"]:
        g = g.transpose(numbers.out_spec[0], *numbers.out_spec[2:], numbers.out_spec[1])
        return g.reshape(-1, groups, g.shape[-1] // groups).swapaxes(0, 1)

    layout = ("convolution", w.shape, numbers.rhs_spec, groups)
    return Layer(layout, 0, activations, cotangents)


def patches(
    x: Num[Array, "n *space channels"],
    window: tuple[int, ...],
    *,
    strides: tuple[int, ...],
    padding: tuple[tuple[int, int], ...],
    lhs_dilation: tuple[int, ...],
    rhs_dilation: tuple[int, ...],
) -> Num[Array, "n *positions offsets channels"]:
    """What a convolution multiplies its kernel with at every position.

    Plain slices, one for each offset in the window: on a CPU they are far cheaper than
    `jax.lax.conv_general_dilated_patches`, which is a convolution itself.

    >>> x = jnp.arange(4.0).reshape(1, 4, 1)
    >>> ones = dict(strides=(1,), padding=((0, 0),), lhs_dilation=(1,), rhs_dilation=(1,))
    >>> patches(x, (2,), **ones)[0, :, :, 0].tolist()
    [[0.0, 1.0], [1.0, 2.0], [2.0, 3.0]]
    """
    edges = [(low, high, step - 1) for (low, high), step in zip(padding, lhs_dilation, strict=True)]
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *edges, (0, 0, 0)])
    extent = [(size - 1) * step + 1 for size, step in zip(window, rhs_dilation, strict=True)]
    slices = []
    for offset in itertools.product(*map(range, window)):
        start = [i * step for i, step in zip(offset, rhs_dilation, strict=True)]
        last = [
            size - reach + first + 1
            for size, reach, first in zip(x.shape[1:-1], extent, start, strict=True)
        ]
        slices.append(
            lax.slice(x, (0, *start, 0), (x.shape[0], *last, x.shape[-1]), (1, *strides, 1))
        )
    return jnp.stack(slices, axis=-2)


def _embedding(eqn: JaxprEqn) -> Layer | None:
    table, rows = map(shaped, eqn.invars)
    numbers = eqn.params["dimension_numbers"]
    whole_rows = (
        table.ndim == 2
        and tuple(eqn.params["slice_sizes"]) == (1, table.shape[1])
        and tuple(numbers.collapsed_slice_dims) == (0,)
        and tuple(numbers.start_index_map) == (0,)
        and tuple(numbers.offset_dims) == (rows.ndim - 1,)
    )
    if not whole_rows:
        return None

    clipped = eqn.params["mode"] == lax.GatherScatterMode.CLIP

    def activations(rows: Array) -> Int[Array, " p"]:
        rows = rows.reshape(-1).astype(jnp.int32)
        if clipped:
            return jnp.clip(rows, 0, table.shape[0] - 1)
        # Outside of the table nothing is read, so that nothing is differentiated.
        return jnp.where((rows >= 0) & (rows < table.shape[0]), rows, -1)

    def cotangents(g: Array) -> Float[Array, "b p f"]:
        return g.reshape(1, -1, table.shape[1])

    return Layer(("embedding", table.shape), 1, activations, cotangents, lookup=True)
