"""Random sets: every subset with the same probability, and classes in equal numbers."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from entropax import selection

KEYS = jax.random.split(jax.random.key(0), 20_000)


@functools.cache
def drawn():
    """Three of five, once for each key."""
    agent, pool = selection.random(), np.zeros((5, 1), np.float32)
    draw = jax.vmap(lambda key: selection.run(key, agent, pool, 3)[0].indices)
    return np.asarray(jax.jit(draw)(KEYS))


def test_every_subset_is_as_likely():
    subsets = np.sort(drawn(), axis=1)
    counts = [np.sum(np.all(subsets == s, axis=1)) for s in itertools.combinations(range(5), 3)]
    assert sum(counts) == len(KEYS)
    # Chi-squared with 9 degrees of freedom exceeds 28 once in a thousand times.
    assert np.sum((np.array(counts) - 2000) ** 2 / 2000) < 28


def test_order_is_random():
    first = np.bincount(drawn()[:, 0], minlength=5)
    # Chi-squared with 4 degrees of freedom exceeds 18.5 once in a thousand times.
    assert np.sum((first - 4000) ** 2 / 4000) < 18.5


def test_the_published_draw():
    """With replacement, and never the last example."""
    draw = jax.vmap(lambda key: selection.random_subset(key, 5, 3, compat="reference"))
    subsets = np.asarray(jax.jit(draw)(KEYS))
    assert set(subsets.ravel().tolist()) == {0, 1, 2, 3}
    repeated = np.mean([len(set(s)) < 3 for s in subsets.tolist()])
    assert repeated == pytest.approx(1 - 3 * 2 / 4**2, abs=0.02)  # 1 - 4 * 3 * 2 / 4 ** 3
    agent = selection.random(compat="reference")
    chosen = selection.select(jax.random.key(0), agent, np.zeros((2, 1)), 2).indices
    assert chosen.tolist() == [0, 0]
    best = selection.approximate_entropy(5, compat="reference")
    chosen = selection.select(jax.random.key(0), best, np.eye(2, dtype=np.float32), 2).indices
    assert chosen.tolist() == [0, 0]


def test_classes_take_turns():
    labels = np.array([7] * 20 + [-1] * 2 + [3] * 10)
    agent = selection.class_balanced(labels)
    extra = set()
    for seed in range(20):
        key = jax.random.key(seed)
        chosen = selection.select(key, agent, np.zeros((32, 1)), 10).indices
        assert len(set(chosen.tolist())) == 10
        counts = {c: int(np.sum(labels[chosen] == c)) for c in (7, -1, 3)}
        assert counts == {7: 4, -1: 2, 3: 4}
        for k in range(1, 7):
            prefix = np.unique(labels[chosen[:k]], return_counts=True)[1]
            assert prefix.max() - (prefix.min() if len(prefix) == 3 else 0) <= 1
        extra.add(int(labels[chosen[0]]))
    assert extra == {7, -1, 3}
    everything = selection.select(jax.random.key(0), agent, np.zeros((32, 1)), 32).indices
    assert sorted(everything.tolist()) == list(range(32))


def test_members_of_a_class_are_as_likely():
    agent = selection.class_balanced([0, 0, 0, 0, 1])
    draw = jax.jit(jax.vmap(lambda key: selection.run(key, agent, jnp.zeros((5, 1)), 2)[0].indices))
    counts = np.bincount(np.asarray(draw(KEYS)).ravel(), minlength=5)
    assert counts[4] == len(KEYS)
    # Chi-squared with 3 degrees of freedom exceeds 16.3 once in a thousand times.
    assert np.sum((counts[:4] - 5000) ** 2 / 5000) < 16.3
