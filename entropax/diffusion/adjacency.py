r"""The entropy of similarities themselves: of a kernel or a graph, not of a random walk on it.

    adjacency_entropy(features, sigma=10.0)                   # of the Gaussian kernel
    adjacency_entropy(features, kernel="knn", neighbours=10)  # of the graph of neighbours

The exponential of the first is the Vendi score of the points (`vendi_score`).
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jax.sharding import PartitionSpec
from jaxtyping import Bool, Float, Int, Key

from entropax import spectra
from entropax.diffusion.entropy import dse, dse_estimate
from entropax.diffusion.points import (
    check_kernel,
    is_definite,
    is_unknown,
    on_all_devices,
    points,
    scaled,
)
from entropax.diffusion.sampling import Lanczos, lanczos_for
from entropax.diffusion.spectral import (
    Estimate,
    check_time_and_order,
    estimate,
    in_numbers,
    spectral_entropy,
)
from entropax.diffusion.spectrum import Spectrum
from entropax.distributed import AnyMesh, data_axis, gather, mesh_of
from entropax.kernels.gaussian import squared_distances
from entropax.kernels.neighbours import neighbour_graph
from entropax.types import Array

KERNELS = ("gaussian", "anisotropic", "knn")
# Where all eigenvalues but the first hold less than this share, that one is taken out. What is
# left of an error of its vector after so many products is the share to the power of twice that.
_SMALL, _PRODUCTS = 0.1, 12
# Numbers in a block of rows of a kernel that is not stored.
_BLOCK = 2**24


def adjacency_entropy(
    x: Array | np.ndarray,
    *,
    sigma: float | str | Array | None = None,
    kernel: str = "gaussian",
    neighbours: int = 10,
    symmetric: bool = True,
    order: float = 1.0,
    method: str | Lanczos = "exact",
    key: Key[Array, ""] | None = None,
    where: Bool[Array, " n"] | None = None,
) -> Float[Array, ""]:
    r"""Entropy of the spectrum of an adjacency matrix of points, in nats.

    $$H = -\sum_k p_k \ln p_k, \qquad p_k = |\lambda_k| \Big/ \sum_j |\lambda_j|, \qquad
      \lambda = \operatorname{eig}(A),$$

    where the kernel says what `A` is:

    - `"gaussian"`: $A_{ij} = \exp(-\|x_i - x_j\|^2 / 2 \sigma^2)$. As in `dse`, the leading
      eigenvalue of points that nearly coincide is taken out before rounding hides the others, so
      that float32 keeps 4 digits of an entropy of 1e-5 nats.
    - `"anisotropic"`: the diffusion operator of `dse`, which this is then, at `t = 1`.
    - `"knn"`: 1 if one of two points is among the nearest of the other, else 0. With
      `symmetric=False`, if the second is among those of the first, as in the published code: the
      eigenvalues are complex then, their magnitudes count, and SciPy finds them on the host in
      float64 with some `10 n^3` operations.

    Under `jit`, `vmap` and `grad` it is exact and, but for the graphs, differentiable, equal points
    included.

    Args:
      x: `[n, d]` points.
      sigma: bandwidth of the two Gaussian kernels: a number or a rule, see `kernels.bandwidth`.
        A graph has none.
      kernel: `"gaussian"`, `"anisotropic"` or `"knn"`.
      neighbours: nearest points of the graph, from 1 to `n`, the point itself included; all, where
        fewer points count. Of the rules for `sigma`, which neighbour.
      symmetric: whether a link of the graph counts in both directions.
      order: order of the Renyi entropy, from 0 to `math.inf`; 1 for Shannon.
      method: `"exact"`, or, for the Gaussian kernels, `"slq"` or `Lanczos(...)` to sample the
        spectrum of many points with memory for blocks of the kernel: `adjacency_estimate` tells
        how well.
      key: for sampling; `jax.random.key(0)` by default.
      where: `[n]` points that count.

    Returns:
      `[]` in `[0, ln n]`; NaN for NaN inside `jit`.

    Raises:
      ValueError: if an option is out of its range or `x` is not a finite matrix of points.

    Reference: the adjacency variant in the published code (dse-dsmi 1.1) of D. Liao et al.,
    "Assessing neural network representations during training using noise-resilient diffusion
    spectral entropy" (2023).

    >>> x = jnp.array([[0.0], [0.0], [100.0], [100.0]])  # two pairs: ln 2
    >>> round(float(adjacency_entropy(x, sigma=1.0)), 4)
    0.6931
    >>> round(float(adjacency_entropy(x, kernel="knn", neighbours=2)), 4)
    0.6931
    """
    _check(kernel, sigma, neighbours, symmetric, order, method, where)
    if kernel == "anisotropic":
        options: dict[str, Any] = {"neighbours": neighbours, "method": method, "where": where}
        return dse(x, sigma=sigma, order=order, key=key, **options)
    if method != "exact":
        return jnp.asarray(_sampled(x, sigma, neighbours, order, method, key, where).value)
    spectrum = _spectrum(x, sigma, kernel, neighbours, symmetric, where)
    return spectral_entropy(spectrum, order=order)


def adjacency_estimate(
    x: Array | np.ndarray,
    *,
    sigma: float | str | Array | None = None,
    kernel: str = "gaussian",
    neighbours: int = 10,
    symmetric: bool = True,
    order: float = 1.0,
    method: str | Lanczos = "exact",
    key: Key[Array, ""] | None = None,
    where: Bool[Array, " n"] | None = None,
) -> Estimate:
    """Entropy of an adjacency matrix with its uncertainty and its saturation.

    Args:
      x: `[n, d]` points; not inside `jit`.
      sigma: as for `adjacency_entropy`, like all that follows.
      kernel: which matrix.
      neighbours: nearest points of the graph.
      symmetric: whether a link of the graph counts in both directions.
      order: order of the Renyi entropy.
      method: exact or sampled.
      key: for sampling.
      where: points that count.

    Returns:
      The estimate, in nats, as Python's numbers.

    Raises:
      ValueError: as for `adjacency_entropy`, and if `x` is being traced.

    >>> adjacency_estimate(jnp.array([[0.0], [100.0]]), sigma=1.0).saturation
    1.0
    """
    _check(kernel, sigma, neighbours, symmetric, order, method, where)
    if kernel == "anisotropic":
        options: dict[str, Any] = {"neighbours": neighbours, "method": method, "where": where}
        return dse_estimate(x, sigma=sigma, order=order, key=key, **options)
    if method != "exact":
        return _sampled(x, sigma, neighbours, order, method, key, where)
    return estimate(_spectrum(x, sigma, kernel, neighbours, symmetric, where), order=order)


def _check(
    kernel: str, sigma: Any, neighbours: int, symmetric: bool, order: float, method: Any, where: Any
) -> None:
    if kernel not in KERNELS:
        raise ValueError(f"`kernel` must be one of {KERNELS}, got {kernel!r}.")
    check_time_and_order(1, order)
    check_kernel("knn" if kernel == "knn" else "gaussian", sigma, neighbours)
    if kernel == "anisotropic":
        return  # `dse` knows its methods
    if not (isinstance(method, Lanczos) or method in ("exact", "slq")):
        raise ValueError(f'`method` must be "exact", "slq" or Lanczos(...), got {method!r}.')
    if kernel == "knn" and method != "exact":
        raise ValueError(f"The graph of neighbours is solved exactly, got method {method!r}.")
    if kernel != "knn" and method != "exact" and not is_definite("gaussian", sigma):
        raise ValueError(
            f"The method {method!r} samples spectra without negative eigenvalues, which a "
            'bandwidth for each point does not promise; take method="exact".'
        )
    if kernel == "knn" and not symmetric and where is not None:
        raise ValueError(
            "A directed graph is solved on the host, for points that all count; pass x[where]."
        )


def _spectrum(
    x: Any, sigma: Any, kernel: str, neighbours: int, symmetric: bool, where: Any
) -> Spectrum:
    """Magnitudes of all eigenvalues but the largest, over the largest."""
    x = points(x, where)
    if kernel == "gaussian":
        rule = sigma if isinstance(sigma, str) else None
        number = None if rule else jnp.asarray(sigma, x.dtype)
        return _gaussian(x, number, where, rule=rule, neighbours=neighbours)
    if symmetric:
        return _graph(x, where, neighbours=neighbours)
    if is_unknown(x):
        raise ValueError(
            "The eigenvalues of a directed graph are found on the host, not inside `jit`, `grad` "
            "or `vmap`; symmetric=True can be."
        )
    graph = gather(_directed(x, neighbours=neighbours)).astype(np.float64)
    magnitudes = np.sort(np.abs(scipy.linalg.eigvals(graph, overwrite_a=True)))
    return _over_largest(jnp.asarray(magnitudes), jnp.asarray(len(graph)), None)


@functools.partial(jax.jit, static_argnames="neighbours")
def _directed(x: Float[Array, "n d"], *, neighbours: int) -> Float[Array, "n n"]:
    return neighbour_graph(x, neighbours, symmetric=False)


@functools.partial(jax.jit, static_argnames="neighbours")
def _graph(x: Float[Array, "n d"], where: Bool[Array, " n"] | None, *, neighbours: int) -> Spectrum:
    graph = neighbour_graph(x, neighbours, where=where)
    number = jnp.asarray(len(x)) if where is None else jnp.sum(where)
    return _over_largest(jnp.sort(jnp.abs(spectra.eigvals(graph))), number, None)


def _over_largest(magnitudes: Float[Array, " n"], number: Array, sigma: Any) -> Spectrum:
    largest = magnitudes[-1]
    rest = magnitudes[:-1] / jnp.where(largest == 0, 1, largest)
    return Spectrum(rest, (jnp.sum(rest), jnp.sum(jnp.square(rest))), number, sigma, "exact")


@functools.partial(jax.jit, static_argnames=("rule", "neighbours"))
def _gaussian(
    x: Float[Array, "n d"],
    number: Array | None,
    where: Bool[Array, " n"] | None,
    *,
    rule: str | None,
    neighbours: int,
) -> Spectrum:
    r"""Of the Gaussian kernel, with its leading eigenvector `1 + a` taken out where that is near 1.

    From $E = G - 1$, of which `a` is made without cancellation,

    $$R_{ij} = E_{ij} - [c + (1 + c)(a_i + a_j + a_i a_j)], \qquad
      1 + c = \lambda_1 / \|1 + a\|^2.$$
    """
    x, sigma, original = scaled(x, number, rule, neighbours=neighbours, where=where)
    real = jnp.ones(len(x), bool) if where is None else where
    pairs = real[:, None] & real
    n = jnp.maximum(jnp.sum(real), 1).astype(x.dtype)
    excess = jnp.where(pairs, jnp.expm1(_exponents(squared_distances(x, where=where), sigma)), 0)

    def product(a: Array) -> tuple[Array, Array]:
        """What `G (1 + a)` is more than `n` on average, and the next `a`, which sums to 0."""
        more = jnp.matmul(excess, 1 + a, precision="highest")
        mean = jnp.sum(more) / n
        return mean, jnp.where(real, (more - mean) / (n + mean), 0)

    a = jax.lax.fori_loop(0, _PRODUCTS, lambda _, a: product(a)[1], jnp.zeros_like(x[:, 0]))
    mean, a = product(a)
    squares = jnp.sum(jnp.square(a))
    c = (mean - squares) / (n + squares)
    leading = c + (1 + c) * (a[:, None] + a + a[:, None] * a)
    near = -mean < _SMALL * n
    matrix = jnp.where(near, jnp.where(pairs, excess - leading, 0), jnp.where(pairs, 1 + excess, 0))
    eigvals = spectra.eigvals(matrix)
    # Bandwidths that differ may make eigenvalues negative; otherwise rounding alone does.
    eigvals = jnp.maximum(eigvals, 0) if sigma.ndim == 0 else jnp.sort(jnp.abs(eigvals))
    # Taken out, the leading eigenvalue has become 0, which no other is below.
    rest = jnp.where(near, eigvals[1:] / (n + mean), _over_largest(eigvals, n, None).residual)
    moments = jnp.sum(rest), jnp.sum(jnp.square(rest))
    return Spectrum(rest, moments, jnp.sum(real), original, "exact")


def _exponents(
    squares: Float[Array, "b n"], sigma: Array, rows: Int[Array, " b"] | slice = slice(None)
) -> Float[Array, "b n"]:
    if sigma.ndim == 0:
        return squares / (-2 * sigma) / sigma
    return squares / (-2 * sigma[rows, None]) / sigma


def _sampled(
    x: Any, sigma: Any, neighbours: int, order: float, method: Any, key: Any, where: Any
) -> Estimate:
    if is_unknown((x, sigma, where)) or where is not None:
        raise ValueError(
            "Spectra are sampled of known points that all count, without `where` and not under "
            'jit, grad or vmap; take method="exact" there.'
        )
    x = points(x)
    rule = sigma if isinstance(sigma, str) else None
    number = None if rule else jnp.asarray(sigma, x.dtype)
    near = scaled(x, number, rule, neighbours=neighbours)
    settings = method if isinstance(method, Lanczos) else lanczos_for(len(x))
    key = jax.random.key(0) if key is None else key
    sampled = _lanczos(
        key, near.x, near.sigma, order=float(order), settings=settings, mesh=mesh_of(x)
    )
    walk = Spectrum(None, None, len(x), near.original, "slq, matrix-free")
    return in_numbers(walk, [float(part) for part in sampled[:4]])


@functools.partial(jax.jit, static_argnames=("order", "settings", "mesh"))
def _lanczos(
    key: Key[Array, ""],
    x: Float[Array, "n d"],
    sigma: Array,
    *,
    order: float,
    settings: Lanczos,
    mesh: AnyMesh | None,
) -> spectra.LanczosEntropy:
    """The kernel has trace `n`; its products are made from blocks of rows, some on each device."""
    n = len(x)
    devices = 1 if mesh is None else mesh.shape[data_axis(mesh)]
    size = min(settings.block_size or max(_BLOCK // n, 1), -(-n // devices))
    rows = jnp.pad(jnp.arange(n), (0, -n % (size * devices))).reshape(-1, size)
    x = on_all_devices(x, mesh)

    def products(
        rows: Int[Array, "t b"], x: Float[Array, "n d"], v: Float[Array, " n"]
    ) -> Float[Array, "t b"]:
        def of_block(block: Int[Array, " b"]) -> Float[Array, " b"]:
            squares = squared_distances(x[block], x)
            squares = jnp.where(block[:, None] == jnp.arange(n), 0, squares)
            similar = jnp.exp(_exponents(squares, sigma, block))
            return jnp.matmul(similar, v, precision="highest")

        return jax.lax.map(of_block, rows)

    def matvec(v: Float[Array, " n"]) -> Float[Array, " n"]:
        shares = products
        if mesh is not None:
            split, whole = PartitionSpec(data_axis(mesh)), PartitionSpec()
            shares = jax.shard_map(
                products,
                mesh=mesh,
                in_specs=(split, whole, whole),
                out_specs=split,
                check_vma=False,
            )
        return shares(rows, x, v).reshape(-1)[:n]

    found = spectra.lanczos_entropy(
        key,
        matvec,
        n,
        order=order,
        trace=float(n),
        num_probes=settings.num_probes,
        num_deflated=settings.num_deflated,
        num_steps=settings.num_steps,
    )
    return on_all_devices(found, mesh)
