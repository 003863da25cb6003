import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from oracles import GoldenNet, golden_stream, golden_variables

from entropax import tta
from entropax.models import batch_statistics
from entropax.tta.alarm import collapse_alarm
from entropax.types import Batch

# A "network" that returns its inputs, so that a stream says what is predicted.
IDENTITY = tta.norm(lambda variables, x: x * variables)


def one_hot_stream(labels, confidence=5.0):
    """`labels [t, b]` as logits."""
    return Batch(confidence * jax.nn.one_hot(labels, 10), jnp.ones(labels.shape, bool))


def collapsed(batches, **options):
    adapter = collapse_alarm(IDENTITY, num_classes=10, **options)
    return np.asarray(tta.adapt(adapter, jnp.ones(()), batches)[1].collapsed)


@pytest.mark.parametrize("rows", [1, 16, 64])
def test_it_rings_when_one_class_is_left(rows):
    """After 1,280 examples of all classes, it takes less than a window, whatever the batches."""
    labels = jax.random.randint(jax.random.key(0), (2560 // rows, rows), 0, 10)
    labels = labels.at[1280 // rows :].set(3)
    ringing = collapsed(one_hot_stream(labels))
    assert not ringing[: 1280 // rows].any()
    first = int(np.argmax(ringing)) * rows
    assert 1280 <= first < 1280 + 128
    assert ringing[(1280 + 128) // rows :].all()


def test_it_stops_ringing_when_the_classes_come_back():
    labels = jax.random.randint(jax.random.key(0), (40, 64), 0, 10).at[10:20].set(3)
    ringing = collapsed(one_hot_stream(labels))
    assert ringing[12:20].all()
    assert not ringing[24:].any()


def test_the_number_of_classes_that_is_few():
    """Three equally frequent classes have ln 3 nats, and half of ln 10 is a little more."""
    for number, few in ((3, True), (4, False)):
        labels = jnp.broadcast_to(jnp.arange(60) % number, (10, 60))
        assert (collapsed(one_hot_stream(labels)) == few).all()


def test_by_brute_force():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, (30, 7))
    where = rng.random((30, 7)) < 0.7
    x = one_hot_stream(jnp.asarray(labels)).x
    adapter = collapse_alarm(IDENTITY, num_classes=10, window=20.0, diversity_limit=1.32)
    ringing = tta.adapt(adapter, jnp.ones(()), Batch(x, jnp.asarray(where)))[1].collapsed
    counts, expected = np.zeros(10), []
    for row, mask in zip(labels, where, strict=True):
        counts = np.exp(-mask.sum() / 20) * counts + np.bincount(row[mask], minlength=10)
        share = counts[counts > 0] / counts.sum()
        expected.append(counts.sum() >= 10 and -(share * np.log(share)).sum() < 1.32)
    np.testing.assert_array_equal(ringing, expected)
    assert 0 < sum(expected) < 30


def test_mean_entropy():
    """All classes, but far too sure: only with a bound on the entropy does it ring."""
    batches = one_hot_stream(jnp.broadcast_to(jnp.arange(50) % 10, (6, 50)), confidence=20.0)
    assert not collapsed(batches).any()
    assert collapsed(batches, entropy_limit=0.01)[1:].all()


def test_nothing_to_go_by():
    """No alarm before half a window, on padding, or because of a batch that is not finite."""
    one_class = one_hot_stream(jnp.zeros((3, 16), int))
    assert collapsed(one_class).tolist() == [False, False, False]
    assert collapsed(one_class, window=90.0).tolist() == [False, False, False]
    padding = one_class._replace(where=jnp.zeros_like(one_class.where))
    assert not collapsed(padding, window=10.0, entropy_limit=1.0).any()
    broken = one_class._replace(x=one_class.x.at[:, 0, 0].set(jnp.nan))
    assert not collapsed(broken, window=10.0).any()


def test_tent_driven_to_collapse_is_found_out():
    """With a learning rate far too high one class is left; with a sensible one nothing rings."""
    apply_fn = batch_statistics(GoldenNet())
    batches = jax.tree.map(lambda a: jnp.concatenate([a] * 5), golden_stream())

    @jax.jit
    def run(learning_rate):
        adapter = tta.tent(apply_fn, optax.sgd(learning_rate, momentum=0.9))
        adapter = collapse_alarm(adapter, num_classes=10)
        _, infos = tta.adapt(adapter, golden_variables(), batches)
        predicted = jax.nn.one_hot(jnp.argmax(infos.logits, axis=-1), 10).any(axis=1)
        return predicted.sum(-1), infos.collapsed

    classes, ringing = run(5.0)
    only_one = int(jnp.argmax(classes == 1))
    assert only_one > 0
    np.testing.assert_array_equal(classes[only_one:], 1)
    assert not bool(ringing[0])
    # Two batches of 64 are more than the window of 100 examples.
    assert bool(jnp.all(ringing[only_one + 2 :]))
    assert not bool(jnp.any(run(0.01)[1]))
