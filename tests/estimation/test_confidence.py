import jax
import jax.numpy as jnp
import numpy as np
import pytest

from entropax.estimation import average_confidence


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
