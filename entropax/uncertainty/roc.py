"""Do correct predictions get higher scores than wrong ones? Metrics of the two error rates."""

import jax.numpy as jnp
from jaxtyping import Bool, Float, Num

from entropax.types import Array
from entropax.uncertainty.ordering import (
    Ranking,
    as_float,
    as_fraction,
    blocks,
    ranking_of,
    ratio,
    undefined_as_nan,
    whole_share,
)


def auroc(
    scores: Float[Array, "*batch n"] | Ranking,
    correct: Bool[Array, "*batch n"] | Num[Array, "*batch n"] | None = None,
    *,
    where: Bool[Array, "*#batch #n"] | None = None,
) -> Float[Array, "*batch"]:
    r"""Area under the ROC curve: how often a correct prediction has a higher score than an error.

    $$\mathrm{AUROC} = \frac{1}{PN} \sum_{i \text{ correct}} \sum_{j \text{ wrong}}
    \left( [s_i > s_j] + \tfrac12 [s_i = s_j] \right)$$

    for `P` correct and `N` wrong predictions. The published code of Galil et al. (2023) counts
    a pair of equal scores as 0 or 1 by the place that the sort gave it (`compat.auroc`).

    Args:
      scores: `[..., n]`, larger where the network is more confident, or a `Ranking` in their place.
      correct: `[..., n]` whether the prediction is correct; not with a `Ranking`.
      where: `[..., n]` examples that count; not with a `Ranking`.

    Returns:
      `[...]` areas in `[0, 1]`, 0.5 for scores that say nothing; NaN where no prediction is
      correct, none is wrong, or a score is NaN.

    Raises:
      ValueError: if `correct` is missing, or comes with a `Ranking`.

    Reference: T. Fawcett, "An introduction to ROC analysis" (2006), section 7.

    >>> float(auroc(jnp.array([0.9, 0.8, 0.3, 0.3]), jnp.array([1, 0, 1, 0])))
    0.625
    """
    ranking = ranking_of(scores, correct, where=where)
    found = blocks(ranking)
    kept, errors, kept_before, errors_before, total, total_errors = as_float(found, ranking)
    total_correct = total - total_errors
    above = ratio((kept - errors) + (kept_before - errors_before), 2 * total_correct)
    value = jnp.sum(above * ratio(errors - errors_before, total_errors), axis=-1, where=found.ends)
    defined = found.valid & (total_correct * total_errors > 0)[..., 0]
    return undefined_as_nan(value, defined=defined, like=ranking)


def average_precision(
    scores: Float[Array, "*batch n"] | Ranking,
    correct: Bool[Array, "*batch n"] | Num[Array, "*batch n"] | None = None,
    *,
    positive: str = "success",
    where: Bool[Array, "*#batch #n"] | None = None,
) -> Float[Array, "*batch"]:
    r"""Area under the precision-recall curve, as a sum over thresholds without interpolation.

    $$\mathrm{AP} = \sum_t (R_t - R_{t-1}) P_t$$

    over the distinct scores, with precision `P` and recall `R` of what the threshold picks: correct
    predictions from the highest score downwards, or errors from the lowest score upwards.

    Args:
      scores: `[..., n]`, larger where the network is more confident, or a `Ranking` in their place.
      correct: `[..., n]` whether the prediction is correct; not with a `Ranking`.
      positive: what is to be found: "success" or "error".
      where: `[..., n]` examples that count; not with a `Ranking`.

    Returns:
      `[...]` areas in `[0, 1]`, about the share of positives for scores that say nothing; NaN where
      there is no positive, or a score is NaN.

    Raises:
      ValueError: if `positive` is unknown, `correct` is missing, or comes with a `Ranking`.

    Reference: D. Hendrycks and K. Gimpel, "A baseline for detecting misclassified and
    out-of-distribution examples in neural networks" (2017), section 2 (AUPR-Success, AUPR-Error);
    the sum is that of scikit-learn's `average_precision_score`.

    >>> float(average_precision(jnp.array([0.9, 0.8, 0.3, 0.3]), jnp.array([1, 0, 1, 0])))
    0.75
    """
    if positive not in ("success", "error"):
        raise ValueError(f'`positive` must be "success" or "error", got "{positive}".')
    ranking = ranking_of(scores, correct, where=where)
    found = blocks(ranking)
    kept, errors, kept_before, errors_before, total, total_errors = as_float(found, ranking)
    if positive == "success":
        positives = total - total_errors
        new = (kept - errors) - (kept_before - errors_before)
        precision = ratio(kept - errors, kept)
    else:
        positives = total_errors
        new = errors - errors_before
        precision = ratio(total_errors - errors_before, total - kept_before)
    value = jnp.sum(ratio(new, positives) * precision, axis=-1, where=found.ends)
    defined = found.valid & (positives > 0)[..., 0]
    return undefined_as_nan(value, defined=defined, like=ranking)


def fpr_at_tpr(
    scores: Float[Array, "*batch n"] | Ranking,
    correct: Bool[Array, "*batch n"] | Num[Array, "*batch n"] | None = None,
    *,
    tpr: float = 0.95,
    where: Bool[Array, "*#batch #n"] | None = None,
) -> Float[Array, "*batch"]:
    r"""Share of the errors that pass the highest threshold which keeps enough correct predictions.

    $$\mathrm{FPR} = \min_t \left\{ \frac{\#\{j \text{ wrong}: s_j \ge t\}}{N} :
    \frac{\#\{i \text{ correct}: s_i \ge t\}}{P} \ge \mathrm{TPR} \right\}$$

    Thresholds are scores, so that equal scores pass together; nothing is interpolated.

    Args:
      scores: `[..., n]`, larger where the network is more confident, or a `Ranking` in their place.
      correct: `[..., n]` whether the prediction is correct; not with a `Ranking`.
      tpr: share of the correct predictions to keep, above 0 and up to 1, read by `as_fraction`.
      where: `[..., n]` examples that count; not with a `Ranking`.

    Returns:
      `[...]` rates in `[0, 1]`, about `tpr` for scores that say nothing; NaN where no prediction
      is correct, none is wrong, or a score is NaN.

    Raises:
      ValueError: if `tpr` is not above 0 and up to 1, `correct` is missing, or comes with a
        `Ranking`.

    Reference: S. Liang, Y. Li and R. Srikant, "Enhancing the reliability of out-of-distribution
    image detection in neural networks" (2018), section 4.3.

    >>> float(fpr_at_tpr(jnp.array([0.9, 0.8, 0.5, 0.3]), jnp.array([1, 0, 1, 0])))
    0.5
    """
    if not 0 < tpr <= 1:
        raise ValueError(f"`tpr` must be above 0 and at most 1, got {tpr}.")
    ranking = ranking_of(scores, correct, where=where)
    found = blocks(ranking)
    total_correct = found.total - found.total_errors
    missed = total_correct - (found.kept - found.errors)
    enough = missed <= whole_share(total_correct, 1 - as_fraction(tpr))
    most = found.total_errors[..., 0]
    passed = jnp.min(
        jnp.where(found.ends & enough, found.errors, found.total_errors), axis=-1, initial=2**31 - 1
    )
    value = passed.astype(ranking.scores.dtype) / most
    defined = found.valid & (total_correct[..., 0] > 0) & (most > 0)
    return undefined_as_nan(value, defined=defined, like=ranking)
