"""Against a search through all cuts, exact boundaries, and recorded values."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from uncertainty import recorded

from entropax.uncertainty.ordering import rank
from entropax.uncertainty.selective import accuracy_at_coverage, coverage_at_accuracy

ACCURACIES = [0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.999]
N = 10
bits = st.lists(st.booleans(), min_size=N, max_size=N)
grid = st.lists(st.integers(-2, 3), min_size=N, max_size=N)
weights_n = st.lists(st.integers(0, 3), min_size=N, max_size=N).filter(any)
every_case = pytest.mark.parametrize("name", recorded.names())
by_threshold = jax.jit(coverage_at_accuracy, static_argnames=("accuracy", "min_count", "semantics"))
accuracy_of = jax.jit(accuracy_at_coverage, static_argnames="coverage")


@jax.jit
def all_coverages(scores, correct, where):
    given = {
        "threshold": (rank(scores, correct, where=where), None, None),
        "rank": (scores, correct, where),
    }
    return {
        f"sac_{accuracy}_max_{semantics}": coverage_at_accuracy(
            *args, accuracy=accuracy, semantics=semantics, where=mask
        )
        for accuracy in ACCURACIES
        for semantics, (*args, mask) in given.items()
    }


def row(values):
    return np.array(values, np.float32)


@every_case
def test_recorded_coverages(name):
    expected = recorded.correct_values(name)
    values = all_coverages(*recorded.padded(name))
    count = len(recorded.case(name)[1])
    for key, value in values.items():
        # the same number of examples: a rational number
        assert round(float(value) * count) == round(expected[key] * count)
        assert float(value) == pytest.approx(expected[key], abs=1e-7)


@every_case
def test_recorded_coverages_at_a_risk_of_torch_uncertainty(name):
    known = recorded.others(name)
    values = all_coverages(*recorded.padded(name))
    for accuracy, risk in ((0.99, 0.01), (0.95, 0.05)):
        value = float(values[f"sac_{accuracy}_max_rank"])
        expected = float(known[f"torch_uncertainty_CovAt{risk}Risk"])
        if recorded.has_ties(name):
            continue  # it cuts between equal scores as its sort left them
        if np.isnan(expected):
            assert value == 0  # no cut meets it
        else:
            assert value == pytest.approx(expected, abs=1e-6)


def cuts(ranking, semantics):
    """Numbers of examples and errors of all cuts of a ranking, whole numbers."""
    scores, correct, weights = (np.asarray(x) for x in ranking)
    kept = np.cumsum(weights).astype(int)
    errors = np.cumsum(weights * (1 - correct)).astype(int)
    last = np.append(scores[1:] != scores[:-1], True) | (semantics == "rank")
    return [(int(k), int(e)) for k, e in zip(kept[last], errors[last], strict=True) if k > 0]


@pytest.mark.parametrize("semantics", ["threshold", "rank"])
@pytest.mark.parametrize("min_count", [1, 4])
@given(grid, bits, weights_n)
def test_coverage_is_the_largest_of_all_cuts(semantics, min_count, scores, correct, weights):
    scores, correct = jnp.array(row(scores)), jnp.array(correct)
    ranking = rank(scores, correct, ties="input")
    given = scores, correct
    if semantics == "threshold":
        ranking = ranking._replace(weights=jnp.array(row(weights)))
        given = (ranking,)
    total = int(ranking.weights.sum())
    for accuracy in (0, 0.5, 0.6, 0.75, 1):
        met = [
            kept
            for kept, errors in cuts(ranking, semantics)
            if kept >= min_count and Fraction(errors, kept) <= 1 - Fraction(str(accuracy))
        ]
        value = by_threshold(*given, accuracy=accuracy, min_count=min_count, semantics=semantics)
        assert float(value) == pytest.approx(max(met, default=0) / total, abs=1e-7)


@given(grid, bits, weights_n)
def test_accuracy_is_that_of_the_first_cut_that_keeps_enough(scores, correct, weights):
    ranking = rank(jnp.array(row(scores)), jnp.array(correct), ties="input")
    ranking = ranking._replace(weights=jnp.array(row(weights)))
    for coverage in (0.1, 0.5, 0.7, 1):
        enough = Fraction(str(coverage)) * sum(weights)
        kept, errors = next(cut for cut in cuts(ranking, "threshold") if cut[0] >= enough)
        value = float(accuracy_of(ranking, coverage=coverage))
        assert value == pytest.approx(1 - errors / kept, abs=1e-6)


def test_rank_semantics_cut_in_the_order_of_the_rows():
    scores = np.ones(N, np.float32)
    correct = np.arange(N) < 4
    for rows, expected in ((correct, 0.4), (correct[::-1], 0)):
        value = by_threshold(scores, rows, accuracy=0.99, semantics="rank")
        assert float(value) == pytest.approx(expected)
        assert float(by_threshold(scores, rows, accuracy=0.99)) == 0
        assert float(by_threshold(scores, rows, accuracy=0.4)) == 1


@pytest.mark.parametrize(("accuracy", "expected"), [(0.999, 1.0), (0.9991, 0.99)])
def test_an_accuracy_that_is_met_exactly_counts(accuracy, expected):
    """999 of 1,000 again and again up to 50,000: single precision cannot tell."""
    correct = np.arange(50000) % 1000 != 999
    scores = np.arange(50000, 0, -1, dtype=np.float32)
    value = float(by_threshold(scores, correct, accuracy=accuracy))
    if expected == 1:
        assert value == 1
        worse = correct.copy()
        worse[0] = False
        assert float(by_threshold(scores, worse, accuracy=accuracy)) < 1
    else:
        errors, kept = np.cumsum(~correct), np.arange(1, 50001)
        assert value == pytest.approx(kept[errors * 10000 <= kept * 9].max() / 50000, abs=1e-7)


def test_rank_semantics_refuse_a_ranking():
    """Its order of equal scores depends on their sign."""
    ranking = rank(jnp.full(4, 0.5), jnp.array([1, 0, 1, 0]))
    with pytest.raises(ValueError, match="may have lost the order of equal scores"):
        coverage_at_accuracy(ranking, semantics="rank")


def test_luck_at_the_first_ranks_is_not_coverage():
    correct = np.arange(N) < 2
    scores = -np.arange(N, dtype=np.float32)
    assert float(by_threshold(scores, correct, accuracy=0.99)) == pytest.approx(0.2)
    assert float(by_threshold(scores, correct, accuracy=0.99, min_count=3)) == 0


def test_faults_of_the_published_rule_are_gone():
    """A perfect network covers all, and so does one that errs at the first rank alone."""
    scores = -np.arange(N, dtype=np.float32)
    assert float(by_threshold(scores, np.ones(N), accuracy=0.99)) == 1
    assert float(by_threshold(scores, np.arange(N) > 0, accuracy=0.9)) == 1


def test_options_out_of_range():
    scores, correct = jnp.ones(2), jnp.ones(2)
    for accuracy in (-0.1, 1.1, np.nan, 99):
        with pytest.raises(ValueError, match=f"`accuracy` must be from 0 to 1, got {accuracy}"):
            coverage_at_accuracy(scores, correct, accuracy=accuracy)
    with pytest.raises(ValueError, match="`min_count` must be at least 1, got 0"):
        coverage_at_accuracy(scores, correct, min_count=0)
    with pytest.raises(ValueError, match='"threshold" or "rank", got "first"'):
        coverage_at_accuracy(scores, correct, semantics="first")
    for coverage in (0, 1.5, np.nan):
        with pytest.raises(ValueError, match=f"`coverage` must be above 0 .* got {coverage}"):
            accuracy_at_coverage(scores, correct, coverage=coverage)
