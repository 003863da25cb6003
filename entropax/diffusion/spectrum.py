"""From points to the spectrum of a random walk on them, exactly or by sampling.

One spectrum serves every diffusion time and every order of the entropy (`spectral_entropy`,
`profile`), and can be kept on disk (`SpectrumCache`).
"""

import dataclasses
import functools
import logging
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Key

from entropax import spectra
from entropax.diffusion.cache import SpectrumCache, identify
from entropax.diffusion.points import (
    check_kernel,
    is_definite,
    is_unknown,
    on_all_devices,
    points,
    scaled,
)
from entropax.diffusion.sampling import Lanczos, lanczos_for, sample, with_storage
from entropax.distributed import AnyMesh, gather, mesh_of
from entropax.kernels.diffusion import check_alpha, diffusion_residual, symmetric_normalised
from entropax.kernels.neighbours import neighbour_graph
from entropax.spectra import Quadrature
from entropax.types import Array

logger = logging.getLogger("entropax.diffusion")

# Up to here all eigenvalues are computed by default. In float32 on one core of a CPU that took
# 0.3 s for 2,000 points, sampling 0.5 s; for 5,000, 9 s and 2 s. Not measured elsewhere, where
# CUDA's solver fails from 16,384 on (jax-ml/jax#33062).
_EXACT_ON_CPU, _EXACT_ELSEWHERE = 2000, 8192


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("residual", "moments", "n", "sigma"),
    meta_fields=("method",),
)
@dataclasses.dataclass(frozen=True)
class Spectrum:
    """Eigenvalues of a diffusion operator, apart from the leading one, which is 1.

    A pytree: it can be returned from `jit` and stacked by `vmap`.

    Attributes:
      residual: `[n - 1]` ascending magnitudes of the eigenvalues (padding adds zeros), or the
        quadrature rules of a sampled spectrum.
      moments: the sum of these eigenvalues and that of their squares, exact also where they are
        sampled.
      n: `[]` the number of points, without padding.
      sigma: `[]` the bandwidth, or `[n]` one for each point; None for a kernel without one.
      method: "exact", "slq, stored" or "slq, matrix-free".
    """

    residual: Any
    moments: Any
    n: Any
    sigma: Any
    method: str


@functools.partial(jax.jit, static_argnames=("kernel", "rule", "neighbours", "mesh"))
def _exact(
    x: Float[Array, "n d"],
    number: Array | None,
    alpha: Array | None,
    where: Bool[Array, " n"] | None,
    *,
    kernel: str,
    rule: str | None,
    neighbours: int,
    mesh: AnyMesh | None,
) -> Spectrum:
    """All eigenvalues. The bandwidth is `number`, unless `rule` names one; `alpha` None is 0."""
    n = len(x)
    real = jnp.asarray(n) if where is None else jnp.sum(where)
    correction = 0.0 if alpha is None else alpha
    width = None
    if kernel == "gaussian":
        near = scaled(x, number, rule, neighbours=neighbours, where=where)
        width = near.original
        residual = diffusion_residual(near.x, sigma=near.sigma, alpha=correction, where=where)
        # The leading vector has the eigenvalue 0 in the residual: none is less.
        eigvals = spectra.eigvals(residual.residual)
        positive = jnp.maximum(eigvals, 0)
        eigvals = (positive if near.sigma.ndim == 0 else jnp.sort(jnp.abs(eigvals)))[1:]
    elif n == 1:
        eigvals = jnp.zeros(0, x.dtype)
    else:
        # The numbers in a graph are not small: there is nothing to save, and 1 is the last.
        graph = neighbour_graph(x, neighbours, where=where)
        walk = symmetric_normalised(graph, alpha=correction)
        eigvals = jnp.sort(jnp.abs(spectra.eigvals(walk)[:-1]))
    eigvals = jnp.minimum(eigvals, 1)
    if where is not None:
        eigvals = jnp.where(jnp.arange(n - 1) >= n - real, eigvals, 0)
    moments = jnp.sum(eigvals), jnp.sum(jnp.square(eigvals))
    return on_all_devices(Spectrum(eigvals, moments, real, width, "exact"), mesh)


