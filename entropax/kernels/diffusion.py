r"""The diffusion operator of a set of points.

A random walk jumps from point to point with the probabilities of the Gaussian kernel
$G_{ij} = \exp(-d_{ij}^2 / 2 \sigma^2)$, corrected for the density of the points by $\alpha$:

$$G'_{ij} = \frac{G_{ij}}{(d_i d_j)^\alpha}, \qquad d_i = \sum_j G_{ij}, \qquad
  S = D'^{-1/2} G' D'^{-1/2}, \qquad D' = \operatorname{diag}\Big(\sum_j G'_{ij}\Big).$$

$S$ is symmetric and has the eigenvalues of the walk $D'^{-1} G'$. The greatest is 1, with the
vector $u_i \propto \sqrt{d'_i}$. Where points nearly coincide all others are tiny, and $S$ in
float32 has lost them; so what is computed here is the residual $R = S - u u^\top$, from $E = G - 1$
without cancellation:

$$R_{ij} = \frac{E'_{ij} - a_i - a_j - a_i a_j}{\sqrt{d'_i d'_j}}, \qquad
  1 + a_i = \frac{d'_i}{\sqrt{\sum_k d'_k}}, \qquad E'_{ij} = G'_{ij} - 1.$$

Points far from each other are the other extreme: there $E'$ is nearly -1, $G'$ has the digits, and
the same formula keeps them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Num

from entropax.distributed import AnyMesh, mesh_of
from entropax.kernels.gaussian import check_sigma, squared_distances
from entropax.kernels.pairs import in_tiles, sum_over_pairs, tiles_of
from entropax.types import Array


class DiffusionResidual(NamedTuple):
    r"""What is left of the diffusion operator without its leading eigenvalue, which is 1.

    Attributes:
      residual: `[n, n]` symmetric $R = S - u u^\top$; it has the eigenvalues of `S`, but 0 in place
        of the leading 1.
      degrees: `[n]` row sums of the kernel, in proportion if `alpha` is not 0; the leading vector
        is `u = sqrt(degrees / sum(degrees))`.
    """

    residual: Float[Array, "n n"]
    degrees: Float[Array, " n"]


def check_alpha(alpha: Any) -> None:
    """Raise a ValueError unless `alpha` is a number of at least 0; a traced one passes."""
    if not isinstance(alpha, jax.core.Tracer) and not 0 <= alpha < np.inf:
        raise ValueError(f"`alpha` must be 0 or positive, got {alpha}.")


def log_ratio(excess: Array, total: Array, count: Array) -> Array:
    """`log(total / count)`, where `excess = total - count` may have the digits instead."""
    near = excess > -count / 2
    return jnp.where(
        near,
        jnp.log1p(jnp.where(near, excess, 0) / count),
        jnp.log(jnp.where(near, count, total) / count),
    )


def diffusion_residual(
    x: Num[Array, "n d"] | Num[np.ndarray, "n d"],
    *,
    sigma: float | Float[Array, ""] | Float[Array, " n"],
    alpha: float | Float[Array, ""] = 0.0,
    where: Bool[Array, " n"] | None = None,
) -> DiffusionResidual:
    r"""The diffusion operator without its leading eigenvalue, in full.

    $$R = S - u u^\top, \qquad u_i = \sqrt{d'_i / \textstyle\sum_k d'_k}.$$

    In float32 entropies of the spectrum as small as 1e-5 keep four digits. It runs under `jit`,
    `vmap` and `grad`; gradients are finite also where points are equal.

    Args:
      x: `[n, d]` points.
      sigma: bandwidth, a number or one for each point, in the units of `x` (`bandwidth`).
      alpha: how far the density of the points is divided out: 0 not at all, which is what the
        published code of the diffusion entropy computes; 1/2, which is what its paper writes; 1,
        in the limit entirely (the Laplace-Beltrami operator).
      where: `[n]` False in rows that only fill up the shape, whatever is in them. Their rows and
        columns of `R` and their degrees are 0.

    Returns:
      The residual and the degrees; NaN if a number in `x` is.

    Raises:
      ValueError: if `sigma` is not positive or `alpha` is negative.

    Reference: R. R. Coifman and S. Lafon, "Diffusion maps" (2006), section 3; for the entropy,
    D. Liao et al., "Assessing neural network representations during training using
    noise-resilient diffusion spectral entropy" (2023), section 3.

    >>> x = jnp.array([[0.0], [1.0], [5.0]])
    >>> residual, degrees = diffusion_residual(x, sigma=1.0)
    >>> u = jnp.sqrt(degrees / degrees.sum())
    >>> S = diffusion_operator(x, sigma=1.0)
    >>> bool(jnp.allclose(residual + jnp.outer(u, u), S, atol=1e-6))
    True
    """
    check_alpha(alpha)
    exponents = _exponents(x, sigma, where)
    real = jnp.ones(len(exponents), bool) if where is None else jnp.asarray(where)
    pairs = real[:, None] & real
    count = jnp.maximum(jnp.sum(real), 1).astype(exponents.dtype)

    excess = jnp.where(pairs, jnp.expm1(exponents), 0)
    if _may_correct(alpha):
        logs = _log_degrees(excess, real, count)[1]
        middle = jnp.sum(jnp.where(real, logs, 0)) / count
        # Over a typical degree, so that these numbers are small whether points are near or far.
        weight = jnp.where(real, jnp.expm1(-alpha * (logs - middle)), 0)
        cross = weight[:, None] + weight + weight[:, None] * weight
        excess = jnp.where(pairs, excess * (1 + weight[:, None]) * (1 + weight) + cross, 0)
    degrees, logs = _log_degrees(excess, real, count)
    mean = jnp.sum(jnp.where(real, degrees, 0)) / count
    shift = log_ratio(jnp.sum(excess) / count, mean, count)
    a = jnp.where(real, jnp.expm1(logs - shift / 2), 0)
    root = jax.lax.rsqrt(degrees)
    numerator = excess - (a[:, None] + a + a[:, None] * a)
    residual = jnp.where(pairs, numerator * root[:, None] * root, 0)
    return DiffusionResidual(residual, jnp.where(real, degrees, 0))


def _exponents(x: Any, sigma: Any, where: Any) -> Float[Array, "n n"]:
    """Of the kernel: what is in the exponential; anything finite in padding."""
    check_sigma(sigma, where, n=len(x))
    squares = squared_distances(x, where=where)
    sigma = jnp.asarray(sigma, squares.dtype)
    if sigma.ndim == 0:
        return squares / (-2 * sigma) / sigma
    if where is not None:
        sigma = jnp.where(where, sigma, 1)
    return squares / (-2 * sigma[:, None]) / sigma


def _may_correct(alpha: Any) -> bool:
    return isinstance(alpha, jax.core.Tracer) or bool(alpha != 0)


def _log_degrees(
    excess: Float[Array, "n n"], real: Bool[Array, " n"], count: Float[Array, ""]
) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    """Row sums of `1 + excess` over the real columns, and their logarithms over `count`."""
    total = jnp.sum(jnp.where(real, 1 + excess, 0), axis=1)
    degrees = jnp.where(real, total, count)
    return degrees, log_ratio(jnp.sum(excess, axis=1), degrees, count)


def diffusion_operator(
    x: Num[Array, "n d"] | Num[np.ndarray, "n d"],
    *,
    sigma: float | Float[Array, ""] | Float[Array, " n"],
    alpha: float | Float[Array, ""] = 0.0,
    where: Bool[Array, " n"] | None = None,
) -> Float[Array, "n n"]:
    r"""The diffusion operator itself, with its leading eigenvalue 1.

    $$S = D'^{-1/2} G' D'^{-1/2}.$$

    For an entropy take `diffusion_residual`, which is right also when all other eigenvalues are
    small.

    Args:
      x: `[n, d]` points.
      sigma: bandwidth, a number or one for each point, in the units of `x`.
      alpha: how far the density of the points is divided out.
      where: `[n]` False in rows that only fill up the shape; their rows and columns of `S` are 0.

    Returns:
      `[n, n]` symmetric, with eigenvalues from 0 to 1; NaN if a number in `x` is. (Bandwidths that
      differ from point to point can make some eigenvalues slightly negative.)

    Raises:
      ValueError: if `sigma` is not positive or `alpha` is negative.

    >>> diffusion_operator(jnp.array([[0.0], [0.0]]), sigma=1.0).round(4).tolist()
    [[0.5, 0.5], [0.5, 0.5]]
    """
    kernel = jnp.exp(_exponents(x, sigma, where))
    if where is not None:
        kernel = jnp.where(jnp.asarray(where)[:, None] & jnp.asarray(where), kernel, 0)
    return symmetric_normalised(kernel, alpha=alpha)


def symmetric_normalised(
    kernel: Float[Array, "n n"] | Float[np.ndarray, "n n"],
    *,
    alpha: float | Float[Array, ""] = 0.0,
) -> Float[Array, "n n"]:
    r"""Any non-negative kernel, or the weights of a graph, as a diffusion operator.

    $$S = D'^{-1/2} K' D'^{-1/2}, \qquad K'_{ij} = \frac{K_{ij}}{(d_i d_j)^\alpha}.$$

    Args:
      kernel: `[n, n]` numbers of at least 0; symmetric, if the eigenvalues are to be those of the
        random walk.
      alpha: how far the density of the points is divided out.

    Returns:
      `[n, n]`. A row of zeros (a point without neighbours, or padding) stays 0.

    Raises:
      ValueError: if `alpha` is negative.

    >>> symmetric_normalised(jnp.array([[3.0, 1.0], [1.0, 3.0]])).round(4).tolist()
    [[0.75, 0.25], [0.25, 0.75]]
    """
    check_alpha(alpha)
    kernel = jnp.asarray(kernel)

    if _may_correct(alpha):
        degrees = jnp.sum(kernel, axis=1)
        linked = degrees != 0
        # Over the largest, lest powers of small degrees leave the range of float32.
        degrees = jnp.where(linked, degrees, 1) / jnp.max(jnp.abs(degrees), initial=0)
        factor = jnp.where(linked, degrees**-alpha, 0)
        kernel = kernel * factor[:, None] * factor
    degrees = jnp.sum(kernel, axis=1)
    linked = degrees != 0
    factor = jnp.where(linked, jax.lax.rsqrt(jnp.where(linked, degrees, 1)), 0)
    return kernel * factor[:, None] * factor


class DiffusionProducts(NamedTuple):
    r"""The residual of the diffusion operator as a function, with its exact traces.

    Attributes:
      matvec: `v [n] -> R v [n]`. Under `vmap` the kernel is formed once for all vectors.
      trace: $\operatorname{tr} R$.
      squares: $\operatorname{tr} R^2 = \|R\|_F^2$.
      degrees: `[n]` row sums of the kernel, in proportion if `alpha` is not 0.
    """

    matvec: Callable[[Array], Array]
    trace: Float[Array, ""]
    squares: Float[Array, ""]
    degrees: Float[Array, " n"]


class _Rows(NamedTuple):
    """What the products need to know of each point; `lift` is the same for all."""

    root: Float[Array, "*shape"]
    weight: Float[Array, "*shape"]
    b: Float[Array, "*shape"]
    lift: Float[Array, "*shape"]


def diffusion_products(
    x: Num[Array, "n d"] | Num[np.ndarray, "n d"],
    *,
    sigma: float | Float[Array, ""] | Float[Array, " n"],
    alpha: float | Float[Array, ""] = 0.0,
    block_size: int = 512,
    mesh: AnyMesh | None = None,
    on_pass: Callable[[], None] | None = None,
) -> DiffusionProducts:
    r"""Products of vectors with the residual of `diffusion_residual`, without a matrix.

    $$R v = D'^{-1/2} \big[E' z - a\, (1^\top z) - 1\, (a^\top z) - a\, (a^\top z)\big],
      \qquad z = D'^{-1/2} v.$$

    Every product goes once over the pairs of points, in tiles. The degrees take one such pass (two
    if `alpha` is not 0) and the squares another. As in the residual, small and large distances keep
    their digits in float32.

    Call it under `jit`; outside everything is compiled at each call.

    Args:
      x: `[n, d]` points.
      sigma: bandwidth, a number or one for each point, in the units of `x`.
      alpha: how far the density of the points is divided out.
      block_size: points in a tile; a few times its square, and `n` times `d`, is the memory it
        takes. 512 was the fastest on a CPU; accelerators may like more.
      mesh: devices among which the pairs of tiles are split, along the mesh's first axis; by
        default those that the points lie on. Points are brought to all of them, `n d` numbers, and
        so are vectors; the matrix of all pairs is nowhere.
      on_pass: called on the host, without arguments, after each pass over the pairs.

    Returns:
      The products and the traces; NaN if a number in `x` is.

    Raises:
      ValueError: if `sigma` or `block_size` is not positive, or `alpha` is negative.

    >>> x = jnp.array([[0.0], [1.0], [5.0]])
    >>> products = diffusion_products(x, sigma=1.0)
    >>> residual, _ = diffusion_residual(x, sigma=1.0)
    >>> v = jnp.array([1.0, 2.0, 3.0])
    >>> bool(jnp.allclose(products.matvec(v), residual @ v, atol=1e-6))
    True
    """
    check_alpha(alpha)
    n = len(x)
    mesh = mesh_of(x, sigma) if mesh is None else mesh
    tiles = tiles_of(x, sigma, block_size=block_size, mesh=mesh)
    real = tiles.real > 0
    count = jnp.asarray(n, tiles.y.dtype)

    def row_sums(of: Array) -> tuple[Array, Array]:
        """Sums of `excess * of` and of `(1 + excess) * of`; these in padding 1."""

        def sums(excess: Array, of_i: Array, of_j: Array) -> tuple[Array, Array]:
            return jnp.sum(excess * of_j, axis=1), jnp.sum((1 + excess) * of_j, axis=1)

        excess, total = sum_over_pairs(sums, tiles, of, mesh=mesh, on_pass=on_pass)
        return jnp.where(real, excess, 0), jnp.where(real, total, 1)

    weight = jnp.zeros_like(tiles.real)
    excess, degrees = row_sums(tiles.real)
    if _may_correct(alpha):
        logs = jnp.where(real, log_ratio(excess, degrees, count), 0)
        weight = jnp.where(real, jnp.expm1(-alpha * (logs - jnp.sum(logs) / count)), 0)
        excess, degrees = row_sums(tiles.real * (1 + weight))
        excess = (1 + weight) * (excess + jnp.sum(weight)) + count * weight
        degrees = (1 + weight) * degrees
    logs = log_ratio(excess, degrees, count)
    mean = jnp.sum(jnp.where(real, degrees, 0)) / count
    shift = log_ratio(jnp.sum(jnp.where(real, excess, 0)) / count, mean, count)
    # Of the kernel and the kernel less 1, take what is small on average: the sums over it are then
    # not differences of large numbers. `b` is `a`, or 1 + `a`.
    near = shift > -np.log(2)
    b = jnp.where(near, jnp.expm1(logs - shift / 2), jnp.exp(logs - shift / 2))
    lift = jnp.where(near, 0, 1).astype(b.dtype)
    rows = _Rows(
        root=jnp.where(real, jax.lax.rsqrt(degrees), 0),
        weight=weight,
        b=jnp.where(real, b, 0),
        lift=jnp.broadcast_to(lift, b.shape),
    )

    def product(excess: Array, of_i: Any, of_j: Any) -> Array:
        return jnp.matmul(excess + of_i[0][:, None], of_j[1], precision="highest")

    def matvec(v: Float[Array, " n"]) -> Float[Array, " n"]:
        z = rows.root * in_tiles(v, *b.shape)
        operands = (rows.lift, (1 + weight) * z)
        sums = sum_over_pairs(product, tiles, operands, mesh=mesh, on_pass=on_pass)
        total, along = jnp.sum(z), jnp.sum(rows.b * z)
        sums = (1 + weight) * (sums + (1 - lift) * jnp.sum(weight * z)) - rows.b * along
        sums = sums + (1 - lift) * (weight * total - along - rows.b * total)
        return (rows.root * sums).reshape(-1)[:n]

    def square(excess: Array, of_i: _Rows, of_j: _Rows) -> Array:
        of_i = jax.tree.map(lambda leaf: leaf[:, None], of_i)
        scale = (1 + of_i.weight) * (1 + of_j.weight)
        cross = of_i.weight + of_j.weight + of_i.weight * of_j.weight - of_i.b - of_j.b
        entries = (excess + of_i.lift) * scale + (1 - of_i.lift) * cross - of_i.b * of_j.b
        return jnp.sum(jnp.square(entries * of_i.root * of_j.root), axis=1)

    trace = (2 + weight) * weight - excess / count
    return DiffusionProducts(
        matvec=matvec,
        trace=jnp.sum(jnp.where(real, trace / degrees, 0)),
        squares=jnp.sum(sum_over_pairs(square, tiles, rows, mesh=mesh, on_pass=on_pass)),
        degrees=degrees.reshape(-1)[:n],
    )
