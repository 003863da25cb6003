import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entropax.diffusion.holevo import block_entropies, row_scales
from entropax.diffusion.mutual_information import dsmi
from entropax.diffusion.sampling import Lanczos

# One shape, and classes that are padded to one size: another would compile again.
N, D = 60, 4
X = np.random.default_rng(2).normal(size=(N, D)) + 2 * np.eye(D)[np.arange(N) % 3]
labels = np.repeat(np.arange(3), [8, 20, 32])


def operator(x, widths, alpha=0.0):
    kernel = np.exp(-np.sum((x[:, None] - x) ** 2, -1) / (2 * np.multiply.outer(widths, widths)))
    for power in (alpha, 0.5):
        degrees = kernel.sum(1)
        kernel = kernel / np.outer(degrees, degrees) ** power
    return kernel


def entropy_of(matrix, t=1.0):
    powers = np.abs(np.linalg.eigvalsh(matrix)) ** t
    p = powers[powers > 1e-300] / powers.sum()
    return -np.sum(p * np.log(p))


def blobs(num_classes, separation):
    """Classes around the points of a grid."""
    y = np.arange(N) % num_classes
    centres = np.stack([y // 4**digit % 4 for digit in range(D)], axis=1)
    return centres * separation + np.random.default_rng(0).normal(size=(N, D)), y


@pytest.mark.parametrize(("alpha", "t"), [(0.5, 1.0), (0.5, 2.0)])
def test_chi_by_its_definition(alpha, t):
    matrix = operator(X, np.full(N, 1.5), alpha)
    weights = np.array([np.diag(matrix)[labels == c].sum() for c in range(3)])
    weights /= weights.sum()
    blocks = np.array([entropy_of(matrix[np.ix_(labels == c, labels == c)], t) for c in range(3)])
    with jax.enable_x64(True):
        found = dsmi(X, labels, sigma=1.5, alpha=alpha, t=t, scheme="holevo")
    assert found.entropy == pytest.approx(entropy_of(matrix, t), abs=1e-10)
    assert found.value == pytest.approx(entropy_of(matrix, t) - weights @ blocks, abs=1e-10)
    assert found.maximum == pytest.approx(-np.sum(weights * np.log(weights)), abs=1e-10)
    np.testing.assert_allclose(found.classes.entropies, blocks, atol=1e-10)
    np.testing.assert_allclose(found.classes.weights, weights, atol=1e-12)
    room = found.maximum - found.null_mean
    assert found.adjusted == pytest.approx((found.value - found.null_mean) / room, abs=1e-12)
    assert found.null.mean() == pytest.approx(found.null_mean)
    assert found.stderr == 0


@pytest.mark.parametrize(("alpha", "block_size"), [(0.0, None), (0.0, 7), (0.5, 7)])
def test_scales_make_the_operator(alpha, block_size):
    widths = np.random.default_rng(3).uniform(0.5, 2, N)
    with jax.enable_x64(True):
        scales = row_scales(jnp.array(X), jnp.array(widths), alpha=alpha, block_size=block_size)
    # With alpha = 0 as they are; otherwise in proportion.
    expected = np.sqrt(np.diag(operator(X, widths, alpha)))
    scales = np.asarray(scales)
    if alpha:
        scales = scales * expected[0] / scales[0]
    np.testing.assert_allclose(scales, expected, rtol=1e-10)


@given(st.integers(0, 2**31 - 1), st.floats(0.1, 30))
def test_bounds(seed, sigma):
    rng = np.random.default_rng(seed)
    x = (rng.normal(size=(N, D)) + rng.normal(size=(3, D))[labels] * rng.exponential()).astype("f4")
    found = dsmi(x, labels, sigma=sigma, scheme="holevo", num_repetitions=2)
    # Not the value, which is cut off at its bounds, but what it is made of.
    chi = found.entropy - found.classes.weights @ found.classes.entropies
    assert -1e-4 < chi < found.maximum + 1e-4  # float32
    assert found.maximum <= math.log(3) + 1e-12
    assert found.adjusted <= 1
    assert np.all(found.classes.entropies <= np.log(found.classes.counts) + 1e-5)


@pytest.mark.parametrize("num_classes", [3, 10, 30])
def test_separate_classes_have_1_however_many(num_classes):
    """The other schemes give less to more classes: 0.97 bits for 100 of 4 points, 2.2 for 10."""
    x, y = blobs(num_classes, 100)
    found = dsmi(x, y, sigma=5.0, scheme="holevo")
    assert found.adjusted == pytest.approx(1, abs=1e-3)
    # H(w), which is ln C but for points in sparse places that weigh more.
    assert found.value == pytest.approx(found.maximum, abs=1e-3)
    assert found.value == pytest.approx(math.log(num_classes), abs=1e-2)
    assert found.p_value == pytest.approx(1 / 6)


@pytest.mark.parametrize("num_classes", [3, 10, 30])
def test_shuffled_labels_have_0_however_many(num_classes):
    x, y = blobs(num_classes, 1)
    rng = np.random.default_rng(7)
    found = [
        dsmi(x, rng.permutation(y), sigma=2.0, scheme="holevo", num_repetitions=20)
        for _ in range(8)
    ]
    # With 60 points one value varies by 0.01 to 0.04, depending on the classes.
    assert abs(np.mean([each.adjusted for each in found])) < 0.03
    assert abs(np.mean([each.z_score for each in found])) < 1.5
    assert min(each.p_value for each in found) < 1


def test_the_order_of_the_rows_makes_no_difference():
    order = np.random.default_rng(4).permutation(N)
    first = dsmi(X, labels, sigma=1.5, scheme="holevo", num_repetitions=1)
    second = dsmi(X[order], labels[order], sigma=1.5, scheme="holevo", num_repetitions=1)
    assert second.value == pytest.approx(first.value, abs=5e-6)
    assert second.entropy == pytest.approx(first.entropy, abs=5e-6)
    np.testing.assert_allclose(second.classes.entropies, first.classes.entropies, atol=5e-6)


def test_features_that_nearly_coincide():
    """All entropies are near 0 and so is what is left of 1; rounding must not look like a class."""
    found = dsmi(1e-3 * X, labels, sigma=10.0, scheme="holevo")
    assert found.value < 1e-4
    assert abs(found.adjusted) < 1e-4


@pytest.mark.parametrize(("storage", "t"), [("stored", 1.0), ("matrix_free", 2.0)])
def test_large_blocks_are_sampled(storage, t):
    x, widths = jnp.array(X, jnp.float32), jnp.full(N, 1.5, jnp.float32)
    scales = row_scales(x, widths)
    subsets = [np.flatnonzero(labels == c) for c in range(3)]
    exact, no_errors = block_entropies(x, widths, scales, subsets, t=t)
    settings = Lanczos(8, 8, 12, storage=storage, block_size=10)
    sampled, errors = block_entropies(
        x, widths, scales, subsets, t=t, largest=10, settings=settings, key=jax.random.key(1)
    )
    assert no_errors.tolist() == [0, 0, 0]
    # Solved in another program, among other blocks: what is equal but for rounding to float32.
    assert sampled[0] == pytest.approx(exact[0], rel=1e-6)
    assert errors[0] == 0
    assert np.all(errors[1:] > 0)
    np.testing.assert_allclose(sampled, exact, atol=0.02)


@pytest.mark.parametrize(("sigma", "adjusted"), [(20.0, 1.0), (1.0, 0.0)])
def test_a_class_that_is_much_denser_than_the_others(sigma, adjusted):
    # Its rows have a small trace, so that random classes, all alike, could reach more than these.
    rng = np.random.default_rng(0)
    y = np.arange(160) % 4
    z = rng.normal(size=(160, 32)) * np.where(y == 0, 0.3, 3.0)[:, None]
    z += 200 * np.eye(4, 32)[y]
    information = dsmi(z.astype(np.float32), y, sigma=sigma, scheme="holevo", num_repetitions=5)
    # At the small bandwidth only the points of the dense class are not alone.
    assert information.adjusted == pytest.approx(adjusted, abs=1e-3)
    assert information.null_mean <= information.maximum + 1e-6