def _settings(n: int, method: str | Lanczos, definite: bool) -> Lanczos | None:
    """How to sample the spectrum, or None if it is to be exact."""
    if isinstance(method, Lanczos):
        settings = method
    elif method in ("slq", "chebyshev"):
        if method == "chebyshev":
            warnings.warn(
                "The method 'chebyshev' of the published code gave wrong entropies; 'slq', "
                "stochastic Lanczos quadrature, takes its place.",
                UserWarning,
                stacklevel=3,
            )
        settings = lanczos_for(n)
        if n == 1:
            return None
    elif method in ("auto", "exact"):
        limit = _EXACT_ON_CPU if jax.default_backend() == "cpu" else _EXACT_ELSEWHERE
        return None if method == "exact" or n <= limit or not definite else Lanczos()
    else:
        raise ValueError(
            f"`method` must be 'auto', 'exact', 'slq' or settings `Lanczos(...)`, got {method!r}."
        )
    if not definite:
        raise ValueError(
            f"The method {method!r} samples spectra without negative eigenvalues, which the graph "
            "of neighbours and a bandwidth for each point do not promise; take method='exact'."
        )
    return settings


def _identity(key: Any, x: Any, settings: Lanczos | None, **options: Any) -> dict[str, Any]:
    """What a cached spectrum depends on."""
    sampling = None
    if settings is not None:
        sampling = {
            **settings._asdict(),
            "generator": str(jax.random.key_impl(key)),
            "key": jax.random.key_data(key),
        }
    x64 = jnp.asarray(0.0).dtype == jnp.float64
    return identify(x, {"sampling": sampling, "x64": x64, **options})


def _to_arrays(spectrum: Spectrum) -> dict[str, Any]:
    rules = spectrum.residual
    named = rules._asdict() if isinstance(rules, Quadrature) else {"eigvals": rules}
    arrays = {f"residual.{name}": value for name, value in named.items()}
    arrays |= {"moments": jnp.stack(spectrum.moments), "n": spectrum.n, "method": spectrum.method}
    return arrays if spectrum.sigma is None else {**arrays, "sigma": spectrum.sigma}


def _from_arrays(arrays: dict[str, np.ndarray]) -> Spectrum:
    method = str(arrays.pop("method"))
    known = {name: jnp.asarray(value) for name, value in arrays.items()}
    rules = {
        name.removeprefix("residual."): value
        for name, value in known.items()
        if name.startswith("residual.")
    }
    residual = rules["eigvals"] if "eigvals" in rules else Quadrature(**rules)
    moments = known["moments"][0], known["moments"][1]
    return Spectrum(residual, moments, known["n"], known.get("sigma"), method)


