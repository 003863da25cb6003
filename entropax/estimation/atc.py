"""Average thresholded confidence: as many errors are expected as examples are not confident."""

from typing import Literal, get_args

from jaxtyping import Bool, Float, Int

from entropax.estimation.base import Estimator, Evidence, correctness
from entropax.estimation.threshold import Threshold, fit_threshold, share_above
from entropax.types import Array
from entropax.uncertainty import entropy_score, log_odds, mean

Score = Literal["confidence", "entropy"]


def average_thresholded_confidence(*, score: str = "entropy") -> Estimator:
    r"""Estimator by the share of examples above a threshold of confidence.

    $$\mathrm{ATC} = \frac1n \#\{i : s_i \ge t\}, \qquad t: \#\{j \in S : s_j < t\} = E_S,$$

    the number of errors on the labelled set; ties as in `fit_threshold`, which also says where the
    published code departs. `fit` takes logits `[m, c]` and labels, `estimate` logits `[n, c]`.
    Flagged as extrapolated when the labelled set is all right or all wrong: it does not determine
    the threshold then.

    Args:
      score: `"confidence"` (ATC-MC), the largest probability, on the scale of log-odds, which has
        the same order and no ties at 1; `"entropy"` (ATC-NE), minus the entropy in nats.

    Returns:
      The estimator.

    Raises:
      ValueError: an unknown score.

    Reference: S. Garg et al., "Leveraging unlabeled data to predict out-of-distribution
    performance" (2022), equations 1 and 2.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> atc = average_thresholded_confidence(score="confidence")
    >>> source = jnp.array([[3.0, 0.0], [2.0, 0.0], [1.0, 0.0]])
    >>> fitted = atc.fit(source, jnp.array([0, 0, 1]))
    >>> target = jnp.array([[4.0, 0.0], [0.0, 1.0]])
    >>> float(atc.estimate(jax.random.key(0), fitted, target).value)
    0.5
    """
    if score not in get_args(Score):
        raise ValueError(f"`score` must be one of {', '.join(get_args(Score))}, got {score!r}.")
    score_of = log_odds if score == "confidence" else entropy_score

    def fit(
        logits: Float[Array, "m c"],
        labels: Int[Array, " m"],
        *,
        where: Bool[Array, " m"] | None = None,
    ) -> Threshold:
        return fit_threshold(score_of(logits), correctness(logits, labels), where=where)

    def evidence(
        fitted: Threshold,
        outputs: Float[Array, "n c"],
        *,
        where: Bool[Array, " n"] | None = None,
    ) -> Evidence:
        return Evidence(share_above(fitted, score_of(outputs)), mean, ~fitted.identified)

    return Estimator(fit, evidence)
