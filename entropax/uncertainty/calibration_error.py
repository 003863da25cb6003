r"""Calibration error: how far stated confidences are from the rates at which they come true."""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, Num

from entropax.types import Array
from entropax.uncertainty.bins import Bins, bin_forecasts
from entropax.uncertainty.forecasts import not_classes, not_probabilities, refuse_one_hot
from entropax.uncertainty.ordering import Ranking


def calibration_error(
    probs: Float[Array, "..."] | Ranking,
    labels: Int[Array, "*batch n"] | Bool[Array, "*batch n"] | Num[Array, "*batch n"] | None = None,
    *,
    num_bins: int = 15,
    binning: str = "equal_width",
    norm: str = "l1",
    classes: str = "top",
    debiased: bool = False,
    where: Bool[Array, "*#batch #n"] | None = None,
) -> Float[Array, "*batch"]:
    r"""Binned calibration error: ECE, MCE, RMSCE, adaptive, class-wise or debiased.

    With the share $w_b$ of the examples, the mean confidence $c_b$ and the accuracy $a_b$ of bin b,

    $$\mathrm{ECE} = \sum_b w_b |c_b - a_b|, \qquad
      \mathrm{RMSCE} = \sqrt{\sum_b w_b (c_b - a_b)^2}, \qquad
      \mathrm{MCE} = \max_{b: w_b > 0} |c_b - a_b|.$$

    Bins are closed on the right; a confidence of 0 is in the first, 1 in the last. Torchmetrics 1.9
    closes them on the left and puts 1 in a bin of its own; the published code (Galil et al. 2023,
    benchmarking-uncertainty-estimation-performance) leaves out a confidence of 0.

    A binned error of few examples is above 0 even for a calibrated network. The debiased estimate
    subtracts what chance adds, with $n_b$ examples in bin b:

    $$\widehat{\mathrm{CE}^2}
      = \sum_b w_b \Big((c_b - a_b)^2 - \frac{a_b (1 - a_b)}{n_b - 1}\Big).$$

    Args:
      probs: `[..., n, c]` probabilities with class labels, `[..., n]` confidences with 0 or 1 for
        whether the prediction is correct, or a `Ranking` of confidences alone.
      labels: `[..., n]` classes, or whether the prediction is correct; None with a Ranking.
      num_bins: number of bins.
      binning: "equal_width", or "equal_mass": equally many examples in each, except that equal
        confidences share a bin.
      norm: "l1" (ECE), "l2" (RMSCE) or "max" (MCE).
      classes: "top" asks whether the largest probability is right as often as it says. "each"
        asks so of the probability of every class, and gives the mean over the classes.
      debiased: the debiased estimate of the *squared* error, for `norm="l2"` alone. It may be
        negative, and its root would be biased again. A bin of one example tells nothing, and
        counts as 0.
      where: `[..., n]` examples that count.

    Returns:
      `[...]` errors in [0, 1]. NaN when no example counts, when a probability is NaN, or, under
      `jit`, outside [0, 1]; 1e-6 beyond is rounding.

    Raises:
      ValueError: an unknown option, `debiased` with another norm, `classes="each"` without the
        probabilities of all classes, or, not under `jit`, a probability outside [0, 1], a label
        that is not a class, or labels in one-hot code.

    References:
      M. P. Naeini et al., "Obtaining well calibrated probabilities using Bayesian binning" (2015),
        for ECE and MCE.
      J. Nixon et al., "Measuring calibration in deep learning" (2019), section 3, for equal masses
        and classes.
      A. Kumar et al., "Verified uncertainty calibration" (2019), definition 5.1, for the debiased
        estimate.

    >>> confidence = jnp.array([0.9, 0.9, 0.6, 0.6])
    >>> round(float(calibration_error(confidence, jnp.array([1, 1, 1, 0]))), 4)
    0.1
    """
    if norm not in ("l1", "l2", "max"):
        raise ValueError(f'`norm` must be "l1", "l2" or "max", got "{norm}".')
    if classes not in ("top", "each"):
        raise ValueError(f'`classes` must be "top" or "each", got "{classes}".')
    if debiased and norm != "l2":
        raise ValueError(f'Only the error with `norm="l2"` can be debiased, got norm="{norm}".')

    def error(
        confidence: Float[Array, "*batch n"] | Ranking,
        correct: Bool[Array, "*batch n"] | Num[Array, "*batch n"] | None,
        where: Bool[Array, "*#batch #n"] | None,
    ) -> Float[Array, "*batch"]:
        bins, _, _ = bin_forecasts(
            confidence, correct, num_bins=num_bins, binning=binning, where=where
        )
        return _summary(bins, norm, debiased)

    if not isinstance(probs, Ranking) and labels is not None:
        probs, labels = jnp.asarray(probs), jnp.asarray(labels)
    if isinstance(probs, Ranking) or labels is None or probs.ndim == labels.ndim:
        if classes == "each":
            raise ValueError(
                '`classes="each"` needs probabilities [..., n, c] and labels [..., n].'
            )
        if not isinstance(probs, Ranking) and labels is not None:
            refuse_one_hot(probs, labels)
        return error(probs, labels, where)
    counted = jnp.broadcast_to(True if where is None else where, labels.shape)
    invalid = not_classes(labels, probs.shape[-1], where=counted)
    invalid |= jnp.any(not_probabilities(probs, where=counted[..., None]), axis=-1)
    if classes == "top":
        correct = jnp.asarray(jnp.argmax(probs, axis=-1) == labels)
        result = error(jnp.max(probs, axis=-1), correct, where)
    else:
        of_class = jax.lax.map(
            lambda k: error(jnp.take(probs, k, axis=-1), labels == k, where),
            jnp.arange(probs.shape[-1]),
        )
        result = jnp.mean(of_class, axis=0)
    return jnp.where(jnp.any(invalid, axis=-1), jnp.nan, result)


def _summary(bins: Bins, norm: str, debiased: bool) -> Float[Array, "*batch"]:
    filled = bins.weight > 0
    gap = jnp.where(filled, bins.confidence - bins.accuracy, 0)
    total = jnp.sum(bins.weight, axis=-1)
    if norm == "max":
        worst = jnp.max(jnp.abs(gap), axis=-1)
        return jnp.where((total > 0) & ~jnp.any(jnp.isnan(gap), axis=-1), worst, jnp.nan)
    share = bins.weight / total[..., None]
    if norm == "l1":
        return jnp.sum(share * jnp.abs(gap), axis=-1)
    squares = jnp.square(gap)
    if not debiased:
        return jnp.sqrt(jnp.sum(share * squares, axis=-1))
    accuracy = jnp.where(filled, bins.accuracy, 0)
    chance = accuracy * (1 - accuracy) / jnp.maximum(bins.weight - 1, 1)
    debiased_squares = jnp.where(bins.weight > 1, squares - chance, 0 * gap)  # NaN stays
    return jnp.sum(share * debiased_squares, axis=-1)
