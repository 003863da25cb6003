"""K-means against scikit-learn, kernel herding against its definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from selection.agents import M, agent_of
from sklearn.cluster import KMeans

from entropax import selection

RNG = np.random.default_rng(0)
CENTRES = 6 * RNG.normal(size=(5, 3))
POINTS = (CENTRES[np.arange(60) % 5] + RNG.normal(size=(60, 3)) + 100).astype(np.float32)
AGENT = selection.k_means(iterations=20)
INIT = jax.jit(AGENT.init, static_argnums=2)
RUN = jax.jit(selection.run, static_argnames=("agent", "n"))


@pytest.mark.parametrize("seed", range(3))
def test_centres_are_those_of_scikit_learn(seed):
    key = jax.random.key(seed)
    start = INIT(key, POINTS, 5).memory.centres
    state, infos = RUN(key, AGENT, POINTS, 5)
    assert bool(infos.done[-1])
    centred = POINTS - POINTS.mean(axis=0)
    peer = KMeans(5, init=np.asarray(start), n_init=1, max_iter=20, tol=0, algorithm="lloyd")
    peer.fit(centred)
    # Distances of up to 30 in float32.
    np.testing.assert_allclose(state.memory.centres, peer.cluster_centers_, atol=1e-4)
    np.testing.assert_allclose(infos.objective[-1], -peer.inertia_ / 60, rtol=1e-5)
    nearest = np.argmin(np.linalg.norm(centred[:, None] - peer.cluster_centers_, axis=-1), axis=0)
    np.testing.assert_array_equal(state.indices, nearest)
    assert np.all(np.diff(infos.objective) > -1e-4)


def test_integers_and_images():
    rounded = np.rint(POINTS)
    images = rounded.astype(np.uint8).reshape(60, 3, 1)
    of_images = selection.select(jax.random.key(0), AGENT, images, 5).indices
    of_numbers = RUN(jax.random.key(0), AGENT, rounded, 5)[0].indices
    np.testing.assert_array_equal(of_images, of_numbers)


def test_k_means_start_is_spread_out():
    """A pool with one example far away: it is a centre from the start, in most runs."""
    pool = np.zeros((50, 1), np.float32)
    pool[7] = 100
    init = jax.jit(jax.vmap(lambda key: AGENT.init(key, jnp.asarray(pool), 2).memory.centres))
    centres = np.asarray(init(jax.random.split(jax.random.key(0), 100)))
    assert np.all(np.ptp(centres[..., 0], axis=1) == 100)


def test_herding_by_hand():
    x = RNG.normal(size=(M, 2))
    kernel = np.exp(-np.sum(np.square(x[:, None] - x), axis=-1)).astype(np.float32)
    indices, infos = selection.select(jax.random.key(0), agent_of("kernel herding"), kernel, M)
    for k in range(M):
        chosen = indices[:k]
        scores = kernel.mean(axis=1) - kernel[:, chosen].sum(axis=1) / (k + 1)
        scores[chosen] = -np.inf
        assert scores[indices[k]] > scores.max() - 1e-6
        weights = np.isin(np.arange(M), indices[: k + 1]) / (k + 1) - 1 / M
        np.testing.assert_allclose(infos.objective[k], -weights @ kernel @ weights, atol=1e-6)
    np.testing.assert_allclose(infos.objective[0] - infos.gain[0], -kernel.mean(), atol=1e-6)
