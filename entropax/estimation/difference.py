"""Difference of confidences: accuracy falls as much as mean confidence does."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from entropax.estimation.base import Estimator, Evidence, correctness
from entropax.estimation.confidence import average_confidence
from entropax.types import Array
from entropax.uncertainty import Sample, max_softmax, mean


class Confidence(NamedTuple):
    """What difference of confidences knows of the source.

    Attributes:
      accuracy: accuracy on the labelled set.
      confidence: mean largest probability there.
    """

    accuracy: Float[Array, ""]
    confidence: Float[Array, ""]


def difference_of_confidences() -> Estimator:
    r"""Estimator by the change of mean confidence.

    $$\mathrm{DoC} = \mathrm{acc}_S + \mathrm{AC}_T - \mathrm{AC}_S, \qquad
      \mathrm{AC} = \frac1n \sum_i \max_k p_{ik}.$$

    `fit` takes logits `[m, c]` and labels, `estimate` logits `[n, c]`. Flagged as extrapolated when
    the sum leaves [0, 1], to which it is clipped.

    Returns:
      The estimator.

    Reference: D. Guillory et al., "Predicting with confidence on unseen distributions" (2021).

    >>> import jax
    >>> doc = difference_of_confidences()
    >>> source = jnp.log(jnp.array([[0.9, 0.1], [0.7, 0.3]]))
    >>> fitted = doc.fit(source, jnp.array([0, 0]))
    >>> target = jnp.log(jnp.array([[0.6, 0.4], [0.2, 0.8]]))
    >>> round(float(doc.estimate(jax.random.key(0), fitted, target).value), 3)  # 1 + 0.7 - 0.8
    0.9
    """

    def fit(
        logits: Float[Array, "m c"],
        labels: Int[Array, " m"],
        *,
        where: Bool[Array, " m"] | None = None,
    ) -> Confidence:
        accuracy = jnp.mean(correctness(logits, labels), where=where)
        return Confidence(accuracy, average_confidence(logits, where=where))

    def evidence(
        fitted: Confidence,
        outputs: Float[Array, "n c"],
        *,
        where: Bool[Array, " n"] | None = None,
    ) -> Evidence:
        gap = fitted.accuracy - fitted.confidence

        def statistic(sample: Sample) -> Float[Array, ""]:
            return gap + mean(sample)

        value = gap + average_confidence(outputs, where=where)
        return Evidence(max_softmax(outputs), statistic, (value < 0) | (value > 1))

    return Estimator(fit, evidence)
