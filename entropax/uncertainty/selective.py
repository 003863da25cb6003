"""Predict only where the score is high: coverage at an accuracy, and the reverse."""

import jax.numpy as jnp
from jaxtyping import Bool, Float, Num

from entropax.types import Array
from entropax.uncertainty.ordering import (
    Ranking,
    as_fraction,
    blocks,
    is_share,
    ranking_of,
    undefined_as_nan,
    whole_share,
)


def coverage_at_accuracy(
    scores: Float[Array, "*batch n"] | Ranking,
    correct: Bool[Array, "*batch n"] | Num[Array, "*batch n"] | None = None,
    *,
    accuracy: float = 0.99,
    min_count: int = 1,
    semantics: str = "threshold",
    where: Bool[Array, "*#batch #n"] | None = None,
) -> Float[Array, "*batch"]:
    r"""Selective accuracy constraint: the largest share of the examples with this accuracy.

    $$\mathrm{SAC}(a) = \max_k \left\{ \frac kn : \frac{E_k}{k} \le 1 - a, \; k \ge k_0 \right\},$$

    where `E_k` is the number of errors among the `k` examples of highest score. The comparison is
    exact: 99 correct of 100 do meet 0.99.

    The published code of Galil et al. (2023) takes the first violation after rank 200, divides
    by `n + 1`, and gives 0 when there is none (`compat.coverage_for_desired_accuracy`).

    Args:
      scores: `[..., n]`, larger where the network is more confident, or a `Ranking` in their place.
      correct: `[..., n]` whether the prediction is correct; not with a `Ranking`.
      accuracy: to be met by what is kept, in `[0, 1]`, read by `as_fraction`.
      min_count: the fewest examples that may be kept. More than 1 keeps luck at the first few
        ranks from counting as coverage.
      semantics: "threshold" keeps all examples of a score or none, which is what a deployed
        threshold can do. "rank" also cuts between equal scores, in the order of the arguments; not
        with a `Ranking`, which may have lost that order.
      where: `[..., n]` examples that count; not with a `Ranking`.

    Returns:
      `[...]` shares in `[0, 1]`: 1 if all examples together meet the accuracy, 0 if no cut does;
      NaN where no example counts, or a score is NaN.

    Raises:
      ValueError: if `accuracy`, `min_count` or `semantics` is out of range, `correct` is missing,
        or `correct` or "rank" comes with a `Ranking`.

    Reference: I. Galil, M. Dabbah and R. El-Yaniv, "What can we learn from the selective prediction
    and uncertainty estimation performance of 523 ImageNet classifiers?" (2023).

    >>> scores, correct = jnp.array([0.9, 0.8, 0.5, 0.3]), jnp.array([1, 1, 0, 1])
    >>> float(coverage_at_accuracy(scores, correct)), float(
    ...     coverage_at_accuracy(scores, correct, accuracy=0.75)
    ... )
    (0.5, 1.0)
    """
    if not 0 <= accuracy <= 1:
        raise ValueError(f"`accuracy` must be from 0 to 1, got {accuracy}.")
    if min_count < 1:
        raise ValueError(f"`min_count` must be at least 1, got {min_count}.")
    if semantics not in ("threshold", "rank"):
        raise ValueError(f'`semantics` must be "threshold" or "rank", got "{semantics}".')
    if semantics == "rank" and isinstance(scores, Ranking):
        raise ValueError(
            'A Ranking may have lost the order of equal scores, in which `semantics="rank"` cuts; '
            "pass `scores` and `correct`."
        )
    ties = "any" if semantics == "threshold" else "input"
    ranking = ranking_of(scores, correct, ties=ties, where=where)
    found = blocks(ranking)
    met = is_share(found.errors, found.kept, 1 - as_fraction(accuracy))
    met = met & (found.kept >= min_count)
    if semantics == "threshold":
        met = met & found.ends
    kept = jnp.max(jnp.where(met, found.kept, 0), axis=-1, initial=0)
    total = found.total[..., 0]
    value = kept.astype(ranking.scores.dtype) / total
    return undefined_as_nan(value, defined=found.valid & (total > 0), like=ranking)


def accuracy_at_coverage(
    scores: Float[Array, "*batch n"] | Ranking,
    correct: Bool[Array, "*batch n"] | Num[Array, "*batch n"] | None = None,
    *,
    coverage: float,
    where: Bool[Array, "*#batch #n"] | None = None,
) -> Float[Array, "*batch"]:
    r"""Accuracy of the examples that the highest threshold keeps which keeps enough of them.

    $$1 - \frac{E_k}{k}, \qquad k = \min_t \{ k_t : k_t \ge c n \}, \quad
    k_t = \#\{i : s_i \ge t\}.$$

    Args:
      scores: `[..., n]`, larger where the network is more confident, or a `Ranking` in their place.
      correct: `[..., n]` whether the prediction is correct; not with a `Ranking`.
      coverage: share of the examples to keep, above 0 and up to 1, read by `as_fraction`. Equal
        scores are kept together, so that it may be more.
      where: `[..., n]` examples that count; not with a `Ranking`.

    Returns:
      `[...]` accuracies in `[0, 1]`; NaN where no example counts, or a score is NaN.

    Raises:
      ValueError: if `coverage` is not above 0 and up to 1, `correct` is missing, or comes with a
        `Ranking`.

    Reference: Y. Geifman and R. El-Yaniv, "Selective classification for deep neural networks"
    (2017), section 2.

    >>> scores, correct = jnp.array([0.9, 0.8, 0.5, 0.3]), jnp.array([1, 1, 0, 1])
    >>> float(accuracy_at_coverage(scores, correct, coverage=0.5))
    1.0
    """
    if not 0 < coverage <= 1:
        raise ValueError(f"`coverage` must be above 0 and at most 1, got {coverage}.")
    ranking = ranking_of(scores, correct, where=where)
    found = blocks(ranking)
    left_out = found.total - found.kept
    enough = found.ends & (left_out <= whole_share(found.total, 1 - as_fraction(coverage)))
    # Both counts only grow with the rank: the smallest are those of the first threshold.
    kept, errors = (
        jnp.min(jnp.where(enough, x, most), axis=-1, initial=2**31 - 1)
        for x, most in ((found.kept, found.total), (found.errors, found.total_errors))
    )
    value = 1 - errors.astype(ranking.scores.dtype) / kept
    defined = found.valid & (found.total[..., 0] > 0)
    return undefined_as_nan(value, defined=defined, like=ranking)
