"""Kernel herding: a set whose mean in feature space is that of the whole pool."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Float

from entropax.selection.base import Agent, Info, State, empty, mask_chosen, similarities
from entropax.selection.checks import check_kernel
from entropax.types import Array


class _Memory(NamedTuple):
    means: Float[Array, " m"]
    sums: Float[Array, " m"]
    sum_of_means: Float[Array, ""]
    sum_of_sums: Float[Array, ""]
    objective: Float[Array, ""]


def kernel_herding() -> Agent:
    r"""Add, again and again, the example that the pool has more of than the set.

    $$s_{k+1} = \arg\max_{j \notin s} \; \frac1m \sum_{i=1}^m K_{ij}
      - \frac1{k + 1} \sum_{i \in s} K_{ij}.$$

    The opposite of entropy: it represents the pool, dense regions most. The objective is minus the
    squared maximum mean discrepancy between the set and the pool,
    $-\|\frac1k \sum_{i \in s} \phi_i - \frac1m \sum_i \phi_i\|^2$, in units of the kernel; the
    first gain is counted from the discrepancy of the empty set, $\|\frac1m \sum_i \phi_i\|^2$.

    Published herding may take an example twice; a set cannot.

    Reference: Y. Chen, M. Welling and A. Smola, "Super-samples from kernel herding" (2010),
    equation 8.

    >>> import jax
    >>> from entropax.selection.base import select
    >>> kernel = jnp.kron(jnp.eye(2), jnp.ones((3, 3)))  # two kinds of example, three of each
    >>> select(jax.random.key(0), kernel_herding(), kernel, 2).indices.tolist()
    [0, 3]
    """

    def init(key: Array, pool: Float[Array, "m m"], n: int) -> State:
        means = jnp.mean(pool, axis=1)
        zero = jnp.zeros((), pool.dtype)
        return State(empty(n), _Memory(means, jnp.zeros_like(means), zero, zero, -jnp.mean(means)))

    def step(state: State, pool: Float[Array, "m m"]) -> tuple[State, Info]:
        means, sums, sum_of_means, sum_of_sums, before = state.memory
        position = jnp.sum(state.indices >= 0)
        scores = means - sums / (position + 1)
        best = jnp.argmax(mask_chosen(state.indices, scores))
        indices = state.indices.at[position].set(best.astype(jnp.int32))
        sum_of_means = sum_of_means + means[best]
        row = similarities(pool, best)
        sum_of_sums = sum_of_sums + 2 * sums[best] + row[best]
        sums = sums + row
        k = position + 1
        objective = 2 * sum_of_means / k - sum_of_sums / k**2 - jnp.mean(means)
        info = Info(objective, objective - before, jnp.ones((), bool), k == len(indices))
        return State(indices, _Memory(means, sums, sum_of_means, sum_of_sums, objective)), info

    return Agent(init, step, lambda n: n, check_kernel)
