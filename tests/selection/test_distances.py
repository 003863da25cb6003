"""Distances against SciPy, against their definitions, and where the published ones go wrong."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.spatial.distance
import scipy.special
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from entropax.selection import distances

X, Y = jnp.asarray(np.random.default_rng(0).normal(size=(2, 7, 5)), jnp.float32)
METRICS = {
    "l_p": distances.l_p,
    "l_1": lambda x, y: distances.l_p(x, y, order=1),
    "angular": distances.angular,
    "wasserstein": lambda x, y: distances.wasserstein(jax.nn.softmax(x), jax.nn.softmax(y)),
    "mahalanobis": lambda x, y: distances.mahalanobis(x, y, jnp.diag(jnp.arange(1.0, 6.0))),
}
ALL = {
    **METRICS,
    "order_n": distances.order_n,
    "cosine_distance": distances.cosine_distance,
    "cosine_similarity": distances.cosine_similarity,
    "hypersphere": distances.hypersphere,
    "exponential_repulsion": distances.exponential_repulsion,
}
COMPILED = {name: jax.jit(distance) for name, distance in ALL.items()}
L_P = jax.jit(distances.l_p, static_argnames="order")
ORDER_N = jax.jit(distances.order_n, static_argnames=("order", "reduction"))
MAHALANOBIS = jax.jit(distances.mahalanobis)
WASSERSTEIN = jax.jit(distances.wasserstein)


def rows(distance, *rest):
    x64, y64 = np.asarray(X, np.float64), np.asarray(Y, np.float64)
    return [distance(x, y, *rest) for x, y in zip(x64, y64, strict=True)]


@pytest.mark.parametrize("order", [1, 1.5, 2, 3, math.inf])
def test_l_p_and_order_n(order):
    expected = rows(scipy.spatial.distance.minkowski, order)
    np.testing.assert_allclose(L_P(X, Y, order=order), expected, rtol=1e-6)
    if order < math.inf:
        powers = np.array(expected) ** order
        sums = ORDER_N(X, Y, order=order, reduction="sum")
        np.testing.assert_allclose(sums, powers, rtol=1e-5)
        np.testing.assert_allclose(ORDER_N(X, Y, order=order), powers / 5, rtol=1e-5)


def test_cosine_and_angular():
    cosine = np.array(rows(scipy.spatial.distance.cosine))
    np.testing.assert_allclose(COMPILED["cosine_distance"](X, Y), cosine, atol=1e-6)
    np.testing.assert_allclose(COMPILED["cosine_similarity"](X, Y), 1 - cosine, atol=1e-6)
    angles = np.arccos(1 - cosine) / np.pi
    np.testing.assert_allclose(COMPILED["angular"](X, Y), angles, atol=1e-6)
    euclidean = np.array(rows(scipy.spatial.distance.euclidean))
    np.testing.assert_allclose(COMPILED["hypersphere"](X, Y), euclidean * cosine, rtol=1e-5)


def test_mahalanobis():
    covariance = np.cov(np.random.default_rng(1).normal(size=(5, 20)))
    expected = rows(scipy.spatial.distance.mahalanobis, np.linalg.inv(covariance))
    actual = MAHALANOBIS(X, Y, jnp.asarray(covariance, jnp.float32))
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_mahalanobis_with_a_direction_without_variance():
    """The covariance of 4 examples in 5 dimensions; the published inverse is rounding, inverted."""
    covariance = np.cov(np.asarray(X[:4], np.float64).T)
    expected = rows(scipy.spatial.distance.mahalanobis, np.linalg.pinv(covariance, rcond=1e-9))
    actual = MAHALANOBIS(X, Y, jnp.asarray(covariance, jnp.float32))
    np.testing.assert_allclose(actual, expected, rtol=1e-3)
    np.testing.assert_array_equal(MAHALANOBIS(X, Y, np.zeros((5, 5), np.float32)), 0)


def test_wasserstein_is_between_distributions_over_places():
    p, q = (np.float32(scipy.special.softmax(outputs, axis=1)) for outputs in (X, Y))
    places = np.arange(5)
    expected = [
        scipy.stats.wasserstein_distance(places, places, a, b) for a, b in zip(p, q, strict=True)
    ]
    np.testing.assert_allclose(WASSERSTEIN(p, q), expected, atol=1e-6)
    # The published use compares sorted values: these two were at distance 0.
    assert float(WASSERSTEIN(*np.eye(3, dtype=np.float32)[[0, 2]])) == 2


def test_opposite_outputs_are_far_apart():
    """The published distances take the absolute value of the cosine."""
    opposite = -np.asarray(X)
    np.testing.assert_allclose(COMPILED["angular"](X, opposite), 1, atol=1e-6)
    np.testing.assert_allclose(COMPILED["cosine_distance"](X, opposite), 2, atol=1e-6)


def test_odd_orders_do_not_cancel():
    x = np.tile(np.float32([0, 2, 0, 2, 0]), (7, 1))
    np.testing.assert_array_equal(ORDER_N(x, 2 - x, order=3), 8)
    np.testing.assert_allclose(ORDER_N(x, 2 - x, order=1.5), 2**1.5, rtol=1e-6)


def test_small_angles():
    angles = np.array([1e-3, 1e-5, 1e-7])
    y = np.float32(np.stack([np.cos(angles), np.sin(angles)], axis=1))
    actual = COMPILED["angular"](np.float32([1, 0]), y)
    np.testing.assert_allclose(actual, angles / np.pi, rtol=1e-4)


def test_exponential_repulsion():
    expected = 3 * np.mean(np.exp(-np.abs(X - Y) / 2), axis=1)
    actual = distances.exponential_repulsion(X, Y, strength=3, temperature=2)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_zero_vectors_and_extreme_sizes_give_numbers(name):
    one, other = np.asarray(X[0]), np.asarray(Y[0])
    zero, huge = 0 * one, np.float32([1e30, -1e30, 0, 1, 1e-30])
    limited = name in ("order_n", "mahalanobis")  # squares of 1e30 are beyond float32
    for x, y in ((zero, zero), (zero, zero + 1), (np.float32(1e18) * one, other), (huge, -huge)):
        value = float(COMPILED[name](x, y))
        assert np.isfinite(value) or (limited and value == np.inf)


@pytest.mark.parametrize("name", METRICS)
@given(seed=st.integers(0, 2**32 - 1))
def test_metrics(name, seed):
    x, y, z = np.random.default_rng(seed).normal(size=(3, 5)).astype(np.float32)
    distance = COMPILED[name]
    assert float(distance(x, x)) == pytest.approx(0, abs=1e-6)
    assert float(distance(x, y)) > 0
    assert float(distance(x, y)) == pytest.approx(float(distance(y, x)), rel=1e-5)
    assert float(distance(x, z)) <= float(distance(x, y)) + float(distance(y, z)) + 1e-5


@pytest.mark.parametrize("name", ALL)
def test_batch_axes_broadcast(name):
    pairs = COMPILED[name](np.asarray(X)[:, None], Y)
    assert pairs.shape == (7, 7)
    np.testing.assert_allclose(np.diagonal(pairs), COMPILED[name](X, Y), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["order_n", "exponential_repulsion", "cosine_distance"])
def test_gradients_where_both_agree(name):
    x = np.asarray(X[0])
    gradient = jax.jit(jax.grad(ALL[name], argnums=1))(x, x)
    assert np.all(np.isfinite(gradient))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: distances.l_p(X, Y, order=0.5), "`order` must be at least 1, got 0.5"),
        (lambda: distances.order_n(X, Y, order=0), "`order` must be at least 1, got 0"),
        (lambda: distances.order_n(X, Y, reduction="max"), "'mean' or 'sum', got 'max'"),
        (lambda: distances.hypersphere(X, Y, order=0), "`order` must be at least 1, got 0"),
        (
            lambda: distances.exponential_repulsion(X, Y, temperature=0),
            "`temperature` must be positive, got 0",
        ),
    ],
)
def test_bad_settings(call, message):
    with pytest.raises(ValueError, match=message):
        call()
