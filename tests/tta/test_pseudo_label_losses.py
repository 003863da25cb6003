"""RPL and CPL: their losses in closed form, and what they become in the limit."""

import jax
import jax.numpy as jnp
import linear_network as net
import numpy as np
import optax
import pytest

from entropax import tta
from entropax.entropy import softmax_entropy
from entropax.tta.conjugate_pseudo_labels import conjugate_poly_loss, conjugate_pseudo_labels
from entropax.tta.robust_pseudo_labels import generalised_cross_entropy, robust_pseudo_labels

LOGITS = 3 * np.random.default_rng(0).normal(size=(20, 5))


@pytest.mark.parametrize("poly_weight", [0.0, 0.5, 8.0])
def test_conjugate_labels_solve_the_linear_system(poly_weight):
    p = net.probabilities(LOGITS)
    system = np.eye(5) + poly_weight * (p[:, :, None] * np.eye(5) - p[:, :, None] * p[:, None])
    y = np.linalg.solve(system, p[..., None])[..., 0]
    expected = -(y * np.log(p)).sum(1) + poly_weight * (1 - (y * p).sum(1))
    with jax.enable_x64(True):
        loss = conjugate_poly_loss(jnp.asarray(LOGITS), poly_weight=poly_weight)
        np.testing.assert_allclose(loss, expected, rtol=1e-11)
    loss = conjugate_poly_loss(jnp.asarray(LOGITS, jnp.float32), poly_weight=poly_weight)
    np.testing.assert_allclose(loss, expected, atol=2e-6, rtol=2e-6)


def test_the_conjugate_loss_is_the_conjugate_of_the_poly_loss():
    """That is, of the labels with which the supervised loss is stationary at these very logits."""
    eps = 8.0

    def supervised(h, y):
        return -y @ jax.nn.log_softmax(h) + eps * (1 - y @ jax.nn.softmax(h))

    with jax.enable_x64(True):
        for h in jnp.asarray(LOGITS[:5]):
            p = jax.nn.softmax(h)
            y = p / (1 + eps * p)
            y = y / y.sum()
            np.testing.assert_allclose(jax.grad(supervised)(h, y), 0, atol=1e-12)
            np.testing.assert_allclose(conjugate_poly_loss(h), supervised(h, y), rtol=1e-12)


def test_without_the_poly_term_it_is_tent():
    np.testing.assert_allclose(
        conjugate_poly_loss(jnp.asarray(LOGITS), poly_weight=0.0),
        softmax_entropy(jnp.asarray(LOGITS)),
        atol=2e-6,
    )
    tx = optax.sgd(0.05, momentum=0.9)
    states = [
        jax.jit(lambda b, a=adapter: tta.adapt(a, net.variables(), b))(net.stream())[0]
        for adapter in (
            conjugate_pseudo_labels(net.apply_fn, tx, poly_weight=0.0),
            tta.tent(net.apply_fn, tx),
        )
    ]
    np.testing.assert_allclose(*map(net.theta_of, states), atol=2e-6)


def test_an_impossible_class():
    z = jnp.array([1.0, 2.0, -jnp.inf])
    np.testing.assert_allclose(conjugate_poly_loss(z), conjugate_poly_loss(z[:2]), rtol=1e-6)
    np.testing.assert_allclose(
        generalised_cross_entropy(z), generalised_cross_entropy(z[:2]), rtol=1e-6
    )


@pytest.mark.parametrize("exponent", [0.1, 0.8, 1.0])
def test_generalised_cross_entropy(exponent):
    p = net.probabilities(LOGITS).max(1)
    loss = generalised_cross_entropy(jnp.asarray(LOGITS), exponent=exponent)
    np.testing.assert_allclose(loss, (1 - p**exponent) / exponent, atol=2e-6, rtol=2e-6)


def test_generalised_cross_entropy_becomes_cross_entropy():
    with jax.enable_x64(True):
        loss = generalised_cross_entropy(jnp.asarray(LOGITS), exponent=1e-6)
        np.testing.assert_allclose(loss, -np.log(net.probabilities(LOGITS).max(1)), rtol=1e-5)


def test_a_step_of_rpl_by_hand():
    """The gradient of (1 - p^q) / q is -p^(q-1) dp = -p^q (e_y - p) in the logits."""
    x, theta = net.X[0], np.stack([np.ones(6), np.zeros(6)])
    p = net.probabilities(net.logits(theta, x))
    top = np.eye(4)[p.argmax(1)]
    slope = -(p.max(1, keepdims=True) ** 0.8) * (top - p) / len(x)
    back = slope @ net.KERNEL.T
    expected = theta - 0.1 * np.stack([(back * x).sum(0), back.sum(0)])
    with jax.enable_x64(True):
        adapter = robust_pseudo_labels(net.apply_fn, optax.sgd(0.1))
        batch = tta.Batch(jnp.asarray(x), jnp.ones(len(x), bool))
        state, info = adapter.step(adapter.init(net.variables()), batch)
        np.testing.assert_allclose(net.theta_of(state), expected, atol=1e-12, rtol=0)
        np.testing.assert_allclose(info.loss, ((1 - p.max(1) ** 0.8) / 0.8).mean(), rtol=1e-12)
