import jax
import jax.numpy as jnp
import numpy as np
import pytest

from entropax.data import load_digits
from entropax.models import ConvNet, fit_classifier, running_statistics

DIGITS = load_digits()
MODULE = ConvNet(num_classes=10, features=(16, 32))


def fit(images, labels, **options):
    options = {"epochs": 1, **options}
    return fit_classifier(jax.random.key(0), MODULE, images, labels, **options)


def test_learns_the_digits_and_reports_every_epoch():
    seen = []
    variables = fit(
        DIGITS.images[:1000],
        DIGITS.labels[:1000],
        epochs=8,
        learning_rate=1e-2,
        shift=1,
        on_epoch=lambda epoch, loss: seen.append((epoch, loss)),
    )
    logits = running_statistics(MODULE)(variables, jnp.asarray(DIGITS.images[1000:]) / 255.0)
    assert np.mean(np.argmax(logits, -1) == DIGITS.labels[1000:]) > 0.85
    assert [epoch for epoch, _ in seen] == list(range(1, 9))
    assert seen[-1][1] < 0.5 * seen[0][1]


def test_one_seed_gives_one_network():
    a, b = (fit(DIGITS.images[:128], DIGITS.labels[:128]) for _ in range(2))
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize(
    ("images", "labels", "options", "message"),
    [
        (DIGITS.images[:20], DIGITS.labels[:20], {}, "20 images do not fill one batch of 64"),
        (DIGITS.images[:64], np.zeros(64, np.int32), {}, "every label is 0"),
        (
            DIGITS.images[:64],
            DIGITS.labels[:64] + 1,
            {},
            r"in \[0, 10\), the classes of the network",
        ),
        (DIGITS.images[:64], DIGITS.labels[:64], {"shift": -1}, "`shift` must not be negative"),
        (DIGITS.images[:64], DIGITS.labels[:64], {"epochs": 0}, "`epochs` must be positive"),
        (
            DIGITS.images[:64],
            DIGITS.labels[:64],
            {"learning_rate": -1.0},
            "`learning_rate` must be positive, got -1.0",
        ),
        (DIGITS.images[:64], DIGITS.labels[:64], {"batch_size": 0}, "`batch_size` must be"),
    ],
)
def test_bad_input(images, labels, options, message):
    with pytest.raises(ValueError, match=message):
        fit(images, labels, **options)
