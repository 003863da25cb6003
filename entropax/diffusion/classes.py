"""From labels of any type to classes: what the mutual informations are computed with.

reference = cluster_reference(inputs)  # once
for epoch in ...:
dsmi(features(epoch), reference, sigma="median")
"""

import warnings
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

# What scikit-learn's graph of nearest neighbours takes, and the published code with it.
NEIGHBOURS = 10


class Classes(NamedTuple):
    """Examples sorted into classes, none of which is empty.

    Attributes:
      labels: `[n]` the class of each example, from 0.
      names: the name of each class: the label it had, or the interval of values it stands for.
    """

    labels: Int[np.ndarray, " n"]
    names: tuple[Any, ...]

    @property
    def counts(self) -> Int[np.ndarray, " c"]:
        """How many examples each class has."""
        return np.bincount(self.labels, minlength=len(self.names))

    def members(self) -> list[Int[np.ndarray, " k"]]:
        """The rows of each class, ascending."""
        order = np.argsort(self.labels, kind="stable")
        return np.split(order, np.cumsum(self.counts)[:-1])


def classes(
    y: Any, *, discrete: bool | None = None, num_bins: int = 10, num_clusters: int = 10
) -> Classes:
    r"""Sort examples into classes by their labels, values or vectors.

    Values fall into bins of equal width from the smallest to the largest,

    $$c_i = \min\Big(\Big\lfloor B\, \frac{y_i - \min y}{\max y - \min y} \Big\rfloor, B - 1\Big).$$

    Args:
      y: `[n]` or `[n, 1]` labels (booleans, integers, strings) or values; `[n, ...]` vectors; or
        `Classes`, which come back as they are.
      discrete: whether each distinct label, or row, is a class of its own. By default booleans,
        strings, integers and floats that are all whole numbers are labels; other floats are values
        to be binned, and vectors are to be clustered. One-hot rows need `discrete=True`, integers
        that measure something `discrete=False`.
      num_bins: bins `B` for values.
      num_clusters: clusters for vectors, see `cluster_reference`.

    Returns:
      The classes, in the order of their labels. Bins and clusters without examples are dropped.

    Raises:
      ValueError: if a label is missing (NaN, None), there are no examples, the labels do not
        compare, or an option is out of its range.

    >>> classes(["cat", "dog", "cat"])
    Classes(labels=array([0, 1, 0], dtype=int32), names=('cat', 'dog'))
    >>> classes([0.0, 0.2, 1.0], num_bins=2).names
    ('[0, 0.5)', '[0.5, 1]')
    """
    if isinstance(y, Classes):
        return y
    labels = np.asarray(y)
    if labels.ndim == 0 or len(labels) == 0:
        raise ValueError(f"`y` must hold a label for each example, got shape {labels.shape}.")
    if labels.dtype.kind not in "biufUSO":
        raise ValueError(f"`y` must hold labels, numbers or strings, got the type {labels.dtype}.")
    numeric = labels.dtype.kind in "biuf"
    if any(label is None or label != label for label in _objects(y, labels)):
        raise ValueError("`y` must have no missing labels, got None or NaN; drop those examples.")
    if labels.dtype.kind == "f" and not np.isfinite(labels).all():
        raise ValueError("`y` must be finite, got NaN or infinity; drop or impute those examples.")
    labels = labels.reshape(len(labels), -1)
    if not numeric and (discrete is False or labels.shape[1] > 1):
        raise ValueError(f"`y` must be numbers to be binned or clustered, got {labels.dtype}.")
    if labels.shape[1] == 1:
        column = labels[:, 0]
        if discrete is None:
            discrete = column.dtype.kind != "f" or bool(np.all(column == np.round(column)))
        return _distinct(column) if discrete else _binned(column.astype(np.float64), num_bins)
    return _distinct(labels) if discrete else cluster_reference(labels, num_clusters=num_clusters)


def _objects(y: Any, labels: np.ndarray) -> np.ndarray:
    """Labels of which one may be missing, as they came: NumPy makes a NaN among strings a name."""
    if labels.dtype.kind in "US" and not isinstance(y, np.ndarray):
        labels = np.asarray(y, object)
    return labels.ravel() if labels.dtype.kind == "O" else labels[:0]


def _distinct(labels: np.ndarray) -> Classes:
    """A class for each distinct entry, or row."""
    try:
        names, inverse = np.unique(labels, axis=0, return_inverse=True)
    except TypeError:
        pass
    else:
        return Classes(inverse.reshape(-1).astype(np.int32), _names(names))
    # Python objects of several types; equal ones may still be ordered.
    try:
        found = sorted(set(labels.tolist()))
    except TypeError as error:
        raise ValueError(f"The labels in `y` do not compare with each other: {error}.") from error
    numbers = {name: number for number, name in enumerate(found)}
    return Classes(np.array([numbers[label] for label in labels], np.int32), tuple(found))


