"""Local search: exchange chosen examples for better ones until no exchange helps."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from entropax.selection.approximate_entropy import subset_entropies
from entropax.selection.base import (
    Agent,
    Info,
    State,
    corners_of,
    mask_chosen,
    run,
    similarities,
)
from entropax.selection.bordering import bordered_entropies
from entropax.selection.checks import Pool, check_kernel
from entropax.types import Array


class _Memory(NamedTuple):
    place: Int[Array, ""]
    unchanged: Int[Array, ""]
    objective: Float[Array, ""]


def local_search(
    start: Agent | Sequence[int] | Int[np.ndarray, " n"] | Int[Array, " n"],
    *,
    rounds: int = 10,
    min_gain: float = 1e-5,
) -> Agent:
    r"""Raise the von Neumann entropy of a set by exchanging one example at a time.

    A step takes one place of the set and compares its example with every candidate of the pool:

    $$s_i \leftarrow \arg\max_{j \notin s'} S(K_{s' \cup \{j\}}), \qquad s' = s \setminus \{s_i\}.$$

    Places take turns. Once all `n` of them have been tried without an exchange the set is a local
    maximum, `Info.done` says so and later steps cost nothing. Candidates are evaluated as in
    `greedy_entropy`; a step is one eigen-decomposition of `[n, n]` and O(n^2 m). With 30 of 1,000
    digits, searches from random sets ended as high as from greedy ones. The objective is
    the von Neumann entropy in nats; it never falls.

    Args:
      start: an agent that selects on the same pool, or the indices to begin with.
      rounds: largest number of times that every place has its turn.
      min_gain: smallest gain in nats for which examples are exchanged; well above the rounding of
        float32, so that rounding cannot make the search go round in circles.

    Raises:
      ValueError: `rounds` is below 1, `min_gain` is negative, or (from `select`) the indices to
        begin with are not `n` distinct examples of the pool.

    >>> from entropax.selection.base import select
    >>> features = jnp.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
    >>> selection = select(jax.random.key(0), local_search([0, 1]), features @ features.T, 2)
    >>> selection.indices.tolist(), bool(selection.infos.done[-1])
    ([2, 0], True)
    """
    if rounds < 1:
        raise ValueError(f"`rounds` must be at least 1, got {rounds}.")
    if not min_gain >= 0:
        raise ValueError(f"`min_gain` must not be negative, got {min_gain}.")

    def init(key: Array, pool: Float[Array, "m m"], n: int) -> State:
        if isinstance(start, Agent):
            indices = run(key, start, pool, n)[0].indices
        else:
            indices = jnp.asarray(start, jnp.int32)
        zero = jnp.array(0)
        return State(indices, _Memory(zero, zero, subset_entropies(pool, indices)))

    def exchange(state: State, pool: Float[Array, "m m"]) -> tuple[State, Bool[Array, ""]]:
        place, unchanged, objective = state.memory
        kept = jnp.arange(len(state.indices)) != place
        scores = bordered_entropies(
            pool[jnp.ix_(state.indices, state.indices)],
            similarities(pool, state.indices),
            corners_of(pool),
            where=kept,
        )
        old = state.indices[place]
        best = jnp.argmax(mask_chosen(jnp.where(kept, state.indices, -1), scores))
        better = scores[best] - scores[old] > min_gain
        new = jnp.where(better, best, old)
        memory = _Memory(
            (place + 1) % len(state.indices),
            jnp.where(better, 0, unchanged + 1),
            jnp.where(better, scores[best], objective),
        )
        return State(state.indices.at[place].set(new.astype(jnp.int32)), memory), better

    def step(state: State, pool: Float[Array, "m m"]) -> tuple[State, Info]:
        n = len(state.indices)
        before = state.memory.objective
        state, changed = jax.lax.cond(
            state.memory.unchanged >= n,
            lambda state: (state, jnp.zeros((), bool)),
            lambda state: exchange(state, pool),
            state,
        )
        objective, done = state.memory.objective, state.memory.unchanged >= n
        return state, Info(objective, objective - before, changed, done)

    def check(pool: Pool, n: int) -> None:
        check_kernel(pool, n)
        if isinstance(start, Agent):
            start.check(pool, n)
            return
        indices = np.asarray(start)
        if indices.shape != (n,) or len(set(indices.tolist())) < n:
            raise ValueError(f"`start` must be {n} distinct indices, got {indices.tolist()}.")
        if indices.min() < 0 or indices.max() >= len(pool):
            raise ValueError(
                f"`start` must be among the {len(pool)} examples of the pool, got "
                f"{indices.tolist()}."
            )

    return Agent(init, step, lambda n: rounds * n, check)
