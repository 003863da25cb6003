"""Random network distillation against the loop that one would write by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from entropax import selection
from entropax.selection import distances

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
POOL = RNG.normal(size=(20, 4)).astype(np.float32)
TARGET = RNG.normal(size=(4, 3)).astype(np.float32)
START = np.zeros((4, 3), np.float32)
RATE, STEPS = 0.05, 7


def apply_fn(params, x):
    return jnp.tanh(x @ params)


def linear(params, x):
    return x @ params


def agent(tx=None, target_fn=apply_fn, params=START, **options):
    tx = optax.sgd(RATE) if tx is None else tx
    options = {"training_steps": STEPS, **options}
    return selection.distillation(target_fn, linear, TARGET, params, tx, **options)


def by_hand(n, start=None, distance=lambda t, o: np.mean((t - o) ** 2, axis=1)):
    """Plain gradient descent on the mean squared error of the set, in float64."""
    targets, params, chosen, gains = np.tanh(POOL @ TARGET), START.astype(float), [], []
    for k in range(n):
        away = distance(targets, POOL @ params)
        order = [i for i in np.argsort(-away) if i not in chosen]
        chosen.append(start if k == 0 and start is not None else int(order[0]))
        gains.append(away[chosen[-1]])
        for _ in range(STEPS):
            error = POOL[chosen] @ params - targets[chosen]
            params = params - RATE * 2 * POOL[chosen].T @ error / error.size
    return chosen, gains


@pytest.mark.parametrize("options", [{}, {"start": 11, "batch_size": 6}, {"batch_size": 5}])
def test_rounds_by_hand(options):
    indices, infos = selection.select(KEY, agent(**options), POOL, 6)
    chosen, gains = by_hand(6, options.get("start"))
    assert indices.tolist() == chosen
    # Forty gradient steps in float32.
    np.testing.assert_allclose(infos.gain, gains, rtol=1e-4)
    assert infos.changed.all()


def test_the_distance_is_used():
    indices, _ = selection.select(KEY, agent(distance=distances.cosine_distance), POOL, 6)

    def cosine_distance(t, o):
        norms = np.linalg.norm(t, axis=1) * np.linalg.norm(o, axis=1)
        return 1 - np.sum(t * o, axis=1) / np.where(norms > 0, norms, 1)

    assert indices.tolist() == by_hand(6, distance=cosine_distance)[0]


def test_it_learns_the_target():
    """A predictor that can be the target comes close to it on the whole pool."""
    learner = agent(optax.adam(0.05), target_fn=linear, training_steps=100)
    infos = selection.select(KEY, learner, POOL, 6).infos
    assert infos.objective[-1] > 0.01 * infos.objective[0]


def test_it_stops_when_nothing_is_far():
    """The predictor is the target: nothing joins, unless the first example is given."""
    known = agent(target_fn=linear, params=TARGET, tolerance=3)
    indices, infos = selection.select(KEY, known, POOL, 6)
    assert indices.shape == (0,)
    assert infos.done.tolist() == [False, False, True, *[True] * 5]
    assert not infos.changed.any()
    state, _ = selection.run(KEY, known, jnp.asarray(POOL), 6)
    assert state.indices.tolist() == [-1] * 6
    given = agent(target_fn=linear, params=TARGET, tolerance=3, start=11)
    assert selection.select(KEY, given, POOL, 6).indices.tolist() == [11]


def test_stationary_rounds_train_on():
    """Far examples join, then training alone brings the rest below the threshold."""
    learner = agent(target_fn=linear, threshold=0.05, tolerance=2, training_steps=200)
    indices, infos = selection.select(KEY, learner, POOL, 20)
    assert 1 <= len(indices) < 20
    assert infos.done[-1]
    joined = np.flatnonzero(infos.changed)
    assert len(joined) == len(indices)
    assert np.all(infos.gain[joined] > 0.05)
    # Two stationary rounds, one of which trains; after that nothing moves.
    stopped = int(np.argmax(infos.done)) + 1
    assert np.sum(~infos.changed[:stopped]) == 2
    np.testing.assert_array_equal(infos.objective[stopped:], infos.objective[stopped])


def test_a_full_set_stops_before_the_rounds_are_used_up():
    infos = selection.select(KEY, agent(tolerance=4), POOL, 3).infos
    assert infos.changed.tolist() == [True] * 3 + [False] * 3
    assert infos.done.tolist() == [False, False] + [True] * 4


def test_images_and_networks_of_two_kinds():
    images = POOL.reshape(20, 2, 2, 1)
    flat = selection.distillation(
        lambda params, x: apply_fn(params, x.reshape(len(x), -1)),
        lambda params, x: linear(params, x.reshape(len(x), -1)),
        TARGET,
        START,
        optax.sgd(RATE),
        training_steps=STEPS,
    )
    assert selection.select(KEY, flat, images, 6).indices.tolist() == by_hand(6)[0]


def test_networks_of_different_outputs():
    with pytest.raises(ValueError, match=r"\(20, 2\), those of the target \(20, 3\)"):
        selection.select(KEY, agent(params=START[:, :2]), POOL, 3)


def test_a_predictor_that_diverges_is_an_error():
    with pytest.raises(ValueError, match=r"objective became .* at step 1"):
        selection.select(KEY, agent(optax.sgd(1e30)), POOL, 3)