def spectrum(
    x: Array | np.ndarray,
    *,
    sigma: float | str | Array | np.ndarray | None = None,
    alpha: float = 0.0,
    kernel: str = "gaussian",
    neighbours: int = 10,
    method: str | Lanczos = "auto",
    key: Key[Array, ""] | None = None,
    memory: int = 2**31,
    mesh: AnyMesh | None = None,
    cache: SpectrumCache | None = None,
    where: Bool[Array, " n"] | Bool[np.ndarray, " n"] | None = None,
) -> Spectrum:
    r"""The spectrum of a random walk on points, of which `spectral_entropy` takes the entropy.

    $$S = D'^{-1/2} G' D'^{-1/2}, \qquad G'_{ij} = \frac{G_{ij}}{(d_i d_j)^\alpha}, \qquad
      G_{ij} = \exp\Big(-\frac{\|x_i - x_j\|^2}{2 \sigma^2}\Big).$$

    All eigenvalues are computed for a few thousand points, and always under `jit`, `grad` and
    `vmap`; of more points the spectrum is sampled (`Lanczos`), which needs no matrix of all pairs.

    Args:
      x: `[n, d]` points. A NumPy array is centred in its own precision; then JAX's applies, float32
        by default.
      sigma: the bandwidth. There is no default, because the entropy depends on it as much as on the
        points: 10 is the constant of the published code and depends on the scale of the features;
        "median" (the median distance over the root of 2) does not; "sqrt_d" is the root of the
        number of features, for comparing networks; "knn" is the median distance to the neighbour
        with the number `neighbours`; "adaptive", that distance for each point by itself.
      alpha: how far the density of the points is divided out: 0 is what the published code
        computes, 0.5 what the paper writes, 1 removes it in the limit.
      kernel: "gaussian", or "knn" for the graph that links each point to its `neighbours` nearest,
        itself included (a link in one direction is enough). It needs no `sigma`.
      neighbours: which neighbour counts, for "knn" and "adaptive".
      method: "exact"; "slq", stochastic Lanczos quadrature, whose settings `Lanczos(...)` chooses;
        or "auto": exact up to 2,000 points on a CPU and 8,192 elsewhere. "chebyshev", a method of
        the published code that was wrong, means "slq", with a warning. The graph and "adaptive"
        can have negative eigenvalues, of which magnitudes count, and can only be solved exactly.
      key: for the random probes; `jax.random.key(0)` by default.
      memory: bytes that a sampled spectrum may take on each device for matrices of all pairs. If
        they do not fit, their blocks are made anew for every product, which takes longer.
      mesh: devices over which a sampled spectrum is spread, as in `kernels.diffusion_products`; by
        default those that the points lie on. Exact eigenvalues are computed by all of them.
      cache: where to look for the spectrum first, and to keep it.
      where: `[n]` False in rows that only fill up the shape, whatever is in them.

    Returns:
      The spectrum. All NaN for NaN inside `jit`.

    Raises:
      ValueError: if an option is out of its range, or `x` is not a finite matrix of points.

    Reference: R. R. Coifman and S. Lafon, "Diffusion maps" (2006), section 3.

    >>> walk = spectrum(jnp.array([[0.0], [1.0], [9.0]]), sigma=1.0)
    >>> [round(float(value), 4) for value in walk.residual], walk.method
    ([0.2449, 1.0], 'exact')
    """
    check_alpha(alpha)
    check_kernel(kernel, sigma, neighbours)
    data = points(x, where)
    n, unknown = len(data), is_unknown((x, sigma, alpha, where))
    mesh = mesh_of(x, sigma) if mesh is None else mesh
    settings = None
    if method != "auto" or not (unknown or where is not None):
        settings = _settings(n, method, is_definite(kernel, sigma))
    if settings is not None:
        if unknown or where is not None:
            raise ValueError(
                f"The method {method!r} samples the spectrum of known points, without `where` and "
                "not under jit, grad or vmap; take method='exact' there."
            )
        settings = with_storage(settings, n, data.dtype, memory, mesh)
    key = jax.random.key(0) if key is None else key
    identity = None
    if cache is not None:
        if unknown:
            raise ValueError("Under jit, grad and vmap there are no numbers yet for a cache.")
        identity = _identity(
            key,
            gather(x),
            settings,
            sigma=sigma if isinstance(sigma, str | None) else gather(sigma).astype(np.float64),
            alpha=float(alpha),
            kernel=kernel,
            neighbours=neighbours,
            where=None if where is None else gather(where),
        )
        arrays = cache.load(identity)
        if arrays is not None:
            logger.info("%d points: read from %s.", n, cache.path(identity))
            return _from_arrays(arrays)
    rule = sigma if isinstance(sigma, str) else None
    number = None if sigma is None or rule else jnp.asarray(sigma, data.dtype)
    if settings is None:
        uncorrected = isinstance(alpha, int | float) and alpha == 0
        exponent = None if uncorrected else jnp.asarray(alpha, data.dtype)
        result = _exact(
            data,
            number,
            exponent,
            where,
            kernel=kernel,
            rule=rule,
            neighbours=neighbours,
            mesh=mesh,
        )
    else:
        rules, moments, width = sample(
            key,
            data,
            number,
            rule=rule,
            alpha=float(alpha),
            neighbours=neighbours,
            settings=settings,
            mesh=mesh,
        )
        storage = settings.storage.replace("_", "-")
        result = Spectrum(rules, moments, jnp.asarray(n), width, f"slq, {storage}")
    if not unknown:
        logger.info("%d points: %s.", n, result.method)
    if cache is not None and identity is not None:
        cache.save(identity, _to_arrays(result))
    return result
