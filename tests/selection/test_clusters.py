"""K-means against scikit-learn, kernel herding against its definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.cluster import KMeans

from entropax import selection

RNG = np.random.default_rng(0)
CENTRES = 6 * RNG.normal(size=(5, 3))
POINTS = (CENTRES[np.arange(60) % 5] + RNG.normal(size=(60, 3)) + 100).astype(np.float32)
AGENT = selection.k_means(iterations=20)


@pytest.mark.parametrize("seed", range(3))
def test_centres_are_those_of_scikit_learn(seed):
    key = jax.random.key(seed)
    start = jax.jit(AGENT.init, static_argnums=2)(key, POINTS, 5).memory.centres
    state, infos = jax.jit(lambda key: selection.run(key, AGENT, jnp.asarray(POINTS), 5))(key)
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
    images = np.rint(POINTS).astype(np.uint8).reshape(60, 3, 1)
    first, second = (
        selection.select(jax.random.key(0), AGENT, pool, 5).indices
        for pool in (images, np.rint(POINTS).astype(np.float32))
    )
    np.testing.assert_array_equal(first, second)


def test_k_means_start_is_spread_out():
    """A pool with one example far away: it is a centre from the start, in most runs."""
    pool = np.zeros((50, 1), np.float32)
    pool[7] = 100
    init = jax.jit(jax.vmap(lambda key: AGENT.init(key, jnp.asarray(pool), 2).memory.centres))
    centres = np.asarray(init(jax.random.split(jax.random.key(0), 100)))
    assert np.all(np.ptp(centres[..., 0], axis=1) == 100)


def test_herding_by_hand():
    x = RNG.normal(size=(15, 2))
    kernel = np.exp(-np.sum(np.square(x[:, None] - x), axis=-1)).astype(np.float32)
    indices, infos = selection.select(jax.random.key(0), selection.kernel_herding(), kernel, 15)
    for k in range(15):
        chosen = indices[:k]
        scores = kernel.mean(axis=1) - kernel[:, chosen].sum(axis=1) / (k + 1)
        scores[chosen] = -np.inf
        assert scores[indices[k]] > scores.max() - 1e-6
        weights = np.isin(np.arange(15), indices[: k + 1]) / (k + 1) - 1 / 15
        np.testing.assert_allclose(infos.objective[k], -weights @ kernel @ weights, atol=1e-6)
    np.testing.assert_allclose(infos.objective[0] - infos.gain[0], -kernel.mean(), atol=1e-6)
