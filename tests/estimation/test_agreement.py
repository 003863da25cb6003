import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import golden

from entropax.estimation.agreement import agreement, disagreement

KEY = jax.random.key(0)


def test_recorded_value():
    data = golden("tta/estimators.npz")
    pair = (jnp.asarray(data["test_logits"]), jnp.asarray(data["test_logits_2"]))
    found = disagreement().estimate(KEY, (), pair)
    expected = golden("tta/estimators.json")["GDE"]["value"]
    assert float(found.value) == pytest.approx(expected, abs=1e-6)
    assert not found.extrapolated


def test_the_same_network_twice_is_flagged():
    logits = jax.random.normal(KEY, (9, 3))
    found = disagreement().estimate(KEY, (), (logits, 2 * logits))
    assert (float(found.value), bool(found.extrapolated)) == (1, True)
    where = jnp.arange(9) != 4
    other = logits.at[4].set(-logits[4])
    assert not disagreement().estimate(KEY, (), (logits, other)).extrapolated
    assert disagreement().estimate(KEY, (), (logits, other), where=where).extrapolated


def test_agreement_of_many_networks_at_once():
    logits = jax.random.normal(KEY, (4, 9, 3))
    found = agreement(logits, logits[0])
    predicted = np.argmax(logits, axis=-1)
    np.testing.assert_array_equal(found, predicted == predicted[0])


def test_nan_of_either_network():
    logits = jnp.ones((3, 2))
    broken = logits.at[1, 0].set(jnp.nan)
    for pair in ((logits, broken), (broken, logits)):
        np.testing.assert_array_equal(agreement(*pair), [1, np.nan, 1])
