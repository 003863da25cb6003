import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from entropax import tta
from entropax.models import moving_statistics, running_statistics
from entropax.tta.moving_norm import moving_norm

MODULE = nn.Sequential([nn.BatchNorm(use_running_average=True), nn.Dense(3)])
X = 2 + 3 * np.random.default_rng(0).normal(size=(6, 5, 4)).astype(np.float32)
VARIABLES = jax.jit(MODULE.init)(jax.random.key(0), X[0])
ADAPTER = moving_norm(moving_statistics(MODULE, momentum=0.2))


def stream():
    where = jnp.ones(X.shape[:2], bool).at[2, 3:].set(False)
    return tta.Batch(jnp.asarray(X), where)


def statistics(state):
    layer = state.variables["batch_stats"]["layers_0"]
    return np.stack([layer["mean"], layer["var"]])


def test_by_hand():
    batches = stream()
    state = ADAPTER.init(VARIABLES)
    mean, var = np.zeros(4), np.ones(4)
    for x, where in zip(*batches, strict=True):
        state, info = jax.jit(ADAPTER.step)(state, tta.Batch(x, where))
        real = np.asarray(x, np.float64)[np.asarray(where)]
        mean, var = 0.8 * mean + 0.2 * real.mean(0), 0.8 * var + 0.2 * real.var(0)
        np.testing.assert_allclose(statistics(state), [mean, var], rtol=2e-6)
        dense = VARIABLES["params"]["layers_1"]
        expected = (real - mean) / np.sqrt(var + 1e-5) @ dense["kernel"]
        np.testing.assert_allclose(info.logits[where], expected, rtol=1e-4, atol=1e-5)
        assert bool(info.stepped)
    assert state.params["params"]["layers_1"]["kernel"] is None


def test_prediction_uses_the_statistics_and_leaves_them_alone():
    state, _ = tta.adapt(ADAPTER, VARIABLES, stream())
    batch = tta.Batch(jnp.asarray(X[0]), jnp.ones(5, bool))
    expected = running_statistics(MODULE)(state.variables, batch.x)
    for rows in (5, 2):
        part = batch._replace(where=jnp.arange(5) < rows)
        np.testing.assert_allclose(
            ADAPTER.predict(state, part)[:rows], expected[:rows], rtol=1e-5, atol=1e-6
        )


def test_a_reset_takes_the_statistics_back():
    adapter = tta.reset_every(ADAPTER, period=2)
    state, infos = tta.adapt(adapter, VARIABLES, stream())
    last = jax.tree.map(lambda a: a[4:], stream())
    fresh, _ = tta.adapt(ADAPTER, VARIABLES, last)
    np.testing.assert_allclose(statistics(state), statistics(fresh), rtol=1e-6)
    assert infos.reset.tolist() == [False, False, True, False, True, False]


def test_what_is_not_finite_moves_nothing():
    broken = stream()._replace(x=stream().x.at[0, 1, 2].set(jnp.inf))
    state, info = ADAPTER.step(ADAPTER.init(VARIABLES), jax.tree.map(lambda a: a[0], broken))
    assert not bool(info.finite)
    assert not bool(info.stepped)
    np.testing.assert_array_equal(statistics(state), np.stack([np.zeros(4), np.ones(4)]))


def test_a_network_without_running_statistics():
    module = nn.Sequential([nn.LayerNorm(), nn.Dense(3)])
    variables = jax.jit(module.init)(jax.random.key(0), X[0])
    with pytest.raises(ValueError, match="No variable is selected"):
        moving_norm(moving_statistics(module)).init(variables)
