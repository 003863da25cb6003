"""Risk against coverage: the error rate of the predictions that are kept, over how many are kept.

Equal scores are taken in every order with the same probability: within a block of `m` equal scores
with `e` errors the number of errors grows by `e / m` a rank. That expectation depends on no sort.
"""

import functools
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, Int, Num

from entropax.types import Array
from entropax.uncertainty.ordering import (
    Ranking,
    as_float,
    blocks,
    ranking_of,
    ratio,
    undefined_as_nan,
)

# Up to here harmonic numbers are summed; from here on four terms of their expansion are exact to
# 1e-11.
_SUMMED = 8


class RiskCoverage(NamedTuple):
    """A risk-coverage curve, rank by rank.

    Attributes:
      coverage: `[..., n]` share of the examples kept down to this rank.
      risk: `[..., n]` their error rate, as the expectation over the order of equal scores.
      threshold: `[..., n]` score at this rank.
      attained: `[..., n]` True where a threshold on the score keeps just these examples: the last
        rank of each score. What lies between is a chord in the number of errors.
    """

    coverage: Float[Array, "*batch n"]
    risk: Float[Array, "*batch n"]
    threshold: Float[Array, "*scores n"]
    attained: Bool[Array, "*batch n"]


def risk_coverage_curve(
    scores: Float[Array, "*batch n"] | Ranking,
    correct: Bool[Array, "*batch n"] | Num[Array, "*batch n"] | None = None,
    *,
    where: Bool[Array, "*#batch #n"] | None = None,
) -> RiskCoverage:
    r"""Error rate of the `k` predictions of highest score, for each `k`.

    $$\mathrm{risk}_k = \frac{1}{k} \left( E' + \frac em (k - k') \right)$$

    in a block of `m` equal scores with `e` errors, after `k'` examples with `E'` errors.

    Args:
      scores: `[..., n]`, larger where the network is more confident, or a `Ranking` in their place.
      correct: `[..., n]` whether the prediction is correct; not with a `Ranking`.
      where: `[..., n]` examples that count; not with a `Ranking`.

    Returns:
      The curve. Ranks of examples that do not count repeat the end of it, and no threshold attains
      them. All of `coverage` and `risk` are NaN where no example counts, or a score is NaN.

    Raises:
      ValueError: if `correct` is missing, or comes with a `Ranking`.

    Reference: Y. Geifman and R. El-Yaniv, "Selective classification for deep neural networks"
    (2017), section 2.

    >>> curve = risk_coverage_curve(jnp.array([0.9, 0.5, 0.5, 0.3]), jnp.array([1, 1, 0, 0]))
    >>> curve.risk.tolist(), curve.attained.tolist()
    ([0.0, 0.25, 0.3333333432674408, 0.5], [True, False, True, True])
    """
    ranking = ranking_of(scores, correct, where=where)
    found = blocks(ranking)
    n = ranking.scores.shape[-1]
    end = jnp.where(found.ends, lax.iota(jnp.int32, n), n - 1)
    end = lax.cummin(end, axis=end.ndim - 1, reverse=True)
    end = jnp.broadcast_to(end, found.kept.shape)
    at_end = (
        jnp.take_along_axis(x, end, axis=-1, mode="promise_in_bounds")
        for x in (found.kept, found.errors)
    )
    kept_at_end, errors_at_end = (x.astype(ranking.scores.dtype) for x in at_end)
    kept, _, kept_before, errors_before, total, _ = as_float(found, ranking)
    slope = ratio(errors_at_end - errors_before, kept_at_end - kept_before)
    defined = (found.valid & (found.total[..., 0] > 0))[..., None]
    coverage, risk = (
        undefined_as_nan(x, defined=defined, like=ranking)
        for x in (kept / total, ratio(errors_before + slope * (kept - kept_before), kept))
    )
    attained = (ranking.weights > 0) & (kept == kept_at_end) & defined
    return RiskCoverage(coverage, risk, ranking.scores, attained)


