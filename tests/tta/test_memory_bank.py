"""The bank against the same thing written with lists: exactly the same examples stay."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from balanced_lists import Lists

from entropax.tta.memory_bank import empty_bank, insert


def contents(bank):
    rows = zip(*(np.asarray(a).tolist() for a in (bank.row, bank.label, bank.age)), strict=True)
    return sorted(row for row in rows if row[1] >= 0)


def offered(capacity, num_classes, labels, entropies, **weights):
    """The bank after every example of a stream."""

    @jax.jit
    def run(labels, entropies):
        def step(bank, example):
            bank = insert(bank, *example, num_classes=num_classes, **weights)
            return bank, bank

        names = jnp.arange(len(labels), dtype=jnp.int32)
        return jax.lax.scan(step, empty_bank(capacity), (labels, entropies, names))[1]

    return run(jnp.asarray(labels, jnp.int32), jnp.asarray(entropies))


@pytest.mark.parametrize(
    ("capacity", "num_classes", "skew", "weights"),
    [
        (16, 4, 0.0, {}),  # shares are whole
        (10, 4, 0.0, {}),  # they are not
        (10, 4, 3.0, {}),  # most examples are of one class, which comes in runs
        (5, 12, 0.0, {}),  # more classes than slots
        (8, 3, 1.0, {"time_weight": 0.0}),  # the uncertain go, however young
        (8, 3, 1.0, {"entropy_weight": 0.0}),  # the old go
    ],
)
def test_the_same_examples_stay(capacity, num_classes, skew, weights):
    """400 examples of each of three streams, in float64: no score is within rounding of another."""
    for seed in range(3):
        rng = np.random.default_rng(seed)
        probs = np.exp(-skew * np.arange(num_classes) / num_classes)
        labels = rng.choice(num_classes, 400, p=probs / probs.sum())
        labels = np.sort(labels.reshape(20, 20), axis=1).ravel() if skew else labels
        entropies = rng.uniform(0, math.log(num_classes), 400)
        lists = Lists(capacity, num_classes, **weights)
        with jax.enable_x64(True):
            banks = offered(capacity, num_classes, labels, entropies, **weights)
        banks = jax.tree.map(np.asarray, banks)
        for t in range(400):
            lists.offer(int(labels[t]), float(entropies[t]), t)
            assert contents(jax.tree.map(lambda a, t=t: a[t], banks)) == lists.contents()


def test_of_equals_the_highest_class_goes_and_in_it_the_youngest():
    """Without entropies and ages every score is the same, and none is worse than the newcomer's;
    with entropies in two values the choice among equals decides."""
    rng = np.random.default_rng(0)
    labels, entropies = rng.integers(0, 3, 200), rng.choice([0.25, 0.5, 1.0], 200)
    lists = Lists(7, 3, time_weight=0.0)
    banks = offered(7, 3, labels, entropies, time_weight=0.0)
    for t in range(200):
        lists.offer(int(labels[t]), float(entropies[t]), t)
        assert contents(jax.tree.map(lambda a, t=t: a[t], banks)) == lists.contents()
    still = offered(7, 3, labels, np.ones(200), time_weight=0.0)
    full = int(np.argmax((np.asarray(still.label) >= 0).all(1)))
    assert (np.asarray(still.row)[full:] == np.asarray(still.row)[full]).all()


def test_balance():
    """After a run of one class, and then one of another, both have what is theirs."""
    labels = np.repeat([0, 1, 2, 3], 50)
    banks = offered(16, 4, labels, np.full(200, 0.5))
    assert np.bincount(np.asarray(banks.label)[-1]).tolist() == [4, 4, 4, 4]
