"""What every selection method is: two pure functions over a state, and a check on the host.

`step` is the body of a `jax.lax.scan` once it has been given the pool, and `run` is that scan. It
is pure, so many runs side by side are a `vmap`:

    states, infos = jax.vmap(lambda key: run(key, agent, pool, 30))(jax.random.split(key, 100))

`select` is what one calls: it looks at the pool first, compiles `run`, and looks at the outcome.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, PyTree, Shaped

from entropax.types import Array

Pool: TypeAlias = Shaped[Array, "m *shape"] | Shaped[np.ndarray, "m *shape"]

# Far above the rounding of sums over millions of parameters in float32, far below any mistake.
_ROUNDING = 1e-3


class State(NamedTuple):
    """What an agent carries from one step to the next.

    Attributes:
      indices: `[n]` the examples chosen so far; -1 at the places that are still empty.
      memory: whatever else the method remembers.
    """

    indices: Int[Array, " n"]
    memory: PyTree[Any]


class Info(NamedTuple):
    """What one step lets you see; stacked along a leading axis `t` by `run` and `select`.

    Attributes:
      objective: the agent's own measure of the set after the step, the higher the better: an
        entropy in nats where the agent is named after one. Each agent's docstring says which; 0 for
        an agent that measures nothing.
      gain: what the step brought, by the same measure.
      changed: whether the step changed the set.
      done: whether the set is final: every later step leaves it alone.
    """

    objective: Float[Array, "*t"]
    gain: Float[Array, "*t"]
    changed: Bool[Array, "*t"]
    done: Bool[Array, "*t"]


class Agent(NamedTuple):
    """A method that selects `n` of the `m` examples of a pool.

    The pool is the pool's kernel `[m, m]`, the examples `[m, ...]`, or anything with a leading
    axis: whatever the method works on.

    Attributes:
      init: `(key, pool, n) -> state`; `n` is static.
      step: `(state, pool) -> (state, info)`.
      num_steps: `n -> number of steps` after which the set is complete.
      check: `(pool, n) -> None` on the host; raises a ValueError that says what is wrong.
    """

    init: Callable[[Array, Any, int], State]
    step: Callable[[State, Any], tuple[State, Info]]
    num_steps: Callable[[int], int]
    check: Callable[[Any, int], None]


class Selection(NamedTuple):
    """The outcome of `select`, on the host.

    Attributes:
      indices: `[n]` distinct rows of the pool, in the order chosen where the method has one. Fewer
        than `n` only if the agent is allowed to stop before.
      infos: what each step let one see.
    """

    indices: Int[np.ndarray, " n"]
    infos: Info


def empty(n: int) -> Int[Array, " n"]:
    """`[n]` places for indices, none of them filled."""
    return jnp.full(n, -1, jnp.int32)


def mask_chosen(indices: Int[Array, " n"], scores: Float[Array, " m"]) -> Float[Array, " m"]:
    """Scores of the pool with minus infinity at the chosen examples and wherever they are NaN."""
    # A negative index would wrap around; one that is out of range is dropped.
    places = jnp.where(indices < 0, len(scores), indices)
    scores = jnp.where(jnp.isnan(scores), -jnp.inf, scores)
    return scores.at[places].set(-jnp.inf, mode="drop")


def check_count(pool: Pool, n: int) -> None:
    """Raise a ValueError unless `n` examples can be taken from the pool."""
    if not 1 <= n <= len(pool):
        raise ValueError(
            f"`n` must be between 1 and the {len(pool)} examples of the pool, got {n}."
        )


def check_examples(pool: Pool, n: int) -> None:
    """Raise a ValueError unless the pool holds `n` examples or more, all of them finite."""
    check_count(pool, n)
    rows = np.asarray(pool).reshape(len(pool), -1)
    bad = [i for i, row in enumerate(rows) if not np.all(np.isfinite(row))]
    if bad:
        raise ValueError(
            f"`pool` must be finite, but {len(bad)} of {len(pool)} examples hold NaN or infinity; "
            f"the first is example {bad[0]}."
        )


def check_kernel(pool: Pool, n: int) -> None:
    """Raise a ValueError unless the pool is a kernel matrix of `n` examples or more."""
    shape = jnp.shape(pool)
    if len(shape) != 2 or shape[0] != shape[1]:
        raise ValueError(
            f"This agent selects on a kernel matrix [m, m] of the pool, got the shape {shape}; "
            "compute one with `entropax.kernels.gram`."
        )
    check_examples(pool, n)
    kernel = np.asarray(pool)
    if not np.issubdtype(kernel.dtype, np.floating):
        raise ValueError(f"The kernel must be of a floating-point type, got {kernel.dtype}.")
    diagonal = np.diagonal(kernel)
    if np.min(diagonal) < 0:
        lowest = np.argmin(diagonal)
        raise ValueError(
            "The kernel must be positive semi-definite, but example "
            f"{lowest} has {diagonal[lowest]:.3g} on the diagonal."
        )
    if np.max(np.abs(kernel)) == 0:
        raise ValueError("Every entry of the kernel is 0: there is no entropy to select by.")
    # Row by row, since a copy of a large kernel may not fit.
    norms = np.sqrt(diagonal)
    for i, row in enumerate(kernel):
        bound = norms[i] * norms
        asymmetry = np.abs(row - kernel[:, i])
        if np.any(asymmetry > _ROUNDING * np.maximum(bound, np.abs(row))):
            j = int(np.argmax(asymmetry))
            raise ValueError(
                f"The kernel must be symmetric, but it is {row[j]:.6g} at ({i}, {j}) and "
                f"{kernel[j, i]:.6g} at ({j}, {i})."
            )
        excess = np.abs(row) - (1 + _ROUNDING) * bound
        if np.any(excess > 0):
            j = int(np.argmax(excess))
            raise ValueError(
                f"The kernel must be positive semi-definite, but it is {row[j]:.3g} at ({i}, {j}), "
                f"where the diagonal allows {bound[j]:.3g} at most."
            )


def check_index(name: str, index: int | None, m: int) -> None:
    """Raise a ValueError unless `index` is None or a row of a pool of `m` examples."""
    if index is not None and not 0 <= index < m:
        raise ValueError(f"`{name}` must be one of the {m} examples of the pool, got {index}.")


def run(key: Array, agent: Agent, pool: Pool, n: int) -> tuple[State, Info]:
    """Select `n` examples as one scan, without a look at the pool: pure, for `jit` and `vmap`.

    Args:
      key: the randomness of the agent.
      agent: from `random`, `greedy_entropy`, ...
      pool: what the agent works on.
      n: number of examples to select, static.

    Returns:
      The last state, whose `indices` `[n]` hold -1 where the agent stopped before, and the infos
      stacked along a leading axis of steps.
    """

    def step(state: State, _: None) -> tuple[State, Info]:
        return agent.step(state, pool)

    return jax.lax.scan(step, agent.init(key, pool, n), length=agent.num_steps(n))


_run = jax.jit(run, static_argnames=("agent", "n"))


def select(key: Array, agent: Agent, pool: Pool, n: int) -> Selection:
    """Select `n` examples of a pool.

    An agent is compiled once for each shape of the pool and each `n`: keep it when you call again.
    Examples may occur more than once in the pool; they are as many different rows, and an agent
    may choose several of them.

    Args:
      key: the randomness of the agent; the same key gives the same set.
      agent: from `random`, `greedy_entropy`, ...
      pool: `[m, ...]` what the agent works on: the kernel `[m, m]` of the pool for the agents that
        select by entropy, the examples or their features for the others.
      n: number of examples to select.

    Returns:
      The rows of the pool that were chosen, and what each step let one see.

    Raises:
      ValueError: `n` is below 1 or above `m`; the pool is not finite; a kernel is not square, not
        symmetric, zero, or has a negative diagonal; the agent's own conditions; the objective is
        not finite at some step.

    >>> from entropax.selection.greedy_entropy import greedy_entropy
    >>> kernel = jnp.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])  # 0 and 1 are alike
    >>> selection = select(jax.random.key(0), greedy_entropy(), kernel, 2)
    >>> selection.indices.tolist(), round(float(selection.infos.objective[-1]), 5)  # ln 2
    ([0, 2], 0.69315)
    """
    agent.check(pool, n)
    state, infos = jax.device_get(_run(key, agent, jnp.asarray(pool), n))
    failed = np.flatnonzero(~np.isfinite(infos.objective))
    if len(failed):
        raise ValueError(
            f"The agent's objective became {infos.objective[failed[0]]} at step {failed[0]}: what "
            "it computes from this pool is not finite, or the kernel is not positive semi-definite."
        )
    return Selection(state.indices[state.indices >= 0], infos)