def _harmonic_between(
    lower: Int[Array, "*shape"], upper: Int[Array, "*shape"], dtype: DTypeLike
) -> Float[Array, "*shape"]:
    """Sum of 1/k for `lower < k <= upper`, without the difference of two harmonic numbers.

    Summed up to 8, then by the expansion about the middle, ln(n + 1/2) + 1/(24 (n + 1/2)^2) - ...
    """
    total = jnp.zeros(lower.shape, dtype)
    for k in range(1, _SUMMED + 1):
        total = total + jnp.where((lower < k) & (k <= upper), jnp.asarray(1 / k, dtype), 0)
    low, high = (jnp.maximum(x, _SUMMED).astype(dtype) for x in (lower, upper))

    def correction(n: Array) -> Array:
        y = 1 / jnp.square(n + 0.5)
        return y * (1 / 24 - y * (7 / 960 - y * (31 / 8064 - y * (127 / 30720))))

    tail = jnp.log1p((high - low) / (low + 0.5)) + (correction(high) - correction(low))
    # Compiled, the difference of equal corrections may be their rounding.
    return jnp.where(lower < upper, total + tail, 0)


def _risk_sums(ranking: Ranking) -> tuple[Array, Array, Array]:
    """Sums of the risks, their excess over those of a perfect ranking, and of how many examples."""
    found = blocks(ranking)
    kept, errors, kept_before, errors_before, total, total_errors = as_float(found, ranking)
    count, new = kept - kept_before, errors - errors_before
    # Fused with the sums that the counts come from, XLA makes a loop of this that it does not
    # vectorise, ten times as slow: the arguments of a conditional are in memory.
    between = lax.cond(
        jnp.any(found.valid),
        functools.partial(_harmonic_between, dtype=ranking.scores.dtype),
        lambda lower, upper: jnp.zeros(upper.shape, ranking.scores.dtype),
        found.kept_before,
        found.kept,
    )
    base = errors_before - ratio(new, count) * kept_before
    sums = new + base * between
    # A perfect ranking makes its first error after all that is correct. Before that its risk is 0;
    # after that the differences below are of whole numbers, so that a perfect ranking exceeds
    # itself by exactly 0. One block at most lies across.
    total_correct = found.total - found.total_errors
    first = jnp.clip(total_correct, found.kept_before, found.kept)
    of_best = _harmonic_between(first, found.kept, ranking.scores.dtype)
    correct = total - total_errors
    excess = jnp.where(
        found.kept_before >= total_correct,
        (new - count) + (base + correct) * between,
        sums - ((kept - jnp.asarray(first, kept.dtype)) - correct * of_best),
    )
    excess = jnp.where(found.kept <= total_correct, sums, excess)
    # Divided after the sum, which is exact where the risks are whole numbers.
    sums, excess = (jnp.sum(x, axis=-1, where=found.ends) for x in (sums, excess))
    return sums, excess, jnp.where(found.valid, total[..., 0], 0)


def aurc(
    scores: Float[Array, "*batch n"] | Ranking,
    correct: Bool[Array, "*batch n"] | Num[Array, "*batch n"] | None = None,
    *,
    where: Bool[Array, "*#batch #n"] | None = None,
) -> Float[Array, "*batch"]:
    r"""Area under the risk-coverage curve: the mean over all coverages of the selective risk.

    $$\mathrm{AURC} = \frac1n \sum_{k=1}^n \mathrm{risk}_k,$$

    as the expectation over the order of equal scores. A block of `m` equal scores with `e` errors,
    after `k'` examples with `E'` errors, adds
    $e + (E' - e k'/m)(H_{k'+m} - H_{k'})$ to the sum, where $H$ are the harmonic numbers. The
    published code of Galil et al. (2023) takes equal scores as the sort left them
    (`compat.aurc`). Libraries that integrate by trapezoids differ in the order of `1/n`.

    Args:
      scores: `[..., n]`, larger where the network is more confident, or a `Ranking` in their place.
      correct: `[..., n]` whether the prediction is correct; not with a `Ranking`.
      where: `[..., n]` examples that count; not with a `Ranking`.

    Returns:
      `[...]` areas in `[0, 1]`, smaller is better; the error rate for scores that say nothing. NaN
      where no example counts, or a score is NaN.

    Raises:
      ValueError: if `correct` is missing, or comes with a `Ranking`.

    Reference: Y. Geifman, G. Uziel and R. El-Yaniv, "Bias-reduced uncertainty estimation for deep
    neural classifiers" (2019).

    >>> float(aurc(jnp.array([0.9, 0.5, 0.3]), jnp.array([1, 0, 1])))  # (0 + 1/2 + 1/3) / 3
    0.2777777910232544
    """
    ranking = ranking_of(scores, correct, where=where)
    sums, _, total = _risk_sums(ranking)
    return undefined_as_nan(sums / total, defined=total > 0, like=ranking)


