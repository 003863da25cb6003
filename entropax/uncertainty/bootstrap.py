"""Bootstrap: how much a metric would differ on another set of as many examples.

A replicate draws n of the n examples with replacement, which is to say how many times each of them
counts. So nothing is copied and nothing is sorted again: a metric that takes weights is evaluated
on the same arrays with other weights. What a metric is evaluated on has a field `weights`: a
`Ranking`, sorted once, for metrics of an order; a `Sample` for anything else.

The metric has to use the weights: one that does not is the same for every replicate, and its
interval has no width. All metrics of a `Ranking` do, the calibration errors of confidences
among them. What is a mean over the examples is bootstrapped as the `mean` of its terms:

    top_class = rank(probs.max(-1), probs.argmax(-1) == labels)
    bootstrap(key, calibration_error, top_class, method="basic")
    bootstrap(key, mean, sample(negative_log_likelihood_terms(logits, labels)))
    bootstrap(key, mean, sample(brier_terms(probs, labels)))
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, Key, Num, PyTree, UInt32

from entropax.types import Array
from entropax.uncertainty.ordering import Ranking, checked

METHODS = ("percentile", "basic")


class Sample(NamedTuple):
    """Examples with how many times each counts.

    Attributes:
      values: arrays `[n, ...]`, one row an example: losses, or probabilities and labels.
      weights: `[n]` how many times each example counts; 0 for one that does not.
    """

    values: PyTree[Num[Array, "n ..."]]
    weights: Float[Array, " n"]


Scored: TypeAlias = tuple[Float[Array, " n"], Num[Array, " n"] | Bool[Array, " n"]]
Metric: TypeAlias = Callable[[Any], PyTree[Float[Array, "..."]]]


class Interval(NamedTuple):
    """A metric with its uncertainty; every field has the structure that the metric returns.

    Attributes:
      value: the metric of the examples as they are.
      lower: lower end of the interval.
      upper: upper end of the interval.
      stderr: standard deviation of the replicates.
      num_dropped: replicates that were NaN and left out (a few examples, of which all were correct,
        say).
    """

    value: PyTree[Float[Array, "..."]]
    lower: PyTree[Float[Array, "..."]]
    upper: PyTree[Float[Array, "..."]]
    stderr: PyTree[Float[Array, "..."]]
    num_dropped: PyTree[Int[Array, "..."]]


class Difference(NamedTuple):
    """By how much a metric is higher for one model than for another, on the same examples.

    Attributes:
      value: the metric of the first less that of the second.
      lower: lower end of the interval.
      upper: upper end of the interval.
      stderr: standard deviation of the replicates.
      p_value: two-sided p-value of the hypothesis that there is no difference.
      num_dropped: replicates that were NaN and left out.
    """

    value: PyTree[Float[Array, "..."]]
    lower: PyTree[Float[Array, "..."]]
    upper: PyTree[Float[Array, "..."]]
    stderr: PyTree[Float[Array, "..."]]
    p_value: PyTree[Float[Array, "..."]]
    num_dropped: PyTree[Int[Array, "..."]]


def sample(
    values: PyTree[Num[Array, "n ..."]], *, where: Bool[Array, " n"] | None = None
) -> Sample:
    """Examples that count once each, or not at all.

    Args:
      values: arrays `[n, ...]`, one row an example.
      where: `[n]` examples that count.

    Returns:
      The examples with weights 1 and 0.

    >>> sample(jnp.array([0.3, 0.1])).weights.tolist()
    [1.0, 1.0]
    """
    first = jax.tree.leaves(values)[0]
    weights = jnp.ones(len(first), jnp.promote_types(first.dtype, jnp.float32))
    return Sample(values, weights if where is None else jnp.where(where, weights, 0))


def mean(sample: Sample) -> PyTree[Float[Array, "..."]]:
    r"""Weighted mean of per-example terms: accuracy, NLL, Brier score, from what they average.

    $$\bar x = \sum_i w_i x_i \Big/ \sum_i w_i.$$

    Args:
      sample: terms `[n, ...]` with weights. A term of weight 0 may be anything.

    Returns:
      The means of all arrays of `sample.values`; NaN when no example counts.

    >>> float(mean(Sample(jnp.array([1.0, 4.0]), jnp.array([2.0, 1.0]))))
    2.0
    """
    total = jnp.sum(sample.weights)

    def of(terms: Array) -> Array:
        weights = sample.weights.reshape((-1,) + (1,) * (terms.ndim - 1))
        return jnp.sum(jnp.where(weights != 0, weights * terms, 0), axis=0) / total

    return jax.tree.map(of, sample.values)


def multiplicities(
    key: Key[Array, ""] | UInt32[Array, "2"], n: int, *, number: Int[Array, ""] | int | None = None
) -> Int[Array, " n"]:
    r"""How many times each of some examples is drawn, when as many are drawn with replacement.

    $$(w_1, \dots, w_n) \sim \mathrm{Multinomial}(n; 1/n, \dots, 1/n).$$

    They depend on the key and on the number of examples alone: neither padding nor devices change
    them. One random word an example is divided by their number; the remainder prefers some examples
    by a share of `n / 2**32` at most.

    Args:
      key: random key.
      n: length of the result.
      number: examples that there are, the first ones; all `n` by default.

    Returns:
      `[n]` counts that sum to `number`, 0 beyond the first `number`.

    >>> int(multiplicities(jax.random.key(0), 5, number=3).sum())
    3
    """
    number = jnp.asarray(n if number is None else number, jnp.int32)
    words = jax.random.bits(key, (n,), jnp.uint32)
    drawn = (words % jnp.maximum(number, 1).astype(jnp.uint32)).astype(jnp.int32)
    once = (jnp.arange(n) < number).astype(jnp.int32)
    return jnp.zeros(n, jnp.int32).at[drawn].add(once, mode="promise_in_bounds")


def bootstrap(
    key: Key[Array, ""] | UInt32[Array, "2"],
    metric: Metric,
    data: Ranking | Sample,
    *,
    num_replicates: int = 1000,
    level: float = 0.95,
    method: str = "percentile",
    batch_size: int | None = None,
) -> Interval:
    r"""A metric with a bootstrap interval.

    $$[\hat\theta_{(\alpha/2)}, \hat\theta_{(1-\alpha/2)}], \qquad
      \hat\theta_b = \theta(x, w_b), \quad w_b \sim \mathrm{Multinomial}(n; 1/n, \dots, 1/n).$$

    Args:
      key: random key; the draws depend on nothing else.
      metric: function of `data` with other weights, which it has to use, to an array or any tree of
        arrays. All parts of a tree are evaluated on the same draws, so that several metrics share
        them. A function of `data.values` alone, such as the Brier score of all rows, ignores what
        was drawn: give `mean` its terms instead.
      data: examples, from `rank` or `sample`, of weights 1 and, never drawn, 0; of one set, `[n]`.
        Use `jax.vmap` for several.
      num_replicates: how many draws.
      level: probability that the interval shall cover.
      method: "percentile", quantiles of the replicates; or "basic", these mirrored at the value,
        $[2 \theta - \hat\theta_{(1-\alpha/2)}, 2 \theta - \hat\theta_{(\alpha/2)}]$, for metrics
        that are larger on smaller samples, as every calibration error is: a replicate, which knows
        fewer different examples, exceeds the value about as the value exceeds the truth. Near 0 it
        exceeds it less, and the interval covers too little.
      batch_size: replicates that are evaluated side by side; one after the other by default, so
        that memory does not grow with their number.

    Returns:
      The value and its interval, in the structure that `metric` returns. Replicates that are NaN
      are dropped and counted. The interval is NaN where the value is, and if a weight is neither 0
      nor 1: a row has to be one example.

    Raises:
      ValueError: if `num_replicates`, `level` or `method` is out of range, or `data` has leading
        batch axes.

    Reference: B. Efron and R. J. Tibshirani, "An introduction to the bootstrap" (1993), chapter 13.

    >>> losses = jnp.array([0.1, 0.2, 0.3, 1.2])
    >>> found = bootstrap(jax.random.key(0), mean, sample(losses), num_replicates=100)
    >>> bool(found.lower < found.value < found.upper)
    True
    """
    _check(num_replicates, level, method)
    _check_single(data.weights)
    counts = data.weights != 0
    single = jnp.all(data.weights == counts)
    slots, number = _slots(counts)

    def replicate(key: Array) -> Any:
        drawn = multiplicities(key, len(counts), number=number)[slots]
        return metric(data._replace(weights=data.weights * drawn))

    keys = jax.random.split(key, num_replicates)
    replicates = jax.lax.map(replicate, keys, batch_size=batch_size)
    parts = _summary(metric(data), replicates, level, method, single)
    return Interval(*(parts[name] for name in Interval._fields))


def compare(
    key: Key[Array, ""] | UInt32[Array, "2"],
    metric: Metric,
    a: Scored | Sample,
    b: Scored | Sample,
    *,
    num_replicates: int = 1000,
    level: float = 0.95,
    method: str = "percentile",
    batch_size: int | None = None,
    where: Bool[Array, " n"] | None = None,
) -> Difference:
    r"""Difference of a metric between two models on the same examples, with a bootstrap interval.

    $$\hat\delta_b = \theta(x^A, w_b) - \theta(x^B, w_b), \qquad
      p = \min\!\Big(1, \tfrac{2 (1 + \min(\#\{\hat\delta_b \le 0\}, \#\{\hat\delta_b \ge 0\}))}
      {1 + B}\Big),$$

    with B replicates that are not NaN. For `method="basic"` the differences are mirrored first, in
    p as in the interval: $2 \hat\delta - \hat\delta_b$ takes the place of $\hat\delta_b$.

    Every replicate draws the same examples for both, so that what makes examples hard for both
    models cancels.

    Args:
      key: random key; the draws depend on nothing else.
      metric: function of a `Ranking` or `Sample`, whose weights it has to use, to an array or any
        tree of arrays.
      a: examples as the first model sees them: a pair `(scores, correct)` of `[n]` for a metric of
        a `Ranking` (sorted here, once), or a `Sample`. Row i is the same example in `a` and `b`.
      b: examples as the second model sees them.
      num_replicates: how many draws; no p-value is below `2 / (1 + num_replicates)`.
      level: probability that the interval shall cover.
      method: "percentile" or "basic", as for `bootstrap`.
      batch_size: replicates that are evaluated side by side.
      where: `[n]` examples that count, besides weights of 0 in either sample.

    Returns:
      The difference, its interval and p-value, in the structure that `metric` returns. Replicates
      that are NaN are dropped and counted. Interval and p-value are NaN where the value is, and if
      a weight is neither 0 nor 1.

    Raises:
      ValueError: if an option is out of range, `a` and `b` have different lengths, or either has
        leading batch axes.

    Reference: B. Efron and R. J. Tibshirani, "An introduction to the bootstrap" (1993), chapter 16.

    >>> good, bad = jnp.array([0.1, 0.2, 0.1, 0.3]), jnp.array([0.9, 1.4, 0.8, 1.1])
    >>> found = compare(jax.random.key(0), mean, sample(good), sample(bad), num_replicates=99)
    >>> bool(found.upper < 0), round(float(found.p_value), 2)
    (True, 0.02)
    """
    _check(num_replicates, level, method)
    for data in (a, b):
        _check_single(data.weights if isinstance(data, Sample) else data[0])
    lengths = [len(jax.tree.leaves(data)[0]) for data in (a, b)]
    if lengths[0] != lengths[1]:
        raise ValueError(f"`a` and `b` must hold the same examples, got {lengths} of them.")
    counts = jnp.ones(lengths[0], bool) if where is None else where
    single = jnp.ones((), bool)
    for data in (a, b):
        if isinstance(data, Sample):
            counts = counts & (data.weights != 0)
            single = single & jnp.all((data.weights == 0) | (data.weights == 1))
    slots, number = _slots(counts)
    sides = [_ordered(data, counts) for data in (a, b)]

    def difference(values: list[Any]) -> Any:
        return jax.tree.map(jnp.subtract, *values)

    def replicate(key: Array) -> Any:
        drawn = multiplicities(key, len(counts), number=number)
        weighted = (
            data._replace(weights=data.weights * drawn[slots[order]]) for data, order in sides
        )
        return difference([metric(data) for data in weighted])

    keys = jax.random.split(key, num_replicates)
    replicates = jax.lax.map(replicate, keys, batch_size=batch_size)
    value = difference([metric(data) for data, _ in sides])
    parts = _summary(value, replicates, level, method, single)
    return Difference(*(parts[name] for name in Difference._fields))


def _check(num_replicates: int, level: float, method: str) -> None:
    if num_replicates < 2:
        raise ValueError(f"`num_replicates` must be at least 2, got {num_replicates}.")
    if not 0 < level < 1:
        raise ValueError(f"`level` must lie between 0 and 1, got {level}.")
    if method not in METHODS:
        raise ValueError(f"`method` must be one of {METHODS}, got {method!r}.")


def _check_single(rows: Array) -> None:
    if rows.ndim != 1:
        raise ValueError(
            "The bootstrap takes one set of examples [n] at a time; use `jax.vmap` for several, "
            f"such as these of shape {rows.shape}."
        )


def _slots(counts: Bool[Array, " n"]) -> tuple[Int[Array, " n"], Int[Array, ""]]:
    """Where each example that counts stands among them, and how many there are."""
    return jnp.maximum(jnp.cumsum(counts) - 1, 0), jnp.sum(counts)


def _ordered(data: Any, counts: Bool[Array, " n"]) -> tuple[Ranking | Sample, Int[Array, " n"]]:
    """What the metric takes, with weights 0 and 1, and which example stands where."""
    if isinstance(data, Sample):
        kept = data._replace(weights=jnp.where(counts, data.weights, 0))
        return kept, jnp.arange(len(counts))
    scores, correct, counts, strange = checked(*data, where=counts)
    order = jnp.lexsort((-scores, ~counts))
    scores = jnp.where(strange, jnp.nan, jnp.where(counts, scores, -jnp.inf))
    ranked = (x.astype(scores.dtype)[order] for x in (scores, counts & (correct != 0), counts))
    return Ranking(*ranked), order


def _summary(
    value: Any, replicates: Any, level: float, method: str, single: Bool[Array, ""]
) -> dict[str, Any]:
    """Fields of a result, each in the structure of the value; NaN unless a row is one example."""
    quantiles = jnp.array([(1 - level) / 2, (1 + level) / 2])

    def of(value: Array, replicates: Array) -> dict[str, Array]:
        value = jnp.asarray(value, jnp.promote_types(jnp.result_type(value), jnp.float32))
        replicates = replicates.astype(value.dtype)
        valid = ~jnp.isnan(replicates)
        number = jnp.sum(valid, axis=0)
        stderr = jnp.nanstd(replicates, axis=0, ddof=1)
        if method == "basic":
            replicates = 2 * value - replicates
        lower, upper = jnp.nanquantile(replicates, quantiles.astype(value.dtype), axis=0)
        least = jnp.minimum(jnp.sum(replicates <= 0, axis=0), jnp.sum(replicates >= 0, axis=0))
        p_value = jnp.minimum(2 * (1 + least) / (1 + number), 1).astype(value.dtype)
        found = {"lower": lower, "upper": upper, "stderr": stderr, "p_value": p_value}
        known = single & ~jnp.isnan(value) & (number > 0)
        found = {name: jnp.where(known, x, jnp.nan) for name, x in found.items()}
        return {"value": value, **found, "num_dropped": len(replicates) - number}

    leaves, structure = jax.tree.flatten(value)
    found = [of(*pair) for pair in zip(leaves, jax.tree.leaves(replicates), strict=True)]
    return {name: jax.tree.unflatten(structure, [x[name] for x in found]) for name in found[0]}
