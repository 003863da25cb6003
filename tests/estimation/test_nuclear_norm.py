import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import golden

from entropax.estimation.nuclear_norm import nuclear_norm, nuclear_norm_score
from entropax.uncertainty import sample

KEY = jax.random.key(0)


def test_recorded_value():
    logits = jnp.asarray(golden("tta/estimators.npz")["test_logits"])
    expected = golden("tta/estimators.json")["nuclear_norm"]["value"]
    assert float(nuclear_norm_score(logits)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("n", "c"), [(7, 3), (3, 7), (1, 4)])
def test_against_the_definition(n, c):
    logits = jax.random.normal(KEY, (n, c))
    expected = np.linalg.norm(jax.nn.softmax(logits), "nuc") / np.sqrt(n * min(n, c))
    assert float(nuclear_norm_score(logits)) == pytest.approx(expected, abs=1e-6)
    padded = jnp.concatenate([jnp.full((5, c), jnp.nan), logits])
    found = nuclear_norm_score(padded, where=jnp.arange(n + 5) >= 5)
    assert float(found) == pytest.approx(expected, abs=1e-6)


def test_closed_forms():
    certain = 99 * jnp.tile(jnp.eye(3), (4, 1))
    assert float(nuclear_norm_score(certain)) == pytest.approx(1, abs=1e-6)
    # All of one class: one singular value, the root of n.
    collapsed = jnp.broadcast_to(certain[0], (12, 3))
    assert float(nuclear_norm_score(collapsed)) == pytest.approx(3**-0.5, abs=1e-6)
    assert float(nuclear_norm_score(jnp.zeros((12, 3)))) == pytest.approx(1 / 3, abs=1e-6)


def test_a_weight_is_a_repetition():
    logits = jax.random.normal(KEY, (5, 3))
    times = jnp.array([2, 0, 1, 3, 1])
    labels = jnp.array([[0] * 5, [1] * 5, [2] * 5])
    fitted = nuclear_norm().fit(jnp.stack([logits, 2 * logits, 3 * logits]), labels)
    assert fitted.slope != 0
    found = nuclear_norm().evidence(fitted, logits)
    weighted = found.statistic(sample(found.values)._replace(weights=times.astype(jnp.float32)))
    repeated = nuclear_norm().evidence(fitted, jnp.repeat(logits, times, axis=0))
    expected = repeated.statistic(sample(repeated.values))
    assert float(weighted) == pytest.approx(float(expected), abs=1e-6)


def test_nan():
    logits = jnp.zeros((4, 3)).at[1, 0].set(jnp.nan)
    assert np.isnan(nuclear_norm_score(logits))
    assert np.isnan(nuclear_norm_score(logits, where=jnp.zeros(4, bool)))
