import jax
import jax.numpy as jnp
import pytest
from oracles import golden

from entropax.estimation.thresholded_transport import thresholded_transport

VALUES = golden("tta/estimators.json")
KEY = jax.random.key(0)


def recorded():
    data = golden("tta/estimators.npz")
    return (jnp.asarray(data[name]) for name in ("val_logits", "val_y", "test_logits"))


def test_recorded_value():
    logits, labels, target = recorded()
    cott = thresholded_transport()
    fitted = cott.fit(logits, labels)
    threshold = VALUES["COTT_error"]["threshold_on_minus_cost"]
    assert float(fitted.threshold.threshold) == pytest.approx(threshold, abs=1e-6)
    found = cott.estimate(KEY, fitted, target)
    assert float(found.value) == pytest.approx(1 - VALUES["COTT_error"]["value"], abs=1e-6)
    assert not found.extrapolated


def test_sinkhorn_moves_few_examples_over_the_threshold():
    """Costs of single examples are less certain than their mean: here to 1 % of the examples."""
    logits, labels, target = recorded()
    cott = thresholded_transport(solver="sinkhorn")
    found = cott.estimate(KEY, cott.fit(logits, labels), target)
    assert float(found.value) == pytest.approx(1 - VALUES["COTT_error"]["value"], abs=0.01)


def test_its_own_source_gives_the_accuracy():
    logits, labels, _ = recorded()
    cott = thresholded_transport()
    found = cott.estimate(KEY, cott.fit(logits, labels), logits)
    assert float(found.value) == pytest.approx(VALUES["truth"]["val_accuracy"], abs=1e-6)


@pytest.mark.parametrize("case", ["all right", "a class is missing"])
def test_flagged(case):
    logits, labels, target = recorded()
    right = jnp.argmax(logits, axis=-1) == labels
    where = right if case == "all right" else labels != 3
    cott = thresholded_transport()
    assert cott.estimate(KEY, cott.fit(logits, labels, where=where), target).extrapolated


def test_bad_solver():
    with pytest.raises(ValueError, match="must be one of auto, exact, sinkhorn"):
        thresholded_transport(solver="emd")
