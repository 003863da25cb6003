"""One sort for all ranking metrics: examples by falling score, and the blocks of equal scores.

A score is higher where the network is more confident. What a threshold keeps does not depend on the
order of equal scores, so that every metric is a sum over blocks of them, of four whole numbers: the
examples and the errors kept with the block, and those kept before it.

A comparison sort of two arrays takes XLA 6 to 10 times as long on a CPU as one of a single array of
whole numbers. A score and whether the prediction is correct fit in one word, since the sign need
not be stored: negative scores are sorted by themselves.
"""

import functools
from fractions import Fraction
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Bool, Float, Int, Num

from entropax.types import Array

# Up to the first, single precision tells fractions apart. Up to the second, `whole_share` stays in
# int32, and up to six decimals are exact.
_DENOMINATORS = 46340, 2**20
_DIGITS = 2**10
# By so much may a number up to 1 have been rounded in single precision.
_ROUNDING = 2.0**-25


class Ranking(NamedTuple):
    """Examples by falling score, which every ranking metric takes in place of scores.

    Attributes:
      scores: `[..., n]` from the largest to the smallest; those that do not count are last, and
        `-inf`. All NaN where the data was not valid: every metric is NaN then.
      correct: `[..., n]` 1 where the prediction is correct, 0 where it is not.
      weights: `[..., n]` how many times each example counts, a whole number: 1, or 0 for one that
        does not. Bootstrap replicates differ in nothing but these. With a weight that is
        negative or not whole every metric is NaN.
    """

    scores: Float[Array, "*batch n"]
    correct: Num[Array, "*batch n"]
    weights: Num[Array, "*batch n"]


class Blocks(NamedTuple):
    """The examples that are kept at each rank of a ranking, with all that have the same score.

    Attributes:
      ends: `[..., n]` True at the last example of each score. The fields below describe the block
        of equal scores that ends there, and mean nothing elsewhere.
      kept: `[..., n]` how many examples have this score or a larger one.
      errors: `[..., n]` how many of these are wrong.
      kept_before: `[..., n]` how many examples have a larger score.
      errors_before: `[..., n]` how many of these are wrong.
      total: `[..., 1]` how many examples there are.
      total_errors: `[..., 1]` how many of all are wrong.
      valid: `[...]` False where the data was not valid.
    """

    ends: Bool[Array, "*scores n"]
    kept: Int[Array, "*batch n"]
    errors: Int[Array, "*batch n"]
    kept_before: Int[Array, "*batch n"]
    errors_before: Int[Array, "*batch n"]
    total: Int[Array, "*batch 1"]
    total_errors: Int[Array, "*batch 1"]
    valid: Bool[Array, "*batch"]


def _positions(n: int) -> Int[Array, " n"]:
    return lax.iota(jnp.int32, n)


def _sort_words(scores: Array, correct: Array, where: Array) -> tuple[Array, Array]:
    """Sort by falling score, what does not count last; equal scores in any order."""
    whole = jnp.uint64 if scores.dtype == jnp.float64 else jnp.uint32
    word = (lax.bitcast_convert_type(jnp.abs(scores), whole) << 1) | correct.astype(whole)
    positive, negative = where & (scores >= 0), where & (scores < 0)
    last = jnp.array(jnp.iinfo(whole).max, whole)
    # In the second array the places of the others come first, so that the two sorted arrays need
    # only be laid over each other. Places that do not count may look like others: they are last.
    words = [jnp.where(positive, ~word, last), jnp.where(negative, word, jnp.where(where, 0, last))]
    # Of equal words the order makes no difference: on a CPU the stable sort is a sixth faster.
    sort = functools.partial(
        lax.platform_dependent,
        cpu=functools.partial(lax.sort, dimension=-1, is_stable=True),
        default=functools.partial(lax.sort, dimension=-1, is_stable=False),
    )
    high, low = (
        lax.cond(jnp.any(present), sort, lambda x: x, x)
        for present, x in zip((positive, negative), words, strict=True)
    )
    is_high = _positions(scores.shape[-1]) < jnp.sum(positive, axis=-1, keepdims=True)
    word = jnp.where(is_high, ~high, low)
    size = lax.bitcast_convert_type(word >> 1, scores.dtype)
    return jnp.where(is_high, size, -size), (word & 1).astype(scores.dtype)


