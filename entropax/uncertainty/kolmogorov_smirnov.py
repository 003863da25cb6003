"""Calibration without bins: the largest gap between two cumulative sums."""

import jax.numpy as jnp
from jaxtyping import Bool, Float, Num

from entropax.types import Array
from entropax.uncertainty.forecasts import forecasts
from entropax.uncertainty.ordering import Ranking, ranking_of


def ks_calibration_error(
    confidence: Float[Array, "*batch n"] | Ranking,
    correct: Bool[Array, "*batch n"] | Num[Array, "*batch n"] | None = None,
    *,
    where: Bool[Array, "*#batch #n"] | None = None,
) -> Float[Array, "*batch"]:
    r"""Kolmogorov-Smirnov calibration error, which needs no bins.

    $$\mathrm{KS} = \max_s \Big| \frac1n \sum_{i : c_i \le s} (c_i - y_i) \Big|.$$

    Equal confidences enter the sum together, so that the order of the rows makes no difference.

    Args:
      confidence: `[..., n]` in [0, 1], or a `Ranking` of confidences alone.
      correct: `[..., n]` whether each prediction is correct, as booleans or 0 and 1.
      where: `[..., n]` examples that count.

    Returns:
      `[...]` errors in [0, 1]. NaN when no example counts, a confidence is NaN or, under `jit`,
      outside [0, 1].

    Raises:
      ValueError: a confidence is outside [0, 1], not under `jit`.

    Reference: K. Gupta et al., "Calibration of neural networks using splines" (2021).

    >>> confidence = jnp.array([0.9, 0.9, 0.6, 0.6])
    >>> round(float(ks_calibration_error(confidence, jnp.array([1, 1, 1, 0]))), 4)
    0.05
    """
    ranking = ranking_of(confidence, correct, where=where)
    given = forecasts(ranking, None)
    # From the smallest up. What does not count adds 0, wherever it is.
    confidence, correct, weights = (jnp.flip(x, axis=-1) for x in given)
    # Of the ranking: a row of weight 0 between equal confidences does not part them.
    scores = jnp.flip(jnp.clip(ranking.scores, 0, 1), axis=-1)
    ends = jnp.roll(scores, -1, axis=-1) != scores
    ends = ends.at[..., -1:].set(True)
    sums = jnp.abs(jnp.cumsum(weights * (confidence - correct), axis=-1))
    total = jnp.sum(weights, axis=-1)
    largest = jnp.max(jnp.where(ends, sums, 0), axis=-1, initial=0) / total
    return jnp.where(jnp.any(jnp.isnan(confidence), axis=-1), jnp.nan, largest)
