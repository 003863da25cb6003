"""A threshold on a score, such that the share above it is the accuracy on a labelled set."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Bool, Float

from entropax.types import Array


class Threshold(NamedTuple):
    """A fitted threshold; make one with `fit_threshold`.

    Attributes:
      threshold: scores above it count as correct.
      share: how much a score counts that is equal to it.
      identified: the labelled set has both right and wrong predictions. Otherwise every threshold
        below (or above) all of its scores would do as well, and this one is the nearest.
    """

    threshold: Float[Array, ""]
    share: Float[Array, ""]
    identified: Bool[Array, ""]


def fit_threshold(
    scores: Float[Array, " n"],
    correct: Float[Array, " n"],
    *,
    where: Bool[Array, " n"] | None = None,
) -> Threshold:
    r"""The threshold at which `share_above` of the labelled set is its accuracy, exactly.

    $$t = s_{(E + 1)}, \qquad
      \lambda = \frac{(n - E) - \#\{s > t\}}{\#\{s = t\}}, \qquad E = \#\{\mathrm{errors}\},$$

    with ordered scores $s_{(1)} \le \dots \le s_{(n)}$. The published code takes $s_{(E)}$, which
    is one error too few; and where all predictions are right it leaves the threshold at 0, so that
    with negative entropies, all below 0, it says that all are wrong. Ties matter too: of a network
    whose confidences are all exactly 1, a threshold alone would say that all are right.

    Args:
      scores: `[n]`, higher for what is rather correct.
      correct: `[n]` 1 or 0; NaN is invalid.
      where: `[n]` examples that count.

    Returns:
      The threshold; infinite when all predictions are wrong, NaN when a score or an entry of
      `correct` is, or no example counts.

    >>> scores, correct = jnp.array([0.9, 0.4, 0.8, 0.6]), jnp.array([1.0, 1.0, 1.0, 0.0])
    >>> round(float(fit_threshold(scores, correct).threshold), 3)
    0.6
    """
    where = jnp.ones(scores.shape, bool) if where is None else where
    number, right = jnp.sum(where), jnp.sum(correct, where=where)
    errors = number - right
    place = jnp.where(jnp.isnan(errors), 0, errors).astype(int)
    # Padding goes to the end, where it is infinite as is the threshold when all are wrong.
    ordered = jnp.sort(jnp.where(where, scores, jnp.inf))
    threshold = jnp.where(place < number, ordered[jnp.minimum(place, len(ordered) - 1)], jnp.inf)
    above = jnp.sum(where & (scores > threshold))
    equal = jnp.sum(where & (scores == threshold))
    share = (right - above) / jnp.maximum(equal, 1)
    valid = (number > 0) & ~jnp.any(jnp.isnan(jnp.where(where, scores + 0 * correct, 0)))
    invalid = jnp.where(valid, 0, jnp.nan).astype(scores.dtype)
    return Threshold(threshold + invalid, share + invalid, valid & (errors > 0) & (right > 0))


def share_above(threshold: Threshold, scores: Float[Array, "*batch n"]) -> Float[Array, "*batch n"]:
    """How much each score counts as correct: 1 above the threshold, its share at it, 0 below.

    Args:
      threshold: from `fit_threshold`.
      scores: `[..., n]`.

    Returns:
      `[..., n]`; NaN where the score or the threshold is.

    >>> at = Threshold(jnp.array(0.5), jnp.array(0.25), jnp.array(True))
    >>> share_above(at, jnp.array([0.4, 0.5, 0.6])).tolist()
    [0.0, 0.25, 1.0]
    """
    counted = jnp.where(scores > threshold.threshold, 1, 0)
    counted = jnp.where(scores == threshold.threshold, threshold.share, counted)
    invalid = jnp.isnan(scores) | jnp.isnan(threshold.threshold)
    return jnp.where(invalid, jnp.nan, counted)
