import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from uncertainty import recorded

from entropax.uncertainty.gini import gini
from entropax.uncertainty.ordering import rank

N = 8
jitted = jax.jit(gini)


def of(*values):
    """Filled up to the length that is compiled."""
    where = np.arange(N) < len(values)
    return float(jitted(np.pad(np.float32(values), (0, N - len(values))), where=where))


numbers = st.lists(st.floats(0, 100, width=32).filter(lambda x: x > 1e-6 or x == 0), min_size=N)
numbers = numbers.map(lambda x: np.array(x[:N], np.float32)).filter(np.any)


@pytest.mark.parametrize("name", recorded.names())
def test_recorded_values(name):
    scores, _, where = recorded.padded(name)
    # The record is of the scores plus 1e-7, which makes the mean of the denominator larger.
    values = recorded.case(name)[0].astype(np.float64)
    mean = np.mean(values) - min(np.min(values), 0)
    expected = recorded.correct_values(name)["gini"] * (mean + 1e-7) / mean
    # float32: sums of shares that are rounded to 6e-8
    assert float(jitted(scores, where=where)) == pytest.approx(expected, abs=2e-6)
    if len(scores) > 2048:
        return  # another compilation
    with jax.enable_x64(True):
        value = jitted(scores.astype(np.float64), where=where)
    assert float(value) == pytest.approx(expected, abs=1e-9)


@given(numbers)
def test_gini_is_half_the_mean_difference_over_the_mean(scores):
    values = scores.astype(np.float64)
    expected = np.mean(np.abs(values[:, None] - values)) / 2 / np.mean(values)
    assert float(jitted(scores)) == pytest.approx(expected, abs=1e-6)
    assert -1e-6 <= expected <= 1 - 1 / N + 1e-6


@given(numbers, st.floats(1e-3, 1e3))
def test_the_scale_makes_no_difference(scores, scale):
    scaled = (scores * np.float32(scale)).astype(np.float32)
    assert float(jitted(scaled)) == pytest.approx(float(jitted(scores)), abs=1e-6)


def test_negative_scores_are_moved_to_start_at_0():
    assert of(-3, -1, 5) == pytest.approx(of(0, 2, 8), abs=1e-7)
    assert of(-2, -2) == 0


def test_equal_scores_are_at_0_and_one_that_is_all_at_the_most():
    assert of(0.3, 0.3, 0.3, 0.3, 0.3) == 0
    assert of(0, 0, 0) == 0
    assert of(0, 0, 0, 0, 3) == pytest.approx(0.8, abs=1e-7)


def test_weights_are_copies():
    ranking = rank(jnp.array([0.5, 4.0, 1.0]), jnp.zeros(3))  # from the largest: 4, 1, 0.5
    weighted = jitted(ranking._replace(weights=jnp.array([1, 0, 3])))
    assert float(weighted) == pytest.approx(of(4, 0.5, 0.5, 0.5), abs=1e-7)


@pytest.mark.parametrize("strange", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_not_hidden(strange):
    assert np.isnan(of(1, strange, 2))


def test_nothing_is_nan():
    assert np.isnan(of())
    assert np.isnan(gini(jnp.zeros(0)))


def test_a_ranking_holds_where():
    with pytest.raises(ValueError, match="pass it alone"):
        gini(rank(jnp.ones(3), jnp.ones(3)), where=jnp.ones(3, bool))
