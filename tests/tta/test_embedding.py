import jax
import jax.numpy as jnp
import linear_network
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import silhouette_score

from entropax import tta
from entropax.tta.embedding import embedding_shift, silhouette, track_embeddings
from entropax.types import Batch

N = 30
score = jax.jit(silhouette)
shift = jax.jit(embedding_shift)


def points(seed, n=N, d=4, clusters=3):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % clusters)
    features = 2 * rng.normal(size=(clusters, d))[labels] + rng.normal(size=(n, d))
    return features.astype(np.float32), labels * 7 - 3


@given(st.integers(0, 10_000), st.integers(2, N - 1))
def test_silhouette_is_that_of_scikit_learn(seed, clusters):
    """With many clusters some are singletons."""
    features, labels = points(seed, clusters=clusters)
    expected = silhouette_score(features.astype(float), labels)
    # A distance has the error of its square, 1e-6 of the largest, divided by twice itself.
    assert float(score(features, labels)) == pytest.approx(expected, abs=5e-6)


def test_silhouette_in_float64():
    with jax.enable_x64(True):
        features, labels = points(5)
        found = score(jnp.asarray(features, float), labels)
        assert float(found) == pytest.approx(silhouette_score(features, labels), abs=1e-7)


def test_silhouette_in_blocks():
    """More points than one block holds, and a number that is no multiple of it."""
    features, labels = points(0, n=1500)
    found = score(features, labels)
    assert float(found) == pytest.approx(silhouette_score(features.astype(float), labels), abs=5e-6)


@given(st.integers(0, 10_000))
def test_silhouette_by_definition(seed):
    features, labels = points(seed, clusters=12)
    terms = []
    for i in range(N):
        distances = np.linalg.norm(features - features[i], axis=1)
        own = (labels == labels[i]) & (np.arange(N) != i)
        others = [distances[labels == c].mean() for c in set(labels) - {labels[i]}]
        a, b = distances[own].mean() if own.any() else 0, min(others)
        terms.append((b - a) / max(a, b) if own.any() else 0)
    assert float(score(features, labels)) == pytest.approx(np.mean(terms), abs=5e-6)


def test_points_in_one_place_are_no_clusters():
    features = jnp.concatenate([jnp.ones((4, 2)), jnp.zeros((1, 2))])
    # Two clusters that lie in one place, and a singleton: all terms are 0.
    assert float(score(features, jnp.array([0, 0, 1, 1, 2]))) == 0
    # A cluster in one point, and another elsewhere.
    assert float(score(features.at[4].set(1), jnp.array([0, 0, 1, 1, 1]))) == 0
    tight = score(features.at[3].set(0), jnp.array([0, 0, 0, 1, 1]))
    assert float(tight) == pytest.approx(1)


@pytest.mark.parametrize("fill", [0.0, 1e6, np.nan])
@pytest.mark.parametrize("label", [-3, 99])
def test_padding_changes_nothing(fill, label):
    features, labels = points(3)
    where = np.arange(N) < N - 7
    padded = jnp.where(where[:, None], features, fill)
    padded_labels = jnp.where(where, labels, label)
    expected = silhouette_score(features[where].astype(float), labels[where])
    found = score(padded, padded_labels, where=where)
    assert float(found) == pytest.approx(expected, abs=5e-6)
    after = features + np.linspace(0, 1, N)[:, None].astype(np.float32)
    for used in (None, labels):
        few = shift(features[where], after[where], labels=None if used is None else used[where])
        all_rows = shift(
            padded,
            jnp.where(where[:, None], after, fill),
            labels=None if used is None else padded_labels,
            where=where,
        )
        np.testing.assert_allclose(all_rows, few, rtol=2e-6)


def test_undefined_silhouettes_are_nan():
    features, labels = points(0)
    assert np.isnan(score(features, np.zeros_like(labels)))
    assert np.isnan(score(features, labels, where=labels == labels[0]))
    assert np.isnan(score(features, labels, where=np.zeros(N, bool)))
    assert np.isnan(score(np.where(features == features[0, 0], np.nan, features), labels))


def test_shift():
    features, labels = points(1)
    after = features + np.random.default_rng(0).normal(size=features.shape).astype(np.float32)
    spread = np.linalg.norm(features - features.mean(0), axis=1).mean()
    distance = np.linalg.norm(after - features, axis=1).mean()
    np.testing.assert_allclose(shift(features, after), [distance, distance / spread], rtol=1e-6)
    moved = [(after - features)[labels == c].mean(0) for c in np.unique(labels)]
    by_class = np.linalg.norm(moved, axis=1).mean()
    np.testing.assert_allclose(
        shift(features, after, labels=labels), [by_class, by_class / spread], rtol=1e-6
    )
    assert by_class < distance


