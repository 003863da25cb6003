"""The sort, the blocks of equal scores, and what all ranking metrics promise alike."""

import functools
import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entropax.uncertainty import gini, ordering, risk_coverage, roc, selective

N = 12
# Many ties, both signs, both zeros, both infinities, and neighbours among floating-point numbers.
VALUES = [
    -math.inf,
    -7.0,
    -1e-3,
    -0.0,
    0.0,
    0.25,
    0.5,
    float(np.nextafter(np.float32(0.5), 1)),
    3.0,
]
scores_n = st.lists(st.sampled_from([*VALUES, math.inf]), min_size=N, max_size=N)
bits_n = st.lists(st.booleans(), min_size=N, max_size=N)
seeds = st.integers(0, 2**32 - 1)

METRICS = {
    "auroc": roc.auroc,
    "average_precision": roc.average_precision,
    "average_precision_error": functools.partial(roc.average_precision, positive="error"),
    "fpr_at_tpr": functools.partial(roc.fpr_at_tpr, tpr=0.8),
    "aurc": risk_coverage.aurc,
    "excess_aurc": risk_coverage.excess_aurc,
    "augrc": risk_coverage.augrc,
    "coverage_at_accuracy": functools.partial(selective.coverage_at_accuracy, accuracy=0.7),
    "accuracy_at_coverage": functools.partial(selective.accuracy_at_coverage, coverage=0.4),
}
rank = jax.jit(ordering.rank, static_argnames="ties")
blocks = jax.jit(ordering.blocks)
whole_share = jax.jit(ordering.whole_share, static_argnames="share")


def all_metrics(scores, correct=None, where=None):
    ranking = ordering.ranking_of(scores, correct, where=where)
    values = {name: metric(ranking) for name, metric in METRICS.items()}
    return values | {"gini": gini(ranking)}


compiled = jax.jit(all_metrics)


def jitted(scores, correct, where=None):
    """Always with `where`, so that each length compiles once."""
    where = np.ones(np.shape(scores), bool) if where is None else where
    return compiled(scores, np.float32(correct), where)


def stacked(values):
    return np.array([values[name] for name in sorted(values)])


def row(values):
    return np.array(values, np.float32)


@pytest.mark.parametrize("ties", ["any", "input"])
@given(scores_n, bits_n, bits_n)
def test_rank_is_the_sort_of_numpy(ties, scores, correct, where):
    scores, correct, where = row(scores), np.array(correct), np.array(where)
    ranking = rank(scores, correct, where=where, ties=ties)
    order = np.argsort(-scores[where], kind="stable")
    count = len(order)
    np.testing.assert_array_equal(ranking.weights, np.arange(N) < count)
    np.testing.assert_array_equal(ranking.scores[:count], scores[where][order])
    if ties == "input":
        np.testing.assert_array_equal(ranking.correct[:count], correct[where][order])
    for value in set(scores[where]):
        assert (
            np.asarray(ranking.correct)[:count][scores[where][order] == value].sum()
            == correct[where & (scores == value)].sum()
        )
    assert np.all(np.isneginf(ranking.scores[count:]))
    assert not np.any(ranking.correct[count:])


@pytest.mark.parametrize("sign", [1, -1])
def test_rank_of_scores_of_one_sign_without_ties(sign):
    generator = np.random.default_rng(0)
    scores = sign * generator.gamma(0.1, size=1000).astype(np.float32)
    correct = generator.random(1000) < 0.5
    order = np.argsort(-scores)
    ranking = rank(scores, correct)
    np.testing.assert_array_equal(ranking.scores, scores[order])
    np.testing.assert_array_equal(ranking.correct, correct[order])


def test_rank_keeps_double_precision():
    scores = np.array([1, 1 + 1e-15, -1 - 1e-15, -1, 1e-300, -1e-300, 0, 1e300])
    correct = np.arange(8) % 2
    with jax.enable_x64(True):
        ranking = rank(scores, correct)
    assert ranking.scores.dtype == np.float64
    order = np.argsort(-scores)
    np.testing.assert_array_equal(ranking.scores, scores[order])
    np.testing.assert_array_equal(ranking.correct, correct[order])


def test_rank_of_half_precision_ties_as_half_precision_does():
    scores = jnp.array([0.501, 0.5011, 0.25], jnp.bfloat16)
    found = blocks(rank(scores, np.array([0, 1, 1])))
    assert found.ends.tolist() == [False, True, True]


