"""Reliability curves: they agree with the calibration errors, and intervals with their formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from uncertainty import recorded

from entropax.uncertainty.ordering import rank
from entropax.uncertainty.reliability import reliability_curve

curve_of = jax.jit(reliability_curve, static_argnames=("num_bins", "binning", "level"))


@pytest.mark.parametrize("binning", ["equal_width", "equal_mass"])
def test_curve_gives_the_recorded_error(binning):
    confidence, correct, where = recorded.padded("saturated_at_one")
    curve = curve_of(confidence, correct, binning=binning, where=where)
    assert float(jnp.sum(curve.weight)) == 2000
    gaps = jnp.abs(curve.confidence - curve.accuracy)
    filled = curve.weight > 0
    error = float(jnp.sum(jnp.where(filled, curve.weight * gaps, 0)) / 2000)
    key = "ece_15" if binning == "equal_width" else "ece_equal_mass_15"
    assert error == pytest.approx(recorded.correct_values("saturated_at_one")[key], abs=2e-6)
    inside = (curve.lower <= curve.confidence + 1e-6) & (curve.confidence <= curve.upper + 1e-6)
    assert bool(jnp.all(inside | ~filled))
    ranking = jax.jit(rank)(confidence, correct, where=where)
    of_ranking = curve_of(ranking, binning=binning)
    for ours, other in zip(of_ranking, curve, strict=True):
        np.testing.assert_allclose(ours, other, atol=1e-6)


@pytest.mark.parametrize("level", [0.5, 0.95])
def test_wilson_intervals(level):
    rights = [0, 1, 7, 10]
    confidence = jnp.repeat(jnp.array([0.1, 0.4, 0.6, 0.9]), 10)
    correct = jnp.concatenate([jnp.arange(10) < k for k in rights])
    curve = curve_of(confidence, correct, num_bins=5, level=level)
    bins = np.flatnonzero(curve.weight)
    for k, b in zip(rights, bins, strict=True):
        interval = scipy.stats.binomtest(k, 10).proportion_ci(level, method="wilson")
        assert float(curve.accuracy[b]) == pytest.approx(k / 10)
        assert float(curve.accuracy_lower[b]) == pytest.approx(interval.low, abs=1e-6)
        assert float(curve.accuracy_upper[b]) == pytest.approx(interval.high, abs=1e-6)
    (empty,) = set(range(5)) - set(bins.tolist())
    assert (float(curve.accuracy_lower[empty]), float(curve.accuracy_upper[empty])) == (0, 1)
    assert np.isnan(curve.accuracy[empty])
    assert np.isnan(curve.confidence[empty])


def test_intervals_cover():
    """Of calibrated forecasts: 95 % of 4,000 bins of 50, with a standard error of 0.4 %."""
    rng = np.random.default_rng(0)
    correct = rng.random((4000, 50)) < 0.8
    curve = curve_of(jnp.full(correct.shape, 0.8), correct, num_bins=1)
    covered = (curve.accuracy_lower <= 0.8) & (curve.accuracy_upper >= 0.8)
    assert 0.93 < float(jnp.mean(covered)) < 0.97


def test_undefined_and_refused():
    curve = curve_of(jnp.array([0.5, 1.5]), jnp.array([1, 0]), num_bins=2)
    for part in (curve.accuracy, curve.accuracy_lower, curve.accuracy_upper):
        assert np.all(np.isnan(part))
    with pytest.raises(ValueError, match=r"got 1\.5"):
        reliability_curve(jnp.array([0.5, 1.5]), jnp.array([1, 0]))
    with pytest.raises(ValueError, match="between 0 and 1, got 1"):
        reliability_curve(jnp.array([0.5]), jnp.array([1]), level=1)
