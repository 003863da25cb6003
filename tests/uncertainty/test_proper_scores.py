"""Proper scores against recorded values, NumPy, and their own identity."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from hypothesis import given
from hypothesis import strategies as st
from uncertainty import recorded

from entropax.uncertainty.ordering import rank
from entropax.uncertainty.proper_scores import (
    brier_decomposition,
    brier_score,
    negative_log_likelihood,
)

nll = jax.jit(negative_log_likelihood)
brier = jax.jit(brier_score)
decompose = jax.jit(brier_decomposition, static_argnames=("num_bins", "binning"))

CASES = json.loads((recorded.GOLDEN / "temperature.json").read_text())["logit_cases"]
with np.load(recorded.GOLDEN / "logit_inputs.npz", allow_pickle=False) as arrays:
    INPUTS = {name: arrays[name] for name in arrays.files}


@pytest.mark.parametrize("name", [name for name in CASES if f"{name}__logits" in INPUTS])
def test_recorded_scores(name):
    logits, labels, known = INPUTS[f"{name}__logits"], INPUTS[f"{name}__labels"], CASES[name]
    assert float(nll(logits, labels)) == pytest.approx(known["nll_exact_before"], rel=1e-6)
    probs = jax.nn.softmax(logits)
    assert float(brier(probs, labels)) == pytest.approx(known["brier_before"], abs=2e-6)
    probs = jax.nn.softmax(logits / known["T_exact_float64"])
    assert float(brier(probs, labels)) == pytest.approx(known["brier_after"], abs=2e-6)


def test_binary_forecasts_are_half_of_two_classes():
    rng = np.random.default_rng(0)
    confidence, correct = np.float32(rng.random(50)), rng.integers(0, 2, 50)
    half = float(brier(confidence, correct))
    assert half == pytest.approx(np.mean((np.float64(confidence) - correct) ** 2), abs=1e-7)
    both = np.stack([1 - confidence, confidence], -1)
    assert float(brier(both, correct)) == pytest.approx(2 * half, abs=1e-6)
    ranking = jax.jit(rank)(confidence, correct)
    assert float(brier(ranking)) == pytest.approx(half, abs=1e-7)


@pytest.mark.parametrize("binning", ["equal_width", "equal_mass"])
@given(st.integers(0, 2**32 - 1))
def test_decomposition_is_exact(binning, seed):
    rng = np.random.default_rng(seed)
    grid = rng.choice([5, 2**20])
    confidence = np.float32(rng.integers(0, grid + 1, 60) / grid)
    correct = rng.integers(0, 2, 60)
    where = rng.random(60) < 0.8
    where[0] = True
    parts = decompose(confidence, correct, binning=binning, num_bins=7, where=where)
    c, y = np.float64(confidence[where]), correct[where]
    assert float(parts.brier) == pytest.approx(np.mean((c - y) ** 2), abs=1e-6)
    assert float(parts.uncertainty) == pytest.approx(np.var(y), abs=1e-6)
    whole = parts.reliability - parts.resolution + parts.uncertainty
    whole += parts.within_variance - 2 * parts.within_covariance
    assert float(whole) == pytest.approx(float(parts.brier), abs=1e-6)
    for part in parts[:5]:
        assert float(part) >= -1e-7
    if grid == 5 and binning == "equal_width":  # one confidence in each bin
        assert float(parts.within_variance) == pytest.approx(0, abs=1e-7)
        assert float(parts.within_covariance) == pytest.approx(0, abs=1e-7)


def test_masked_rows_change_nothing():
    logits, labels = INPUTS["k5_near_one__logits"], INPUTS["k5_near_one__labels"]
    where = np.arange(len(labels)) % 3 != 0
    padded, strange = np.where(where[:, None], logits, np.nan), np.where(where, labels, 99)
    expected = nll(logits[where], labels[where])
    np.testing.assert_allclose(nll(padded, strange, where=where), expected, rtol=1e-6)
    probs = scipy.special.softmax(padded, axis=-1)
    expected = brier(probs[where], labels[where])
    np.testing.assert_allclose(brier(probs, strange, where=where), expected, rtol=1e-6)


def test_edges_undefined_and_refused():
    impossible = jnp.array([[0.0, -jnp.inf]])
    assert float(nll(impossible, jnp.array([0]))) == 0
    assert float(nll(impossible, jnp.array([1]))) == np.inf
    probs = jnp.array([[1.0, 0.0]])
    assert float(brier(probs, jnp.array([1]))) == 2
    nobody = jnp.zeros(1, bool)
    assert np.isnan(nll(probs, jnp.array([0]), where=nobody))
    assert np.isnan(brier(probs, jnp.array([0]), where=nobody))
    for part in decompose(jnp.array([0.5]), jnp.array([1]), where=nobody):
        assert np.isnan(part)
    for part in decompose(jnp.array([1.5]), jnp.array([1])):
        assert np.isnan(part)
    assert np.isnan(nll(probs, jnp.array([2])))
    assert np.isnan(brier(probs * 2, jnp.array([0])))
    for function in (negative_log_likelihood, brier_score):
        with pytest.raises(ValueError, match="from 0 to 1, got 2"):
            function(probs, jnp.array([2]))
    with pytest.raises(ValueError, match="must be a probability"):
        brier_score(probs * 2, jnp.array([0]))