def _sort_stable(scores: Array, correct: Array, where: Array) -> tuple[Array, Array]:
    """Sort by falling score, what does not count last; equal scores in the order given."""
    operands = (~where, -scores, correct.astype(scores.dtype))
    _, scores, correct = lax.sort(operands, dimension=-1, num_keys=2, is_stable=True)
    return -scores, correct


def rank(
    scores: Float[Array, "*batch n"],
    correct: Bool[Array, "*batch n"] | Num[Array, "*batch n"],
    *,
    ties: str = "any",
    where: Bool[Array, "*#batch #n"] | None = None,
) -> Ranking:
    """Sort examples by falling score, once for all ranking metrics.

    Args:
      scores: `[..., n]` larger where the network is more confident; infinite ones are allowed.
      correct: `[..., n]` whether the prediction is correct, as booleans or 0 and 1.
      ties: "any" leaves the order of equal scores open, and "input" keeps that of the arguments,
        which takes several times as long on a CPU and matters to metrics that cut between equal
        scores alone.
      where: `[..., n]` examples that count.

    Returns:
      The examples in order. A NaN among the scores that count, or a `correct` other than 0 and 1,
      makes all scores NaN, and then every metric.

    Raises:
      ValueError: if `ties` is unknown.

    >>> ranking = rank(jnp.array([0.25, 0.875, 0.5]), jnp.array([0, 1, 1]))
    >>> ranking.scores.tolist(), ranking.correct.tolist()
    ([0.875, 0.5, 0.25], [1.0, 1.0, 0.0])
    """
    if ties not in ("any", "input"):
        raise ValueError(f'`ties` must be "any" or "input", got "{ties}".')
    scores, correct, where, strange = checked(scores, correct, where=where)
    sort = _sort_words if ties == "any" else _sort_stable
    scores, correct = sort(scores, correct, where)
    counts = _positions(scores.shape[-1]) < jnp.sum(where, axis=-1, keepdims=True)
    scores = jnp.where(counts, scores, -jnp.inf)
    scores = jnp.where(strange, jnp.nan, scores)
    return Ranking(scores, jnp.where(counts, correct, 0), counts.astype(scores.dtype))


def checked(
    scores: Float[Array, "*batch n"],
    correct: Bool[Array, "*batch n"] | Num[Array, "*batch n"],
    *,
    where: Bool[Array, "*#batch #n"] | None = None,
) -> tuple[
    Float[Array, "*batch n"],
    Bool[Array, "*batch n"] | Num[Array, "*batch n"],
    Bool[Array, "*batch n"],
    Bool[Array, "*batch 1"],
]:
    """What is about to be sorted: scores of float32 at least, `correct`, and which examples count.

    The last result is True where the data are not valid: a NaN among the scores that count, or
    a `correct` other than 0 and 1.

    >>> scores, _, where, strange = checked(jnp.array([0.5, -0.0], jnp.float16), jnp.array([1, 2]))
    >>> scores.tolist(), where.tolist(), strange.tolist()
    ([0.5, 0.0], [True, True], [True])
    """
    scores, correct = jnp.asarray(scores), jnp.asarray(correct)
    scores = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
    where = jnp.broadcast_to(True if where is None else where, scores.shape)
    strange = jnp.isnan(scores) | ((correct != 0) & (correct != 1))
    strange = jnp.any(strange & where, axis=-1, keepdims=True)
    scores = jnp.where(scores == 0, 0, scores)  # -0 is equal to 0, and has another word
    return scores, correct, where, strange


