import functools

import jax
import jax.numpy as jnp
import linear_network as net
import numpy as np
import optax
import pytest

from entropax import tta
from entropax.tta.memo import marginal_entropy, memo

KEY = jax.random.key(8)
SGD = optax.sgd(0.2, momentum=0.9)
X = net.X[0]


def noisy(key, x):
    """Every copy in a way of its own."""
    return x + 0.5 * jax.random.normal(key, x.shape, x.dtype)


def build(augment=noisy, **options):
    options = {"num_copies": 4, "steps": 2, "trainable": tta.is_norm_affine, **options}
    return memo(KEY, net.apply_fn, SGD, augment=augment, **options)


@functools.cache
def compiled(augment=noisy, **options):
    adapter = build(augment, **options)
    state = adapter.init(net.variables())
    step = jax.jit(adapter.step)
    return lambda x, where=None: step(
        state, tta.Batch(jnp.asarray(x), jnp.ones(len(x), bool) if where is None else where)
    )


@pytest.mark.parametrize("examples_at_once", [1, 3])
def test_by_brute_force(examples_at_once):
    """Each of 8 examples by itself, two steps, in float64: rounding only.

    With p_j of the copies and their mean m, the derivative of H(m) by the logits of copy j is
    p_j (g - sum p_j g) / K, where g = -ln m.
    """
    with jax.enable_x64(True):
        state, info = compiled(examples_at_once=examples_at_once)(X)
        losses = []
        for i, x in enumerate(X):
            theta, momentum = np.stack([np.ones(6), np.zeros(6)]), np.zeros((2, 6))
            for key in jax.random.split(jax.random.fold_in(KEY, i), 2):
                copies = np.asarray(noisy(key, jnp.broadcast_to(x, (4, 6))))
                p = net.probabilities(net.logits(theta, copies))
                m = p.mean(0)
                loss = -(m * np.log(m)).sum()
                slope = p * (-np.log(m) + (p * np.log(m)).sum(1, keepdims=True)) / 4
                back = slope @ net.KERNEL.T
                momentum = 0.9 * momentum + np.stack([(back * copies).sum(0), back.sum(0)])
                theta = theta - 0.2 * momentum
            losses.append(loss)
            np.testing.assert_allclose(info.logits[i], net.logits(theta, x), atol=1e-12, rtol=0)
        np.testing.assert_allclose(info.loss, np.mean(losses), rtol=1e-12)
        np.testing.assert_allclose(info.entropy, net.entropy(np.asarray(info.logits)), atol=1e-12)
        np.testing.assert_array_equal(net.theta_of(state), [np.ones(6), np.zeros(6)])
        assert info.selected == len(X)
        assert not info.stepped


def test_examples_have_nothing_to_do_with_each_other():
    """With changes that do not depend on the key, the order of the batch does not matter."""
    run = compiled(augment=lambda key, x: x * jnp.linspace(0.5, 1.5, 4)[:, None])
    _, info = run(X)
    _, other = run(X[::-1])
    np.testing.assert_allclose(other.logits, info.logits[::-1], atol=1e-6, rtol=0)
    _, padded = run(np.where(np.arange(8)[:, None] < 3, X, np.nan), jnp.arange(8) < 3)
    np.testing.assert_allclose(padded.logits[:3], info.logits[:3], atol=1e-6, rtol=0)
    assert padded.selected == 3
    assert padded.finite


def test_the_network_forgets_and_the_key_moves_on():
    run = compiled()
    state, first = run(X)
    again, second = jax.jit(build().step)(state, tta.Batch(jnp.asarray(X), jnp.ones(8, bool)))
    np.testing.assert_array_equal(net.theta_of(again), [np.ones(6), np.zeros(6)])
    assert float(jnp.max(jnp.abs(first.logits - second.logits))) > 1e-3
    np.testing.assert_array_equal(run(X)[1].logits, first.logits)


def test_predict_is_what_the_step_will_say():
    adapter = build()
    batch = tta.Batch(jnp.asarray(X), jnp.ones(8, bool))
    logits = jax.jit(adapter.predict)(adapter.init(net.variables()), batch)
    np.testing.assert_allclose(logits, compiled()(X)[1].logits, atol=1e-5)


def test_a_broken_example_is_flagged_and_harms_no_other():
    run = compiled()
    _, info = run(X)
    broken = X.copy()
    broken[2, 1] = np.nan
    _, other = run(broken)
    assert not bool(other.finite)
    rest = np.arange(8) != 2
    np.testing.assert_allclose(other.logits[rest], info.logits[rest], atol=1e-6)


def test_an_example_that_cannot_be_learnt_is_predicted_by_the_source():
    """The augmentation breaks the examples whose first feature is positive."""
    run = compiled(augment=lambda key, x: jnp.where(x[:, :1] > 0, jnp.nan, noisy(key, x)))
    _, info = run(X)
    source, lost = X @ net.KERNEL, X[:, 0] > 0
    assert 0 < lost.sum() < 8
    assert not bool(info.finite)
    np.testing.assert_allclose(info.logits[lost], source[lost], atol=1e-5)
    np.testing.assert_allclose(info.logits[~lost], compiled()(X)[1].logits[~lost], atol=1e-6)


def test_entropy_of_a_mean():
    sure = 1000 * jnp.eye(4)
    np.testing.assert_allclose(marginal_entropy(sure), np.log(4), rtol=1e-6)
    z = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5, 4)), jnp.float32)
    mean = net.probabilities(np.asarray(z, np.float64)).mean(1)
    np.testing.assert_allclose(marginal_entropy(z), -(mean * np.log(mean)).sum(1), rtol=1e-6)
    assert bool(jnp.all(jnp.isfinite(jax.grad(marginal_entropy)(sure))))


@pytest.mark.parametrize("name", ["num_copies", "steps", "examples_at_once"])
def test_settings_that_make_no_sense(name):
    with pytest.raises(ValueError, match=f"`{name}` must be at least 1, got 0"):
        build(**{name: 0})
