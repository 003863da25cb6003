import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entropax.data import image_set


def test_grey_images_get_a_channel_and_labels_become_int32():
    images = np.arange(2 * 4 * 5, dtype=np.uint8).reshape(2, 4, 5)
    data = image_set(images, np.array([2, 0], np.int64))
    np.testing.assert_array_equal(data.images[..., 0], images)
    assert data.images.shape == (2, 4, 5, 1)
    assert data.images.dtype == np.uint8
    assert data.labels.dtype == np.int32
    assert data.class_names == ("0", "1", "2")
    assert len(data) == 2


def test_unlabelled_set_has_no_class_names():
    data = image_set(np.zeros((3, 2, 2, 3), np.uint8))
    assert data.labels is None
    assert data.class_names == ()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_every_level_survives_as_floating_point(dtype):
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    np.testing.assert_array_equal(image_set((levels / 255).astype(dtype)).images[..., 0], levels)


@given(st.lists(st.floats(0, 1), min_size=4, max_size=4))
def test_floats_round_to_the_nearest_level(values):
    out = image_set(np.array(values).reshape(1, 2, 2)).images.ravel()
    assert np.abs(out - 255 * np.array(values)).max() <= 0.5 + 1e-9


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_images_are_counted(bad):
    images = np.zeros((5, 3, 3, 1))
    images[1, 0, 0, 0] = images[4, 2, 1, 0] = images[4, 2, 2, 0] = bad
    with pytest.raises(ValueError, match=r"2 of 5 images hold NaN or infinite.*number 1.*leave"):
        image_set(images)


def float_image(value):
    return np.full((2, 3, 3), value, np.float32)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (float_image(255.0), "divide them by 255 or pass uint8"),
        (float_image(-0.5), "normalisation"),
        (float_image(300.0), "normalisation"),
        (np.zeros((2, 3, 3), np.int64), "got dtype int64"),
        (np.zeros((2, 3, 3), bool), "got dtype bool"),
        (np.array([[object()]]), "got dtype object"),
        (np.zeros((3, 3), np.uint8), r"got \(3, 3\)"),
        (np.zeros((2, 3, 8, 8), np.uint8), "channels-first.*transpose"),
        (np.zeros((2, 8, 8, 4), np.uint8), "alpha"),
        (np.zeros((2, 8, 8, 2), np.uint8), "must have shape"),
        (np.zeros((0, 8, 8, 1), np.uint8), "no images"),
        (np.zeros((2, 0, 8, 1)), "no pixels"),
    ],
)
def test_bad_images(images, message):
    with pytest.raises(ValueError, match=f"^holiday.npz: .*{message}"):
        image_set(images, origin="holiday.npz")


@pytest.mark.parametrize(
    ("labels", "class_names", "message"),
    [
        ([0, 1], None, r"3 images need labels of shape \(3,\), got \(2,\)"),
        ([[1, 0], [0, 1], [1, 0]], None, "argmax"),
        ([0.0, 1.0, 2.0], None, "must be integers, got dtype float64"),
        ([True, False, True], None, "must be integers, got dtype bool"),
        ([0, -1, -3], None, "2 of 3 labels are negative, down to -3"),
        ([0, 1, 2], ("cat", "dog"), "label 2 has no class name: there are 2 names"),
        ([0, 1, 1], ("cat", "cat"), "'cat' is given more than once"),
        ([0, 1, 2**40], None, "32 bits"),
        (None, ("cat", "dog"), "class names were given without labels"),
    ],
)
def test_bad_labels(labels, class_names, message):
    labels = None if labels is None else np.array(labels)
    with pytest.raises(ValueError, match=f"^the images: .*{message}"):
        image_set(np.zeros((3, 2, 2), np.uint8), labels, class_names=class_names)
