"""From a score that rises with accuracy to the accuracy: a line through labelled splits."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import scipy.stats
from jaxtyping import Bool, Float, Int, PyTree, Shaped

from entropax.estimation.base import Estimator, Evidence, correctness
from entropax.types import Array
from entropax.uncertainty import Sample, sample


class Score(NamedTuple):
    """A number that says how well a network does on a set, in units of its own.

    Attributes:
      rows: logits `[n, c]` to arrays with one row an example.
      of: function of these with weights to the score.
    """

    rows: Callable[[Float[Array, "n c"]], PyTree[Shaped[Array, "n ..."]]]
    of: Callable[[Sample], Float[Array, ""]]


class ScoreLine(NamedTuple):
    """A fitted line.

    Attributes:
      slope: accuracy for each unit of the score.
      centre: mean score of the splits.
      level: mean accuracy of the splits, which the line has at the centre.
      scatter: sum of the squared distances of the scores from the centre.
      residuals: `[s]` how far each split lies above the line.
      lowest: smallest score.
      highest: largest score.
    """

    slope: Float[Array, ""]
    centre: Float[Array, ""]
    level: Float[Array, ""]
    scatter: Float[Array, ""]
    residuals: Float[Array, " s"]
    lowest: Float[Array, ""]
    highest: Float[Array, ""]


def score_line(score: Score) -> Estimator:
    r"""Estimator by linear regression of accuracy on a score.

    $$\hat a(x) = \bar a + b (x - \bar x), \qquad
      \hat a(x) \pm t_{s - 2}\, \hat\sigma
      \sqrt{1 + \tfrac1s + \tfrac{(x - \bar x)^2}{\sum_j (x_j - \bar x)^2}}.$$

    `fit` takes splits, several corruptions of a labelled set: logits `[s, m, c]` and labels
    `[s, m]`, three splits or more, with `where` `[s, m]`. `estimate` takes logits `[n, c]`. The
    half-width above, for a new shift that is like the splits, is added to the bootstrap's interval,
    which is rather too wide than too narrow then. Flagged as extrapolated beyond the scores of the
    splits.

    Args:
      score: what to regress on.

    Returns:
      The estimator; its `fit` raises a ValueError for fewer than three splits.

    >>> mean_logit = Score(lambda logits: logits[:, 0], lambda s: jnp.mean(s.values))
    >>> line = score_line(mean_logit)
    >>> logits = jnp.array([[[0.1, 0.0]], [[0.2, 0.0]], [[-0.1, 0.0]]])
    >>> fitted = line.fit(logits, jnp.zeros((3, 1), int))
    >>> bool(fitted.slope > 0)
    True
    """

    def fit(
        logits: Float[Array, "s m c"],
        labels: Int[Array, "s m"],
        *,
        where: Bool[Array, "s m"] | None = None,
    ) -> ScoreLine:
        if len(logits) < 3:
            raise ValueError(
                f"A line of scores needs three labelled splits or more, got {len(logits)}."
            )
        where = jnp.ones(labels.shape, bool) if where is None else where

        def of_split(logits: Array, where: Array) -> Any:
            return score.of(sample(score.rows(logits), where=where))

        scores = jax.vmap(of_split)(logits, where)
        accuracies = jnp.mean(correctness(logits, labels), axis=-1, where=where)
        centre, level = jnp.mean(scores), jnp.mean(accuracies)
        scatter = jnp.sum(jnp.square(scores - centre))
        product = jnp.sum((scores - centre) * (accuracies - level))
        # Scores that are all alike have no line; then it is the mean.
        slope = jnp.where(scatter == 0, 0, product / jnp.where(scatter == 0, 1, scatter))
        residuals = accuracies - level - slope * (scores - centre)
        extent = jnp.min(scores), jnp.max(scores)
        return ScoreLine(slope, centre, level, scatter, residuals, *extent)

    def evidence(
        fitted: ScoreLine,
        outputs: Float[Array, "n c"],
        *,
        where: Bool[Array, " n"] | None = None,
    ) -> Evidence:
        rows = score.rows(outputs)
        found = score.of(sample(rows, where=where))

        def statistic(data: Sample) -> Float[Array, ""]:
            return fitted.level + fitted.slope * (score.of(data) - fitted.centre)

        def margin(level: float) -> Float[Array, ""]:
            splits = len(fitted.residuals)
            quantile = float(scipy.stats.t.ppf((1 + level) / 2, splits - 2))
            spread = jnp.sqrt(jnp.sum(jnp.square(fitted.residuals)) / (splits - 2))
            distance = jnp.square(found - fitted.centre)
            distance = distance / jnp.where(fitted.scatter == 0, 1, fitted.scatter)
            return quantile * spread * jnp.sqrt(1 + 1 / splits + distance)

        outside = (found < fitted.lowest) | (found > fitted.highest)
        return Evidence(rows, statistic, outside, margin)

    return Estimator(fit, evidence)
