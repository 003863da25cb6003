import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entropax.diffusion.matrix_entry import matrix_entry_entropy

jitted = jax.jit(matrix_entry_entropy, static_argnames=("sigma", "alpha", "block_size"))


def brute_force(x, sigma, alpha):
    """The entropy of the n^2 entries of P / n."""
    squares = np.sum((x[:, None] - x) ** 2, axis=-1)
    kernel = np.exp(-squares / (2 * np.multiply.outer(sigma, sigma)))
    degrees = kernel.sum(1)
    kernel = kernel / np.multiply.outer(degrees, degrees) ** alpha
    walk = kernel / kernel.sum(1, keepdims=True) / len(x)
    walk = walk[walk > 0]
    return -np.sum(walk * np.log(walk))


@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.5, 1.0]), st.floats(-2, 2))
def test_brute_force_and_bounds(seed, alpha, log_scale):
    x = np.random.default_rng(seed).standard_normal((20, 3)) * 10**log_scale
    value = float(jitted(jnp.asarray(x, jnp.float32), sigma=1.0, alpha=alpha))
    # float32: exponents have an error of 1e-7 times squares of lengths, where they matter
    assert value == pytest.approx(brute_force(x, np.ones(20), alpha), abs=2e-5)
    assert math.log(20) - 1e-5 <= value <= 2 * math.log(20) + 1e-5


def test_closed_forms():
    same = jnp.ones((7, 2))
    far = 1e3 * jnp.eye(7)
    pairs = jnp.repeat(1e3 * jnp.eye(4), 2, axis=0)
    assert float(jitted(same, sigma=1.0)) == pytest.approx(2 * math.log(7), rel=1e-6)
    assert float(jitted(far, sigma=1.0)) == pytest.approx(math.log(7), rel=1e-6)
    assert float(jitted(pairs, sigma=1.0)) == pytest.approx(math.log(16), rel=1e-6)
    assert float(jitted(jnp.ones((1, 2)), sigma=1.0)) == 0


@pytest.mark.parametrize("block_size", [1, 4, 10, 11, 64])
def test_blocks_make_no_difference(block_size):
    x = jnp.asarray(np.random.default_rng(0).standard_normal((11, 3)), jnp.float32)
    value = float(jitted(x, sigma=1.0, block_size=block_size))
    assert value == pytest.approx(float(jitted(x, sigma=1.0)), rel=1e-6)


def padded(x):
    filled = jnp.concatenate([x, jnp.full((4, x.shape[1]), jnp.nan)])
    return filled, jnp.arange(len(filled)) < len(x)


@pytest.mark.parametrize(("sigma", "alpha"), [(1.0, 0.0), ("median", 0.5), ("adaptive", 1.0)])
def test_padding_does_not_count(sigma, alpha):
    x = jnp.asarray(np.random.default_rng(0).standard_normal((12, 3)), jnp.float32)
    filled, where = padded(x)
    entropy = functools.partial(jitted, sigma=sigma, alpha=alpha, block_size=5)
    assert float(entropy(filled, where=where)) == pytest.approx(float(entropy(x)), rel=1e-6)
    assert float(entropy(filled, where=jnp.zeros(16, bool))) == 0


def test_padding_has_no_gradient():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((12, 3)), jnp.float32)
    filled, where = padded(x)
    gradient_of = jax.jit(jax.grad(functools.partial(matrix_entry_entropy, sigma=1.0)))
    gradient = gradient_of(filled, where=where)
    np.testing.assert_allclose(gradient[:12], gradient_of(x), atol=1e-6)
    assert not np.any(gradient[12:])


def test_a_bandwidth_for_each_point():
    rng = np.random.default_rng(0)
    x, sigma = rng.standard_normal((15, 3)), rng.uniform(0.5, 2, 15)
    value = matrix_entry_entropy(jnp.asarray(x, jnp.float32), sigma=jnp.asarray(sigma, jnp.float32))
    assert float(value) == pytest.approx(brute_force(x, sigma, 0.5), abs=2e-5)


def test_offset_makes_no_difference():
    x = np.random.default_rng(0).integers(-4, 5, (15, 3)).astype(np.float32)
    value = float(jitted(jnp.asarray(x + 4096), sigma=1.0))
    assert value == pytest.approx(float(jitted(jnp.asarray(x), sigma=1.0)), rel=1e-6)


def test_gradient_is_that_of_float64_differences():
    x, direction = np.random.default_rng(0).standard_normal((2, 9, 3))
    x[1] = x[0]  # equal points
    with jax.enable_x64(True):
        entropy = functools.partial(jitted, sigma=0.7, block_size=4)
        gradient = jax.grad(entropy)(jnp.asarray(x))
        step = 1e-6
        ends = [float(entropy(jnp.asarray(x + s * step * direction))) for s in (1, -1)]
    expected = (ends[0] - ends[1]) / (2 * step)
    assert np.sum(np.asarray(gradient) * direction) == pytest.approx(expected, rel=1e-6)


def test_bad_input():
    x = jnp.ones((3, 2))
    for sigma in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="`sigma` must be positive"):
            matrix_entry_entropy(x, sigma=sigma)
    with pytest.raises(ValueError, match="one of"):
        matrix_entry_entropy(x, sigma="mean")
    with pytest.raises(ValueError, match="`alpha` must be"):
        matrix_entry_entropy(x, sigma=1.0, alpha=math.inf)
    with pytest.raises(ValueError, match="`block_size` must be at least 1, got 0"):
        matrix_entry_entropy(x, sigma=1.0, block_size=0)
    with pytest.raises(ValueError, match="NaN"):
        matrix_entry_entropy(x.at[0, 0].set(jnp.nan), sigma=1.0)
    assert np.isnan(float(jitted(x.at[0, 0].set(jnp.nan), sigma=1.0)))


def test_any_scale():
    """Squares of distances beyond the range of float32."""
    x = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
    expected = float(matrix_entry_entropy(x, sigma=1.0))
    assert float(matrix_entry_entropy(x * 2.0**90, sigma=2.0**90)) == pytest.approx(expected)
