"""The published mutual informations."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Shaped

from entropax.diffusion import matrix_entry
from entropax.diffusion.baseline_information import adjacency_mutual_information
from entropax.diffusion.binned import binned_entropy
from entropax.diffusion.classes import Classes, classes, cluster_reference
from entropax.diffusion.compat.entropy import (
    adjacency_options,
    float64_matrix,
    in_bits,
    warn_of_chebyshev,
)
from entropax.diffusion.information import random_subset_information
from entropax.diffusion.mutual_information import dsmi
from entropax.diffusion.subsets import subset_entropies
from entropax.types import Array


def diffusion_spectral_mutual_information(
    embedding_vectors: Any,
    reference_vectors: Any,
    reference_discrete: bool | None = None,
    gaussian_kernel_sigma: float = 10,
    t: float = 1,
    chebyshev_approx: bool = False,
    num_repetitions: int = 5,
    n_clusters: int = 10,
    precomputed_clusters: Any = None,
    classic_shannon_entropy: bool = False,
    matrix_entry_entropy: bool = False,
    num_bins_per_dim: int = 2,
    random_seed: int | None = 0,
    verbose: bool = False,
) -> tuple[float, Shaped[np.ndarray, "n 1"]]:
    """Diffusion spectral mutual information, in bits, as published: `dsmi` of scheme "compat".

    Args:
      embedding_vectors: `[n, d]` points.
      reference_vectors: `[n]` or `[n, 1]` labels or values; `[n, k]` vectors, to be clustered.
      reference_discrete: whether the reference is labels; by default if it is one column, and not
        of floating-point numbers. Values fall into `n_clusters` bins.
      gaussian_kernel_sigma: bandwidth.
      t: diffusion time.
      chebyshev_approx: see `entropax.diffusion.compat`.
      num_repetitions: random subsets for each class.
      n_clusters: clusters of vectors, or bins of values.
      precomputed_clusters: `[n]` classes instead of clusters or bins; ignored with labels.
      classic_shannon_entropy: take `binned_entropy` instead.
      matrix_entry_entropy: take `matrix_entry_entropy` instead, unless the former is true.
      num_bins_per_dim: bins of `binned_entropy`.
      random_seed: of the random subsets, again for each class; None is different each time.
      verbose: print what was computed.

    Returns:
      The information, and `[n, 1]` the classes, numbered from 1 if they are bins.

    Raises:
      ValueError: see `entropax.diffusion.compat`.

    >>> value, labels = diffusion_spectral_mutual_information(np.eye(4)[[0, 0, 1, 1]], [0, 0, 1, 1])
    >>> round(value, 5), labels.tolist()
    (0.02713, [[0], [0], [1], [1]])
    """
    x = float64_matrix(embedding_vectors)
    labels = _labels(
        reference_vectors, reference_discrete, n_clusters, precomputed_clusters, n=len(x)
    )
    groups = classes(labels[:, 0], discrete=True)
    if chebyshev_approx:
        warn_of_chebyshev()
    shared: dict[str, Any] = {
        "scheme": "compat",
        "num_repetitions": num_repetitions,
        "seed": random_seed,
    }

    def other_information(entropies: Callable[[Sequence[np.ndarray]], np.ndarray]) -> float:
        return random_subset_information(
            lambda subsets: (entropies(subsets), np.zeros(len(subsets))),
            groups,
            **shared,
        ).value

    with jax.enable_x64(True):
        if classic_shannon_entropy:
            name = "Binned"
            value = other_information(
                lambda subsets: np.array(
                    [binned_entropy(x[rows], num_bins=num_bins_per_dim) for rows in subsets]
                )
            )
        elif matrix_entry_entropy:
            name = "Matrix entry"
            value = other_information(
                lambda subsets: subset_entropies(
                    _matrix_entry_entropy(float(gaussian_kernel_sigma)), x, subsets
                )
            )
        else:
            name = "Diffusion spectral"
            value = dsmi(x, groups, sigma=gaussian_kernel_sigma, t=t, **shared).value
    return in_bits(f"{name} mutual information of {_sizes(groups)}", value, verbose), labels


def adjacency_spectral_mutual_information(
    embedding_vectors: Any,
    reference_vectors: Any,
    reference_discrete: bool | None = None,
    gaussian_kernel_sigma: float = 10,
    use_knn: bool = False,
    anisotropic: bool = False,
    num_repetitions: int = 5,
    n_clusters: int = 10,
    precomputed_clusters: Any = None,
    random_seed: int | None = 0,
    verbose: bool = False,
) -> tuple[float, Shaped[np.ndarray, "n 1"]]:
    """Mutual information from the spectrum of an adjacency matrix, in bits, as published.

    Args:
      embedding_vectors: `[n, d]` points.
      reference_vectors: as for `diffusion_spectral_mutual_information`.
      reference_discrete: as there.
      gaussian_kernel_sigma: bandwidth.
      use_knn: take the directed graph of 10 neighbours, whatever `anisotropic` is.
      anisotropic: take the diffusion operator, instead of the Gaussian kernel.
      num_repetitions: random subsets for each class.
      n_clusters: clusters of vectors, or bins of values.
      precomputed_clusters: `[n]` classes instead of clusters or bins; ignored with labels.
      random_seed: of the random subsets, again for each class; None is different each time.
      verbose: print what was computed.

    Returns:
      The information, and `[n, 1]` the classes.

    Raises:
      ValueError: see `entropax.diffusion.compat`.

    >>> x = np.eye(4)[[0, 0, 1, 1]]
    >>> round(adjacency_spectral_mutual_information(x, list("aabb"), anisotropic=True)[0], 5)
    0.02713
    """
    x = float64_matrix(embedding_vectors)
    labels = _labels(
        reference_vectors, reference_discrete, n_clusters, precomputed_clusters, n=len(x)
    )
    groups = classes(labels[:, 0], discrete=True)
    with jax.enable_x64(True):
        value = adjacency_mutual_information(
            x,
            groups,
            scheme="compat",
            num_repetitions=num_repetitions,
            seed=random_seed,
            **adjacency_options(gaussian_kernel_sigma, anisotropic, use_knn, 10),
        ).value
    name = f"Adjacency spectral mutual information of {_sizes(groups)}"
    return in_bits(name, value, verbose), labels


@functools.cache
def _matrix_entry_entropy(sigma: float) -> Callable[..., Array]:
    """The same function for the same bandwidth, as `subset_entropies` likes."""
    return functools.partial(matrix_entry.matrix_entry_entropy, sigma=sigma)


def _labels(
    reference: Any, discrete: bool | None, n_clusters: int, precomputed: Any, *, n: int
) -> Shaped[np.ndarray, "n 1"]:
    """Classes as the published code finds them, by its own rules of what is a label."""
    values = np.asarray(reference)
    if len(values) != n:
        raise ValueError(
            f"`embedding_vectors` has {n} rows and `reference_vectors` {len(values)}; they must "
            "belong to the same examples."
        )
    column = values.reshape(n, -1)
    one = column.shape[1] == 1
    if discrete is None:
        discrete = one and not np.issubdtype(values.dtype, np.floating)
    if discrete:
        if not one:
            raise ValueError(
                "With `reference_discrete=True` the reference must be one column of labels, got "
                f"the shape {values.shape}."
            )
        return column
    if precomputed is not None:
        clusters = np.asarray(precomputed).reshape(-1, 1)
        if len(clusters) != n:
            raise ValueError(f"`precomputed_clusters` has {len(clusters)} entries for {n} points.")
        return clusters
    if not one:
        return cluster_reference(values, num_clusters=n_clusters).labels[:, None]
    if n_clusters < 1:
        raise ValueError(f"`n_clusters` must be at least 1, got {n_clusters}.")
    column = column.astype(np.float64)
    if not np.all(np.isfinite(column)):
        raise ValueError("`reference_vectors` has a NaN or an infinite number.")
    width = np.ptp(column)
    share = (column - column.min()) / (width if width > 0 else 1)
    return np.digitize(share, np.linspace(0, 1, n_clusters + 1)[:-1])


def _sizes(groups: Classes) -> str:
    return f"{len(groups.labels)} points in {len(groups.names)} classes"
