r"""Proper scores, which a forecaster can only lose by not saying what it believes."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, Num

from entropax.types import Array
from entropax.uncertainty.bins import bin_forecasts
from entropax.uncertainty.forecasts import (
    forecasts,
    not_classes,
    not_probabilities,
    refuse_one_hot,
)
from entropax.uncertainty.ordering import Ranking


class BrierDecomposition(NamedTuple):
    """What a Brier score of binary forecasts consists of.

    Attributes:
      brier: `[...]` the score of the forecasts as they are.
      reliability: `[...]` how far the bins are from their accuracies; 0 if calibrated.
      resolution: `[...]` how far the accuracies of the bins are from the accuracy of all.
      uncertainty: `[...]` `a (1 - a)` at the accuracy of all, whatever the forecasts.
      within_variance: `[...]` variance of the forecasts around the means of their bins.
      within_covariance: `[...]` covariance of forecasts and outcomes inside the bins.
    """

    brier: Float[Array, "*batch"]
    reliability: Float[Array, "*batch"]
    resolution: Float[Array, "*batch"]
    uncertainty: Float[Array, "*batch"]
    within_variance: Float[Array, "*batch"]
    within_covariance: Float[Array, "*batch"]


def negative_log_likelihood_terms(
    logits: Float[Array, "*batch n c"],
    labels: Int[Array, "*batch n"],
    *,
    where: Bool[Array, "*#batch #n"] | None = None,
) -> Float[Array, "*batch n"]:
    r"""What `negative_log_likelihood` is the mean of: one term an example, to bootstrap it.

    $$-\ln \mathrm{softmax}(z_i)_{y_i}.$$

    Args:
      logits: `[..., n, c]`; logarithms of probabilities are logits too.
      labels: `[..., n]` the right classes.
      where: `[..., n]` examples that count. The terms of others mean nothing.

    Returns:
      `[..., n]` in nats, not negative; infinite where a label has probability 0; NaN where a logit
      is NaN, or, under `jit`, a label is not a class.

    Raises:
      ValueError: a label is not a class, not under `jit`.

    >>> from entropax.uncertainty.bootstrap import bootstrap, mean, sample
    >>> logits, labels = jnp.array([[0.0, 2.0], [1.0, 0.0], [3.0, 0.0]]), jnp.array([1, 1, 0])
    >>> terms = negative_log_likelihood_terms(logits, labels)
    >>> found = bootstrap(jax.random.key(0), mean, sample(terms), num_replicates=100)
    >>> round(float(found.value), 5), round(float(negative_log_likelihood(logits, labels)), 5)
    (0.49626, 0.49626)
    """
    logits, labels = jnp.asarray(logits), jnp.asarray(labels)
    counted = jnp.broadcast_to(True if where is None else where, labels.shape)
    invalid = not_classes(labels, logits.shape[-1], where=counted)
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    index = jnp.where(counted & ~invalid, labels, 0)
    own = jnp.take_along_axis(jax.nn.log_softmax(logits), index[..., None], axis=-1)[..., 0]
    return jnp.where(invalid, jnp.nan, -own)


def negative_log_likelihood(
    logits: Float[Array, "*batch n c"],
    labels: Int[Array, "*batch n"],
    *,
    where: Bool[Array, "*#batch #n"] | None = None,
) -> Float[Array, "*batch"]:
    r"""Mean negative log-likelihood of the labels, in nats.

    $$\mathrm{NLL} = -\frac1n \sum_i \ln \mathrm{softmax}(z_i)_{y_i}.$$

    Args:
      logits: `[..., n, c]`; logarithms of probabilities are logits too.
      labels: `[..., n]` the right classes.
      where: `[..., n]` examples that count.

    Returns:
      `[...]` in nats, not negative; infinite where a label has probability 0; NaN when no example
      counts, a logit is NaN, or, under `jit`, a label is not a class.

    Raises:
      ValueError: a label is not a class, not under `jit`.

    >>> logits = jnp.log(jnp.array([[0.5, 0.5], [0.25, 0.75]]))
    >>> loss = negative_log_likelihood(logits, jnp.array([0, 1]))
    >>> round(float(loss), 5)  # (ln 2 + ln 4/3) / 2
    0.49041
    """
    return jnp.mean(
        negative_log_likelihood_terms(logits, labels, where=where), axis=-1, where=where
    )


def brier_terms(
    probs: Float[Array, "*batch n c"],
    labels: Int[Array, "*batch n"],
    *,
    where: Bool[Array, "*#batch #n"] | None = None,
) -> Float[Array, "*batch n"]:
    r"""What the `brier_score` of several classes is the mean of: one term an example.

    $$\sum_k (p_{ik} - [y_i = k])^2.$$

    Args:
      probs: `[..., n, c]` probabilities.
      labels: `[..., n]` the right classes.
      where: `[..., n]` examples that count. The terms of others mean nothing.

    Returns:
      `[..., n]` terms in [0, 2]; NaN where a probability is NaN, or, under `jit`, outside [0, 1],
      or a label is not a class.

    Raises:
      ValueError: a probability is outside [0, 1], or a label is not a class, not under `jit`.

    >>> brier_terms(jnp.array([[0.5, 0.5], [0.25, 0.75]]), jnp.array([0, 1])).tolist()
    [0.5, 0.125]
    """
    probs, labels = jnp.asarray(probs), jnp.asarray(labels)
    counted = jnp.broadcast_to(True if where is None else where, labels.shape)
    invalid = not_classes(labels, probs.shape[-1], where=counted)
    invalid |= jnp.any(not_probabilities(probs, where=counted[..., None]), axis=-1)
    probs = probs.astype(jnp.promote_types(probs.dtype, jnp.float32))
    own = jnp.arange(probs.shape[-1]) == labels[..., None]
    return jnp.where(invalid, jnp.nan, jnp.sum(jnp.square(probs - own), axis=-1))


def brier_score(
    probs: Float[Array, "..."] | Ranking,
    labels: Int[Array, "*batch n"] | Bool[Array, "*batch n"] | Num[Array, "*batch n"] | None = None,
    *,
    where: Bool[Array, "*#batch #n"] | None = None,
) -> Float[Array, "*batch"]:
    r"""Brier score: the mean squared error of probabilities.

    $$\mathrm{BS} = \frac1n \sum_i \sum_k (p_{ik} - [y_i = k])^2
      \quad\text{or, of binary forecasts,}\quad \frac1n \sum_i (c_i - y_i)^2.$$

    The first is Brier's own. With two classes it is twice the second.

    Args:
      probs: `[..., n, c]` probabilities with class labels, `[..., n]` confidences with 0 or 1 for
        whether the prediction is correct, or a `Ranking` of confidences alone.
      labels: `[..., n]` classes, or whether the prediction is correct; None with a Ranking.
      where: `[..., n]` examples that count.

    Returns:
      `[...]` scores in [0, 2], or [0, 1] of binary forecasts. NaN when no example counts, when a
      probability is NaN, or, under `jit`, outside [0, 1].

    Raises:
      ValueError: a probability is outside [0, 1], a label is not a class, or the labels are one-hot
        code, not under `jit`.

    Reference: G. W. Brier, "Verification of forecasts expressed in terms of probability" (1950),
    equation 2.

    >>> probs = jnp.array([[0.5, 0.5], [0.25, 0.75]])
    >>> float(brier_score(probs, jnp.array([0, 1])))
    0.3125
    """
    if not isinstance(probs, Ranking) and labels is not None:
        probs, labels = jnp.asarray(probs), jnp.asarray(labels)
    if isinstance(probs, Ranking) or labels is None or probs.ndim == labels.ndim:
        if not isinstance(probs, Ranking) and labels is not None:
            refuse_one_hot(probs, labels)
        confidence, correct, weights = forecasts(probs, labels, where=where)
        squares = jnp.square(confidence - correct)
        return jnp.sum(weights * squares, axis=-1) / jnp.sum(weights, axis=-1)
    return jnp.mean(brier_terms(probs, labels, where=where), axis=-1, where=where)


def brier_decomposition(
    confidence: Float[Array, "*batch n"] | Ranking,
    correct: Bool[Array, "*batch n"] | Num[Array, "*batch n"] | None = None,
    *,
    num_bins: int = 15,
    binning: str = "equal_width",
    where: Bool[Array, "*#batch #n"] | None = None,
) -> BrierDecomposition:
    r"""Brier score of binary forecasts as reliability - resolution + uncertainty, in bins.

    $$\mathrm{BS} = \underbrace{\sum_b w_b (c_b - a_b)^2}_\text{reliability}
      - \underbrace{\sum_b w_b (a_b - a)^2}_\text{resolution}
      + \underbrace{a (1 - a)}_\text{uncertainty}
      + \underbrace{\sum_b w_b \mathrm{Var}_b(c)}_\text{within variance}
      - 2 \underbrace{\sum_b w_b \mathrm{Cov}_b(c, y)}_\text{within covariance},$$

    with share $w_b$, mean confidence $c_b$ and accuracy $a_b$ of bin b. The last two vanish when
    the forecasts in a bin are all equal. With them the identity is exact, whatever the bins.

    Args:
      confidence: `[..., n]` in [0, 1], or a `Ranking` of confidences alone.
      correct: `[..., n]` whether each prediction is correct, as booleans or 0 and 1.
      num_bins: number of bins.
      binning: "equal_width" or "equal_mass", as for `calibration_error`.
      where: `[..., n]` examples that count.

    Returns:
      A `BrierDecomposition`. All NaN when no example counts, a confidence is NaN or, under `jit`,
      outside [0, 1].

    Raises:
      ValueError: as `calibration_error`.

    References:
      A. H. Murphy, "A new vector partition of the probability score" (1973).
      D. B. Stephenson et al., "Two extra components in the Brier score decomposition" (2008).

    >>> parts = brier_decomposition(jnp.array([0.9, 0.9, 0.6, 0.6]), jnp.array([1, 1, 1, 0]))
    >>> [round(float(part), 4) for part in parts[:4]]
    [0.135, 0.01, 0.0625, 0.1875]
    """
    bins, index, given = bin_forecasts(
        confidence, correct, num_bins=num_bins, binning=binning, where=where
    )
    total = jnp.sum(given.weights, axis=-1)
    shares = given.weights / total[..., None]
    of_bin = bins.weight / total[..., None]
    filled = bins.weight > 0
    mean, rate = (jnp.where(filled, x, 0) for x in (bins.confidence, bins.accuracy))
    accuracy = jnp.sum(shares * given.correct, axis=-1)
    above = given.confidence - jnp.take_along_axis(mean, index, axis=-1)
    more = given.correct - jnp.take_along_axis(rate, index, axis=-1)
    brier = jnp.sum(shares * jnp.square(given.confidence - given.correct), axis=-1)
    parts = BrierDecomposition(
        brier=brier,
        reliability=jnp.sum(of_bin * jnp.square(mean - rate), axis=-1),
        resolution=jnp.sum(of_bin * jnp.square(rate - accuracy[..., None]), axis=-1),
        uncertainty=accuracy * (1 - accuracy),
        within_variance=jnp.sum(shares * above * above, axis=-1),
        within_covariance=jnp.sum(shares * above * more, axis=-1),
    )
    undefined = jnp.isnan(brier) | (total == 0)
    return jax.tree.map(lambda part: jnp.where(undefined, jnp.nan, part), parts)
