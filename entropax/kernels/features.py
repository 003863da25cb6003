r"""Features of a tangent kernel: what is kept of each example, and inner products of it.

A parameter's share of the kernel is the inner product of derivatives,

$$K_{icjd} = \sum_{bkf} J_{icbkf}\, J_{jdbkf}, \qquad J_{icbkf} = \sum_p a_{ibpk}\, g_{icbpf},$$

which, without ever forming $J$, is

$$K_{icjd} = \sum_{bpq} \Big(\sum_k a_{ibpk} a_{jbqk}\Big)
             \Big(\sum_f g_{icbpf} g_{jdbqf}\Big).$$

The second form costs less in a dense layer (one position), the first in a convolution (many): the
multiplications are counted, and each layer gets the cheaper one.
"""

import math
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from entropax.types import Array

# Entries of the products over positions that are there at a time.
_LARGEST_BLOCK = 2**22


class Jacobian(NamedTuple):
    """Derivatives with respect to parameters, flattened."""

    derivative: Float[Array, "n c p"]


class Outer(NamedTuple):
    """Activations and cotangents of one parameter's layers, whose outer products they are."""

    activations: Float[Array, "n b p k"]
    cotangents: Float[Array, "n b p c f"]


class Lookup(NamedTuple):
    """The rows that an embedding looks up, and their cotangents."""

    rows: Int[Array, "n p"]
    cotangents: Float[Array, "n 1 p c f"]


Features: TypeAlias = tuple[Jacobian | Outer | Lookup, ...]


def cheapest(features: Features, *, partners: int, traced: bool) -> Features:
    """Form those derivatives that are cheaper to have than their factors, and join them into one.

    Args:
      features: of one set of examples.
      partners: with how many examples each of them will be contracted.
      traced: whether the kernel is summed over the outputs, or kept for every pair of them.
    """
    made = [
        _cheaper(feature, partners, traced) if isinstance(feature, Outer) else feature
        for feature in features
    ]
    derivatives = [feature.derivative for feature in made if isinstance(feature, Jacobian)]
    others = [feature for feature in made if not isinstance(feature, Jacobian)]
    if not derivatives:
        return tuple(others)
    # One product of large matrices takes far less than many of small ones.
    return (Jacobian(jnp.concatenate(derivatives, axis=-1)), *others)


def _cheaper(outer: Outer, partners: int, traced: bool) -> Outer | Jacobian:
    n, groups, positions, inputs = outer.activations.shape
    classes, outputs = outer.cotangents.shape[-2:]
    pairs = classes if traced else classes**2
    by_factors = groups * positions**2 * (inputs + pairs * outputs + pairs)
    by_derivative = pairs * groups * inputs * outputs
    forming = groups * positions * inputs * classes * outputs
    if partners * by_factors <= partners * by_derivative + forming:
        return outer
    derivative = jnp.einsum(
        "nbpcf,nbpk->nbcfk", outer.cotangents, outer.activations, precision="highest"
    )
    return Jacobian(derivative.swapaxes(1, 2).reshape(n, classes, -1))


def inner_products(
    features1: Features, features2: Features, *, outputs: str
) -> Float[Array, "n m"] | Float[Array, "n m c c"]:
    """Sum of all parameters' shares.

    Args:
      features1: of `n` examples.
      features2: of `m` examples, of the same kinds.
      outputs: `"mean"` or `"trace"` over the outputs, `[n, m]`, or `"full"`, `[n, m, c, c]`.
    """
    traced = outputs != "full"
    shares = [_share(one, other, traced) for one, other in zip(features1, features2, strict=True)]
    kernel = sum(shares[1:], start=shares[0])
    return kernel / _num_outputs(features1[0]) if outputs == "mean" else kernel


def _num_outputs(feature: Jacobian | Outer | Lookup) -> int:
    if isinstance(feature, Jacobian):
        return feature.derivative.shape[1]
    return feature.cotangents.shape[-2]


def _share(one: Jacobian | Outer | Lookup, other: Jacobian | Outer | Lookup, traced: bool) -> Array:
    if isinstance(one, Jacobian) and isinstance(other, Jacobian):
        if traced:
            return _products(one.derivative, other.derivative, axes=2)
        return _products(one.derivative, other.derivative, axes=1).swapaxes(1, 2)
    if isinstance(one, Lookup) and isinstance(other, Lookup):
        return _summed(
            lambda rows: _same_rows(rows, other.rows).astype(one.cotangents.dtype),
            one.rows,
            one.cotangents[:, 0],
            other.cotangents[:, 0],
            traced,
        )
    if isinstance(one, Outer) and isinstance(other, Outer):
        others = other.activations

        def of_group(b: int) -> Array:
            return _summed(
                lambda a: _products(a, others[:, b], axes=1),
                one.activations[:, b],
                one.cotangents[:, b],
                other.cotangents[:, b],
                traced,
            )

        # A loop, since a matrix product is faster than a batch of products; groups are few.
        return sum((of_group(b) for b in range(1, others.shape[1])), start=of_group(0))
    raise TypeError(f"Features of different kinds: {type(one)} and {type(other)}.")


def _same_rows(rows: Int[Array, " p"], others: Int[Array, "m q"]) -> Bool[Array, "p m q"]:
    rows = rows[:, None, None]
    return (rows == others) & (rows >= 0)


def _summed(
    products: Callable[[Array], Float[Array, "p m q"]],
    activations: Array,
    one: Float[Array, "n p c f"],
    other: Float[Array, "m q c f"],
    traced: bool,
) -> Float[Array, "n m"] | Float[Array, "n m c c"]:
    """Inner products of cotangents, weighted by those of the activations, over all positions.

    Some examples at a time, which bounds the memory. In one piece, moreover, XLA would merge the
    sum with the products of other parameters, and on a CPU take twenty times as long for all.
    """

    def of_one(example: tuple[Array, Float[Array, "p c f"]]) -> Array:
        a, g = example
        if traced:
            return jnp.sum(products(a) * _products(g, other, axes=2), axis=(0, 2))
        pairs = products(a)[:, None, :, :, None] * _products(g, other, axes=1)
        return jnp.sum(pairs, axis=(0, 3)).swapaxes(0, 1)

    n, positions, classes, _ = one.shape
    entries = positions * math.prod(other.shape[:2]) * (1 if traced else classes**2)
    if positions == other.shape[1] == 1:
        return jax.vmap(of_one)((activations, one))
    size = max(1, min(n // 4, _LARGEST_BLOCK // entries))
    return jax.lax.map(of_one, (activations, one), batch_size=size)


def _products(one: Array, other: Array, *, axes: int) -> Array:
    """Inner products over the last axes, `[*leading of one, *leading of the other]`.

    One product of two matrices: other ways to write it are slower by half on a CPU.
    """
    leading = one.shape[: one.ndim - axes] + other.shape[: other.ndim - axes]
    rows = one.reshape(-1, math.prod(one.shape[one.ndim - axes :]))
    columns = other.reshape(-1, rows.shape[1])
    # Sums of half-precision products are kept in single precision.
    dtype = jnp.promote_types(jnp.result_type(one, other), jnp.float32)
    return jnp.matmul(rows, columns.T, precision="highest", preferred_element_type=dtype).reshape(
        leading
    )
