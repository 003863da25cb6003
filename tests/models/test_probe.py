import jax
import jax.numpy as jnp
import numpy as np
import pytest

from entropax.models.probe import linear_probe


def by_steps(x, labels, x_test, num_classes, ridge):
    """The minimum of the squared error with the penalty, as least squares with extra rows."""
    x, x_test = (np.asarray(a, np.float64) for a in (x, x_test))
    mean, targets = x.mean(0), np.eye(num_classes)[labels]
    scale = np.sqrt(np.mean((x - mean) ** 2))
    z, y = (x - mean) / scale, targets - targets.mean(0)
    n, d = z.shape
    rows = np.concatenate([z, np.sqrt(ridge * n) * np.eye(d)])
    weights = np.linalg.lstsq(rows, np.concatenate([y, np.zeros((d, num_classes))]), rcond=None)[0]
    return targets.mean(0) + (x_test - mean) / scale @ weights


@pytest.mark.parametrize("width", [3, 12, 40])
def test_equals_least_squares(width):
    """With fewer and with more features than examples."""
    rng = np.random.default_rng(width)
    x, x_test = (rng.normal(3, 2, size=(n, width)).astype(np.float32) for n in (12, 5))
    labels = rng.integers(0, 4, 12)
    found = linear_probe(x, labels, x_test, num_classes=4, ridge=0.1)
    expected = by_steps(x, labels, x_test, 4, 0.1)
    # float32 through a solve whose condition is about 1 / ridge.
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_scale_and_offset_do_not_matter():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 6)).astype(np.float32)
    labels = rng.integers(0, 3, 30)
    found = linear_probe(x, labels, x, num_classes=3)
    moved = 1e-3 * x + 0.5
    np.testing.assert_allclose(linear_probe(moved, labels, moved, num_classes=3), found, atol=1e-3)


def test_separable_classes_are_separated():
    labels = np.arange(60) % 3
    x = np.eye(3)[labels] + 0.1 * np.random.default_rng(0).normal(size=(60, 3))
    scores = linear_probe(x[:30], labels[:30], x[30:], num_classes=3)
    np.testing.assert_array_equal(np.argmax(scores, axis=1), labels[30:])


def test_features_that_are_all_equal_give_the_shares_of_the_classes():
    scores = jax.jit(linear_probe, static_argnames="num_classes")(
        jnp.full((8, 3), 7.0), jnp.array([0, 0, 0, 0, 0, 0, 1, 1]), jnp.ones((2, 3)), num_classes=2
    )
    np.testing.assert_allclose(scores, [[0.75, 0.25]] * 2, rtol=1e-6)


def test_ridge_is_checked():
    with pytest.raises(ValueError, match="`ridge` must be positive, got 0"):
        linear_probe(jnp.eye(2), jnp.arange(2), jnp.eye(2), num_classes=2, ridge=0)
