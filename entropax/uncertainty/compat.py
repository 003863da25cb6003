"""The metrics of the published code (Galil et al. 2023) as it computes them, quirks included.

Code: benchmarking-uncertainty-estimation-performance, of "What can we learn from the selective
prediction and uncertainty estimation performance of 523 ImageNet classifiers?" (2023). These are
NumPy functions on the host, for comparison with numbers that were made with it; the other modules
of this package are what to use otherwise. Functions return Python floats. The published code sorts
without keeping the order of equal confidences; to get its numbers where there are such, pass the
`order` that its sort gave. By default equal confidences stay in the order given. The published
functions take whole sums in loops; these need no more than a sort.
"""

import itertools
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jaxtyping import Float, Float32, Int, Shaped

from entropax.uncertainty.bins import equal_width_edges


def _sorted_correct(
    confidence: np.ndarray, correct: np.ndarray, order: np.ndarray | None
) -> np.ndarray:
    """Whether each prediction is correct, as 0 and 1, from the most confident one."""
    if order is None:
        order = np.argsort(-confidence, kind="stable")
    return np.asarray(correct)[order] != 0


def accuracy_percent(correct: Shaped[np.ndarray, " n"]) -> float:
    """Accuracy as the published code logs it: in percent, of a mean in float32.

    >>> accuracy_percent(np.array([1, 1, 0, 1]))
    75.0
    """
    return float(np.mean(np.asarray(correct) != 0, dtype=np.float32)) * 100


def auroc(
    confidence: Float[np.ndarray, " n"],
    correct: Shaped[np.ndarray, " n"],
    *,
    order: Int[np.ndarray, " n"] | None = None,
) -> float:
    """Share of the pairs of a correct and a wrong prediction in which the correct one comes first.

    Quirk: there is no rule for equal confidences. A pair of them counts as 1 or 0 by the places
    where the sort has put them, so that a constant confidence may get any value.

    Args:
      confidence: `[n]`.
      correct: `[n]` whether the prediction is correct.
      order: the sort by falling confidence; a stable one by default.

    Returns:
      The share; NaN where no prediction is correct, or none is wrong.

    Raises:
      ZeroDivisionError: if there is no example.

    >>> auroc(np.array([0.9, 0.5, 0.5]), np.array([1, 0, 1]))  # 0.75 by `uncertainty.auroc`
    0.5
    """
    hits = _sorted_correct(confidence, correct, order)
    if hits.size == 0:
        raise ZeroDivisionError("There is no example.")
    pairs = int(np.sum(hits)) * int(np.sum(~hits))
    agreeing = int(np.sum(np.cumsum(hits)[~hits]))
    return agreeing / pairs if pairs else float("nan")


def aurc(
    confidence: Float[np.ndarray, " n"],
    correct: Shaped[np.ndarray, " n"],
    *,
    order: Int[np.ndarray, " n"] | None = None,
) -> float:
    """Mean error rate of the `k` most confident predictions over `k = 1, ..., n`.

    Quirk: equal confidences stand as the sort has put them.

    Args:
      confidence: `[n]`.
      correct: `[n]` whether the prediction is correct.
      order: the sort by falling confidence; a stable one by default.

    Raises:
      ZeroDivisionError: if there is no example.

    >>> aurc(np.array([0.9, 0.5, 0.5]), np.array([1, 0, 1]))
    0.27777777777777773
    """
    hits = _sorted_correct(confidence, correct, order)
    if hits.size == 0:
        raise ZeroDivisionError("There is no example.")
    risks = np.cumsum(~hits) / np.arange(1, hits.size + 1)
    return float(np.cumsum(risks)[-1]) / hits.size  # added one by one, as in a loop


def eaurc(aurc: float, accuracy: float) -> float:
    r"""AURC above $r + (1 - r) \ln(1 - r)$, the optimum in the limit of many examples.

    Quirks: the accuracy is in percent; a perfect ranking is above 0 (0.0966 for two examples); an
    accuracy of 0 gives NaN.

    Args:
      aurc: of `aurc`.
      accuracy: of `accuracy_percent`.

    >>> round(eaurc(0.25, 50), 4)
    0.0966
    """
    risk = 1 - accuracy / 100
    if risk == 1:
        return float("nan")
    return aurc - (risk + (1 - risk) * float(np.log(1 - risk)))


def coverage_for_desired_accuracy(
    confidence: Float[np.ndarray, " n"],
    correct: Shaped[np.ndarray, " n"],
    *,
    accuracy: float = 0.95,
    start_index: int = 200,
    order: Int[np.ndarray, " n"] | None = None,
) -> float:
    """Coverage up to the first violation of an accuracy, counted from a rank on.

    Let the running accuracy, in float32, first be below `accuracy` at the index `i` of all ranks,
    and `j` of those from `start_index` on. The coverage is `j / (n + 1)` if `j` is larger than
    `start_index`, and else `i / (n + 1)`.

    Quirks: an accuracy that is never violated counts as violated at the first index, so that
    a perfect network has coverage 0; so has one that violates it early and never again. It is the
    first violation, not the largest coverage. A violation just at `start_index` falls back to an
    earlier one. Full coverage cannot come out. (The published default takes the rows as they are.)

    Args:
      confidence: `[n]`.
      correct: `[n]` whether the prediction is correct.
      accuracy: to be met by what is kept.
      start_index: where to start, to ignore noise.
      order: the sort by falling confidence; a stable one by default.

    Raises:
      ValueError: if there are no more examples than `start_index`.

    >>> confidence, correct = np.linspace(1, 0, 5), np.array([1, 1, 0, 0, 0])
    >>> coverage_for_desired_accuracy(confidence, correct, accuracy=0.9, start_index=0)
    0.3333333333333333
    """
    hits = _sorted_correct(confidence, correct, order)
    if hits.size <= start_index:
        raise ValueError(
            f"There must be more examples than `start_index` {start_index}, got {hits.size}."
        )
    running = np.cumsum(hits, dtype=np.float32) / np.arange(1, hits.size + 1, dtype=np.float32)
    violated = running < np.float32(accuracy)
    index = int(np.argmax(violated[start_index:])) + start_index
    if index <= start_index:
        index = int(np.argmax(violated))
    return index / (hits.size + 1)


