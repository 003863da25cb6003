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


def forward(apply_fn: ApplyFn) -> Callable[[Variables, Batch], Float[Array, "b c"]]:
    """Turn `apply_fn(variables, x)` or `apply_fn(variables, x, where=...)` into a map on batches.

    Padding may hold anything, NaN included: it is set to zero on the way in.

    >>> logits_of = forward(lambda variables, x: x @ variables)
    >>> logits_of(jnp.eye(2), Batch(jnp.ones((3, 2)), jnp.ones(3, bool))).shape
    (3, 2)
    """
    takes_where = "where" in inspect.signature(apply_fn).parameters

    def logits_of(variables: Variables, batch: Batch) -> Float[Array, "b c"]:
        rows = batch.where.reshape((-1,) + (1,) * (batch.x.ndim - 1))
        x = jnp.where(rows, batch.x, 0)
        return apply_fn(variables, x, **({"where": batch.where} if takes_where else {}))

    return logits_of
