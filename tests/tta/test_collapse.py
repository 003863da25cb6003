"""Tent on real digits: when it comes to predict one class only, the alarm has to ring."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from entropax import tta
from entropax.data.digits import load_digits
from entropax.models import batch_statistics, fit_classifier

STEPS, ROWS = 300, 32
# Classes come one after the other, about 90 images each: two rounds of all ten.
WINDOW = 1800.0


class Mlp(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Dense(32, use_bias=False)(x.reshape(len(x), -1))
        x = nn.relu(nn.BatchNorm(use_running_average=not train, name="norm")(x))
        return nn.Dense(10)(x)


@pytest.fixture(scope="module")
def network():
    digits = load_digits()
    labels = np.asarray(digits.labels)
    variables = fit_classifier(
        jax.random.key(0), Mlp(), digits.images[:900], labels[:900], epochs=8, learning_rate=0.01
    )
    clean = np.asarray(digits.images[900:], np.float32) / 255
    noise = np.random.default_rng(1).normal(size=clean.shape)
    shifted = np.clip(clean + 0.3 * noise, 0, 1).astype(np.float32)
    return variables, shifted, labels[900:]


def order(labels, correlated):
    """Indices `[STEPS, ROWS]`: rounds of all images, shuffled or class by class."""
    rng = np.random.default_rng(0)
    rounds = []
    while sum(map(len, rounds)) < STEPS * ROWS:
        if correlated:
            classes = [np.flatnonzero(labels == c) for c in rng.permutation(10)]
            rounds.append(np.concatenate([rng.permutation(each) for each in classes]))
        else:
            rounds.append(rng.permutation(len(labels)))
    return np.concatenate(rounds)[: STEPS * ROWS].reshape(STEPS, ROWS)


@jax.jit
def predictions(variables, x, learning_rate):
    adapter = tta.tent(
        batch_statistics(Mlp(), batch_weight=0.1), optax.sgd(learning_rate, momentum=0.9)
    )
    adapter = tta.collapse_alarm(adapter, num_classes=10, window=WINDOW)
    _, infos = tta.adapt(adapter, variables, tta.Batch(x, jnp.ones(x.shape[:2], bool)))
    return jnp.argmax(infos.logits, axis=-1), infos.collapsed


def outcome(network, correlated, learning_rate):
    """Accuracy and number of predicted classes of each step, and where the alarm rang."""
    variables, images, labels = network
    indices = order(labels, correlated)
    predicted, ringing = predictions(variables, images[indices], learning_rate)
    correct = np.asarray(predicted) == labels[indices]
    classes = np.array([len(set(row)) for row in np.asarray(predicted)])
    return correct.mean(1), classes, np.asarray(ringing)


def test_total_collapse_on_a_correlated_stream_is_rung(network):
    accuracy, classes, ringing = outcome(network, True, 1.0)
    # The onset: every batch from here on is said to be of one class, while all ten come by.
    onset = STEPS - int(np.argmax(classes[::-1] > 1))
    assert 0 < onset < 100
    assert accuracy[onset:].mean() < 0.2
    assert not ringing[0]
    assert ringing[onset + 100 :].all()


def test_a_correlated_stream_alone_does_not_ring(network):
    """The same images in the same order, at a rate that does no harm."""
    accuracy, _, ringing = outcome(network, True, 1e-3)
    assert accuracy[-100:].mean() > 0.65
    assert not ringing.any()


def test_a_shuffled_stream_does_not_ring(network):
    accuracy, _, ringing = outcome(network, False, 1e-3)
    assert accuracy[-100:].mean() > 0.65
    assert not ringing.any()
