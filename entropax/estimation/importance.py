"""Importance weighting: the accuracy of source examples weighted to be as sure as the target's."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from entropax.estimation.base import Estimator, Evidence, correctness
from entropax.types import Array
from entropax.uncertainty import Sample, max_softmax


class BinAccuracy(NamedTuple):
    """What importance weighting knows of the source.

    Attributes:
      accuracy: `[b]` accuracy in each bin of confidence; NaN in an empty one.
    """

    accuracy: Float[Array, " b"]


def importance_weighting(*, bins: int = 10) -> Estimator:
    r"""Estimator by the accuracy of labelled examples of the same confidence (IM).

    $$\mathrm{IM} = \frac{\sum_b w_b\, m_b\, a_b}{\sum_b w_b\, m_b} , \qquad
      w_b = \frac{n_b / n}{m_b / m},$$

    with $m_b$ source and $n_b$ target examples in bin b of the largest probability, and accuracy
    $a_b$; that is a mean over the target of the accuracy of each example's bin. Bins are closed on
    the left, for the source and the target; the published code closes them on the right where it
    looks weights up.

    `fit` takes logits `[m, c]` and labels, `estimate` logits `[n, c]`. Flagged as extrapolated when
    a target example lies in a bin where the source has none; these are left out. NaN when all do.

    Args:
      bins: number of equal bins of [0, 1].

    Returns:
      The estimator.

    Raises:
      ValueError: `bins` is not positive.

    Reference: M. Chen et al., "Mandoline: model evaluation under distribution shift" (2021), with
    the confidence as the only slice.

    >>> import jax
    >>> im = importance_weighting()
    >>> source = jnp.log(jnp.array([[0.95, 0.05], [0.95, 0.05], [0.65, 0.35], [0.65, 0.35]]))
    >>> fitted = im.fit(source, jnp.array([0, 0, 0, 1]))
    >>> float(im.estimate(jax.random.key(0), fitted, source[1:]).value.round(4))  # (1 + .5 + .5)/3
    0.666700005531311
    """
    if bins < 1:
        raise ValueError(f"`bins` must be positive, got {bins}.")

    def bin_of(logits: Array) -> tuple[Array, Array]:
        confidence = max_softmax(logits)
        valid = ~jnp.isnan(confidence)
        place = jnp.floor(jnp.where(valid, confidence, 0) * bins).astype(int)
        return jnp.clip(place, 0, bins - 1), valid

    def fit(
        logits: Float[Array, "m c"],
        labels: Int[Array, " m"],
        *,
        where: Bool[Array, " m"] | None = None,
    ) -> BinAccuracy:
        where = jnp.ones(labels.shape, bool) if where is None else where
        place, _ = bin_of(logits)
        correct = correctness(logits, labels)
        invalid = jnp.any(jnp.isnan(correct) & where)
        right = jnp.zeros(bins, correct.dtype).at[place].add(jnp.where(where, correct, 0))
        number = jnp.zeros(bins, correct.dtype).at[place].add(where)
        return BinAccuracy(jnp.where(invalid, jnp.nan, right / number))

    def evidence(
        fitted: BinAccuracy,
        outputs: Float[Array, "n c"],
        *,
        where: Bool[Array, " n"] | None = None,
    ) -> Evidence:
        where = jnp.ones(len(outputs), bool) if where is None else where
        place, valid = bin_of(outputs)
        known = ~jnp.isnan(fitted.accuracy)[place]
        accuracy = jnp.where(valid, jnp.where(known, fitted.accuracy[place], 0), jnp.nan)
        rows = (accuracy, known.astype(accuracy.dtype))
        return Evidence(rows, _statistic, jnp.any(where & ~known))

    return Estimator(fit, evidence)


def _statistic(data: Sample) -> Float[Array, ""]:
    accuracy, known = (jnp.where(data.weights != 0, x * data.weights, 0) for x in data.values)
    return jnp.sum(accuracy) / jnp.sum(known)
