import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entropax.diffusion import vendi
from entropax.diffusion.adjacency import adjacency_entropy

cosine_vendi_score = jax.jit(vendi.cosine_vendi_score, static_argnames="order")
vendi_score_of_kernel = jax.jit(vendi.vendi_score_of_kernel, static_argnames="order")
seeds = st.integers(0, 10**6)
ORDERS = [0.5, 1, 2, math.inf]


def score(kernel, order):
    probs = np.maximum(np.linalg.eigvalsh(kernel / np.trace(kernel)), 0)
    probs = probs[probs > 1e-12]
    if order == 1:
        return np.exp(-np.sum(probs * np.log(probs)))
    if order == math.inf:
        return 1 / probs[-1]
    return np.sum(probs**order) ** (1 / (1 - order))


def cosines(x):
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    return unit @ unit.T


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("shape", [(20, 5), (5, 20)])
@given(seed=seeds)
def test_cosine_is_brute_force_within_bounds(shape, order, seed):
    """By the smaller of two matrices."""
    x = np.random.default_rng(seed).standard_normal(shape)
    value = float(cosine_vendi_score(jnp.asarray(x, jnp.float32), order=order))
    assert value == pytest.approx(score(cosines(x), order), rel=1e-3 if order < 1 else 1e-5)
    assert 1 - 1e-5 <= value <= 5 * (1 + 1e-5)


@given(seeds)
def test_every_order_is_honoured(seed):
    """A larger order never has a larger score; equal ones would mean that it is ignored."""
    x = np.random.default_rng(seed).standard_normal((15, 4)).astype(np.float32)
    kernel = jnp.asarray(cosines(x), jnp.float32)
    for scores in (
        [float(cosine_vendi_score(jnp.asarray(x), order=order)) for order in ORDERS],
        [float(vendi_score_of_kernel(kernel, order=order)) for order in ORDERS[1:]],
    ):
        assert all(a > b * (1 + 1e-4) for a, b in itertools.pairwise(scores))


@pytest.mark.parametrize("order", ORDERS[1:])
def test_points_and_their_kernel_agree(order):
    x = np.random.default_rng(0).standard_normal((30, 3))
    kernel = np.exp(-np.sum((x[:, None] - x) ** 2, axis=-1) / 2)
    value = float(vendi.vendi_score(x, sigma=1.0, order=order))
    of_kernel = float(vendi.vendi_score_of_kernel(jnp.asarray(kernel, jnp.float32), order=order))
    assert value == pytest.approx(score(kernel, order), rel=2e-5)
    assert of_kernel == pytest.approx(value, rel=2e-5)
    assert value == pytest.approx(math.exp(adjacency_entropy(x, sigma=1.0, order=order)), rel=1e-6)


def test_counts_what_is_distinct():
    groups = jnp.array([0, 0, 0, 1, 1, 1, 2, 2, 2])
    assert float(vendi.vendi_score(1e3 * jnp.eye(3)[groups], sigma=1.0)) == pytest.approx(
        3, rel=1e-5
    )
    assert float(cosine_vendi_score(jnp.eye(3)[groups])) == pytest.approx(3, rel=1e-5)
    blocks = (groups[:, None] == groups).astype(jnp.float32)
    assert float(vendi_score_of_kernel(blocks)) == pytest.approx(3, rel=1e-5)
    assert float(vendi_score_of_kernel(jnp.ones((9, 9)))) == pytest.approx(1, abs=1e-5)
    # angles alone: neither lengths nor examples without one
    x = jnp.eye(3)[groups] * jnp.array([1e-30, 1, 1e30] * 3)[:, None]
    assert float(cosine_vendi_score(x)) == pytest.approx(3, rel=1e-5)
    assert float(cosine_vendi_score(jnp.pad(x, ((0, 4), (0, 0))))) == pytest.approx(3, rel=1e-5)


def test_padding_does_not_count():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((6, 4)), jnp.float32)
    filled = jnp.concatenate([x, jnp.full((3, 4), jnp.nan)])
    where = jnp.arange(9) < 6
    value = float(cosine_vendi_score(filled, where=where))
    assert value == pytest.approx(float(cosine_vendi_score(x)), rel=1e-5)
    value = float(vendi.vendi_score(filled, sigma=1.0, where=where))
    assert value == pytest.approx(float(vendi.vendi_score(x, sigma=1.0)), rel=1e-5)
    kernel = jnp.asarray(cosines(np.asarray(x)), jnp.float32)
    filled = jnp.full((9, 9), jnp.nan).at[:6, :6].set(kernel)
    value = float(vendi.vendi_score_of_kernel(filled, where=where))
    assert value == pytest.approx(float(vendi.vendi_score_of_kernel(kernel)), rel=1e-5)
    nobody = jnp.zeros(9, bool)
    assert float(cosine_vendi_score(jnp.ones((9, 2)), where=nobody)) == 0
    assert float(vendi_score_of_kernel(filled, where=nobody)) == 0


@pytest.mark.parametrize("function", ["cosine", "kernel", "points"])
def test_gradient_is_that_of_float64_differences(function):
    x, direction = np.random.default_rng(0).standard_normal((2, 6, 4))

    def score(x):
        if function == "cosine":
            return cosine_vendi_score(x)
        if function == "points":
            return vendi.vendi_score(x, sigma=1.0)
        return vendi_score_of_kernel(jnp.exp(-jnp.sum((x[:, None] - x) ** 2, axis=-1)))

    with jax.enable_x64(True):
        gradient = jax.grad(score)(jnp.asarray(x))
        step = 1e-6
        ends = [float(score(jnp.asarray(x + s * step * direction))) for s in (1, -1)]
    expected = (ends[0] - ends[1]) / (2 * step)
    assert np.sum(np.asarray(gradient) * direction) == pytest.approx(expected, rel=1e-6, abs=1e-8)


def test_gradient_is_finite_for_features_that_are_0_or_equal():
    for x in (jnp.zeros((5, 3)), jnp.ones((5, 3)), jnp.eye(5)[:, :3]):
        assert np.isfinite(jax.grad(cosine_vendi_score)(x)).all()


def test_bad_input():
    score = vendi.vendi_score_of_kernel
    with pytest.raises(ValueError, match=r"1 on its diagonal, got 2\.0"):
        score(2 * jnp.eye(3))
    assert float(vendi_score_of_kernel(2 * jnp.eye(3))) == pytest.approx(3, rel=1e-5)
    assert np.isnan(float(score(jnp.array([[1.0, 2.0], [2.0, 1.0]]))))  # not semi-definite
    assert np.isnan(float(cosine_vendi_score(jnp.array([[jnp.nan, 1.0]]))))
    for function in (
        score,
        vendi.cosine_vendi_score,
        functools.partial(vendi.vendi_score, sigma=1.0),
    ):
        with pytest.raises(ValueError, match="`order` must be"):
            function(jnp.eye(3), order=-1)
    with pytest.raises(ValueError, match="`sigma` must be positive"):
        vendi.vendi_score(jnp.eye(3), sigma=0.0)
