"""Greedy maximum determinant: add the example of the largest unexplained variance."""

import jax.numpy as jnp
from jaxtyping import Float

from entropax.selection.base import Agent, Info, State, corners_of, empty, mask_chosen, split_like
from entropax.selection.bordering import condition
from entropax.selection.checks import check_kernel
from entropax.types import Array


def greedy_determinant(*, noise: float = 1e-6) -> Agent:
    r"""Add, again and again, the example that makes the log-determinant of the kernel highest.

    $$s_{k+1} = \arg\max_{j \notin s} \ln\det(K_{s \cup \{j\}} + t),$$

    where $t$ is `noise` times the largest diagonal entry. That is the mode of a determinantal
    point process, greedily, and the most uncertain point of a Gaussian process. The von Neumann
    entropy is this criterion at all levels of noise together, and for kernels of one scale; this
    one prefers examples of a large kernel value. The objective is the log-determinant of the kernel
    as a share of its largest diagonal entry.

    Args:
      noise: positive.

    Raises:
      ValueError: `noise` is not positive.

    Reference: L. Chen et al., "Fast greedy MAP inference for determinantal point process to improve
    recommendation diversity" (2018), algorithm 1.

    >>> import jax
    >>> from entropax.selection.base import select
    >>> kernel = jnp.array([[4.0, 3.9, 0.0], [3.9, 4.0, 0.0], [0.0, 0.0, 1.0]])
    >>> select(jax.random.key(0), greedy_determinant(), kernel, 2).indices.tolist()
    [0, 2]
    """
    if not noise > 0:
        raise ValueError(f"`noise` must be positive, got {noise}.")

    def init(key: Array, pool: Float[Array, "m m"], n: int) -> State:
        residuals = corners_of(pool)[None]
        factors = split_like(pool, jnp.zeros((n, *residuals.shape), pool.dtype))
        return State(empty(n), (factors, residuals, jnp.zeros((), pool.dtype)))

    def step(state: State, pool: Float[Array, "m m"]) -> tuple[State, Info]:
        factors, residuals, log_det = state.memory
        largest = jnp.max(corners_of(pool))
        position = jnp.sum(state.indices >= 0)
        best = jnp.argmax(mask_chosen(state.indices, residuals[0]))
        indices = state.indices.at[position].set(best.astype(jnp.int32))
        gain = jnp.log(residuals[0, best] / largest + noise)
        levels = noise * largest[None]
        factors, residuals = condition(factors, residuals, levels, pool, best, position)
        done = position + 1 == len(indices)
        info = Info(log_det + gain, gain, jnp.ones((), bool), done)
        return State(indices, (factors, residuals, log_det + gain)), info

    return Agent(init, step, lambda n: n, check_kernel)
