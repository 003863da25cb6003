import math

import jax
import jax.numpy as jnp
import linear_network as net
import numpy as np
import optax
import pytest

from entropax import tta
from entropax.tta.deyo import DeyoLimits, deyo, patch_shuffle

KEY = jax.random.key(3)
LIMITS = DeyoLimits(1.0, 0.5, 0.2)


def reverse(key, x):
    return x[:, ::-1]


def test_by_brute_force():
    """Five steps against gradients worked out by hand, in float64: rounding only."""
    with jax.enable_x64(True):
        tx = optax.sgd(0.05, momentum=0.9)
        adapter = deyo(KEY, net.apply_fn, tx, num_classes=4, limits=LIMITS, destroy=reverse)
        state, step = adapter.init(net.variables()), jax.jit(adapter.step)
        theta, momentum = np.stack([np.ones(6), np.zeros(6)]), np.zeros((2, 6))
        left_out = 0
        for x in net.X:
            z = net.logits(theta, x)
            p, broken = (net.probabilities(a) for a in (z, net.logits(theta, x[:, ::-1])))
            rows, top = np.arange(len(x)), p.argmax(1)
            plpd = p[rows, top] - broken[rows, top]
            entropy = net.entropy(z)
            selected = (entropy < 1.0) & (plpd > 0.2)
            left_out += int(((entropy < 1.0) & ~selected).sum())
            weight = selected * (np.exp(0.5 - entropy) + np.exp(plpd)) / selected.sum()
            momentum = 0.9 * momentum + net.entropy_gradient(theta, x, weight)
            theta = theta - 0.05 * momentum
            state, info = step(state, tta.Batch(jnp.asarray(x), jnp.ones(len(x), bool)))
            np.testing.assert_allclose(info.weight, weight, atol=1e-12, rtol=0)
            np.testing.assert_allclose(info.loss, (weight * entropy).sum(), rtol=1e-12)
            np.testing.assert_allclose(net.theta_of(state), theta, atol=1e-12, rtol=0)
        assert left_out > 0


def test_limits_follow_the_number_of_classes():
    assert DeyoLimits.scaled(10) == (0.5 * math.log(10), 0.4 * math.log(10), 0.2)
    assert DeyoLimits.scaled(1000, plpd=0.3).plpd == 0.3


def test_an_order_moves_whole_patches():
    x = jax.random.normal(KEY, (5, 8, 12, 3))
    y = patch_shuffle(KEY, x)

    def patches(image):
        cut = np.asarray(image).reshape(4, 2, 4, 3, 3).swapaxes(1, 2).reshape(16, -1)
        return sorted(map(tuple, cut.tolist()))

    for before, after in zip(x, y, strict=True):
        assert patches(before) == patches(after)
        assert not np.array_equal(before, after)


def test_each_image_has_an_order_that_padding_does_not_change():
    image = jnp.arange(64.0).reshape(8, 8)
    x = jnp.stack([image] * 6)
    y = patch_shuffle(KEY, x)
    assert len({tuple(row) for row in np.asarray(y).reshape(6, -1).tolist()}) == 6
    np.testing.assert_array_equal(patch_shuffle(KEY, x[:4]), y[:4])


def test_a_patch_is_as_likely_anywhere():
    """Patch 0 of 4 in 4,000 orders: each place 1,000 times, give or take 27; five of those."""
    x = jnp.tile(jnp.array([[1.0, 0.0], [0.0, 0.0]]), (4000, 1, 1))
    counts = jax.jit(lambda k: patch_shuffle(k, x, grid=2).sum(0))(KEY)
    np.testing.assert_allclose(counts, 1000, atol=140)


@pytest.mark.parametrize("grid", [3, 0])
def test_a_grid_that_does_not_fit(grid):
    with pytest.raises(ValueError, match=f"`grid` must divide .* got {grid} for 8 x 8"):
        patch_shuffle(KEY, jnp.ones((1, 8, 8)), grid=grid)


def test_the_key_moves_on_even_if_nothing_is_selected():
    limits = DeyoLimits(1.0, 0.5, 1.0)
    adapter = deyo(KEY, net.apply_fn, optax.sgd(0.1), num_classes=4, limits=limits, destroy=reverse)
    start = adapter.init(net.variables())
    batch = tta.Batch(net.stream().x[0], net.stream().where[0])
    state, info = adapter.step(start, batch)
    assert int(info.selected) == 0
    assert not bool(info.stepped)
    np.testing.assert_array_equal(net.theta_of(state), net.theta_of(start))
    assert state.memory.method.key != start.memory.method.key