@given(st.floats(0.1, 100), st.integers(0, 1000))
def test_relative_shift_is_without_units(scale, seed):
    features, _ = points(seed)
    after, _ = points(seed + 1)
    scale = np.float32(scale)
    first, second = shift(features, after), shift(scale * features + 3, scale * after + 3)
    np.testing.assert_allclose(second.relative, first.relative, rtol=2e-4)
    np.testing.assert_allclose(second.distance, scale * first.distance, rtol=2e-4)


def test_shift_of_nothing():
    features, labels = points(2)
    assert shift(features, features, labels=labels) == (0, 0)
    one_place = np.ones_like(features)
    found = shift(one_place, one_place + 1)
    assert float(found.distance) == pytest.approx(2)
    assert np.isnan(found.relative)
    assert all(np.isnan(x) for x in shift(features, features, where=np.zeros(N, bool)))
    for wrong in (np.nan, np.inf):
        broken = features.copy()
        broken[4, 1] = wrong
        for before, after in ((features, broken), (broken, features), (broken, broken)):
            for used in (None, labels):
                assert all(np.isnan(x) for x in shift(before, after, labels=used))


def test_half_precision_is_of_the_features_alone():
    """Numbers of examples and sums are not rounded to 8 bits, in which 256 + 1 = 256."""
    features, labels = points(4, n=900)
    half = jnp.asarray(features, jnp.bfloat16)
    whole = half.astype(jnp.float32)
    np.testing.assert_array_equal(score(half, labels), score(whole, labels))
    moved = half + 1
    expected = shift(whole, moved.astype(jnp.float32), labels=labels)
    np.testing.assert_array_equal(shift(half, moved, labels=labels), expected)


def test_labels_of_logits_that_are_not_finite():
    """As in `Flips`: -1, and not the place of the first NaN."""
    adapter = tta.norm(lambda variables, x: jnp.where(x > 1.2, jnp.nan, x))
    state = adapter.init(linear_network.variables())
    _, found = jax.jit(
        lambda s: track_embeddings(adapter, s, STREAM, HELD, lambda variables, x: x)
    )(state)
    broken = np.asarray(HELD.x.reshape(16, 6) > 1.2).any(1) & np.asarray(HELD.where).ravel()
    assert 0 < broken.sum() < 13
    np.testing.assert_array_equal(found.labels[0][HELD.where.ravel()] == -1,
                                  broken[HELD.where.ravel()])  # fmt: skip


ADAPTER = tta.tent(linear_network.apply_fn, optax.sgd(0.3, momentum=0.9))
STREAM = jax.tree.map(lambda a: a[:4], linear_network.stream())
HELD = Batch(STREAM.x[1:3], STREAM.where[1:3].at[1, 5:].set(False))


def features_fn(variables, x):
    """What the last layer gets."""
    return x * variables["norm"]["scale"] + variables["norm"]["bias"]


def track(every):
    state = ADAPTER.init(linear_network.variables())
    return track_embeddings(ADAPTER, state, STREAM, HELD, features_fn, every=every)


def test_tracking_is_looking_at_the_state():
    end, found = jax.jit(track, static_argnums=0)(2)
    assert found.steps.tolist() == [0, 2, 4]
    assert found.labels.shape == (3, 16)
    assert bool(found.finite.all())
    assert found.selected.tolist() == [8] * 4
    states = [ADAPTER.init(linear_network.variables())]
    run = jax.jit(lambda state, part: jax.lax.scan(ADAPTER.step, state, part)[0])
    for part in (slice(0, 2), slice(2, 4)):
        states.append(run(states[-1], jax.tree.map(lambda a, part=part: a[part], STREAM)))
    where, x = np.asarray(HELD.where).ravel(), HELD.x.reshape(16, 6)
    features = [np.asarray(features_fn(state.variables, x)) for state in states]
    for k, state in enumerate(states):
        labels = np.argmax(linear_network.apply_fn(state.variables, x), axis=-1)
        np.testing.assert_array_equal(found.labels[k][where], labels[where])
        expected = silhouette_score(features[k][where].astype(float), labels[where])
        assert float(found.silhouette[k]) == pytest.approx(expected, abs=5e-6)
        moved = np.linalg.norm(features[k] - features[0], axis=1)[where].mean()
        assert float(found.shift.distance[k]) == pytest.approx(moved, rel=1e-5)
    assert found.shift.relative[2] > found.shift.relative[1] > 0
    for a, b in zip(jax.tree.leaves(end), jax.tree.leaves(states[2]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("every", [0, 3, 8])
def test_every_must_divide_the_stream(every):
    with pytest.raises(ValueError, match="positive divisor of the number of steps"):
        track(every)
