"""Distances of centred points agree with differences, and equal points have distance 0."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from entropax import kernels
from entropax.kernels.gaussian import centred, gaussian, squared_distances

RNG = np.random.default_rng(0)
X = RNG.normal(size=(30, 7)).astype(np.float32)


def brute(x1, x2):
    x1, x2 = (np.asarray(x, np.float64) for x in (x1, x2))
    return ((x1[:, None] - x2) ** 2).sum(-1)


def test_float64():
    with jax.enable_x64(True):
        x1, x2 = RNG.normal(size=(20, 5)), RNG.normal(size=(9, 5))
        np.testing.assert_allclose(squared_distances(x1), brute(x1, x1), rtol=0, atol=1e-13)
        np.testing.assert_allclose(squared_distances(x1, x2), brute(x1, x2), rtol=0, atol=1e-13)


@pytest.mark.parametrize("offset", [0, 100, 1e4])
def test_an_offset_is_harmless(offset):
    """The error is a few roundings of the squared lengths (28 here) about the mean."""
    x = X + np.float32(offset)
    np.testing.assert_allclose(squared_distances(x), brute(x, x), rtol=0, atol=1e-5)
    np.testing.assert_allclose(
        squared_distances(x[:9], x[9:]), brute(x[:9], x[9:]), rtol=0, atol=1e-5
    )


def test_one_outlier_among_many():
    """It is the scale of the errors, but does not spoil the centre of the others twice."""
    x = X.copy()
    x[0] = 1e4
    error = np.abs(squared_distances(x) - brute(x, x))
    assert error[1:, 1:].max() < 7 * (1e4 / 30) ** 2 * 1e-6
    assert (error[0, 1:] / brute(x, x)[0, 1:]).max() < 1e-6


@pytest.mark.parametrize(("n", "d"), [(40, 3), (77, 64), (33, 513)])
def test_equal_points(n, d):
    x = RNG.normal(size=(n, d)).astype(np.float32)
    squares = np.asarray(squared_distances(np.concatenate([x, x[:-1]])))
    assert (np.diagonal(squares) == 0).all()
    assert (np.diagonal(squares, n) == 0).all()
    assert (squares >= 0).all()


def test_all_points_equal():
    x = jnp.full((50, 3), 0.1)
    assert (squared_distances(x) == 0).all()
    assert (jax.grad(lambda x: squared_distances(x).sum())(x) == 0).all()


def test_padding_may_hold_anything():
    padded = np.concatenate([X, np.full((5, 7), np.nan, np.float32)])
    where = jnp.arange(35) < 30
    squares = squared_distances(padded, where=where)
    assert jnp.isfinite(squares).all()
    np.testing.assert_allclose(squares[:30, :30], squared_distances(X), rtol=0, atol=1e-5)
    y, centre = centred(padded, where)
    np.testing.assert_array_equal(y[30:], 0)
    np.testing.assert_allclose(y[:30] + centre, X, rtol=0, atol=1e-6)
    assert jnp.isfinite(squared_distances(padded, where=jnp.zeros(35, bool))).all()


def test_gradient():
    weights = RNG.normal(size=(6, 6))
    with jax.enable_x64(True):
        x = RNG.normal(size=(6, 3))
        gradient = jax.grad(lambda x: (weights * squared_distances(x)).sum())(jnp.asarray(x))
    both = weights + weights.T
    expected = 2 * (both.sum(1)[:, None] * x - both @ x)
    np.testing.assert_allclose(gradient, expected, rtol=1e-10, atol=1e-12)


def test_half_precision_and_integers():
    for dtype in (jnp.bfloat16, jnp.float16, jnp.int32):
        squares = squared_distances(jnp.asarray([[0], [3]], dtype))
        assert squares.dtype == jnp.float32
        assert squares.tolist() == [[0, 9], [9, 0]]


def test_kernel():
    kernel_fn = gaussian(lambda params, x: jnp.tanh(x @ params), sigma=0.7)
    params = RNG.normal(size=(7, 4)).astype(np.float32)
    phi = np.tanh(X @ params)
    expected = np.exp(-brute(phi, phi) / (2 * 0.7**2))
    np.testing.assert_allclose(kernel_fn(params, X), expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(kernel_fn(params, X[:4], X), expected[:4], rtol=0, atol=1e-5)
    np.testing.assert_allclose(
        kernels.gram(kernel_fn, params, X, tile_size=8), expected, rtol=0, atol=1e-5
    )
    np.testing.assert_allclose(kernels.diagonal(kernel_fn, params, X), 1, rtol=0, atol=0)


@pytest.mark.parametrize("sigma", [0, -1.0, float("nan"), float("inf")])
def test_wrong_bandwidth(sigma):
    with pytest.raises(ValueError, match="`sigma` must be positive and finite, got"):
        gaussian(lambda params, x: x, sigma=sigma)


def test_wrong_widths():
    with pytest.raises(ValueError, match="same number of features, got 7 and 6"):
        squared_distances(X, X[:, 1:])
