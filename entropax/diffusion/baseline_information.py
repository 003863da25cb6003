"""What `dsmi` is compared with: the same information from other entropies of the points."""

import functools
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Key

from entropax.diffusion.adjacency import adjacency_entropy
from entropax.diffusion.binned import binned_entropy
from entropax.diffusion.classes import Classes
from entropax.diffusion.information import (
    Entropies,
    MutualInformation,
    check_scheme,
    holevo_information,
    points_and_classes,
    random_subset_information,
    rounding_of,
)
from entropax.diffusion.mutual_information import dsmi, in_bandwidths, with_bandwidth
from entropax.diffusion.subsets import subset_entropies
from entropax.types import Array


def adjacency_mutual_information(
    z: Array | np.ndarray,
    y: Any,
    *,
    sigma: float | str | Array | None = None,
    kernel: str = "gaussian",
    neighbours: int = 10,
    symmetric: bool = True,
    scheme: str = "permutation",
    num_repetitions: int = 5,
    key: Key[Array, ""] | None = None,
    seed: int | None = 0,
) -> MutualInformation:
    r"""Mutual information between points and labels from the spectrum of an adjacency matrix.

    As `dsmi`, with `adjacency_entropy` for the entropy, all exact. In the scheme "holevo" the
    density matrix is $G / n$, whose blocks are the kernels of the classes; for the kernel
    "anisotropic" it is the one of `dsmi`, and for a graph, which is no density matrix, there is
    none.

    Args:
      z: `[n, d]` points.
      y: `[n]` labels, or anything that `classes` takes; what it returns, if it is to have options.
      sigma: bandwidth of the two Gaussian kernels, found once from all points.
      kernel: "gaussian", "anisotropic" (`dsmi` at `t = 1`) or "knn".
      neighbours: nearest points of the graph, the point itself included. In a class of fewer
        points, all of them, with a warning. Of the rules for `sigma`, which neighbour.
      symmetric: whether a link of the graph counts in both directions; not in the published code.
      scheme: as for `dsmi`, like all that follows.
      num_repetitions: random classes to compare with.
      key: for them.
      seed: of "compat".

    Returns:
      The information with its null distribution and a table of the classes.

    Raises:
      ValueError: as for `dsmi`.

    >>> z = np.eye(2)[[0, 0, 0, 1, 1, 1]] * 9
    >>> round(adjacency_mutual_information(z, list("aaabbb"), sigma=1.0, scheme="holevo").value, 4)
    0.6931
    """
    options: dict[str, Any] = {
        "scheme": scheme,
        "num_repetitions": num_repetitions,
        "key": key,
        "seed": seed,
    }
    check_scheme(scheme)
    data, groups = points_and_classes(z, y)
    if kernel == "anisotropic":
        return dsmi(data, groups, sigma=sigma, neighbours=neighbours, method="exact", **options)
    if kernel == "knn":
        if scheme == "holevo":
            raise ValueError(
                "The graph of neighbours is no density matrix, and has no Holevo quantity; take "
                "the scheme 'permutation', or another kernel."
            )
        smallest = int(groups.counts.min())
        if smallest < neighbours:
            warnings.warn(
                f"The smallest class has {smallest} points, fewer than the {neighbours} neighbours "
                "of the graph; in such classes all points are neighbours.",
                UserWarning,
                stacklevel=2,
            )
    rows: Any = data
    if kernel == "gaussian" and sigma is not None:
        rows = in_bandwidths(*with_bandwidth(data, sigma, neighbours))
    # Without a bandwidth, or with an unknown kernel, `adjacency_entropy` says what is wrong.
    entropy_fn = _adjacency_entropy(kernel, neighbours, sigma is not None, isinstance(rows, tuple))

    def entropies(subsets: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        if kernel == "knn" and not symmetric:
            values = np.array([_directed(data[rows], neighbours) for rows in subsets])
        else:
            values = subset_entropies(entropy_fn, rows, subsets)
        return values, np.zeros(len(subsets))

    return _information(entropies, groups, rounding=rounding_of(data), **options)


@functools.cache
def _adjacency_entropy(
    kernel: str, neighbours: int, has_sigma: bool, adaptive: bool
) -> Callable[..., Float[Array, ""]]:
    def entropy_fn(rows: Any, where: Bool[Array, " k"] | None) -> Float[Array, ""]:
        x, sigma = rows if adaptive else (rows, 1.0 if has_sigma else None)
        # A class may be smaller than that: all of it are neighbours then.
        near = min(neighbours, len(x))
        return adjacency_entropy(x, sigma=sigma, kernel=kernel, neighbours=near, where=where)

    return entropy_fn


def _directed(x: Float[Array, "k d"], neighbours: int) -> float:
    return float(
        adjacency_entropy(x, kernel="knn", neighbours=min(neighbours, len(x)), symmetric=False)
    )


def binned_mutual_information(
    z: Array | np.ndarray,
    y: Any,
    *,
    num_bins: int = 2,
    scheme: str = "holevo",
    num_repetitions: int = 5,
    key: Key[Array, ""] | None = None,
    seed: int | None = 0,
) -> MutualInformation:
    r"""Mutual information between points, cut into bins, and labels: the classical baseline.

    $$I = H(b) - \sum_c \frac{n_c}{n} H(b \mid c),$$

    with the cells `b` of a grid over all points, as in `binned_entropy`. In high dimensions each
    point has a cell to itself and the value is the entropy of the labels whatever they are, as it
    is for random ones: see `adjusted`.

    Args:
      z: `[n, d]` points.
      y: `[n]` labels, or anything that `classes` takes; what it returns, if it is to have options.
      num_bins: intervals for each coordinate.
      scheme: "holevo" is the formula above; "permutation" compares with the cells of random
        classes instead of with those of all points. "compat" compares with random subsets as the
        published code does, which also makes the grid anew for each subset.
      num_repetitions: random classes to compare with.
      key: for them.
      seed: of "compat".

    Returns:
      The information with its null distribution and a table of the classes.

    Raises:
      ValueError: as for `dsmi`.

    >>> z = np.array([[0.0], [0.1], [0.9], [1.0]])
    >>> round(binned_mutual_information(z, [False, False, True, True]).value, 4)  # ln 2
    0.6931
    """
    check_scheme(scheme)
    _, groups = points_and_classes(z, y)
    values = np.asarray(z)  # in its own precision, which decides on which side of an edge it is
    if num_bins < 1:
        raise ValueError(f"`num_bins` must be at least 1, got {num_bins}.")
    cells = _cells(values, num_bins)

    def entropy_of(rows: Int[np.ndarray, " _"]) -> float:
        if scheme == "compat":
            return binned_entropy(values[rows], num_bins=num_bins)
        shares = np.unique(cells[rows], return_counts=True)[1] / len(rows)
        return max(0.0, -math.fsum(shares * np.log(shares)))

    def entropies(subsets: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        return np.array([entropy_of(rows) for rows in subsets]), np.zeros(len(subsets))

    return _information(
        entropies,
        groups,
        scheme=scheme,
        num_repetitions=num_repetitions,
        key=key,
        seed=seed,
        rounding=1e-12,
    )


def _cells(values: Float[np.ndarray, "n d"], num_bins: int) -> Int[np.ndarray, " n"]:
    """The number of the cell that each point is in, of a grid over all points."""
    low, width = values.min(axis=0), np.ptp(values, axis=0)
    share = (values - low) / np.where(width > 0, width, 1)
    lefts = np.linspace(0, 1, num_bins + 1)[1:-1]
    cells = np.searchsorted(lefts, share, side="right").astype(np.min_scalar_type(num_bins))
    return np.unique(cells, axis=0, return_inverse=True)[1].reshape(-1)


def _information(
    entropies: Entropies,
    groups: Classes,
    *,
    scheme: str,
    num_repetitions: int,
    key: Key[Array, ""] | None,
    seed: int | None,
    rounding: float,
) -> MutualInformation:
    """Of a density matrix whose blocks are the matrices of the classes, weighted by their sizes."""
    shared: dict[str, Any] = {"num_repetitions": num_repetitions, "key": key, "rounding": rounding}
    if scheme != "holevo":
        return random_subset_information(entropies, groups, scheme=scheme, seed=seed, **shared)
    n = len(groups.labels)
    whole = float(entropies([np.arange(n)])[0][0])
    return holevo_information(whole, 0.0, np.full(n, 1 / n), entropies, groups, **shared)
