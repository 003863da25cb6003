import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import golden

from entropax.estimation.confidence import average_confidence
from entropax.estimation.confidence_transport import confidence_transport
from entropax.uncertainty import sample

VALUES = golden("tta/estimators.json")
KEY = jax.random.key(0)


def recorded():
    data = golden("tta/estimators.npz")
    return (jnp.asarray(data[name]) for name in ("val_logits", "val_y", "test_logits"))


@pytest.mark.parametrize(("solver", "atol"), [("exact", 1e-6), ("sinkhorn", 2e-4)])
@pytest.mark.parametrize(("rows", "name"), [(300, "COT_error"), (257, "COT_error_first257")])
def test_recorded_value(solver, atol, rows, name):
    logits, labels, target = recorded()
    cot = confidence_transport(solver=solver)
    found = cot.estimate(KEY, cot.fit(logits, labels), target[:rows])
    assert float(found.value) == pytest.approx(1 - VALUES[name]["value"], abs=atol)
    assert not found.extrapolated


@pytest.mark.parametrize("seed", range(5))
def test_never_above_average_confidence(seed):
    logits = 3 * jax.random.normal(jax.random.key(seed), (40, 4))
    cot = confidence_transport()
    fitted = cot.fit(logits, jnp.arange(40) % 4)
    found = cot.estimate(KEY, fitted, logits, num_replicates=2)
    assert found.value <= average_confidence(logits) + 1e-6


def test_interval_is_the_one_of_the_solved_replicates():
    """Potentials that are kept against a transport that is solved again for each draw."""
    logits, labels, target = recorded()
    target = target[:60]
    cot = confidence_transport()
    fitted = cot.fit(logits, labels)
    found = cot.estimate(KEY, fitted, target, level=0.68, num_replicates=400)

    @jax.jit
    def value(drawn):
        evidence = cot.evidence(fitted, target[drawn])
        return evidence.statistic(sample(evidence.values))

    rng = np.random.default_rng(0)
    replicates = [float(value(jnp.asarray(rng.integers(0, 60, 60)))) for _ in range(100)]
    # 100 replicates know a standard deviation to 7 %, the potentials are right to first order.
    assert (found.upper - found.lower) / 2 == pytest.approx(np.std(replicates), rel=0.3)


def test_a_class_without_labels_is_flagged_and_gets_no_example():
    logits = jnp.array([[3.0, 0.0, 0.0], [0.0, 3.0, 0.0], [0.0, 0.0, 9.0]])
    cot = confidence_transport()
    found = cot.estimate(KEY, cot.fit(logits[:2], jnp.array([0, 1])), logits[2:])
    rest = float(jax.nn.softmax(logits[2])[0])
    assert found.extrapolated
    assert float(found.value) == pytest.approx(rest, abs=1e-6)


def test_bad_solver():
    with pytest.raises(ValueError, match="must be one of auto, exact, sinkhorn"):
        confidence_transport(solver="emd")
