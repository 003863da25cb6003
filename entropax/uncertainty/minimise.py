"""L-BFGS of optax, compiled as one loop."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Float, Int

from entropax.types import Array


def gradient_tolerance(dtype: jnp.dtype) -> float:
    """Largest entry of a gradient at which a minimum of unit scale counts as found.

    >>> gradient_tolerance(jnp.dtype("float32")) < 2e-5
    True
    """
    return float(jnp.finfo(dtype).eps) ** 0.7  # 1e-5 in float32, 1e-11 in float64


def minimise(
    objective: Callable[[tuple[Array, Array]], Array],
    start: tuple[Array, Array],
    *,
    max_steps: int,
) -> tuple[tuple[Array, Array], Float[Array, ""], Int[Array, ""]]:
    """Minimise a smooth convex function of two arrays by L-BFGS with a line search.

    Args:
      objective: the function, best in coordinates in which its curvatures are similar.
      start: where to start.
      max_steps: where to stop in any case.

    Returns:
      The best point that was seen, the largest entry of the gradient there, and the steps taken.

    >>> best, _, _ = minimise(
    ...     lambda x: jnp.sum((x[0] - 3) ** 2) + jnp.sum(x[1] ** 2),
    ...     (jnp.zeros(2), jnp.ones(1)),
    ...     max_steps=20,
    ... )
    >>> [round(float(x), 3) for x in best[0]]
    [3.0, 3.0]
    """
    solver = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(objective)

    class Search(NamedTuple):
        point: tuple[Array, Array]
        state: optax.OptState
        best: tuple[Array, Array]
        value: Array
        gradient: Array
        step: Array

    def size(gradient: tuple[Array, Array]) -> Array:
        return functools.reduce(jnp.maximum, [jnp.max(jnp.abs(x)) for x in gradient])

    def step(search: Search) -> Search:
        value, gradient = value_and_grad(search.point, state=search.state)
        lower = value <= search.value
        best = jax.tree.map(lambda x, y: jnp.where(lower, x, y), search.point, search.best)
        updates, state = solver.update(
            gradient,
            search.state,
            search.point,
            value=value,
            grad=gradient,
            value_fn=objective,
        )
        return Search(
            optax.apply_updates(search.point, updates),
            state,
            best,
            jnp.where(lower, value, search.value),
            jnp.where(lower, size(gradient), search.gradient),
            search.step + 1,
        )

    def goes_on(search: Search) -> Array:
        tolerance = gradient_tolerance(search.value.dtype)
        return (search.step < max_steps) & (search.gradient > tolerance)

    infinite = jnp.full_like(start[1], jnp.inf, shape=())
    search = Search(start, solver.init(start), start, infinite, infinite, jnp.zeros((), int))
    search = jax.lax.while_loop(goes_on, step, search)
    return search.best, search.gradient, search.step
