"""Temperature scaling against recorded optima, closed forms and degenerate sets."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from hypothesis import given
from hypothesis import strategies as st
from uncertainty import recorded

from entropax.uncertainty.temperature import FitStatus, fit_temperature

CASES = json.loads((recorded.GOLDEN / "temperature.json").read_text())["logit_cases"]
with np.load(recorded.GOLDEN / "logit_inputs.npz", allow_pickle=False) as arrays:
    INPUTS = {name: arrays[name] for name in arrays.files}
STORED = [name for name in CASES if f"{name}__logits" in INPUTS]


def inputs(name):
    return jnp.asarray(INPUTS[f"{name}__logits"]), jnp.asarray(INPUTS[f"{name}__labels"])


@pytest.mark.parametrize("name", STORED)
def test_recorded_optimum(name):
    scaling = fit_temperature(*inputs(name))
    expected = CASES[name]
    assert float(scaling.temperature) == pytest.approx(expected["T_exact_float64"], rel=1e-6)
    # float32 means of numbers up to 20: a few units in the last place
    assert float(scaling.loss_before) == pytest.approx(expected["nll_exact_before"], rel=1e-6)
    assert float(scaling.loss_after) == pytest.approx(expected["nll_exact_at_T"], rel=1e-6)
    assert int(scaling.status) == FitStatus.CONVERGED
    assert int(scaling.num_steps) <= 11
    # The published code stops early, on the side of where it starts.
    published = expected["ts_reference_float32"]
    assert float(scaling.temperature) == pytest.approx(published["T"], rel=2e-2)
    assert float(scaling.loss_after) <= published["nll_after"] + 2e-6


def test_recorded_optimum_in_float64():
    logits, labels = inputs("overconf_s2")
    with jax.enable_x64(True):
        scaling = fit_temperature(jnp.asarray(np.float64(logits)), jnp.asarray(labels))
        assert float(scaling.temperature) == pytest.approx(
            CASES["overconf_s2"]["T_exact_float64"], rel=1e-12
        )


def test_apply():
    logits, labels = inputs("overconf_s2")
    scaling = fit_temperature(logits, labels)
    scaled = scaling.apply(logits)
    np.testing.assert_allclose(scaled, logits / scaling.temperature, rtol=1e-6)
    assert float(fit_temperature(scaled, labels).temperature) == pytest.approx(1, rel=2e-6)
    np.testing.assert_array_equal(scaling.apply(logits[0]), scaled[0])


def test_degenerate_sets():
    logits, _ = inputs("overconf_s2")
    sharpest = fit_temperature(logits, jnp.argmax(logits, axis=-1))
    assert int(sharpest.status) == FitStatus.AT_UPPER
    assert float(sharpest.inverse_temperature) == 1000
    flattest = fit_temperature(logits, jnp.argmin(logits, axis=-1))
    assert int(flattest.status) == FitStatus.AT_LOWER
    assert float(flattest.temperature) == pytest.approx(1000)
    for scaling in (sharpest, flattest):
        assert float(scaling.loss_after) < float(scaling.loss_before)
    other = fit_temperature(logits, jnp.argmax(logits, axis=-1), bounds=(0.5, 20))
    assert (int(other.status), float(other.inverse_temperature)) == (FitStatus.AT_UPPER, 20)


def test_optimum_beyond_a_bound():
    logits, labels = inputs("overconf_s2")
    best = CASES["overconf_s2"]["T_exact_float64"]
    tiny = fit_temperature(logits * 1e-6, labels)
    assert int(tiny.status) == FitStatus.AT_UPPER
    huge = fit_temperature(logits * 1e6, labels)
    assert int(huge.status) == FitStatus.AT_LOWER
    above = fit_temperature(logits, labels, bounds=(2, 5))
    assert (int(above.status), float(above.inverse_temperature)) == (FitStatus.AT_LOWER, 2)
    within = fit_temperature(logits * 10, labels, bounds=(0.01, 0.2))
    assert float(within.temperature) == pytest.approx(10 * best, rel=1e-6)
    assert int(within.status) == FitStatus.CONVERGED


def test_flat_invalid_and_out_of_steps():
    logits, labels = inputs("overconf_s2")
    flat = fit_temperature(jnp.zeros_like(logits), labels)
    assert int(flat.status) == FitStatus.FLAT
    assert (float(flat.temperature), int(flat.num_steps)) == (1, 0)
    nothing = jnp.zeros(len(labels), bool)
    invalid = [
        fit_temperature(logits.at[3, 4].set(jnp.nan), labels),
        fit_temperature(logits.at[3, 4].set(jnp.inf), labels),
        fit_temperature(logits.at[3, labels[3]].set(-jnp.inf), labels),
        fit_temperature(logits, labels.at[0].set(10)),
        fit_temperature(logits, labels.at[0].set(-1)),
        fit_temperature(logits, labels, where=nothing),
    ]
    for scaling in invalid:
        assert int(scaling.status) == FitStatus.INVALID
        assert np.isnan(scaling.temperature)
        assert np.isnan(scaling.loss_after)
    short = fit_temperature(*inputs("saturated_s25"), max_steps=2)
    assert int(short.status) == FitStatus.NOT_CONVERGED


def test_rows_that_do_not_count_change_nothing():
    logits, labels = inputs("overconf_s2")
    where = jnp.arange(2000) % 3 != 0
    expected = fit_temperature(logits[where], labels[where])
    padded = jnp.where(where[:, None], logits, jnp.nan)
    scaling = fit_temperature(padded, jnp.where(where, labels, -7), where=where)
    for found, value in zip(scaling, expected, strict=True):
        np.testing.assert_allclose(found, value, rtol=1e-6)


def test_several_at_once_under_jit_and_vmap():
    names = ["overconf_s2", "underconf_s05"]
    logits, labels = (jnp.stack(x) for x in zip(*map(inputs, names), strict=True))
    expected = [CASES[name]["T_exact_float64"] for name in names]
    scaling = fit_temperature(logits, labels)
    np.testing.assert_allclose(scaling.temperature, expected, rtol=1e-6)
    assert scaling.apply(logits).shape == logits.shape
    mapped = jax.jit(jax.vmap(fit_temperature))(logits, labels)
    np.testing.assert_allclose(mapped.temperature, expected, rtol=1e-6)


@given(st.floats(0.05, 20), st.integers(1, 39))
def test_two_logits_closed_form(gap, wrong):
    """Right with a margin of `gap` in 40 - w of 40 cases: b = ln((40 - w) / w) / gap."""
    logits = jnp.tile(jnp.array([gap, 0.0], jnp.float32), (40, 1))
    labels = jnp.arange(40) < wrong
    scaling = fit_temperature(logits, labels.astype(int))
    right = 1 - wrong / 40
    if wrong >= 20:
        assert int(scaling.status) == FitStatus.AT_LOWER
    else:
        # Two roundings of a probability in float32, times the derivative of the logit.
        rounding = 2.4e-7 / (right * (1 - right))
        found = float(scaling.inverse_temperature) * float(np.float32(gap))
        assert found == pytest.approx(scipy.special.logit(right), abs=rounding)


def test_a_class_of_probability_zero():
    logits, labels = inputs("binary_s3")
    more = jnp.concatenate([logits, jnp.full((1000, 1), -jnp.inf)], axis=-1)
    scaling = fit_temperature(more, labels)
    assert float(scaling.temperature) == pytest.approx(
        CASES["binary_s3"]["T_exact_float64"], rel=1e-6
    )


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (1.0, 0.5), (-1.0, 1.0), (1.0, float("inf"))])
def test_bounds_are_checked(bounds):
    with pytest.raises(ValueError, match="in ascending order"):
        fit_temperature(jnp.zeros((2, 2)), jnp.zeros(2, int), bounds=bounds)
    with pytest.raises(ValueError, match="must be positive, got 0"):
        fit_temperature(jnp.zeros((2, 2)), jnp.zeros(2, int), max_steps=0)
