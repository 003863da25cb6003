"""Smooth calibration error against quadrature of its definition and recorded values of relplot."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from uncertainty import recorded

from entropax.uncertainty.ordering import Ranking
from entropax.uncertainty.smooth_calibration import smooth_calibration_error

error = jax.jit(smooth_calibration_error, static_argnames="bandwidth")
CASES = [
    name
    for name in recorded.names()
    if recorded.others(name).get("relplot_smECE") is not None and name != "n2_inverted"
]


def quadrature(confidence, correct, width):
    """The definition, with images up to three units away and the midpoint rule."""
    t = (np.arange(4000) + 0.5) / 4000
    c = np.float64(confidence)[:, None]
    kernel = sum(
        np.exp(-(((t - image) / width) ** 2) / 2) for m in (-2, 0, 2) for image in (m + c, m - c)
    ) / (width * np.sqrt(2 * np.pi))
    return np.mean(np.abs((np.float64(confidence) - correct) @ kernel / len(confidence)))


@pytest.mark.parametrize("name", CASES)
def test_relplot(name):
    """With half the weight at exactly 0 and 1, which its reflection leaves out."""
    confidence, correct, where = recorded.padded(name)
    ends = (confidence == 0) | (confidence == 1)
    weights = np.where(where, np.where(ends, 1, 2), 0)
    confidence = np.where(where, confidence, -np.inf)
    ranking = Ranking(*map(jnp.asarray, (confidence, np.float32(correct), np.float32(weights))))
    # Its bandwidth comes in steps of 1/1024.
    expected = recorded.others(name)["relplot_smECE"]
    assert float(error(ranking)) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("width", [0.01, 0.1, 0.6])
def test_is_its_definition(width):
    for name in ("tiny", "saturated_at_one"):
        confidence, correct = recorded.case(name)
        value = error(confidence, correct, bandwidth=width)
        # The grid adds at most (1/2048)^2 / 4 to the variance of the kernel: 6e-4 of 0.01^2.
        expected = quadrature(confidence, np.float64(correct), width)
        assert float(value) == pytest.approx(expected, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("name", ["tiny", "n2_inverted"])
def test_fixed_point(name):
    """Also where the bandwidth is so large that relplot cuts the kernel off (0.348 of 0.300)."""
    confidence, correct = recorded.case(name)
    value = float(error(confidence, correct))
    assert quadrature(confidence, np.float64(correct), value) == pytest.approx(value, abs=1e-5)


def test_closed_forms_and_bounds():
    """One confidence c of which a share a is correct: |c - a| at any bandwidth."""
    correct = jnp.arange(500) % 2
    for c in (0.0, 0.3, 1.0):
        value = error(jnp.full(500, c, jnp.float32), correct)
        assert float(value) == pytest.approx(abs(c - 0.5), abs=1e-6)
    assert float(error(jnp.full(500, 0.5), correct)) == pytest.approx(0, abs=1e-6)


def test_order_padding_and_precision():
    confidence, correct = recorded.case("saturated_at_one")
    expected = float(error(confidence, correct))
    order = np.random.default_rng(0).permutation(len(correct))
    assert float(error(confidence[order], correct[order])) == pytest.approx(expected, abs=2e-6)
    assert float(error(*recorded.padded("saturated_at_one")[:2], where=np.arange(2048) < 2000)) == (
        pytest.approx(expected, abs=2e-6)
    )
    with jax.enable_x64(True):
        precise = float(error(np.float64(confidence), correct))
    assert precise == pytest.approx(expected, abs=2e-6)


def test_undefined_and_refused():
    assert np.isnan(error(jnp.ones(3), jnp.ones(3, int), where=jnp.zeros(3, bool)))
    assert np.isnan(error(jnp.array([0.5, np.nan, 1]), jnp.ones(3, int)))
    assert np.isnan(error(jnp.array([0.5, 1.5, 1]), jnp.ones(3, int)))
    with pytest.raises(ValueError, match=r"got 1\.5"):
        smooth_calibration_error(jnp.array([1.5]), jnp.array([1]))
    with pytest.raises(ValueError, match="must be positive, got 0"):
        smooth_calibration_error(jnp.array([0.5]), jnp.array([1]), bandwidth=0)
