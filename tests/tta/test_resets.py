import jax
import jax.numpy as jnp
import linear_network as net
import numpy as np
import optax
import pytest

from entropax import tta
from entropax.tta.resets import reset_on_low_entropy, restore_at_random

SGD = optax.sgd(0.05, momentum=0.9)
TENT = tta.tent(net.apply_fn, SGD)
KEY = jax.random.key(0)


def trail(adapter, batches=None):
    """States and infos of every step."""

    def step(state, batch):
        state, info = adapter.step(state, batch)
        return state, (state, info)

    scan = jax.jit(lambda s, b: jax.lax.scan(step, s, b)[1])
    return scan(adapter.init(net.variables()), net.stream() if batches is None else batches)


def test_a_reset_is_a_fresh_start():
    """Right after a reset the next step is the first step of a new adapter, momentum included."""
    # Uncertain after the third batch, lest the reset come again at once.
    scale = jnp.where(jnp.arange(5) < 3, 1, 0.1)[:, None, None]
    batches = net.stream()._replace(x=net.stream().x * scale)
    _, infos = trail(TENT, batches)
    averages = [infos.loss[0]]
    for loss in infos.loss[1:]:
        averages.append(0.9 * averages[-1] + 0.1 * loss)
    # A limit that the third average is the first to fall below.
    limit = float((averages[1] + averages[2]) / 2)
    assert averages[2] < limit < min(averages[:2])
    states, infos = trail(reset_on_low_entropy(TENT, limit=limit), batches)
    assert infos.reset.tolist() == [False, False, True, False, False]
    np.testing.assert_array_equal(states.params["norm"]["scale"][2], 1)
    later = jax.tree.map(lambda a: a[3:], batches)
    fresh, _ = trail(TENT, later)
    np.testing.assert_allclose(
        states.params["norm"]["scale"][3], fresh.params["norm"]["scale"][0], atol=2e-6
    )
    assert bool(states.memory.watched.seen[1])
    assert not bool(states.memory.watched.seen[2])


def test_the_published_code_keeps_the_momentum_and_the_average():
    states, infos = trail(reset_on_low_entropy(TENT, limit=10.0, compat="reference"))
    assert infos.reset.tolist() == 5 * [True]
    np.testing.assert_array_equal(states.params["norm"]["scale"], 1)
    momentum = states.memory.memory.opt_state[0].trace["norm"]["scale"]
    assert bool(jnp.all(jnp.any(momentum != 0, axis=1)))
    assert bool(jnp.all(states.memory.watched.seen))


def test_a_batch_that_cannot_be_learnt_from_does_not_count():
    broken = net.stream()._replace(x=net.stream().x.at[1, 0, 0].set(jnp.nan))
    empty = net.stream()._replace(where=net.stream().where.at[1].set(False))
    for batches in (broken, empty):
        states, _ = trail(reset_on_low_entropy(TENT, limit=1e-6), batches)
        assert states.memory.watched.value[1] == states.memory.watched.value[0]
        assert states.memory.watched.value[2] != states.memory.watched.value[0]


def test_what_is_watched_is_the_entropy_of_the_selected():
    eta = tta.eta(net.apply_fn, SGD, num_classes=4, limits=tta.Limits(0.6, 2.0))
    states, infos = trail(reset_on_low_entropy(eta, limit=1e-6, decay=0.0))
    selected = infos.weight > 0
    mean = (infos.entropy * selected).sum(1) / selected.sum(1)
    np.testing.assert_allclose(states.memory.watched.value, mean, atol=2e-6)
    assert not bool(jnp.all(selected))


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_restoring_nothing_and_everything(rate):
    plain, _ = trail(TENT)
    states, _ = trail(restore_at_random(KEY, TENT, rate=rate))
    expected = plain.params["norm"]["scale"] if rate == 0 else jnp.ones((5, 6))
    np.testing.assert_allclose(states.params["norm"]["scale"], expected, atol=2e-6)


def test_restoring_a_share():
    """Of 20,000 parameters that all move, 30 % go back: give or take 65; five of those."""
    wide = {"norm": {"scale": jnp.ones(10000), "bias": jnp.zeros(10000)}}

    def apply_fn(variables, x):
        affine = variables["norm"]
        moved = x * affine["scale"] + affine["bias"]
        return jnp.stack([moved.sum(1), jnp.zeros(len(x))], axis=1) / 1e4

    adapter = restore_at_random(KEY, tta.tent(apply_fn, optax.sgd(100.0)), rate=0.3)
    batch = tta.Batch(jnp.full((1, 10000), 0.5), jnp.ones(1, bool))
    step = jax.jit(adapter.step)
    first, _ = step(adapter.init(wide), batch)
    scale, bias = first.params["norm"]["scale"], first.params["norm"]["bias"]
    back = np.concatenate([scale == 1, bias == 0])
    assert abs(back.sum() - 6000) < 330
    # The masks of the two leaves, and of two steps, have nothing to do with each other.
    second, _ = step(first, batch)
    again = np.asarray(second.params["norm"]["scale"] == 1)
    for other in (back[10000:], again):
        assert abs(np.corrcoef(back[:10000], other)[0, 1]) < 0.05


def test_a_step_that_was_not_taken_restores_nothing():
    broken = net.stream()._replace(x=net.stream().x.at[1].set(jnp.nan))
    states, infos = trail(restore_at_random(KEY, TENT, rate=0.5), broken)
    assert not bool(infos.stepped[1])
    scale = states.params["norm"]["scale"]
    np.testing.assert_array_equal(scale[1], scale[0])
