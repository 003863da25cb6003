"""What every selection method is: two pure functions over a state, and a check on the host.

`step` is the body of a `jax.lax.scan` once it has been given the pool, and `run` is that scan. It
is pure, so many runs side by side are a `vmap`:

    states, infos = jax.vmap(lambda key: run(key, agent, pool, 30))(jax.random.split(key, 100))

`select` is what one calls: it looks at the pool first, compiles `run`, and looks at the outcome.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Bool, Float, Int, PyTree, Shaped

from entropax.distributed import data_axis, mesh_of, replicated_sharding
from entropax.selection.checks import Pool
from entropax.types import Array


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


def similarities(pool: Float[Array, "m m"], index: Int[Array, "*k"]) -> Float[Array, "*k m"]:
    """Rows of a kernel.

    Where its rows are split among devices, the columns, which are the same: each device has its
    part of them. For a row the compiler would bring the whole kernel to every device.
    """
    return pool[index] if mesh_of(pool) is None else pool[:, index].T


def corners_of(pool: Float[Array, "m m"]) -> Float[Array, " m"]:
    """The diagonal of a kernel, split as its rows are."""
    return split_like(pool, jnp.diagonal(pool))


def split_like(pool: Shaped[Array, "m *shape"], x: Shaped[Array, "*k m"]) -> Array:
    """Numbers of each example on the device that has its row of the pool."""
    mesh = mesh_of(pool)
    if mesh is None or len(pool) % mesh.shape[data_axis(mesh)]:
        return x
    spec = PartitionSpec(*[None] * (x.ndim - 1), data_axis(mesh))
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))


def example_of(pool: Shaped[Array, "m *shape"], index: Int[Array, ""]) -> Shaped[Array, "*shape"]:
    """One example, from the device that has it; `pool[index]` would bring all to every device."""
    return pool[index[None]][0]


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


@partial(jax.jit, static_argnames=("agent", "n"))
def _selected(key: Array, agent: Agent, pool: Pool, n: int) -> tuple[Int[Array, " n"], Info]:
    """The indices and the infos, whole on every device."""
    state, infos = run(key, agent, pool, n)
    mesh = mesh_of(pool)
    outcome = (state.indices, infos)
    if mesh is None:
        return outcome
    return jax.lax.with_sharding_constraint(outcome, replicated_sharding(mesh))


def select(key: Array, agent: Agent, pool: Pool, n: int) -> Selection:
    """Select `n` examples of a pool.

    An agent is compiled once for each shape of the pool and each `n`: keep it when you call again.
    Examples may occur more than once in the pool; they are as many different rows, and an agent
    may choose several of them.

    The pool may be split among devices by its rows, also among those of several processes, all of
    which then call this. It stays where it is: what devices send each other is at most some
    numbers for each example and step. Indices are those of one device, unless scores are equal to
    rounding.

    Args:
      key: the randomness of the agent; the same key gives the same set.
      agent: from `random`, `greedy_entropy`, ...
      pool: `[m, ...]` what the agent works on: the kernel `[m, m]` of the pool for the agents that
        select by entropy (`kernels.gram`, or `kernels.pool_kernel` on several devices), the
        examples or their features for the others.
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
    indices, infos = jax.device_get(_selected(key, agent, jnp.asarray(pool), n))
    failed = np.flatnonzero(~np.isfinite(infos.objective))
    if len(failed):
        raise ValueError(
            f"The agent's objective became {infos.objective[failed[0]]} at step {failed[0]}: what "
            "it computes from this pool is not finite, or the kernel is not positive semi-definite."
        )
    return Selection(indices[indices >= 0], infos)
