import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import golden

from entropax.estimation.importance import importance_weighting

KEY = jax.random.key(0)


def confident(values):
    """Logits of two classes whose largest probabilities are these."""
    return jnp.log(jnp.stack([jnp.array(values), 1 - jnp.array(values)], axis=-1))


def test_recorded_value():
    data = golden("tta/estimators.npz")
    im = importance_weighting()
    fitted = im.fit(jnp.asarray(data["val_logits"]), jnp.asarray(data["val_y"]))
    found = im.estimate(KEY, fitted, jnp.asarray(data["test_logits"]))
    expected = golden("tta/estimators.json")["IM"]["value"]
    assert float(found.value) == pytest.approx(expected, abs=1e-6)


def test_against_weights_of_the_source():
    """The definition: histograms of both, and a weighted mean over the source."""
    rng = np.random.default_rng(0)
    logits = jnp.asarray(2 * rng.normal(size=(200, 2)), jnp.float32)
    target = jnp.asarray(rng.normal(size=(150, 2)), jnp.float32)
    labels = jnp.asarray(rng.integers(0, 2, 200))
    edges = np.linspace(0, 1, 8)
    of = [np.max(jax.nn.softmax(x), axis=-1) for x in (logits, target)]
    in_source, in_target = (np.histogram(x, edges, density=True)[0] for x in of)
    place = np.digitize(of[0], edges) - 1
    weights = (in_target / np.where(in_source > 0, in_source, 1))[place]
    correct = np.argmax(logits, axis=-1) == labels
    im = importance_weighting(bins=7)
    found = im.estimate(KEY, im.fit(logits, labels), target)
    assert float(found.value) == pytest.approx(np.average(correct, weights=weights), abs=1e-6)


def test_bins_without_source_are_left_out_and_flagged():
    im = importance_weighting()
    fitted = im.fit(confident([0.95, 0.92, 0.65]), jnp.array([0, 1, 1]))
    found = im.estimate(KEY, fitted, confident([0.97, 0.61, 0.75]))
    assert float(found.value) == pytest.approx((0.5 + 0) / 2)
    assert found.extrapolated
    assert not im.estimate(KEY, fitted, confident([0.97, 0.61])).extrapolated
    nowhere = im.estimate(KEY, fitted, confident([0.75, 0.85]))
    assert np.isnan(nowhere.value)
    assert nowhere.extrapolated


def test_bad_bins():
    with pytest.raises(ValueError, match="`bins` must be positive, got 0"):
        importance_weighting(bins=0)
