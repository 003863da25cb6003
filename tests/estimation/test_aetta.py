import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import golden

from entropax.entropy import shannon
from entropax.estimation.aetta import aetta, aetta_error

DATA = golden("tta/estimators.npz")
RECORDED = golden("tta/estimators.json")["AETTA"]
KEY = jax.random.key(0)
ESTIMATE = jax.jit(lambda outputs: aetta().estimate(KEY, (), outputs, num_replicates=50))


def test_recorded_stream():
    """The published code starts from the raw disagreement and smooths, 0.6 old and 0.4 new.

    It has 2.3026 for ln 10, and adds 1e-6 to each of the 10 probabilities in the logarithm: the
    entropy is 1e-5 lower, the error 3e-5 higher at most.
    """
    smooth = None
    for t in range(4):
        logits = jnp.asarray(DATA["aetta_logits"][t])
        passes = jnp.asarray(DATA["aetta_dropout_logits"][t])
        e = 1 - RECORDED["dropout_agreement"][t]
        assert float(jnp.mean(passes.argmax(-1) != logits.argmax(-1))) == pytest.approx(e, abs=1e-6)
        probs = jnp.mean(jax.nn.softmax(passes), axis=(0, 1))
        assert float(shannon(probs)) == pytest.approx(RECORDED["avg_entropy"][t] + 1e-5, abs=1e-6)
        found = ESTIMATE((logits, passes))
        assert not found.extrapolated
        error = 1 - float(found.value)
        smooth = 0.6 * (e if smooth is None else smooth) + 0.4 * error
        assert 1 - smooth == pytest.approx(RECORDED["value"][t] / 100, abs=3e-5)


def test_formula():
    probs = jnp.array([0.5, 0.25, 0.25])
    share = 1.5 * np.log(2) / np.log(3)
    assert float(aetta_error(jnp.array(0.1), probs)) == pytest.approx(0.1 / share**3, abs=1e-6)
    assert float(aetta_error(jnp.array(0.9), probs)) == pytest.approx(2 / 3, abs=1e-6)
    assert float(aetta_error(jnp.array(0.0), probs)) == 0
    assert np.isnan(aetta_error(jnp.array(jnp.nan), probs))
    assert np.isnan(aetta_error(jnp.array(0.1), jnp.full(3, jnp.nan)))


def test_a_collapsed_network_is_not_called_accurate():
    """The published code says 100 % here."""
    logits = jnp.full((64, 10), -40.0).at[:, 3].set(40.0)
    found = ESTIMATE((logits, jnp.broadcast_to(logits, (10, 64, 10))))
    assert float(found.value) == pytest.approx(0.1, abs=1e-6)
    assert found.extrapolated


def test_one_predicted_class_is_flagged():
    logits = jnp.zeros((8, 3)).at[:, 1].set(1.0)
    passes = jnp.stack([logits, -logits])
    assert aetta().evidence((), (logits, passes)).extrapolated
    other = logits.at[5, 2].set(2.0)
    assert not aetta().evidence((), (other, passes)).extrapolated
    where = jnp.arange(8) != 5
    assert aetta().evidence((), (other, passes), where=where).extrapolated