def are_counts(weights: Num[Array, "*batch n"]) -> Bool[Array, "*batch"]:
    """Whether all weights are whole numbers from 0 on, as how many times something counts is.

    >>> are_counts(jnp.array([[2.0, 0.0], [0.5, 1.0]])).tolist()
    [True, False]
    """
    return jnp.all((weights >= 0) & (weights == jnp.floor(weights)), axis=-1)


def ranking_of(
    scores: Float[Array, "*batch n"] | Ranking,
    correct: Bool[Array, "*batch n"] | Num[Array, "*batch n"] | None,
    *,
    ties: str = "any",
    where: Bool[Array, "*#batch #n"] | None = None,
) -> Ranking:
    """Sort what a metric was given, unless that has been done.

    Raises:
      ValueError: if `correct` is missing, or if a ranking comes with `correct` or `where`.

    >>> ranking = rank(jnp.array([0.2, 0.9]), jnp.array([0, 1]))
    >>> ranking_of(ranking, None) is ranking
    True
    """
    if isinstance(scores, Ranking):
        if correct is not None or where is not None:
            raise ValueError("A Ranking holds `correct` and `where`; pass it alone.")
        return scores
    if correct is None:
        raise ValueError("`correct` is missing; only a Ranking comes without it.")
    return rank(scores, correct, ties=ties, where=where)


def blocks(ranking: Ranking) -> Blocks:
    """Count what a threshold at each score keeps, from which all ranking metrics follow.

    Args:
      ranking: from `rank`; its weights may have been replaced.

    Returns:
      Whole numbers, exact up to two thousand million examples.

    >>> found = blocks(rank(jnp.array([0.5, 0.9, 0.5]), jnp.array([0, 1, 1])))
    >>> found.ends.tolist(), found.kept.tolist(), found.errors.tolist()
    ([True, False, True], [1, 2, 3], [0, 0, 1])
    """
    scores = ranking.scores
    position = _positions(scores.shape[-1])
    weights = ranking.weights.astype(jnp.int32)
    wrong = weights * (ranking.correct == 0)
    kept, errors = (lax.cumsum(x, axis=x.ndim - 1) for x in (weights, wrong))
    begins = (scores != jnp.roll(scores, 1, axis=-1)) | (position == 0)
    ends = jnp.roll(begins, -1, axis=-1) | (position == scores.shape[-1] - 1)
    start = lax.cummax(jnp.where(begins, position, 0), axis=scores.ndim - 1)
    # The places are right by construction: no need to check the bounds.
    at_start = functools.partial(jnp.take_along_axis, axis=-1, mode="promise_in_bounds")
    start = jnp.broadcast_to(start, kept.shape)
    return Blocks(
        ends=ends,
        kept=kept,
        errors=errors,
        kept_before=at_start(kept - weights, start),
        errors_before=at_start(errors - wrong, start),
        total=jnp.sum(weights, axis=-1, keepdims=True, dtype=jnp.int32),
        total_errors=jnp.sum(wrong, axis=-1, keepdims=True, dtype=jnp.int32),
        valid=~jnp.any(jnp.isnan(scores[..., :1]), axis=-1) & are_counts(ranking.weights),
    )


