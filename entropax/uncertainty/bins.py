r"""Forecasts in bins: what calibration errors and reliability diagrams are computed from.

A forecast is a confidence in [0, 1] and whether it came true. Bins are closed on the right,
(lower, upper], and the first contains 0 as well. Torchmetrics 1.9 closes them on the left and gives
a confidence of exactly 1 a bin of its own.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, Num

from entropax.types import Array
from entropax.uncertainty.forecasts import Forecasts, forecasts
from entropax.uncertainty.ordering import Ranking


class Bins(NamedTuple):
    """Forecasts by bin.

    Attributes:
      lower: `[..., b]` lower edge of each bin, which belongs to the bin before.
      upper: `[..., b]` upper edge, which belongs to it.
      weight: `[..., b]` number of forecasts.
      confidence: `[..., b]` their mean confidence; NaN for an empty bin.
      accuracy: `[..., b]` the share that came true; NaN for an empty bin.
    """

    lower: Float[Array, "*batch b"]
    upper: Float[Array, "*batch b"]
    weight: Float[Array, "*batch b"]
    confidence: Float[Array, "*batch b"]
    accuracy: Float[Array, "*batch b"]


def equal_width_edges(num_bins: int, *, double: bool = False) -> Float[np.ndarray, " e"]:
    """Edges of bins of equal width, to the last bit those of the published code.

    They are float32 numbers, each rounded once: `i * step` in the lower half and
    `1 - (num_bins - i) * step` in the upper, where `step` is `1 / num_bins` in float32. Other ways
    to divide [0, 1] give edges that differ in the last bit, which decides the bin of a confidence
    that lies on one.

    Args:
      num_bins: number of bins.
      double: `i / num_bins` in float64 instead, for confidences in float64: of these 0.7 is the
        upper edge of the seventh of ten bins, as it is for float32 with the edges above.

    >>> equal_width_edges(5).tolist()[:3], equal_width_edges(5, double=True).tolist()[:3]
    ([0.0, 0.20000000298023224, 0.4000000059604645], [0.0, 0.2, 0.4])
    """
    if double:
        return np.arange(num_bins + 1) / num_bins
    step = np.float64(np.float32(1) / np.float32(num_bins))
    i = np.arange(num_bins + 1)
    lower_half = i < (num_bins + 1) // 2
    return np.where(lower_half, i * step, 1 - (num_bins - i) * step).astype(np.float32)


def equal_mass_edges(ordered: Forecasts, num_bins: int) -> Float[Array, "*batch e"]:
    """Edges between which lie equal numbers of forecasts, as far as equal confidences allow.

    The forecasts by rising confidence are cut into `num_bins` parts, the first of them one larger
    where the number is not divisible; the largest confidence of a part is its upper edge. Equal
    confidences are never separated, so that the order of the rows makes no difference.

    Args:
      ordered: forecasts by falling confidence.
      num_bins: number of bins.

    >>> given = forecasts(jnp.array([0.1, 0.2, 0.3]), jnp.array([0, 0, 1]), ordered=True)
    >>> equal_mass_edges(given, 2).round(1).tolist()
    [0.0, 0.20000000298023224, 1.0]
    """
    confidence = ordered.confidence
    weights = ordered.weights.astype(jnp.int32)
    from_above = jnp.cumsum(weights, axis=-1)
    total = from_above[..., -1:]
    parts = jnp.arange(1, num_bins)
    size, larger = total // num_bins, total % num_bins
    below = parts * size + jnp.minimum(parts, larger)
    search = jnp.vectorize(
        lambda x, at: jnp.searchsorted(x, at, side="right"), signature="(n),(b)->(b)"
    )
    index = jnp.minimum(search(from_above, total - below), confidence.shape[-1] - 1)
    inner = jnp.take_along_axis(confidence, index, axis=-1)
    first = jnp.zeros_like(confidence[..., :1])
    return jnp.concatenate([first, inner, first + 1], axis=-1)


def bin_forecasts(
    confidence: Float[Array, "*batch n"] | Ranking,
    correct: Bool[Array, "*batch n"] | Num[Array, "*batch n"] | None = None,
    *,
    num_bins: int,
    binning: str,
    where: Bool[Array, "*#batch #n"] | None = None,
) -> tuple[Bins, Int[Array, "*batch n"], Forecasts]:
    """Put forecasts into bins.

    Args:
      confidence: as for `forecasts`.
      correct: as for `forecasts`.
      num_bins: number of bins.
      binning: "equal_width" or "equal_mass".
      where: `[..., n]` forecasts that count.

    Returns:
      The bins, the bin of each forecast, and the forecasts, in the order of both.

    Raises:
      ValueError: as `forecasts`; `num_bins` is not positive, or `binning` is unknown.

    >>> bins, index, _ = bin_forecasts(
    ...     jnp.array([0.0, 0.5, 1.0]), jnp.array([0, 1, 1]), num_bins=2, binning="equal_width"
    ... )
    >>> index.tolist(), bins.weight.tolist(), bins.accuracy.tolist()
    ([0, 0, 1], [2.0, 1.0], [0.5, 1.0])
    """
    if num_bins < 1:
        raise ValueError(f"`num_bins` must be positive, got {num_bins}.")
    if binning not in ("equal_width", "equal_mass"):
        raise ValueError(f'`binning` must be "equal_width" or "equal_mass", got "{binning}".')
    given = forecasts(confidence, correct, ordered=binning == "equal_mass", where=where)
    if binning == "equal_mass" and given.confidence.shape[-1]:
        edges = equal_mass_edges(given, num_bins)
    else:
        dtype = given.confidence.dtype
        edges = jnp.asarray(equal_width_edges(num_bins, double=dtype == jnp.float64), dtype)
        edges = jnp.broadcast_to(edges, (*given.confidence.shape[:-1], num_bins + 1))
    fill = jnp.vectorize(_fill, signature="(n),(n),(n),(e)->(b),(b),(b),(n)")
    *sums, index = fill(*given, edges)
    return Bins(edges[..., :-1], edges[..., 1:], *sums), index, given


def _fill(
    confidence: Float[Array, " n"],
    correct: Float[Array, " n"],
    weights: Float[Array, " n"],
    edges: Float[Array, " e"],
) -> tuple[Float[Array, " b"], Float[Array, " b"], Float[Array, " b"], Int[Array, " n"]]:
    """Count, mean confidence and accuracy of each bin; the bin of each forecast."""
    num_examples, num_bins = len(confidence), len(edges) - 1
    method = "compare_all" if num_bins <= 32 else "scan_unrolled"
    index = jnp.searchsorted(edges[1:-1], confidence, side="left", method=method)
    # Sums over runs of sqrt(n) rows, then over the runs, of what exceeds the lower edge of the bin:
    # a long float32 sum of similar numbers, or a difference of two, would lose digits.
    run = max(math.isqrt(num_examples), 1)
    num_runs = -(-num_examples // run)
    segment = jnp.arange(num_examples) // run * num_bins + index

    def total(values: Float[Array, " n"]) -> Float[Array, " b"]:
        sums = jax.ops.segment_sum(weights * values, segment, num_runs * num_bins)
        return jnp.sum(sums.reshape(num_runs, num_bins), axis=0)

    lower = edges[:-1]
    weight = total(jnp.ones_like(confidence))
    mean = lower + total(confidence - lower[index]) / weight
    mean += total(confidence - mean[index]) / weight  # what rounding has left
    return weight, mean, total(correct) / weight, index