def adaptive_boundaries(
    confidence: Float[np.ndarray, " n"], *, num_bins: int = 10
) -> Float32[np.ndarray, " edges"]:
    """Edges of bins that hold about the same number of examples.

    Every `int(n / (num_bins - 1))`-th confidence from the smallest, but 0 for the first edge and
    the largest confidence for the last.

    Quirks: the number of bins is not the one asked for: 10 give 9 for `n = 905` and 8 for
    `n = 900`, where the last holds twice as many. Equal confidences give empty bins.

    Raises:
      ValueError: if there are fewer than `num_bins - 1` examples.

    >>> adaptive_boundaries(np.linspace(0.1, 0.9, 9, dtype=np.float32), num_bins=4).tolist()
    [0.0, 0.4000000059604645, 0.8999999761581421]
    """
    ascending = np.sort(confidence).astype(np.float32)
    step = int(ascending.size / (num_bins - 1))
    if step == 0:
        raise ValueError(
            f"`num_bins` {num_bins} needs at least {num_bins - 1} examples, got {ascending.size}."
        )
    edges = ascending[::step].copy()
    edges[0] = 0
    edges[-1] = ascending[-1]
    return edges


def calibration_errors(
    confidence: Float[np.ndarray, " n"],
    correct: Shaped[np.ndarray, " n"],
    *,
    num_bins: int = 15,
    boundaries: Float32[np.ndarray, " edges"] | None = None,
) -> tuple[float, float]:
    """Expected and largest difference of confidence and accuracy over bins `(low, high]`.

    Quirks: a confidence of exactly 0, or outside of all bins, or NaN is left out of the bins but
    counts in the number of examples, so that scores that are no probabilities get a small error
    without a word. Means are taken in float32 (here rounded from float64: the same to 1e-7). The
    largest is -1 when all bins are empty.

    Args:
      confidence: `[n]`.
      correct: `[n]` whether the prediction is correct.
      num_bins: the number of bins of equal width, without `boundaries`.
      boundaries: edges of the bins, such as those of `adaptive_boundaries`.

    Raises:
      ZeroDivisionError: if there is no example.

    >>> [round(x, 6) for x in calibration_errors(np.array([0.9, 0.6]), np.array([1, 0]))]
    [0.35, 0.6]
    """
    if confidence.size == 0:
        raise ZeroDivisionError("There is no example.")
    if boundaries is None:
        boundaries = equal_width_edges(num_bins)
    order = np.argsort(confidence, kind="stable")
    ascending, hits = np.asarray(confidence)[order], np.asarray(correct)[order] != 0
    # Behind the last confidence that is not above an edge.
    cuts = np.searchsorted(ascending, boundaries.astype(ascending.dtype), side="right")
    expected, largest = np.float32(0), np.float32(-1)
    for low, high in itertools.pairwise(cuts):
        if high > low:
            mean = np.mean(ascending[low:high], dtype=np.float64).astype(np.float32)
            gap = np.abs(mean - np.mean(hits[low:high]).astype(np.float32))
            largest = max(largest, gap)
            expected += gap * np.float32(high - low)
    return float(expected / np.float32(confidence.size)), float(largest)


def gini(confidence: Float[np.ndarray, " n"]) -> float:
    """Gini coefficient of the confidences plus 1e-7, less the smallest where that is negative.

    Quirk not reproduced: the published function changes the caller's array so, and what is computed
    from it later.

    >>> round(gini(np.array([0.0, 0.0, 0.0, 1.0], np.float32)), 6)
    0.75
    """
    values = np.asarray(confidence)
    values = values - min(values.min(), values.dtype.type(0)) + values.dtype.type(1e-7)
    values = np.sort(values)
    ranks = (2 * np.arange(1, values.size + 1) - values.size - 1).astype(values.dtype)
    return float(np.sum(ranks * values) / (values.size * np.sum(values)))


def confidence_median(confidence: Float[np.ndarray, " n"]) -> float:
    """Median of the confidences; quirk: the lower of the two in the middle, not their mean.

    >>> confidence_median(np.array([0.1, 0.2, 0.4, 0.5]))
    0.2
    """
    return float(np.sort(confidence)[(confidence.size - 1) // 2])


def csv_line(headers: Sequence[str], row: Mapping[str, object]) -> str:
    """Format one row of the published CSV files, without the end of the line.

    Quirks: a Python float has a leading blank and 5 decimals, but any other number, such as a NumPy
    or JAX scalar, has all its digits; what is missing is `None`. The header is
    `",".join(headers)`, and nothing checks it against rows that are added later.

    Args:
      headers: names of the columns.
      row: cells by name; single precision stands for a torch tensor and is written in the digits of
        double precision.

    >>> csv_line(["net", "Accuracy", "AURC", "ECE"], {"net": "a", "Accuracy": 86.0, "ECE": 1})
    'a, 86.00000,None,1'
    """
    cells = []
    for header in headers:
        cell = row.get(header)
        if isinstance(cell, np.float32 | jax.Array):
            cells.append(f"{cell.item()}")
        else:
            cells.append(f"{cell: .5f}" if type(cell) is float else f"{cell}")
    return ",".join(cells)
