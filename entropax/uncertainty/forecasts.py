r"""Forecasts: a confidence in [0, 1] and whether it came true, checked before they are used."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, Num

from entropax.types import Array
from entropax.uncertainty.ordering import Ranking, are_counts, ranking_of

# A sum of probabilities may exceed 1 by so much in float32, and means of them as well.
_ROUNDING = 1e-6
# A row of probabilities in half precision sums to 1 within this.
_HALF_ROUNDING = 1e-2


class Forecasts(NamedTuple):
    """Confidences with what became of them.

    Attributes:
      confidence: `[..., n]` in [0, 1]; NaN in all places where the data were not valid.
      correct: `[..., n]` 1 where the forecast came true, 0 where it did not.
      weights: `[..., n]` how many times each counts; the others are 0 and have confidence 0.
    """

    confidence: Float[Array, "*batch n"]
    correct: Float[Array, "*batch n"]
    weights: Float[Array, "*batch n"]


def forecasts(
    confidence: Float[Array, "*batch n"] | Ranking,
    correct: Bool[Array, "*batch n"] | Num[Array, "*batch n"] | None,
    *,
    ordered: bool = False,
    where: Bool[Array, "*#batch #n"] | None = None,
) -> Forecasts:
    """Check forecasts, and give what does not count the weight 0.

    Args:
      confidence: `[..., n]` in [0, 1], where 1e-6 more or less is rounding; or a `Ranking` of
        confidences, which brings `correct` and weights along.
      correct: `[..., n]` whether each forecast came true, as booleans or 0 and 1.
      ordered: by falling confidence, what does not count last.
      where: `[..., n]` forecasts that count.

    Returns:
      Forecasts in float32 at least. All confidences are NaN where one is NaN or, under `jit`,
      outside [0, 1], where a `correct` is not 0 or 1, or a weight of a `Ranking` not whole.

    Raises:
      ValueError: a confidence that counts is outside [0, 1], and its value is known; `correct` is
        missing, or comes with a Ranking.

    >>> given = forecasts(jnp.array([0.5, 7.0]), jnp.array([1, 1]), where=jnp.array([True, False]))
    >>> given.weights.tolist()
    [1.0, 0.0]
    """
    if ordered or isinstance(confidence, Ranking) or correct is None:
        confidence, correct, weights = ranking_of(confidence, correct, where=where)
    else:
        confidence, correct = jnp.asarray(confidence), jnp.asarray(correct)
        weights = jnp.ones((), bool) if where is None else where
    dtype = jnp.promote_types(confidence.dtype, jnp.float32)
    confidence = jnp.asarray(confidence, dtype)
    weights = jnp.broadcast_to(weights, confidence.shape).astype(dtype)
    counted = weights > 0
    strange = not_probabilities(confidence, where=counted)
    strange |= counted & (correct != 0) & (correct != 1)
    strange = (jnp.any(strange, axis=-1) | ~are_counts(weights))[..., None]
    confidence = jnp.where(counted, jnp.clip(confidence, 0, 1), 0)
    confidence = jnp.where(strange, jnp.nan, confidence)
    correct = jnp.where(counted, jnp.asarray(correct, dtype), 0)
    return Forecasts(confidence, correct, weights)


def is_probability(values: Float[Array, "*shape"]) -> Bool[Array, "*shape"]:
    """Whether values lie in [0, 1], or 1e-6 beyond, which is rounding.

    >>> is_probability(jnp.array([0.0, 1.0000005, 1.1, jnp.nan])).tolist()
    [True, True, False, False]
    """
    return (values >= -_ROUNDING) & (values <= 1 + _ROUNDING)


def refuse_one_hot(
    probs: Float[Array, "*shape"], labels: Num[Array, "*shape"] | Bool[Array, "*shape"]
) -> None:
    """Refuse labels in one-hot code, which look like the outcomes of several sets of confidences.

    Raises:
      ValueError: all rows of `probs` sum to 1 and all of `labels` hold a single 1, and the values
        are known: not under `jit`.

    >>> refuse_one_hot(jnp.array([[0.2, 0.9], [0.4, 0.5]]), jnp.array([[1, 1], [0, 1]]))
    """
    if probs.ndim < 2 or probs.size == 0:
        return
    sums = jnp.abs(jnp.sum(probs, axis=-1) - 1) <= _HALF_ROUNDING
    code = (jnp.sum(labels != 0, axis=-1) == 1) & (jnp.max(labels, axis=-1) == 1)
    found = jnp.all(sums & code)
    if not isinstance(found, jax.core.Tracer) and bool(found):
        raise ValueError(
            "Labels must be classes [..., n] where `probs` are [..., n, c]; those given look like "
            f"one-hot code of shape {labels.shape}. Take the argmax over their last axis."
        )


def not_probabilities(
    values: Float[Array, "*shape"], *, where: Bool[Array, "*#shape"]
) -> Bool[Array, "*shape"]:
    """Find values outside [0, 1] by more than rounding, and NaN.

    Raises:
      ValueError: one is outside, and its value is known: not under `jit`.

    >>> not_probabilities(jnp.array([0.5, jnp.nan]), where=jnp.array([True, True])).tolist()
    [False, True]
    """
    outside = where & ~is_probability(values) & ~jnp.isnan(values)
    if not isinstance(outside, jax.core.Tracer) and bool(jnp.any(outside)):
        raise ValueError(
            f"A confidence must be a probability in [0, 1], got {float(values[outside][0]):g}. "
            "Scores of another kind can be ranked, but they are not calibrated."
        )
    return outside | (where & jnp.isnan(values))


def not_classes(
    labels: Int[Array, "*shape"], num_classes: int, *, where: Bool[Array, "*#shape"]
) -> Bool[Array, "*shape"]:
    """Find labels that are not one of `0 ... num_classes - 1`.

    Raises:
      ValueError: there is one, and its value is known: not under `jit`.

    >>> not_classes(jnp.array([0, 1]), 2, where=jnp.array([True, True])).tolist()
    [False, False]
    """
    outside = where & ((labels < 0) | (labels >= num_classes))
    if not isinstance(outside, jax.core.Tracer) and bool(jnp.any(outside)):
        raise ValueError(
            f"A label must be a class from 0 to {num_classes - 1}, got {int(labels[outside][0])}."
        )
    return outside
