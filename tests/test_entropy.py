import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from entropax.entropy import shannon, softmax_entropy

logits_5 = st.lists(st.floats(-30, 30, width=32), min_size=5, max_size=5)


@given(logits_5)
def test_softmax_entropy_is_scipy_entropy(logits):
    probs = np.exp(np.float64(logits) - np.max(logits))
    expected = scipy.stats.entropy(probs)
    # float32: five terms, each rounded to about 1e-7 of ln 5
    np.testing.assert_allclose(softmax_entropy(jnp.float32(jnp.array(logits))), expected, atol=2e-6)


@given(logits_5)
def test_both_entropies_agree(logits):
    logits = jnp.array(logits, jnp.float32)
    np.testing.assert_allclose(
        shannon(jax.nn.softmax(logits)), softmax_entropy(logits), atol=2e-6, rtol=0
    )


@given(logits_5)
def test_gradient_is_the_closed_form(logits):
    r"""dH/dz_k = -p_k (ln p_k + H)."""
    logits = jnp.array(logits, jnp.float32)
    log_probs = jax.nn.log_softmax(logits)
    expected = -jnp.exp(log_probs) * (log_probs + softmax_entropy(logits))
    np.testing.assert_allclose(jax.grad(softmax_entropy)(logits), expected, atol=2e-6)


def test_bounds():
    assert float(softmax_entropy(jnp.zeros(10))) == pytest.approx(np.log(10), rel=1e-6)
    assert float(softmax_entropy(jnp.array([1e4, 0.0, -1e4]))) == 0
    assert float(shannon(jnp.array([1.0, 0.0, 0.0]))) == 0


def test_where_leaves_classes_out():
    logits = jnp.array([[1.0, 2.0, jnp.nan], [0.0, 0.0, 5.0]])
    where = jnp.array([True, True, False])
    expected = softmax_entropy(logits[:, :2])
    np.testing.assert_allclose(softmax_entropy(logits, where=where), expected, rtol=1e-6)
    probs = jnp.array([[0.2, 0.3, 0.5]])
    np.testing.assert_allclose(shannon(probs, where=where), shannon(probs[:, :2]), rtol=1e-6)


def test_nan_stays_nan():
    assert jnp.isnan(softmax_entropy(jnp.array([0.0, jnp.nan])))


@pytest.mark.parametrize(
    ("function", "at"), [(shannon, [0.5, 0.5, 0.0]), (softmax_entropy, [1.0, 1.0, -jnp.inf])]
)
def test_gradient_is_finite_where_a_probability_is_zero(function, at):
    assert jnp.all(jnp.isfinite(jax.grad(function)(jnp.array(at))))
