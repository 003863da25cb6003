"""The published entropies."""

import math
import os
import random
import warnings
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from entropax.diffusion import matrix_entry
from entropax.diffusion.adjacency import adjacency_entropy
from entropax.diffusion.binned import binned_entropy
from entropax.diffusion.cache import SpectrumCache, identify
from entropax.diffusion.entropy import dse


def diffusion_spectral_entropy(
    embedding_vectors: Any,
    gaussian_kernel_sigma: float = 10,
    t: float = 1,
    max_N: int | None = 10000,
    chebyshev_approx: bool = False,
    eigval_save_path: str | os.PathLike[str] | None = None,
    eigval_save_precision: Any = np.float16,
    classic_shannon_entropy: bool = False,
    matrix_entry_entropy: bool = False,
    num_bins_per_dim: int = 2,
    random_seed: int | None = 0,
    verbose: bool = False,
) -> float:
    """Diffusion spectral entropy, in bits, as published: of the operator with `alpha = 0`.

    Args:
      embedding_vectors: `[n, d]` points.
      gaussian_kernel_sigma: bandwidth.
      t: diffusion time.
      max_N: of more points, so many are drawn; None takes all.
      chebyshev_approx: see `entropax.diffusion.compat`.
      eigval_save_path: a folder that keeps spectra, see there.
      eigval_save_precision: makes no difference, see there.
      classic_shannon_entropy: take `binned_entropy` instead.
      matrix_entry_entropy: take `matrix_entry_entropy` instead, unless the former is true.
      num_bins_per_dim: bins of `binned_entropy`.
      random_seed: which points are drawn; None is different each time.
      verbose: print what was computed.

    Returns:
      The entropy in `[0, log2 n]`, or to `2 log2 n` of matrix entries.

    Raises:
      ValueError: see `entropax.diffusion.compat`.

    >>> round(diffusion_spectral_entropy(np.eye(8), gaussian_kernel_sigma=1), 4)  # 1.7638 nats
    2.5446
    """
    x = _drawn(embedding_vectors, max_N, random_seed)
    cache = _cache(eigval_save_path)
    if chebyshev_approx:
        warn_of_chebyshev()
    with jax.enable_x64(True):
        if classic_shannon_entropy:
            name, value = "Binned Shannon", binned_entropy(x, num_bins=num_bins_per_dim)
        elif matrix_entry_entropy:
            entropy = matrix_entry.matrix_entry_entropy(x, sigma=gaussian_kernel_sigma)
            name, value = "Matrix entry", float(entropy)
        else:
            method = "auto" if chebyshev_approx else "exact"
            entropy = dse(x, sigma=gaussian_kernel_sigma, t=t, method=method, cache=cache)
            name, value = "Diffusion spectral", float(entropy)
    return in_bits(f"{name} entropy of {len(x)} points", value, verbose)


def adjacency_spectral_entropy(
    embedding_vectors: Any,
    gaussian_kernel_sigma: float = 10,
    anisotropic: bool = False,
    use_knn: bool = False,
    knn: int = 10,
    max_N: int | None = 10000,
    eigval_save_path: str | os.PathLike[str] | None = None,
    eigval_save_precision: Any = np.float16,
    random_seed: int | None = 0,
    verbose: bool = False,
) -> float:
    """Entropy of the spectrum of an adjacency matrix, in bits, as published.

    Args:
      embedding_vectors: `[n, d]` points.
      gaussian_kernel_sigma: bandwidth.
      anisotropic: take the diffusion operator for the matrix, instead of the Gaussian kernel.
      use_knn: take the directed graph of neighbours, whatever `anisotropic` is.
      knn: the nearest points of the graph, the point itself included.
      max_N: of more points, so many are drawn; None takes all.
      eigval_save_path: a folder that keeps spectra, see `entropax.diffusion.compat`.
      eigval_save_precision: makes no difference, see there.
      random_seed: which points are drawn; None is different each time.
      verbose: print what was computed.

    Returns:
      The entropy in `[0, log2 n]`.

    Raises:
      ValueError: see `entropax.diffusion.compat`.

    >>> round(adjacency_spectral_entropy([[0.0], [0.0], [99.0], [99.0]], 1), 4)
    1.0
    """
    x = _drawn(embedding_vectors, max_N, random_seed)
    cache = _cache(eigval_save_path)
    options = adjacency_options(gaussian_kernel_sigma, anisotropic, use_knn, knn)
    with jax.enable_x64(True):
        identity = identify(x, {"adjacency_entropy": options})
        found = None if cache is None else cache.load(identity)
        value = float(adjacency_entropy(x, **options) if found is None else found["entropy"])
        if cache is not None and found is None:
            cache.save(identity, {"entropy": value})
    return in_bits(f"Adjacency spectral entropy of {len(x)} points", value, verbose)


def _drawn(x: Any, max_N: int | None, seed: int | None) -> Float[np.ndarray, "..."]:
    x = float64_matrix(x)
    if max_N is None or len(x) <= max_N:
        return x
    if max_N < 1:
        raise ValueError(f"`max_N` must be at least 1, got {max_N}.")
    return x[random.Random(seed).sample(range(len(x)), k=max_N)]


def _cache(path: str | os.PathLike[str] | None) -> SpectrumCache | None:
    if path is not None and os.path.isfile(path):
        raise ValueError(
            f"`eigval_save_path` must be a folder, and {os.fspath(path)!r} is a file. Eigenvalues "
            "that the published code saved do not tell what they belong to, and are not read."
        )
    return None if path is None else SpectrumCache(path)


def float64_matrix(x: Any) -> Float[np.ndarray, "..."]:
    """Points in float64; the entropies say it if these are not `[n, d]`."""
    return np.asarray(x, np.float64)


def adjacency_options(sigma: float, anisotropic: bool, use_knn: bool, knn: int) -> dict[str, Any]:
    """Arguments of `adjacency_entropy` for those of the published code."""
    if use_knn:
        return {"kernel": "knn", "neighbours": knn, "symmetric": False}
    return {"kernel": "anisotropic" if anisotropic else "gaussian", "sigma": sigma}


def warn_of_chebyshev() -> None:
    """Say, to the caller of the caller, what is done in place of the Chebyshev approximation."""
    warnings.warn(
        "`chebyshev_approx` is not carried over, since its results were far off. Stochastic "
        "Lanczos quadrature takes its place for a spectrum of more than 2,000 points.",
        UserWarning,
        stacklevel=3,
    )


def in_bits(name: str, nats: float, verbose: bool) -> float:
    """From nats to bits, printed if asked for."""
    bits = nats / math.log(2)
    if verbose:
        print(f"{name}: {bits:.6g} bits.")
    return bits
