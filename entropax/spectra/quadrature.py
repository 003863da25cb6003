"""Quadrature rules of an operator that is known only through its products with vectors."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, Key

from entropax import entropy
from entropax.spectra.lanczos import MatVec, lanczos
from entropax.types import Array


class Quadrature(NamedTuple):
    r"""What the products have shown of a spectrum; every `spectral_estimate` comes from it.

    For each of `k` vectors $v$, and polynomials $f$ up to a degree of $2 t - 1$ (Gauss) or
    $2 t - 2$ (Gauss-Radau),

    $$v^\top f(A)\, v = \|v\|^2 \sum_t w_t f(\theta_t).$$

    The first vectors are orthonormal and nearly span the leading eigenvectors, the other `p` are
    random and orthogonal to them. It holds arrays only and can be stored as such.

    Attributes:
      gauss_nodes: `[k, t]` the nodes of the Gauss rules.
      gauss_weights: `[k, t]` their weights, which sum to 1.
      radau_nodes: `[k, t]` the nodes of the Gauss-Radau rules, of which one is 0.
      radau_weights: `[k, t]` their weights.
      shorter_nodes: `[2, k, t - 1]` the nodes of both rules after one Lanczos step less; of one
        step, the same as after it.
      shorter_weights: `[2, k, t - 1]` their weights.
      lengths: `[p]` the squared lengths of the random vectors.
      n: the number of rows of the operator.
      definite: whether the operator showed itself positive semi-definite, but for rounding.
    """

    gauss_nodes: Float[Array, "k t"]
    gauss_weights: Float[Array, "k t"]
    radau_nodes: Float[Array, "k t"]
    radau_weights: Float[Array, "k t"]
    shorter_nodes: Float[Array, "2 k _"]
    shorter_weights: Float[Array, "2 k _"]
    lengths: Float[Array, " p"]
    n: Int[Array, ""]
    definite: Bool[Array, ""]


def _rules(
    diagonals: Float[Array, "k t"], offs: Float[Array, "k t-1"]
) -> tuple[tuple[Array, Array], tuple[Array, Array], Bool[Array, ""]]:
    """Rules of tridiagonal matrices, then of these without their last row and column.

    Each are nodes and weights, `[2, k, ...]`: of the Gauss rules, then of the Gauss-Radau rules.

    From the singular values of a Cholesky factor rather than the eigenvalues of the matrix: nodes
    are their squares, so that those far below the largest, where an entropy lives, keep their
    digits in float32. Making the last pivot 0 makes 0 a node.

    The last value tells whether all matrices are positive semi-definite, but for rounding.
    """
    # Near 1, because the squares of very large or small numbers are out of range.
    scale = jnp.max(jnp.abs(diagonals))
    scale = jnp.where(scale > 0, scale, 1)
    diagonals, offs = diagonals / scale, offs / scale
    # The pivots of the matrix plus as much as rounding explains are positive if it is definite.
    slack = entropy.ROUNDING

    def over(x: Array, pivot: Array) -> Array:
        return jnp.where(pivot > 0, x / jnp.where(pivot > 0, pivot, 1) * x, 0)

    def step(
        carry: tuple[Array, Array], row: tuple[Array, Array]
    ) -> tuple[tuple[Array, Array], tuple[Array, Array, Array]]:
        pivot, slackened = carry
        following, between = row
        # Rounding may leave a row more to give to the next than a semi-definite matrix can.
        taken = jnp.minimum(over(between, pivot), jnp.maximum(following, 0))
        after = following + slack - over(between, slackened)
        return (following - taken, after), (pivot, taken, slackened)

    first = (diagonals[:, 0], diagonals[:, 0] + slack)
    rows = (diagonals[:, 1:].T, offs.T)
    (last, slackened), (pivots, taken, before) = jax.lax.scan(step, first, rows)
    definite = jnp.all(slackened >= 0) & jnp.all(before >= 0)
    pivots = jnp.vstack([pivots, last])

    def decompose(row: tuple[Array, Array]) -> tuple[Array, Array]:
        pivots, taken = row
        factor = jnp.diag(jnp.sqrt(jnp.maximum(pivots, 0))) + jnp.diag(jnp.sqrt(taken), -1)
        vectors, values, _ = jnp.linalg.svd(factor)
        return jnp.square(values) * scale, jnp.square(vectors[0])

    def of_steps(t: int) -> tuple[Array, Array]:
        gauss = pivots[:t]
        both = jnp.hstack([gauss, gauss.at[-1].set(0)]).T, jnp.tile(taken[: t - 1], 2).T
        # One after the other: a batched decomposition can dead-lock on several simulated devices.
        return jax.tree.map(lambda x: x.reshape(2, -1, t), jax.lax.map(decompose, both))

    steps = len(pivots)
    return of_steps(steps), of_steps(max(steps - 1, 1)), definite


def _rows(
    key: Key[Array, ""],
    products: Callable[[Float[Array, "k n"]], Float[Array, "k n"]],
    n: int,
    num_deflated: int,
    num_probes: int,
) -> Float[Array, "k n"]:
    """Orthonormal rows that nearly span the leading eigenvectors, then probes orthogonal to them.

    Two rounds of subspace iteration: the second halves the error of the entropy on kernels with a
    dominant eigenvalue, at the price of `num_deflated` products.
    """
    key_leading, key_probes = jax.random.split(key)
    probes = jax.random.rademacher(key_probes, (num_probes, n), dtype=float)
    if num_deflated == 0:
        return probes
    leading = jax.random.rademacher(key_leading, (num_deflated, n), dtype=float)
    for _ in range(2):
        leading = products(leading)
        largest = jnp.max(jnp.abs(leading))
        leading = jnp.linalg.qr((leading / jnp.where(largest > 0, largest, 1)).T)[0].T
    for _ in range(2):
        inside = jnp.matmul(probes, leading.T, precision="highest")
        probes = probes - jnp.matmul(inside, leading, precision="highest")
    return jnp.concatenate([leading, probes])


def quadrature(
    key: Key[Array, ""],
    matvec: MatVec,
    n: int,
    *,
    num_probes: int = 16,
    num_deflated: int = 16,
    num_steps: int = 20,
    batch_size: int | None = None,
) -> Quadrature:
    r"""Quadrature rules of a positive semi-definite operator, by stochastic Lanczos.

    The costly half of an estimate: two rounds of subspace iteration find a few leading directions,
    which will be treated exactly; then Lanczos' steps from each of them, and from random signs made
    orthogonal to them.

    It takes `2 num_deflated + num_steps (num_deflated + num_probes)` products, in
    `2 + num_steps` calls of `matvec` (under `vmap`) unless `batch_size` is given. Besides what
    `matvec` needs, memory is for `n` by `num_steps` by `batch_size` numbers and a few times `n` by
    `num_deflated + num_probes`. It runs under `jit`, which traces `matvec` a few times whatever the
    number of products.

    Args:
      key: a key for the probes. With the same key the noise of two similar operators is similar,
        which helps to compare them.
      matvec: `A x [n]` for `x [n]`, symmetric and positive semi-definite, of any scale.
      n: the number of rows.
      num_probes: how many random probes, at least 2.
      num_deflated: how many leading directions are treated exactly; fewer than `n`.
      num_steps: Lanczos steps, at least 2, of which at most `n` are taken.
      batch_size: how many vectors are multiplied at a time; all by default.

    Returns:
      The rules. All nodes are 0 for an operator that is 0.

    Raises:
      ValueError: if an option is out of its range.

    Reference: S. Ubaru, J. Chen and Y. Saad, "Fast estimation of tr(f(A)) via stochastic Lanczos
    quadrature" (2017), algorithm 1; for the directions, N. Halko, P. G. Martinsson and J. A. Tropp,
    "Finding structure with randomness" (2011), algorithm 4.4.

    >>> eigvals = jnp.array([4.0, 2.0, 0.0])
    >>> rules = quadrature(jax.random.key(0), lambda x: eigvals * x, 3, num_deflated=2)
    >>> nodes, weights = rules.gauss_nodes[:2], rules.gauss_weights[:2]  # of the leading directions
    >>> round(float(jnp.sum(weights * nodes)), 5)  # 4 + 2
    6.0
    """
    if num_probes < 2:
        raise ValueError(f"`num_probes` must be at least 2, got {num_probes}.")
    if not 0 <= num_deflated < n:
        raise ValueError(
            f"`num_deflated` must be from 0 to n - 1 = {n - 1}, got {num_deflated}; a "
            "small kernel is better solved exactly, with `density`."
        )
    if num_steps < 2:
        raise ValueError(f"`num_steps` must be at least 2, got {num_steps}.")
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")

    def map_rows(f: Callable[[Array], Any], rows: Float[Array, "k n"]) -> Any:
        if batch_size is None:
            return jax.vmap(f)(rows)
        return jax.lax.map(f, rows, batch_size=batch_size)

    rows = _rows(key, lambda x: map_rows(matvec, x), n, num_deflated, num_probes)
    diagonals, offs = map_rows(lambda x: lanczos(matvec, x, num_steps=min(num_steps, n)), rows)
    (nodes, weights), shorter, definite = _rules(diagonals, offs)
    lengths = jnp.sum(jnp.square(rows[num_deflated:]), axis=1)
    gauss, radau = zip(nodes, weights, strict=True)
    return Quadrature(*gauss, *radau, *shorter, lengths, jnp.asarray(n), definite)