@given(scores_n, bits_n, st.lists(st.integers(0, 3), min_size=N, max_size=N))
def test_blocks_count_what_a_threshold_keeps(scores, correct, weights):
    ranking = rank(row(scores), np.array(correct))._replace(weights=row(weights))
    found = blocks(ranking)
    scores, correct, weights = (np.asarray(x) for x in ranking)
    assert [i for i in range(N) if i == N - 1 or scores[i] != scores[i + 1]] == list(
        np.flatnonzero(found.ends)
    )
    for i in np.flatnonzero(found.ends):
        kept, before = scores >= scores[i], scores > scores[i]
        assert found.kept[i] == weights[kept].sum()
        assert found.errors[i] == weights[kept & (correct == 0)].sum()
        assert found.kept_before[i] == weights[before].sum()
        assert found.errors_before[i] == weights[before & (correct == 0)].sum()
    assert found.total == weights.sum()
    assert found.total_errors == weights[correct == 0].sum()


def test_shares_are_whole_numbers_without_rounding():
    """Where float32 fails: 0.999 of 17,000 and more."""
    counts = np.concatenate([np.arange(5000), np.arange(10**9, 10**9 + 5000), [2**31 - 1]])
    counts = counts.astype(np.int32)
    for rate in (0, 0.001, 0.01, 0.05, 1 / 3, 0.501, 0.9999, 0.999999, 1e-6, 0.700001, 1):
        share = ordering.as_fraction(rate)
        expected = [int(count) * share.numerator // share.denominator for count in counts]
        np.testing.assert_array_equal(whole_share(counts, share=share), expected)


def test_rates_are_read_as_they_were_written():
    for i in range(10**4 + 1):
        assert ordering.as_fraction(i / 10**4) == Fraction(i, 10**4)
    assert ordering.as_fraction(float(np.float32(0.99))) == Fraction(99, 100)
    for i in (1, 7, 499999, 500001, 900001, 999999):
        assert ordering.as_fraction(i / 10**6) == Fraction(i, 10**6)


@pytest.mark.parametrize("rate", [1e-9, 3e-7, 1 - 1e-9, 0.5 + 2e-7])
def test_rates_are_not_read_as_others(rate):
    with pytest.raises(ValueError, match=f"The rate {rate} is not close to a fraction"):
        ordering.as_fraction(rate)


def compare(actual, expected, *, atol=2e-6):
    # float32: sums of at most twelve terms below 1
    np.testing.assert_allclose(stacked(actual), stacked(expected), atol=atol, rtol=0)


@given(scores_n, bits_n, seeds)
def test_the_order_of_the_examples_changes_nothing(scores, correct, seed):
    scores, correct = row(scores), np.array(correct)
    order = np.random.default_rng(seed).permutation(N)
    compare(jitted(scores[order], correct[order]), jitted(scores, correct), atol=0)


@given(scores_n, bits_n)
def test_a_transform_that_keeps_the_order_changes_nothing(scores, correct):
    scores, correct = row(scores), np.array(correct)
    _, places = np.unique(scores, return_inverse=True)  # -0 and 0 in one place
    for transformed in (places, places - 4, places - 20):
        actual = jitted(row(transformed), correct)
        expected = jitted(scores, correct)
        for name in METRICS:
            np.testing.assert_array_equal(actual[name], expected[name])


@given(scores_n, bits_n, seeds)
def test_examples_that_do_not_count_change_nothing(scores, correct, seed):
    scores, correct = row(scores), np.array(correct, np.int32)
    order = np.random.default_rng(seed).permutation(2 * N)
    more = np.concatenate([scores, row([np.nan, np.inf, 7] * 4)])[order]
    correct_more = np.concatenate([correct, np.full(N, 3, np.int32)])[order]
    actual = jitted(more, correct_more, order < N)
    compare(actual, jitted(scores, correct))


@given(scores_n, bits_n, seeds)
def test_a_weight_is_a_number_of_copies(scores, correct, seed):
    scores, correct = row(scores), np.array(correct)
    weights = np.random.default_rng(seed).multinomial(N, np.full(N, 1 / N))
    ranking = rank(scores, correct)
    repeated = [np.repeat(np.asarray(x), weights) for x in (ranking.scores, ranking.correct)]
    compare(compiled(ranking._replace(weights=row(weights))), jitted(*repeated))


@given(scores_n, bits_n.filter(any).filter(lambda x: not all(x)))
def test_bounds(scores, correct):
    values = {name: float(value) for name, value in jitted(row(scores), np.array(correct)).items()}
    del values["gini"]  # not defined for infinite scores
    # rounding: sums of at most twelve terms
    assert all(-1e-6 <= value <= 1 + 1e-6 for value in values.values()), values
    assert values["augrc"] <= values["aurc"] + 1e-6
    assert values["excess_aurc"] <= values["aurc"] + 1e-6


def test_leading_axes_and_vmap_are_a_loop():
    generator = np.random.default_rng(0)
    scores = generator.integers(-3, 4, (2, 3, N)).astype(np.float32)
    scores[0] = np.abs(scores[0])  # both ways to sort
    correct, where = generator.random((2, 2, 3, N)) < 0.7
    expected = [
        [stacked(jitted(*cell)) for cell in zip(*line, strict=True)]
        for line in zip(scores, correct, where, strict=True)
    ]
    actual = np.moveaxis(stacked(jitted(scores, correct, where)), 0, -1)
    np.testing.assert_allclose(actual, expected, atol=1e-6, rtol=0)
    mapped = jax.jit(jax.vmap(jax.vmap(METRICS["aurc"])))(scores, correct)
    np.testing.assert_allclose(mapped, jitted(scores, correct)["aurc"], atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["auroc", "aurc", "coverage_at_accuracy"])
def test_replicates_of_weights_need_no_other_sort(name):
    generator = np.random.default_rng(0)
    ranking = rank(generator.integers(0, 5, N).astype(np.float32), generator.random(N) < 0.6)
    weights = generator.multinomial(N, np.full(N, 1 / N), size=4).astype(np.float32)

    def replicate(weights):
        return METRICS[name](ranking._replace(weights=weights))

    expected = [compiled(ranking._replace(weights=row))[name] for row in weights]
    for function in (jax.vmap(replicate), functools.partial(jax.lax.map, replicate)):
        replicates = jax.jit(function)
        np.testing.assert_allclose(replicates(weights), expected, atol=1e-6, rtol=0)
        assert "stablehlo.sort" not in replicates.lower(weights).as_text()


def test_a_score_that_is_not_a_number_is_not_hidden():
    scores = row([0.5, np.nan, *range(N - 2)])
    assert np.all(np.isnan(stacked(jitted(scores, np.arange(N) % 2))))
    assert np.all(np.isfinite(stacked(jitted(scores, np.arange(N) % 2, ~np.isnan(scores)))))


@pytest.mark.parametrize("strange", [2, -1, 0.5, np.nan])
def test_correct_other_than_0_and_1_is_not_hidden(strange):
    correct = row([strange, 0, *[1] * (N - 2)])
    values = jitted(row(range(N)), correct)
    assert np.all(np.isnan(stacked(values)))


@pytest.mark.parametrize("how", ["length 0", "where", "weights"])
def test_nothing_is_nan(how):
    if how == "length 0":
        values = jitted(row([]), row([]))
    elif how == "where":
        values = jitted(row(range(N)), np.arange(N) % 2, np.zeros(N, bool))
    else:
        ranking = rank(row(range(N)), np.arange(N) % 2)
        values = compiled(ranking._replace(weights=row([0] * N)))
    assert np.all(np.isnan(stacked(values)))


def test_all_correct_and_all_wrong():
    scores = row(range(N))
    right, wrong = jitted(scores, np.ones(N)), jitted(scores, np.zeros(N))
    undefined = {"auroc", "fpr_at_tpr"}
    assert {name for name in METRICS if np.isnan(right[name])} == {
        *undefined,
        "average_precision_error",
    }
    assert {name for name in METRICS if np.isnan(wrong[name])} == {*undefined, "average_precision"}
    for name, of_right, of_wrong in [
        ("aurc", 0, 1),
        ("excess_aurc", 0, 0),
        ("coverage_at_accuracy", 1, 0),
        ("accuracy_at_coverage", 1, 0),
    ]:
        assert (float(right[name]), float(wrong[name])) == (of_right, of_wrong)


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_arguments_that_contradict_each_other(metric):
    scores, correct = jnp.arange(3.0), jnp.ones(3)
    ranking = rank(scores, correct)
    with pytest.raises(ValueError, match="`correct` is missing"):
        metric(scores)
    with pytest.raises(ValueError, match="pass it alone"):
        metric(ranking, correct)
    with pytest.raises(ValueError, match="pass it alone"):
        metric(ranking, where=correct == 1)


def test_unknown_treatment_of_ties():
    with pytest.raises(ValueError, match='must be "any" or "input", got "stable"'):
        ordering.rank(jnp.ones(3), jnp.ones(3), ties="stable")


def test_only_one_array_is_sorted():
    """Two operands take XLA 6 to 10 times as long on a CPU."""
    closed = jax.make_jaxpr(ordering.rank)(row(range(N)), row([1] * N))
    sorts = [sort for sort in equations(closed.jaxpr) if sort.primitive.name == "sort"]
    assert {len(sort.invars) for sort in sorts} == {1}


def equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "eqns")):
            if hasattr(inner, "eqns"):
                yield from equations(getattr(inner, "jaxpr", inner))
