"""Against all orders of equal scores, sums over ranks, and recorded values."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from uncertainty import recorded

from entropax.uncertainty.ordering import rank
from entropax.uncertainty.risk_coverage import (
    _harmonic_between,
    augrc,
    aurc,
    excess_aurc,
    risk_coverage_curve,
)

N = 6
bits = st.lists(st.booleans(), min_size=N, max_size=N)
grid = st.lists(st.integers(-1, 2), min_size=N, max_size=N)
every_case = pytest.mark.parametrize("name", recorded.names())


@jax.jit
def areas(scores, correct=None, where=None):
    return tuple(metric(scores, correct, where=where) for metric in (aurc, excess_aurc, augrc))


sort = jax.jit(rank)
curve_of = jax.jit(risk_coverage_curve)
harmonic_between = jax.jit(_harmonic_between, static_argnames="dtype")


def of_order(correct):
    """Risks and areas of predictions in this order, by the definition."""
    correct = np.asarray(correct, np.float64)
    errors, ranks = np.cumsum(1 - correct), np.arange(1, len(correct) + 1)
    best = np.mean(np.cumsum(np.sort(1 - correct)) / ranks)
    risks = errors / ranks
    return risks, (risks.mean(), risks.mean() - best, np.mean(errors) / len(correct))


@every_case
def test_recorded_areas(name):
    values = recorded.correct_values(name)
    expected = [values[key] for key in ("aurc_expected", "eaurc_discrete", "augrc_expected")]
    if recorded.has_ties(name):  # the record is of the order of the rows
        expected[1] = values["aurc_expected"] - values["aurc_optimal_discrete"]
    scores, correct, where = recorded.padded(name)
    # float32: sums of shares that are rounded to 6e-8
    np.testing.assert_allclose(areas(scores, correct, where), expected, atol=2e-6, rtol=0)
    if len(scores) > 2048:
        return  # another compilation
    with jax.enable_x64(True):
        exact = areas(scores.astype(np.float64), correct, where)
    assert exact[0].dtype == np.float64
    np.testing.assert_allclose(exact, expected, atol=1e-9, rtol=0)


@every_case
def test_libraries_that_integrate_by_trapezoids(name):
    """The curve under their rules: they start at the first rank, or at no coverage."""
    known = recorded.others(name)
    scores, correct, where = recorded.padded(name)
    n = int(where.sum())
    if 1 < n <= 2048 and not recorded.has_ties(name):
        curve = curve_of(sort(scores, correct, where=where))
        coverage, risk = (np.float64(x)[:n] for x in (curve.coverage, curve.risk))
        area = np.trapezoid(risk, coverage) / (1 - 1 / n)
        assert area == pytest.approx(known["torch_uncertainty_AURC"], abs=2e-6)
    if "fd_shifts_augrc_x1000" in known:
        wrong = 1 - np.mean(correct[:n])
        value = float(areas(scores, correct, where)[2])
        expected = known["fd_shifts_augrc_x1000"] / 1000 + wrong / (2 * n)
        assert value == pytest.approx(expected, abs=2e-6)


@given(grid, bits)
def test_equal_scores_are_taken_in_every_order(scores, correct):
    orders = [
        order
        for order in itertools.permutations(range(N))
        if all(scores[i] >= scores[j] for i, j in itertools.pairwise(order))
    ]
    found = [of_order([correct[i] for i in order]) for order in orders]
    expected = np.mean([areas for _, areas in found], axis=0)
    ranking = sort(np.array(scores, np.float32), np.array(correct), where=np.ones(N, bool))
    values = areas(ranking)
    np.testing.assert_allclose(values, expected, atol=1e-6, rtol=0)
    curve = curve_of(ranking)
    risks = np.mean([risks for risks, _ in found], axis=0)
    np.testing.assert_allclose(curve.risk, risks, atol=1e-6, rtol=0)
    np.testing.assert_allclose(curve.coverage, np.arange(1, N + 1) / N, atol=1e-7)
    assert float(curve.risk.mean()) == pytest.approx(float(values[0]), abs=1e-6)


@given(grid, bits, st.lists(st.integers(0, 40), min_size=N, max_size=N).filter(any))
def test_weights_are_copies(scores, correct, weights):
    """In a block of copies the expectation is a sum over its ranks."""
    ranking = sort(np.array(scores, np.float32), np.array(correct), where=np.ones(N, bool))
    values = np.repeat(np.asarray(ranking.scores), weights)
    hits = np.repeat(np.asarray(ranking.correct, np.float64), weights)
    for value in set(values):
        hits[values == value] = np.mean(hits[values == value])
    (risks, expected) = of_order(hits)
    ranking = ranking._replace(weights=np.array(weights, np.float32))
    actual = np.array(areas(ranking))
    np.testing.assert_allclose(actual[[0, 2]], np.array(expected)[[0, 2]], atol=1e-6, rtol=0)
    curve = curve_of(ranking)
    last = np.cumsum(weights) - 1
    some = last >= 0
    np.testing.assert_allclose(curve.risk[some], risks[last[some]], atol=1e-6, rtol=0)


def test_weights_of_a_bootstrap_in_single_precision():
    """Sums of ten thousands of terms, whose harmonic numbers must not be subtracted."""
    generator = np.random.default_rng(0)
    n = 20000
    scores = np.round(generator.random(n), 4).astype(np.float32)
    ranking = sort(scores, (generator.random(n) < 0.3 + 0.7 * scores), where=np.ones(n, bool))
    weights = generator.multinomial(n, np.full(n, 1 / n))
    values = areas(ranking._replace(weights=jnp.array(weights, jnp.float32)))
    scores, hits = (np.repeat(np.asarray(x, np.float64), weights) for x in ranking[:2])
    for block in np.split(np.arange(n), np.flatnonzero(np.diff(scores)) + 1):
        hits[block] = np.mean(hits[block])
    _, expected = of_order(hits)
    assert abs(float(values[0]) - expected[0]) < 5e-7
    assert abs(float(values[2]) - expected[2]) < 5e-7


@pytest.mark.parametrize("errors", [0, 1, 300, 777, 1000])
@pytest.mark.parametrize("width", [1, 1.5, 10])
def test_a_perfect_ranking_has_no_excess_at_all(errors, width):
    """With and without equal scores, as long as no error ties with a correct prediction."""
    where = np.arange(2048) < 1000
    correct = np.arange(2048) >= errors
    scores = np.where(correct, 1000, 0) + np.floor(np.arange(2048) / width)
    value = areas(scores.astype(np.float32), correct.astype(np.uint8), where)[1]
    assert float(value) == 0


def test_harmonic_numbers_are_not_subtracted():
    lower = np.array([0, 0, 0, 3, 7, 8, 9, 500, 49999, 10**6, 0, 25, 10**7])
    upper = np.array([0, 1, 2, 8, 9, 9, 9, 777, 50000, 10**6 + 1, 50000, 26, 3 * 10**7])
    exact = [
        np.sum(1 / np.arange(high, low, -1.0))  # from the smallest
        for low, high in zip(lower, upper, strict=True)
    ]
    args = jnp.array(lower, jnp.int32), jnp.array(upper, jnp.int32)
    np.testing.assert_allclose(harmonic_between(*args, dtype=np.float32), exact, rtol=3e-7, atol=0)
    with jax.enable_x64(True):
        double = harmonic_between(*args, dtype=np.float64)
    np.testing.assert_allclose(double, exact, rtol=1e-9, atol=1e-11)


def test_curve_of_a_padded_ranking():
    scores = np.array([0.5, np.nan, 0.25, 0.5, np.nan, 0.125], np.float32)
    curve = curve_of(sort(scores, np.array([1, 0, 1, 0, 1, 0]) == 1, where=~np.isnan(scores)))
    np.testing.assert_allclose(curve.coverage, [0.25, 0.5, 0.75, 1, 1, 1])
    np.testing.assert_allclose(curve.risk, [0.5, 0.5, 1 / 3, 0.5, 0.5, 0.5], atol=1e-7)
    assert curve.attained.tolist() == [False, True, True, True, False, False]
    assert curve.threshold[:4].tolist() == [0.5, 0.5, 0.25, 0.125]


def test_curve_attains_only_what_a_threshold_can_keep_in_a_weighted_ranking():
    ranking = sort(np.float32([3, 2, 2, 1, 1, 0]), np.ones(N, bool), where=np.ones(N, bool))
    curve = curve_of(ranking._replace(weights=np.float32([0, 1, 0, 2, 1, 0])))
    attained = np.asarray(curve.coverage)[np.asarray(curve.attained)]
    np.testing.assert_allclose(attained, [0.25, 1])


def test_curve_of_what_is_not_valid_is_nan():
    scores = np.array([1, 2, np.nan, 4, 5, 6], np.float32)
    every = np.ones(N, bool)
    curve = curve_of(sort(scores, every, where=every))
    assert np.all(np.isnan(curve.risk))
    assert np.all(np.isnan(curve.coverage))
    assert not np.any(curve.attained)
    nothing = curve_of(sort(np.ones(N, np.float32), every, where=~every))
    assert np.all(np.isnan(nothing.risk))
    assert np.all(np.isnan(nothing.coverage))


def test_augrc_follows_from_auroc_and_the_error_rate():
    r"""(1 - AUROC) r (1 - r) + r^2 / 2 + r / (2n), here for AUROC = 1/2."""
    correct = np.array([1, 0, 1, 1, 0, 1]) == 1
    ranking = sort(np.ones(N, np.float32), correct, where=np.ones(N, bool))
    rate = 1 / 3
    expected = rate * (1 - rate) / 2 + rate**2 / 2 + rate / (2 * N)
    assert float(areas(ranking)[2]) == pytest.approx(expected, abs=1e-7)
