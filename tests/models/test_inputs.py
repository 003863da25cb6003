import jax.numpy as jnp
import numpy as np
import pytest

from entropax.models.inputs import IMAGENET_MEAN, IMAGENET_STD, normalised_inputs

X = np.random.default_rng(0).random((2, 4, 4, 3)).astype(np.float32)


def test_channels_get_mean_0_and_deviation_1():
    found = normalised_inputs(lambda variables, x: x)({}, X)
    np.testing.assert_allclose(
        found * np.asarray(IMAGENET_STD) + np.asarray(IMAGENET_MEAN), X, atol=1e-6
    )


def test_where_is_passed_on():
    apply_fn = normalised_inputs(lambda variables, x, where=None: where)
    where = jnp.array([True, False])
    assert apply_fn({}, X, where=where) is where


def test_wrong_input():
    with pytest.raises(ValueError, match="positive `std`"):
        normalised_inputs(lambda variables, x: x, mean=[0.0], std=[0.0])
    with pytest.raises(ValueError, match="3 channels, got 1"):
        normalised_inputs(lambda variables, x: x)({}, X[..., :1])
    with pytest.raises(ValueError, match="divide them by 255"):
        normalised_inputs(lambda variables, x: x)({}, np.zeros((1, 2, 2, 3), np.uint8))
