import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import golden

from entropax.estimation.atc import average_thresholded_confidence

VALUES = golden("tta/estimators.json")
KEY = jax.random.key(0)
SCORES = [("MC", "confidence"), ("NE", "entropy")]


def recorded():
    data = golden("tta/estimators.npz")
    return (jnp.asarray(data[name]) for name in ("val_logits", "val_y", "test_logits"))


@pytest.mark.parametrize(("name", "score"), SCORES)
def test_recorded_value(name, score):
    logits, labels, target = recorded()
    atc = average_thresholded_confidence(score=score)
    fitted = atc.fit(logits, labels)
    threshold = VALUES[f"ATC_{name}"]["threshold"]
    if name == "MC":
        threshold = np.log(threshold / (1 - threshold))
    # A rounding of 1e-7 of the probability is up to 1e-6 of the log-odds.
    assert float(fitted.threshold) == pytest.approx(threshold, abs=2e-6)
    found = atc.estimate(KEY, fitted, target)
    assert float(found.value) == pytest.approx(VALUES[f"ATC_{name}"]["value"], abs=1e-6)
    assert not found.extrapolated
    own = atc.estimate(KEY, fitted, logits)
    assert float(own.value) == pytest.approx(VALUES[f"ATC_{name}"]["on_val"], abs=1e-6)


@pytest.mark.parametrize(("name", "score"), SCORES)
def test_a_source_that_is_all_right_is_flagged(name, score):
    """Where the published code says 0 with the entropy, and 1 with the confidence."""
    logits, labels, target = recorded()
    right = jnp.argmax(logits, axis=-1) == labels
    atc = average_thresholded_confidence(score=score)
    found = atc.estimate(KEY, atc.fit(logits, labels, where=right), target)
    assert float(found.value) == pytest.approx(VALUES[f"ATC_{name}_val100"]["value"], abs=1e-6)
    assert found.extrapolated


def test_two_classes_have_one_order():
    """With two classes the entropy falls with the confidence, so that both agree."""
    rng = np.random.default_rng(0)
    logits, target = (jnp.asarray(rng.normal(size=(60, 2)), jnp.float32) for _ in range(2))
    labels = jnp.asarray(rng.integers(0, 2, 60))
    values = []
    for _, score in SCORES:
        atc = average_thresholded_confidence(score=score)
        values.append(float(atc.estimate(KEY, atc.fit(logits, labels), target).value))
    assert values[0] == pytest.approx(values[1], abs=1e-6)


def test_probabilities_that_round_to_one_are_still_ordered():
    """Margins of 20 to 40 have a largest probability of exactly 1 in float32."""
    margins = jnp.array([20.0, 25.0, 30.0, 35.0])
    logits = jnp.stack([margins, jnp.zeros(4)], axis=-1)
    atc = average_thresholded_confidence(score="confidence")
    fitted = atc.fit(logits, jnp.array([1, 0, 0, 0]))
    assert 20 < float(fitted.threshold) <= 25
    target = jnp.array([[22.0, 0.0], [26.0, 0.0]])
    assert float(atc.estimate(KEY, fitted, target).value) == 0.5


def test_bad_score():
    with pytest.raises(ValueError, match="must be one of confidence, entropy, got 'margin'"):
        average_thresholded_confidence(score="margin")
