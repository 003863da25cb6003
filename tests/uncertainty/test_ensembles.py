import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from hypothesis import given
from hypothesis import strategies as st

from entropax.uncertainty import ensembles
from entropax.uncertainty.ensembles import ensemble_uncertainty, monte_carlo_dropout

jitted = jax.jit(ensemble_uncertainty)


def brute_force(logits):
    probs = scipy.special.softmax(np.float64(logits), axis=-1)
    mean = probs.mean(0)
    total = scipy.special.entr(mean).sum(-1)
    expected = scipy.special.entr(probs).sum(-1).mean(0)
    return mean, total, expected, scipy.special.rel_entr(probs, mean).sum(-1).mean(0)


members = st.lists(st.floats(-20, 20, width=32), min_size=12, max_size=12)


@given(members)
def test_definitions(values):
    logits = np.array(values, np.float32).reshape(3, 4)
    found = jitted(logits)
    for value, expected in zip(found, brute_force(logits), strict=True):
        # float32: sums of four terms below 1
        np.testing.assert_allclose(value, expected, atol=2e-6)
    assert 0 <= found.mutual_information <= math.log(3) + 1e-6


def test_parts_sum_to_the_total():
    logits = np.random.default_rng(0).normal(scale=3, size=(5, 2, 3, 7))
    with jax.enable_x64(True):
        found = jitted(jnp.asarray(logits))
    assert found.probs.shape == (2, 3, 7)
    np.testing.assert_allclose(found.expected + found.mutual_information, found.total, rtol=1e-12)
    for value, expected in zip(found, brute_force(logits), strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-12)


@pytest.mark.parametrize("scale", [1e-1, 1e-2, 1e-3])
def test_small_disagreement_keeps_its_digits(scale):
    """A difference of entropies near 2 has an error of 1e-7, more than all of the last of these."""
    rng = np.random.default_rng(1)
    logits = (rng.normal(size=10) + scale * rng.normal(size=(8, 200, 10))).astype(np.float32)
    expected = brute_force(logits)[-1]
    found = jitted(logits)
    assert np.all(found.mutual_information > 0)
    # Probabilities are rounded to 1e-7 of themselves, the disagreement is `scale` of them.
    np.testing.assert_allclose(found.mutual_information, expected, rtol=2e-6 / scale)
    if scale == 1e-3:
        naive = np.abs(found.total - found.expected - expected) / expected
        assert np.max(naive) > 0.1


def test_the_series_meets_the_logarithm():
    x = np.concatenate([np.linspace(-0.11, 0.11, 301), np.linspace(-1, 5, 61)])
    expected = [
        sum((-t) ** n / (n * (n - 1)) for n in range(2, 60))
        if abs(t) < 0.2
        else scipy.special.xlogy(1 + t, 1 + t) - t
        for t in x
    ]
    with jax.enable_x64(True):
        found = ensembles._divergence(jnp.asarray(x))
    np.testing.assert_allclose(found, expected, rtol=1e-13)


def test_agreement_and_two_minds():
    same = jitted(jnp.broadcast_to(jnp.array([1.0, 2.0, 3.0]), (4, 3)))
    assert float(same.mutual_information) == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(same.total, same.expected, rtol=1e-6)
    split = jitted(jnp.log(jnp.eye(5)))
    assert float(split.mutual_information) == pytest.approx(math.log(5), rel=1e-6)
    assert float(split.expected) == 0
    one = jitted(jnp.array([[1.0, 2.0]]))
    assert float(one.mutual_information) == 0


def test_masked_classes_and_what_is_no_number():
    logits = np.random.default_rng(2).normal(size=(3, 4, 6)).astype(np.float32)
    where = jnp.arange(6) < 4
    dirty = jnp.where(where, logits, jnp.nan)
    found, expected = jitted(dirty, where=where), jitted(logits[..., :4])
    for value, other in zip(found[1:], expected[1:], strict=True):
        np.testing.assert_allclose(value, other, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(found.probs[:, 4:], 0)
    logits[1, 2, 3] = np.nan
    for value in jitted(logits)[1:]:
        assert np.isnan(value).tolist() == [False, False, True, False]


def test_gradients_are_finite():
    logits = np.random.default_rng(3).normal(size=(3, 4))
    where = jnp.array([True, True, True, False])

    def information(logits):
        return ensemble_uncertainty(logits, where=where).mutual_information

    gradient = jax.jit(jax.grad(information))(jnp.asarray(logits, jnp.float32))
    steps = 1e-5 * np.eye(12).reshape(12, 3, 4)
    expected = [
        (brute_force((logits + step)[:, :3])[-1] - brute_force((logits - step)[:, :3])[-1]) / 2e-5
        for step in steps
    ]
    np.testing.assert_allclose(gradient.ravel(), expected, atol=1e-6)


class Dropped(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(nn.Dropout(0.5, deterministic=False)(x))


def test_dropout_of_a_module():
    module, x = Dropped(), jnp.asarray(np.random.default_rng(4).normal(size=(6, 8)), jnp.float32)
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    variables = module.init(keys, x)

    def apply_fn(key, variables, x):
        return module.apply(variables, x, rngs={"dropout": key})

    key = jax.random.key(2)
    sampled = jax.jit(lambda key: monte_carlo_dropout(key, apply_fn, variables, x, num_samples=20))
    found = sampled(key)
    apply = jax.jit(apply_fn)
    logits = [apply(k, variables, x) for k in jax.random.split(key, 20)]
    expected = brute_force(np.stack(logits))
    for value, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(value, other, rtol=1e-5, atol=1e-6)
    assert np.all(found.mutual_information > 0.01)
    np.testing.assert_array_equal(sampled(jax.random.key(2)).probs, found.probs)
    assert np.any(sampled(jax.random.key(3)).probs != found.probs)


def test_a_network_without_randomness_has_no_disagreement():
    sampled = jax.jit(
        lambda key: monte_carlo_dropout(
            key, lambda key, w, x: x @ w, jnp.eye(3), jnp.eye(3), num_samples=5
        )
    )
    found = sampled(jax.random.key(0))
    np.testing.assert_allclose(found.mutual_information, 0, atol=1e-12)


def test_samples_are_checked():
    with pytest.raises(ValueError, match="`num_samples` must be at least 1, got 0"):
        monte_carlo_dropout(
            jax.random.key(0), lambda *_: jnp.ones((1, 2)), None, jnp.ones(1), num_samples=0
        )