def whole_share(count: Int[Array, "*shape"], share: Fraction) -> Int[Array, "*shape"]:
    r"""Largest whole number up to a share of a count, without rounding.

    $$\lfloor s c \rfloor = p q + \lfloor p r / d \rfloor, \qquad s = p / d, \quad c = q d + r,$$

    and $p r / d$ by long division, in digits to the base 1,024.

    Args:
      count: whole numbers, not negative.
      share: from 0 to 1, with a denominator of `as_fraction`.

    >>> whole_share(jnp.array([100, 199, 200]), as_fraction(0.01)).tolist()
    [1, 1, 2]
    """
    numerator, denominator = share.numerator, share.denominator
    quotient, rest = jnp.divmod(count, denominator)
    high, carried = jnp.divmod(numerator * (rest // _DIGITS), denominator)
    low = (carried * _DIGITS + numerator * (rest % _DIGITS)) // denominator
    return numerator * quotient + high * _DIGITS + low


def is_share(
    part: Int[Array, "*shape"], count: Int[Array, "*#shape"], share: Fraction
) -> Bool[Array, "*shape"]:
    r"""Whether a part is at most so large a share of a count, without rounding.

    Both sides of $d a \le p c$ as two words of 32 bits: a division takes longer.

    Args:
      part: whole numbers a, not negative.
      count: whole numbers c, not negative.
      share: p / d from 0 to 1, with a denominator of `as_fraction`.

    >>> is_share(jnp.array([1, 2]), jnp.array([100, 199]), Fraction(1, 100)).tolist()
    [True, False]
    """
    high, low = _product(part, share.denominator)
    high_limit, low_limit = _product(count, share.numerator)
    return (high < high_limit) | ((high == high_limit) & (low <= low_limit))


def _product(number: Int[Array, "*shape"], factor: int) -> tuple[Array, Array]:
    """The upper and the lower 32 bits of a product of numbers below 2^31 and 2^21."""
    upper, lower = (x.astype(jnp.uint32) for x in (number >> 16, number & 0xFFFF))
    over, under = factor >> 16, factor & 0xFFFF
    last, middle, other = lower * under, upper * under, lower * over
    carried = (last >> 16) + (middle & 0xFFFF) + (other & 0xFFFF)
    high = upper * over + (middle >> 16) + (other >> 16) + (carried >> 16)
    return high, (carried << 16) | (last & 0xFFFF)


def as_fraction(rate: float) -> Fraction:
    """Read a rate as the fraction that was meant.

    It is the closest one with a denominator up to 46,340, unless the rate is further from it than
    single precision rounds; then the closest with one up to 1,048,576. A rate of up to six decimals
    is exact, so that 99 correct of 100 do meet an accuracy of 0.99, whatever floating point makes
    of either.

    Raises:
      ValueError: if no such fraction is as close, or only 0 or 1 is, as for 1e-9.

    >>> as_fraction(0.99), as_fraction(0.999999)
    (Fraction(99, 100), Fraction(999999, 1000000))
    """
    given = Fraction(float(rate))
    for denominator in _DENOMINATORS:
        found = given.limit_denominator(denominator)
        if given == found or (abs(given - found) <= _ROUNDING and 0 < found < 1):
            return found
    raise ValueError(
        f"The rate {rate} is not close to a fraction with a denominator up to {_DENOMINATORS[-1]}; "
        "round it to six decimals."
    )


def ratio(numerator: Array, denominator: Array) -> Array:
    """Divide, with 0 where the denominator is 0: such places are left out of the sum that follows.

    >>> ratio(jnp.array([1.0, 5.0]), jnp.array([2.0, 0.0])).tolist()
    [0.5, 0.0]
    """
    return jnp.where(denominator == 0, 0, numerator / jnp.where(denominator == 0, 1, denominator))


def undefined_as_nan(value: Array, *, defined: Array, like: Ranking) -> Float[Array, "..."]:
    """Give a metric the precision of the scores, and NaN where it is not defined.

    >>> ranking = rank(jnp.array([0.5]), jnp.array([1]))
    >>> float(undefined_as_nan(jnp.array(1), defined=jnp.array(False), like=ranking))
    nan
    """
    return jnp.where(defined, value.astype(like.scores.dtype), jnp.nan)


def as_float(found: Blocks, like: Ranking) -> tuple[Array, ...]:
    """Counts `kept, errors, kept_before, errors_before, total, total_errors` of blocks, to divide.

    >>> ranking = rank(jnp.array([0.5]), jnp.array([0]))
    >>> [x.tolist() for x in as_float(blocks(ranking), ranking)]
    [[1.0], [1.0], [0.0], [0.0], [1.0], [1.0]]
    """
    return tuple(jnp.asarray(x, like.scores.dtype) for x in found[1:7])
