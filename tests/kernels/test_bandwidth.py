"""Rules for the bandwidth against plain distances of every pair."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.distance import pdist, squareform

from entropax.kernels.bandwidth import RULES, bandwidth

# The package exports a function of the name of the module.
module = sys.modules["entropax.kernels.bandwidth"]

RNG = np.random.default_rng(0)
fast = jax.jit(bandwidth, static_argnames=("sigma", "neighbours"))
X = RNG.normal(size=(50, 3)).astype(np.float32)  # an odd number of pairs


def neighbour(x, k):
    return np.sort(squareform(pdist(x.astype(np.float64))), axis=1)[:, k]


def test_rules():
    median = np.median(pdist(X.astype(np.float64))) / np.sqrt(2)
    np.testing.assert_allclose(fast(X, "median"), median, rtol=1e-6)
    np.testing.assert_allclose(bandwidth(X, "sqrt_d"), np.sqrt(3), rtol=1e-6)
    for k in (1, 10, 49):
        distances = neighbour(X, k)
        np.testing.assert_allclose(fast(X, "knn", neighbours=k), np.median(distances), rtol=1e-6)
        np.testing.assert_allclose(fast(X, "adaptive", neighbours=k), distances, rtol=1e-6)


def test_an_even_number_of_pairs():
    """Between the two in the middle, in squares: the distances here are 1, 1, 1, 2, 2, 3."""
    assert bandwidth(jnp.arange(4.0)[:, None], "median") == jnp.sqrt((1 + 4) / 2 / 2)
    with jax.enable_x64(True):
        x = RNG.normal(size=(9, 2))
        value = bandwidth(x, "median")
        np.testing.assert_allclose(value, np.sqrt(np.median(pdist(x) ** 2) / 2), rtol=1e-13)


def test_numbers_pass():
    assert bandwidth(X, 10) == 10
    assert bandwidth(X, jnp.array(0.5)) == 0.5
    each = jnp.arange(1.0, 51.0)
    np.testing.assert_array_equal(bandwidth(X, each), each)


@pytest.mark.parametrize("rule", ["median", "knn", "adaptive"])
def test_scale(rule):
    np.testing.assert_allclose(fast(1e3 * X, rule), 1e3 * fast(X, rule), rtol=1e-5)
    np.testing.assert_allclose(fast(X + 100, rule), fast(X, rule), rtol=1e-4)


@pytest.mark.parametrize("rule", ["median", "knn", "adaptive"])
def test_padding_may_hold_anything(rule):
    where = RNG.permutation(np.arange(64) < 50)
    padded = np.full((64, 3), np.nan, np.float32)
    padded[where] = X
    found = fast(padded, rule, where=where)
    assert (found > 0).all()
    real = found[where] if rule == "adaptive" else found
    np.testing.assert_allclose(real, fast(X, rule), rtol=1e-6)


@pytest.mark.parametrize("rule", RULES[:1] + RULES[2:])
def test_copies_do_not_count(rule):
    x = np.repeat(X[:4], [1, 5, 1, 1], axis=0)
    distances = pdist(X[:4].astype(np.float64))
    if rule == "median":
        # Each pair with the point of five copies comes five times.
        pairs = pdist(x.astype(np.float64))
        expected = np.sqrt(np.median(pairs[pairs > 0] ** 2) / 2)
    else:
        nearest = np.sort(squareform(distances), axis=1)[:, 1]
        single = nearest[[0, 2, 3]]
        expected = np.median(single) if rule == "knn" else np.insert(single, [1] * 5, single.min())
    np.testing.assert_allclose(fast(x, rule, neighbours=1), expected, rtol=1e-6)


@pytest.mark.parametrize("rule", RULES[:1] + RULES[2:])
@pytest.mark.parametrize("n", [1, 20])
def test_all_points_equal(rule, n):
    x = jnp.full((n, 3), 0.1)
    if n == 1 and rule != "median":
        with pytest.raises(ValueError, match="`neighbours` must be from 1 to n - 1 = 0"):
            bandwidth(x, rule, neighbours=1)
        return

    def total(x):
        return jnp.sum(bandwidth(x, rule, neighbours=1))

    value, gradient = jax.jit(jax.value_and_grad(total))(x)
    assert value == (n if rule == "adaptive" else 1)
    assert (gradient == 0).all()


def test_many_points():
    """At even steps: here of 3,000 points in 3 dimensions, 1 % off."""
    x = RNG.normal(size=(3000, 3)).astype(np.float32)
    rows = np.arange(module._PAIRED) * 3000 // module._PAIRED
    some = np.sqrt(np.median(pdist(x[rows].astype(np.float64)) ** 2) / 2)
    found = fast(x, "median")
    np.testing.assert_allclose(found, some, rtol=1e-6)
    np.testing.assert_allclose(found, np.median(pdist(x)) / np.sqrt(2), rtol=1e-2)


def test_many_queries(monkeypatch):
    monkeypatch.setattr(module, "_QUERIED", 20)
    expected = np.median(neighbour(X, 10)[np.arange(20) * 50 // 20])
    np.testing.assert_allclose(bandwidth(X, "knn"), expected, rtol=1e-6)


@pytest.mark.parametrize("rule", ["median", "knn", "adaptive"])
@pytest.mark.parametrize("n", [50, 49])
def test_gradient(rule, n):
    """The bandwidth doubles with the points: by Euler's theorem its derivative along them is it."""

    def total(x):
        return jnp.sum(bandwidth(x, rule))

    value, gradient = jax.jit(jax.value_and_grad(total))(jnp.asarray(X[:n]))
    np.testing.assert_allclose(jnp.vdot(gradient, X[:n]), value, rtol=1e-4)


def test_nan_in_the_points():
    broken = X.copy()
    broken[3, 1] = np.nan
    for rule in ("median", "knn", "adaptive"):
        assert jnp.isnan(fast(broken, rule)).all()


def test_wrong_values():
    for sigma in (0, -2.0, float("nan"), float("inf"), jnp.zeros(())):
        with pytest.raises(ValueError, match="`sigma` must be positive and finite, got"):
            bandwidth(X, sigma)
    with pytest.raises(ValueError, match=r"one of .*'median'.* got 'mean'"):
        bandwidth(X, "mean")
    with pytest.raises(ValueError, match="from 1 to n - 1 = 49 others, got 50"):
        bandwidth(X, "knn", neighbours=50)
    each = jnp.arange(50.0)
    with pytest.raises(ValueError, match=r"got 0\.0"):
        bandwidth(X, each)
    assert bandwidth(X, each, where=each > 0).shape == (50,)
