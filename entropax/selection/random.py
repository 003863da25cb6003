"""Random subsets: the baselines that every other selection has to beat."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from entropax.selection.base import Agent, Info, State, empty
from entropax.selection.checks import Pool, check_count
from entropax.types import Array


def check_compat(compat: str | None) -> None:
    """Raise a ValueError unless `compat` is None or 'reference'."""
    if compat not in (None, "reference"):
        raise ValueError(f"`compat` must be None or 'reference', got {compat!r}.")


def random_subset(key: Array, m: int, n: int, *, compat: str | None = None) -> Int[Array, " n"]:
    """Draw `n` of `m` examples, every subset with the same probability.

    It costs O(n^2) however large the pool is, so that many subsets can be drawn in one `vmap`. The
    order is not random: shuffle the outcome if it matters.

    Args:
      key: the randomness.
      m: number of examples in the pool.
      n: number of examples to draw, up to `m`.
      compat: "reference" draws with replacement and never the last example, as ZnNL did in 2022:
        an example may occur twice in a set.

    Returns:
      `[n]` indices.

    Reference: J. Bentley and R. Floyd, "Programming pearls: a sample of brilliance" (1987),
    algorithm F2.

    >>> sorted(random_subset(jax.random.key(0), 5, 5).tolist())
    [0, 1, 2, 3, 4]
    """
    check_compat(compat)
    if not 1 <= n <= m:
        raise ValueError(f"`n` must be between 1 and the {m} examples of the pool, got {n}.")
    if compat == "reference":
        return jax.random.randint(key, (n,), 0, m - 1, jnp.int32)
    tops = jnp.arange(m - n, m, dtype=jnp.int32)
    draws = jax.random.randint(key, (n,), 0, tops + 1, jnp.int32)

    def add(i: Array, chosen: Array) -> Array:
        # Whoever is drawn a second time gives way to the one that joined the lottery last.
        taken = jnp.any(chosen == draws[i])
        return chosen.at[i].set(jnp.where(taken, tops[i], draws[i]))

    return jax.lax.fori_loop(0, n, add, empty(n))


def check_pairs(pool: Pool, compat: str | None) -> None:
    """Raise a ValueError if the published draw, which leaves out the last example, has none."""
    if compat == "reference" and len(pool) < 2:
        raise ValueError("`compat='reference'` never draws the last example, and there is but one.")


def choose_at_once(state: State, pool: Any) -> tuple[State, Info]:
    """Choose what `init` has put into the memory, in one step and without an objective."""
    zero, true = jnp.zeros(()), jnp.ones((), bool)
    return State(state.memory.astype(jnp.int32), state.memory), Info(zero, zero, true, true)


def random(*, compat: str | None = None) -> Agent:
    """Examples at random without replacement, in random order; the objective is 0.

    Args:
      compat: "reference" draws with replacement and never the last example, as ZnNL did in 2022:
        the indices need not be distinct.

    Raises:
      ValueError: `compat` is something else.

    >>> from entropax.selection.base import select
    >>> pool = jnp.zeros((100, 8, 8, 1))
    >>> len(set(select(jax.random.key(0), random(), pool, 30).indices.tolist()))
    30
    """
    check_compat(compat)

    def init(key: Array, pool: Pool, n: int) -> State:
        subset_key, order_key = jax.random.split(key)
        subset = random_subset(subset_key, len(pool), n, compat=compat)
        return State(empty(n), jax.random.permutation(order_key, subset))

    def check(pool: Pool, n: int) -> None:
        check_count(pool, n)
        check_pairs(pool, compat)

    return Agent(init, choose_at_once, lambda n: 1, check)


def class_balanced(labels: Sequence[int] | np.ndarray | Array) -> Agent:
    """As many examples of each class, at random; the objective is 0.

    The only agent that sees labels: the baseline of who could afford to label the whole pool.
    Classes take turns, in random order, each with one of its examples at random. So the remainder
    of `n` by the number of classes goes to classes at random, a class that runs out of examples
    leaves its places to the others, and every beginning of the set is balanced as well.

    Args:
      labels: `[m]` the classes of the pool's examples.

    Raises:
      ValueError: `labels` is not one integer an example, or (from `select`) it has another length
        than the pool.

    >>> from entropax.selection.base import select
    >>> labels = np.array([0] * 90 + [1] * 10)
    >>> chosen = select(jax.random.key(0), class_balanced(labels), jnp.zeros((100, 2)), 12).indices
    >>> np.bincount(labels[chosen]).tolist()
    [6, 6]
    """
    classes = np.asarray(labels)
    if classes.ndim != 1 or not np.issubdtype(classes.dtype, np.integer) or len(classes) == 0:
        raise ValueError(
            "`labels` must be one integer an example, got an array of shape "
            f"{classes.shape} and type {classes.dtype}."
        )
    _, classes, counts = np.unique(classes, return_inverse=True, return_counts=True)
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])

    def init(key: Array, pool: Pool, n: int) -> State:
        example_key, class_key = jax.random.split(key)
        by_class = jnp.lexsort((jax.random.uniform(example_key, classes.shape), classes))
        rank_when_sorted = jnp.arange(len(classes)) - starts[np.sort(classes)]
        rank = jnp.zeros_like(by_class).at[by_class].set(rank_when_sorted)
        turn = jax.random.permutation(class_key, len(counts))[classes]
        return State(empty(n), jnp.lexsort((turn, rank))[:n])

    def check(pool: Pool, n: int) -> None:
        check_count(pool, n)
        if len(pool) != len(classes):
            raise ValueError(
                f"`labels` has {len(classes)} entries, but the pool has {len(pool)} examples."
            )

    return Agent(init, choose_at_once, lambda n: 1, check)