def excess_aurc(
    scores: Float[Array, "*batch n"] | Ranking,
    correct: Bool[Array, "*batch n"] | Num[Array, "*batch n"] | None = None,
    *,
    where: Bool[Array, "*#batch #n"] | None = None,
) -> Float[Array, "*batch"]:
    r"""AURC above that of a perfect ranking with the same number of errors.

    $$\mathrm{E\text{-}AURC} = \mathrm{AURC} - \frac1n \sum_{k=P+1}^{n} \frac{k - P}{k}$$

    for `P` correct predictions. The paper, and `compat.eaurc`, subtract the limit for many
    examples, $r + (1 - r) \ln(1 - r)$ for an error rate `r`, which is a little less: a perfect
    ranking has an excess above 0 there, 0.097 for two examples.

    Args:
      scores: `[..., n]`, larger where the network is more confident, or a `Ranking` in their place.
      correct: `[..., n]` whether the prediction is correct; not with a `Ranking`.
      where: `[..., n]` examples that count; not with a `Ranking`.

    Returns:
      `[...]` numbers from 0, which a perfect ranking has exactly; NaN where no example counts, or a
      score is NaN.

    Raises:
      ValueError: if `correct` is missing, or comes with a `Ranking`.

    Reference: Y. Geifman, G. Uziel and R. El-Yaniv, "Bias-reduced uncertainty estimation for deep
    neural classifiers" (2019).

    >>> float(excess_aurc(jnp.array([0.9, 0.5, 0.3]), jnp.array([1, 1, 0])))
    0.0
    """
    ranking = ranking_of(scores, correct, where=where)
    _, excess, total = _risk_sums(ranking)
    return undefined_as_nan(excess / total, defined=total > 0, like=ranking)


def augrc(
    scores: Float[Array, "*batch n"] | Ranking,
    correct: Bool[Array, "*batch n"] | Num[Array, "*batch n"] | None = None,
    *,
    where: Bool[Array, "*#batch #n"] | None = None,
) -> Float[Array, "*batch"]:
    r"""Area under the generalised risk-coverage curve: how often a kept prediction fails silently.

    $$\mathrm{AUGRC} = \frac1n \sum_{k=1}^n \frac{E_k}{n},$$

    with `E_k` errors among the `k` examples of highest score, as the expectation over the order of
    equal scores. Errors count by their number and not by their share of what is kept, so that the
    first few ranks weigh no more than others.

    Args:
      scores: `[..., n]`, larger where the network is more confident, or a `Ranking` in their place.
      correct: `[..., n]` whether the prediction is correct; not with a `Ranking`.
      where: `[..., n]` examples that count; not with a `Ranking`.

    Returns:
      `[...]` areas in `[0, 1]`, smaller is better. For many examples it is
      $(1 - \mathrm{AUROC}) r (1 - r) + r^2 / 2$ with the error rate `r`, and `r / (2n)` more for
      `n`. NaN where no example counts, or a score is NaN.

    Raises:
      ValueError: if `correct` is missing, or comes with a `Ranking`.

    Reference: J. Traub et al., "Overcoming common flaws in the evaluation of selective
    classification systems" (2024).

    >>> float(augrc(jnp.array([0.9, 0.5, 0.3, 0.1]), jnp.array([1, 1, 0, 1])))  # 2 / 16
    0.125
    """
    ranking = ranking_of(scores, correct, where=where)
    found = blocks(ranking)
    kept, errors, kept_before, errors_before, total, _ = as_float(found, ranking)
    count, new = kept - kept_before, errors - errors_before
    sums = (count / total) * (errors_before / total) + (new / total) * ((count + 1) / (2 * total))
    value = jnp.sum(sums, axis=-1, where=found.ends)
    defined = found.valid & (found.total[..., 0] > 0)
    return undefined_as_nan(value, defined=defined, like=ranking)
