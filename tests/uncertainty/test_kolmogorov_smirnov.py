"""KS calibration error against recorded values and brute force."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from uncertainty import recorded

from entropax.uncertainty.kolmogorov_smirnov import ks_calibration_error
from entropax.uncertainty.ordering import rank

error = jax.jit(ks_calibration_error)
sort = jax.jit(rank)
# The recorded values look between equal confidences too, in the order of the rows.
SPLIT_BY_ORDER = {"ties_grid20", "imagenet_size_ties"}


def brute_force(confidence, correct):
    confidence = np.float64(confidence)
    residuals = confidence - correct
    order = np.argsort(confidence)
    sums = np.cumsum(residuals[order]) / len(confidence)
    ends = np.append(np.diff(confidence[order]) > 0, True)
    return np.abs(sums[ends]).max()


@pytest.mark.parametrize("name", [n for n in recorded.names() if n != "maxlogit_scores"])
def test_recorded_values(name):
    expected = recorded.correct_values(name)["ks_calibration"]
    if name in SPLIT_BY_ORDER:
        expected = brute_force(*recorded.case(name))
    confidence, correct, where = recorded.padded(name)
    assert float(error(confidence, correct, where=where)) == pytest.approx(expected, abs=2e-6)


@given(st.integers(0, 2**32 - 1))
def test_brute_force_and_ranking(seed):
    rng = np.random.default_rng(seed)
    confidence = np.float32(rng.integers(0, 9, 40) / 8)
    correct = rng.integers(0, 2, 40)
    value = float(error(confidence, correct))
    assert value == pytest.approx(brute_force(confidence, correct), abs=1e-6)
    assert 0 <= value <= 1
    ranking = sort(confidence, correct)
    assert float(error(ranking)) == pytest.approx(value, abs=1e-6)


def test_undefined_and_refused():
    assert np.isnan(error(jnp.ones(3), jnp.ones(3, int), where=jnp.zeros(3, bool)))
    assert np.isnan(error(jnp.array([0.5, np.nan, 1]), jnp.ones(3, int)))
    assert np.isnan(error(jnp.array([0.5, 1.5, 1]), jnp.ones(3, int)))
    with pytest.raises(ValueError, match=r"got 1\.5"):
        ks_calibration_error(jnp.array([1.5]), jnp.array([1]))
    ranking = sort(jnp.array([0.5]), jnp.array([1]))
    with pytest.raises(ValueError, match="pass it alone"):
        ks_calibration_error(ranking, jnp.array([1]))
