"""Lanczos' tridiagonalisation of an operator that is known only through its products."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from entropax.types import Array

MatVec = Callable[[Array], Array]


def _length(x: Float[Array, " n"]) -> Float[Array, ""]:
    """Euclidean length, for entries of any size."""
    largest = jnp.max(jnp.abs(x))
    safe = jnp.where(largest > 0, largest, 1)
    return safe * jnp.sqrt(jnp.sum(jnp.square(x / safe)))


def _unit(x: Float[Array, " n"]) -> tuple[Float[Array, " n"], Float[Array, ""]]:
    """The direction of `x` (0 if it has none) and its length."""
    length = _length(x)
    return x / jnp.where(length > 0, length, 1), length


def lanczos(
    matvec: MatVec, start: Float[Array, " n"], *, num_steps: int
) -> tuple[Float[Array, " t"], Float[Array, " t-1"]]:
    r"""Lanczos' tridiagonalisation of a symmetric operator, with full re-orthogonalisation.

    $$Q^\top A Q = T, \qquad Q^\top Q = I, \qquad Q e_1 = v / \|v\|.$$

    Where the products of `A` with the vectors so far lead to no new direction, the rest of `T` is
    0. The basis takes `n` times `num_steps` numbers.

    Args:
      matvec: `A x` for `x [n]`, linear and symmetric.
      start: `[n]` the first vector `v`.
      num_steps: the size `t` of `T`, and the number of products; at most `n`.

    Returns:
      The diagonal `[t]` and the off-diagonal `[t - 1]` of `T`.

    Reference: G. H. Golub and G. Meurant, "Matrices, moments and quadrature with applications"
    (2010), section 4.1.

    >>> diagonal, off = lanczos(lambda x: jnp.array([1.0, 3.0]) * x, jnp.ones(2), num_steps=2)
    >>> diagonal.round(5).tolist(), off.round(5).tolist()
    ([2.0, 2.0], [1.0])
    """

    def step(
        carry: tuple[Array, Array], t: Int[Array, ""]
    ) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        basis, q = carry
        basis = basis.at[t].set(q)

        def orthogonal(x: Array) -> Array:
            inside = jnp.matmul(basis, x, precision="highest")
            return x - jnp.matmul(inside, basis, precision="highest")

        product = matvec(q)
        if product.shape != q.shape:
            raise ValueError(f"`matvec` must map {q.shape} to itself, got {product.shape}.")
        diagonal = jnp.sum(q * product)
        following, first = _unit(orthogonal(product))
        following, second = _unit(orthogonal(following))
        # Twice is enough, unless the first residual was rounding that lies in the old directions:
        # then there is no new one, and to go on from noise would give values outside the spectrum.
        new = second > 0.5
        return (basis, following * new), (diagonal, first * second * new)

    q, _ = _unit(start)
    basis = jnp.zeros((num_steps, *start.shape), start.dtype)
    _, (diagonal, off) = jax.lax.scan(step, (basis, q), jnp.arange(num_steps))
    return diagonal, off[:-1]