def _names(names: np.ndarray) -> tuple[Any, ...]:
    return tuple(tuple(name) if isinstance(name, list) else name for name in names.tolist())


def _binned(values: np.ndarray, num_bins: int) -> Classes:
    if num_bins < 1:
        raise ValueError(f"`num_bins` must be positive, got {num_bins}.")
    low, high = float(values.min()), float(values.max())
    if low == high:
        return Classes(np.zeros(len(values), np.int32), (f"{low:g}",))
    lefts = np.linspace(0, 1, num_bins + 1)[:-1]
    bins = np.digitize((values - low) / (high - low), lefts) - 1
    edges = np.linspace(low, high, num_bins + 1)
    found, labels = np.unique(bins, return_inverse=True)
    names = (
        f"[{edges[b]:.4g}, {edges[b + 1]:.4g}{']' if b == num_bins - 1 else ')'}" for b in found
    )
    return Classes(labels.astype(np.int32), tuple(names))


def cluster_reference(
    y: Any, *, num_clusters: int = 10, max_points: int = 10_000, seed: int = 0
) -> Classes:
    """Cluster reference vectors, once, to be passed on as labels.

    Spectral clustering of the graph of the ten nearest neighbours, the clusters read off its
    eigenvectors by a pivoted QR decomposition. It takes time that grows faster than the number of
    vectors: of more than `max_points`, that many in even steps are clustered, and each of the
    others joins the cluster of the nearest one. Labels may differ between releases of scikit-learn;
    store them with a result.

    Args:
      y: `[n, ...]` vectors.
      num_clusters: how many clusters to look for.
      max_points: how many vectors are clustered together.
      seed: what the eigensolver starts from.

    Returns:
      The clusters, as classes with the names 0, 1, ...

    Raises:
      ImportError: if scikit-learn is missing.
      ValueError: if there are fewer vectors than neighbours or clusters, a value is not finite, or
        an option is out of its range.

    Reference: the published code (dse-dsmi 1.1) uses the same clustering of all vectors; A. Damle,
    V. Minden and L. Ying, "Simple, direct and efficient multi-way spectral clustering" (2019).

    >>> vectors = np.random.default_rng(0).normal(size=(60, 3)) + 9 * np.arange(60)[:, None] // 30
    >>> cluster_reference(vectors, num_clusters=2).counts.tolist()
    [30, 30]
    """
    vectors = np.asarray(y)
    if vectors.ndim < 2 or vectors.dtype.kind not in "biuf":
        raise ValueError(
            f"`y` must be numeric vectors [n, d], got shape {vectors.shape} of {vectors.dtype}."
        )
    vectors = vectors.reshape(len(vectors), -1).astype(np.float64)
    if not np.isfinite(vectors).all():
        raise ValueError("`y` must be finite, got NaN or infinity; drop or impute those examples.")
    if num_clusters < 1:
        raise ValueError(f"`num_clusters` must be positive, got {num_clusters}.")
    fewest = max(NEIGHBOURS, num_clusters)
    if len(vectors) < fewest or max_points < fewest:
        raise ValueError(
            f"Clustering into {num_clusters} needs at least {fewest} vectors, got {len(vectors)} "
            f"and `max_points` {max_points}; pass labels, or fewer clusters."
        )
    try:
        from sklearn.cluster import SpectralClustering
        from sklearn.neighbors import NearestNeighbors
    except ImportError as error:
        raise ImportError(
            "Clustering needs scikit-learn: pip install entropax[data], or pass labels."
        ) from error

    rows = np.linspace(0, len(vectors) - 1, min(len(vectors), max_points)).round().astype(int)
    chosen = vectors[rows]
    model = SpectralClustering(
        num_clusters,
        affinity="nearest_neighbors",
        n_neighbors=NEIGHBOURS,
        assign_labels="cluster_qr",
        random_state=seed,
    )
    with warnings.catch_warnings():
        # Separate components are separate clusters: what is asked for, not a mistake.
        warnings.filterwarnings("ignore", "Graph is not fully connected", UserWarning)
        labels = model.fit_predict(chosen)
    if len(chosen) < len(vectors):
        nearest = NearestNeighbors(n_neighbors=1).fit(chosen)
        labels = labels[nearest.kneighbors(vectors, return_distance=False)[:, 0]]
    return _distinct(labels)
