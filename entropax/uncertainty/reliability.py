"""Reliability curve: accuracy against confidence, with an interval for every bin."""

from typing import NamedTuple

import jax.numpy as jnp
import scipy.special
from jaxtyping import Bool, Float, Num

from entropax.types import Array
from entropax.uncertainty.bins import bin_forecasts
from entropax.uncertainty.ordering import Ranking


class ReliabilityCurve(NamedTuple):
    """What a reliability diagram draws.

    Attributes:
      lower: `[..., b]` lower edge of each bin, which belongs to the bin before.
      upper: `[..., b]` upper edge, which belongs to it.
      weight: `[..., b]` number of examples.
      confidence: `[..., b]` their mean confidence; NaN for an empty bin.
      accuracy: `[..., b]` their accuracy; NaN for an empty bin.
      accuracy_lower: `[..., b]` lower end of an interval for the accuracy; 0 for an empty bin.
      accuracy_upper: `[..., b]` upper end; 1 for an empty bin.
    """

    lower: Float[Array, "*batch b"]
    upper: Float[Array, "*batch b"]
    weight: Float[Array, "*batch b"]
    confidence: Float[Array, "*batch b"]
    accuracy: Float[Array, "*batch b"]
    accuracy_lower: Float[Array, "*batch b"]
    accuracy_upper: Float[Array, "*batch b"]


def reliability_curve(
    confidence: Float[Array, "*batch n"] | Ranking,
    correct: Bool[Array, "*batch n"] | Num[Array, "*batch n"] | None = None,
    *,
    num_bins: int = 15,
    binning: str = "equal_width",
    level: float = 0.95,
    where: Bool[Array, "*#batch #n"] | None = None,
) -> ReliabilityCurve:
    r"""Accuracy and mean confidence in bins, with Wilson intervals.

    With the accuracy a of a bin of n examples and the normal quantile z of the level,

    $$\frac{1}{1 + z^2/n} \Big( a + \frac{z^2}{2n}
      \pm z \sqrt{\frac{a (1 - a)}{n} + \frac{z^2}{4 n^2}} \Big).$$

    A calibrated network has the confidence of about this share of its bins inside the interval.
    Where all or none are correct the interval has a length still.

    Args:
      confidence: `[..., n]` in [0, 1], or a `Ranking` of confidences alone.
      correct: `[..., n]` whether each prediction is correct, as booleans or 0 and 1.
      num_bins: number of bins.
      binning: "equal_width" or "equal_mass", as for `calibration_error`.
      level: probability with which an interval holds the accuracy of its bin, for each by itself.
      where: `[..., n]` examples that count.

    Returns:
      A `ReliabilityCurve`, from which the errors of `calibration_error` follow. Where a confidence
      is NaN or, under `jit`, outside [0, 1], accuracies and intervals are NaN too.

    Raises:
      ValueError: `level` is not between 0 and 1, or as `calibration_error`.

    Reference: E. B. Wilson, "Probable inference, the law of succession, and statistical inference"
    (1927).

    >>> curve = reliability_curve(jnp.array([0.9, 0.9, 0.4]), jnp.array([1, 1, 0]), num_bins=2)
    >>> curve.accuracy.tolist(), curve.accuracy_lower.round(3).tolist()
    ([0.0, 1.0], [0.0, 0.34200000762939453])
    """
    if not 0 < level < 1:
        raise ValueError(f"`level` must be between 0 and 1, got {level}.")
    bins, _, given = bin_forecasts(
        confidence, correct, num_bins=num_bins, binning=binning, where=where
    )
    z = float(scipy.special.ndtri((1 + level) / 2))
    filled = bins.weight > 0
    n = jnp.where(filled, bins.weight, 1)
    a = jnp.where(filled, bins.accuracy, 0)
    centre = a + z * z / (2 * n)
    reach = z * jnp.sqrt(a * (1 - a) / n + jnp.square(z / (2 * n)))
    # Rounding must not put the accuracy outside.
    low = jnp.where(filled, jnp.clip((centre - reach) / (1 + z * z / n), 0, a), 0)
    high = jnp.where(filled, jnp.clip((centre + reach) / (1 + z * z / n), a, 1), 1)
    strange = jnp.any(jnp.isnan(given.confidence), axis=-1, keepdims=True)
    accuracy, low, high = (jnp.where(strange, jnp.nan, x) for x in (bins.accuracy, low, high))
    return ReliabilityCurve(
        bins.lower, bins.upper, bins.weight, bins.confidence, accuracy, low, high
    )
