import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import golden

from entropax.estimation.difference import difference_of_confidences

VALUES = golden("tta/estimators.json")
KEY = jax.random.key(0)


def test_recorded_value():
    data = golden("tta/estimators.npz")
    doc = difference_of_confidences()
    fitted = doc.fit(jnp.asarray(data["val_logits"]), jnp.asarray(data["val_y"]))
    assert float(fitted.accuracy) == pytest.approx(VALUES["truth"]["val_accuracy"], abs=1e-6)
    assert float(fitted.confidence) == pytest.approx(VALUES["AC_val"]["value"], abs=1e-6)
    found = doc.estimate(KEY, fitted, jnp.asarray(data["test_logits"]))
    assert float(found.value) == pytest.approx(VALUES["DoC"]["value"], abs=1e-6)
    assert not found.extrapolated


def test_recorded_value_in_double_precision():
    data = golden("tta/estimators.npz")
    doc = difference_of_confidences()
    with jax.enable_x64(True):
        fitted = doc.fit(jnp.asarray(data["val_logits"], float), jnp.asarray(data["val_y"]))
        found = doc.estimate(KEY, fitted, jnp.asarray(data["test_logits"], float))
        assert float(found.value) == pytest.approx(VALUES["DoC"]["value"], abs=1e-9)


def test_its_own_source_gives_the_accuracy():
    rng = np.random.default_rng(0)
    logits, labels = jnp.asarray(rng.normal(size=(50, 3))), jnp.asarray(rng.integers(0, 3, 50))
    doc = difference_of_confidences()
    found = doc.estimate(KEY, doc.fit(logits, labels), logits)
    accuracy = float(jnp.mean(jnp.argmax(logits, axis=-1) == labels))
    assert float(found.value) == pytest.approx(accuracy, abs=1e-6)


def test_outside_of_the_unit_interval_is_clipped_and_flagged():
    doc = difference_of_confidences()
    unsure, sure = jnp.array([[0.1, 0.0]] * 9), jnp.array([[9.0, 0.0]] * 9)
    too_high = doc.estimate(KEY, doc.fit(unsure, jnp.zeros(9, int)), sure)
    too_low = doc.estimate(KEY, doc.fit(sure, jnp.ones(9, int)), unsure)
    assert (float(too_high.value), bool(too_high.extrapolated)) == (1, True)
    assert (float(too_low.value), bool(too_low.extrapolated)) == (0, True)
