import jax
import jax.numpy as jnp
import numpy as np
import pytest

from entropax.estimation.confidence import average_confidence, mean_confidence


def test_mean_of_the_largest_probability():
    logits = jax.random.normal(jax.random.key(0), (3, 7, 5))
    expected = np.max(np.exp(logits) / np.exp(logits).sum(-1, keepdims=True), -1).mean(-1)
    np.testing.assert_allclose(average_confidence(logits), expected, rtol=1e-6)


def test_padding_does_not_count():
    logits = jnp.array([[4.0, 0.0], [0.0, 0.0], [0.0, 9.0]])
    where = jnp.array([True, True, False])
    assert float(average_confidence(logits, where=where)) == pytest.approx(
        float(average_confidence(logits[:2]))
    )


def test_the_estimator_says_the_same_with_an_interval():
    logits = 3 * jax.random.normal(jax.random.key(0), (50, 4))
    estimator = mean_confidence()
    found = estimator.estimate(
        jax.random.key(1), estimator.fit(logits, jnp.zeros(50, int)), logits, num_replicates=50
    )
    np.testing.assert_allclose(found.value, average_confidence(logits), rtol=1e-6)
    assert found.lower < found.value < found.upper
    assert not found.extrapolated
