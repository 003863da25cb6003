"""The few shapes that every part of entropax agrees on.

A classifier is a pure function `apply_fn(variables, x) -> logits [b, c]` of any pytree of
variables. If the output for one example depends on the others (batch normalisation by the batch at
hand), it takes a keyword `where` `[b]` as well, and leaves out the rows where that is False.
"""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, PyTree, Shaped

Array: TypeAlias = jax.Array
Variables: TypeAlias = PyTree[Any]
Params: TypeAlias = PyTree[Any]
ApplyFn: TypeAlias = Callable[..., Array]


class Batch(NamedTuple):
    """Examples without labels; `where` is False on the rows that only fill up the shape.

    Attributes:
      x: `[b, ...]` inputs.
      where: `[b]` True for a real example, False for padding.
    """

    x: Shaped[Array, "b *shape"]
    where: Bool[Array, " b"]


def fill_padding(
    x: PyTree[Shaped[Array, "n ..."]], where: Bool[Array, " n"]
) -> PyTree[Shaped[Array, "n ..."]]:
    """Copies of the first real example in the place of padding, which may hold anything.

    Every network can digest them: of NaN or infinity the weight 0 would be NaN. Where no example is
    real, zeros.

    >>> fill_padding(jnp.array([jnp.nan, 2.0, 3.0]), jnp.array([False, True, True])).tolist()
    [2.0, 2.0, 3.0]
    """
    first, some = jnp.argmax(where, keepdims=True), jnp.any(where)

    def fill(leaf: Array) -> Array:
        rows = where.reshape((-1,) + (1,) * (leaf.ndim - 1))
        # An index that is no number: of rows that are split over devices one row is sent, not all.
        return jnp.where(rows, leaf, jnp.where(some, leaf[first], 0))

    return jax.tree.map(fill, x)


def forward(apply_fn: ApplyFn) -> Callable[[Variables, Batch], Float[Array, "b c"]]:
    """Turn `apply_fn(variables, x)` or `apply_fn(variables, x, where=...)` into a map on batches.

    Raises, when it is traced, a ValueError if the batch or the logits have other shapes.

    Padding may hold anything, NaN included: it is replaced by the first real example, which every
    network can digest. Logits come back in float32 at least, for the entropies to be exact.

    >>> logits_of = forward(lambda variables, x: x @ variables)
    >>> logits_of(jnp.eye(2), Batch(jnp.ones((3, 2)), jnp.ones(3, bool))).shape
    (3, 2)
    """
    takes_where = "where" in inspect.signature(apply_fn).parameters

    def logits_of(variables: Variables, batch: Batch) -> Float[Array, "b c"]:
        if not isinstance(batch, Batch) or batch.where.shape != batch.x.shape[:1]:
            raise ValueError(
                "A step takes one Batch(x, where) with x [b, ...] and a boolean where [b], got "
                f"{jax.tree.map(jnp.shape, batch)}."
            )
        x = fill_padding(batch.x, batch.where)
        logits = apply_fn(variables, x, **({"where": batch.where} if takes_where else {}))
        if not isinstance(logits, jax.Array) or logits.ndim != 2 or len(logits) != len(x):
            raise ValueError(
                f"`apply_fn` must return one array of logits [{len(x)}, c], got "
                f"{jax.tree.map(jnp.shape, logits)}; wrap it to return the logits alone."
            )
        return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))

    return logits_of
