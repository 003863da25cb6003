"""The promises that every corruption keeps, and the errors of `corrupt`."""

import numpy as np
import pytest

from entropax.data import corruptions
from entropax.data.corruptions import ALL, HOLDOUT, IMAGENET_C, MNIST_C, corrupt, families
from entropax.data.corruptions.severity import COLUMNS, LENGTHS, SCALES, parameters, scale_of

FIXED = [
    "defocus_blur",
    "zoom_blur",
    "brightness",
    "contrast",
    "pixelate",
    "jpeg_compression",
    "gaussian_blur",
    "saturate",
    "scale",
    "stripe",
    "canny_edges",
    "quantize",
    "inverse",
]


def scene(n: int = 4, size: int = 32, channels: int = 3) -> np.ndarray:
    """Smooth random fields with a bright disk: edges, slopes and colour."""
    rng = np.random.default_rng(size)
    y, x = np.indices((size, size)) / (size - 1)
    angles, colours = rng.uniform(0, np.pi, n), rng.uniform(0.2, 0.6, (n, 1, 1, channels))
    waves = [np.sin(6 * (x * np.cos(a) + y * np.sin(a)) + a) for a in angles]
    images = colours + 0.15 * np.stack(waves)[..., None]
    disk = (y - 0.45) ** 2 + (x - 0.55) ** 2 < 0.06
    return np.rint(255 * np.clip(images + 0.4 * disk[..., None], 0, 1)).astype(np.uint8)


def change(images: np.ndarray, name: str, severity: int, **options: object) -> float:
    return float(np.abs(corrupt(images, name, severity, **options) - images.astype(float)).mean())


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [8, 28, 32])
@pytest.mark.parametrize("name", ALL)
def test_every_corruption_at_every_severity_and_size(name, size, channels):
    images = scene(3, size, channels)
    before = images.copy()
    for severity in range(1, 6):
        corrupted = corrupt(images, name, severity)
        assert corrupted.shape == images.shape
        assert corrupted.dtype == np.uint8
        np.testing.assert_array_equal(corrupted, corrupt(images, name, severity))
    np.testing.assert_array_equal(images, before)
    # Severity 5 can be seen, and does not wipe the images out.
    if (name, channels) != ("saturate", 1):
        assert np.abs(corrupted - images.astype(float)).mean() > 1
    assert corrupted.std(axis=(1, 2, 3)).min() > 1


@pytest.mark.parametrize("name", ALL)
def test_the_seed_matters_to_the_random_ones_alone(name):
    images = scene(8)
    differs = (corrupt(images, name, 3, seed=0) != corrupt(images, name, 3, seed=1)).any()
    assert differs == (name not in FIXED)


@pytest.mark.parametrize("name", ALL)
def test_an_image_does_not_depend_on_those_after_it(name, monkeypatch):
    monkeypatch.setattr(corruptions, "_CHUNK_PIXELS", 4 * 16 * 16)
    images = scene(10, 16, 1)
    few, many = corrupt(images[:7], name, 4), corrupt(images, name, 4)
    np.testing.assert_array_equal(few, many[:7])


def test_a_repeated_image_is_corrupted_anew_in_every_chunk(monkeypatch):
    monkeypatch.setattr(corruptions, "_CHUNK_PIXELS", 16 * 16)
    images = np.repeat(scene(1, 16), 3, axis=0)
    first, second, third = corrupt(images, "gaussian_noise", 3)
    assert (first != second).any()
    assert (second != third).any()


def test_names_and_severities_use_different_streams():
    images = np.full((1, 64, 64, 1), 128, np.uint8)

    def noise(name, severity):
        return (corrupt(images, name, severity, scale="cifar") - 128.0).ravel()

    draws = np.stack(
        [
            noise(name, severity)
            for name in ("gaussian_noise", "speckle_noise")
            for severity in (1, 2)
        ]
    )
    assert np.abs(np.corrcoef(draws) - np.eye(4)).max() < 0.1


@pytest.mark.parametrize(
    "name",
    [
        "gaussian_noise",
        "shot_noise",
        "impulse_noise",
        "speckle_noise",
        "gaussian_blur",
        "defocus_blur",
        "zoom_blur",
        "contrast",
        "brightness",
        "jpeg_compression",
        "pixelate",
        "quantize",
        "inverse",
        "stripe",
        "scale",
        "rotate",
        "translate",
        "canny_edges",
        "line",
        "dotted_line",
        "zigzag",
    ],
)
@pytest.mark.parametrize("size", [28, 32])
def test_a_greater_severity_changes_more(name, size):
    images = scene(24, size)
    changes = [change(images, name, severity) for severity in range(1, 6)]
    assert (np.diff(changes) > 0).all(), changes


@pytest.mark.parametrize("name", ["motion_blur", "glass_blur", "snow", "fog", "spatter", "shear"])
@pytest.mark.parametrize("size", [28, 32])
def test_the_greatest_severity_changes_more_than_the_least(name, size):
    images = scene(24, size)
    assert change(images, name, 5) > change(images, name, 1)


@pytest.mark.parametrize(
    "name", [name for name in FIXED if name not in ("saturate", "jpeg_compression")]
)
def test_grey_images_are_rgb_images_of_equal_channels(name):
    grey = scene(3, 28, 1)
    rgb = np.repeat(grey, 3, axis=-1)
    for severity in (1, 3, 5):
        as_rgb = corrupt(rgb, name, severity)
        as_grey = np.repeat(corrupt(grey, name, severity), 3, axis=-1)
        np.testing.assert_allclose(as_rgb.astype(int), as_grey, atol=1)


def test_jpeg_treats_grey_images_nearly_as_rgb_of_equal_channels():
    grey = scene(3, 32, 1)
    as_rgb = corrupt(np.repeat(grey, 3, axis=-1), "jpeg_compression", 5)
    assert np.abs(as_rgb - corrupt(grey, "jpeg_compression", 5).astype(float)).mean() < 2


def test_saturate_leaves_grey_images_alone():
    grey = scene(2, 28, 1)
    np.testing.assert_array_equal(corrupt(grey, "saturate", 5), grey)


def test_images_need_not_be_square():
    images = scene(2, 32)[:, :, :20]
    for name in ALL:
        assert corrupt(images, name, 5).shape == images.shape


def test_black_images_stay_finite():
    black = np.zeros((2, 28, 28, 3), np.uint8)
    for name in ALL:
        for scale in SCALES:
            assert corrupt(black, name, 3, scale=scale).shape == black.shape


def test_large_images_use_the_imagenet_table():
    images = scene(2, 96)
    for name in ("fog", "motion_blur", "spatter", "elastic_transform"):
        assert change(images, name, 3) > 1


def test_the_families():
    assert families(3) == (IMAGENET_C, HOLDOUT)
    tests, holdout = families(1)
    assert tests == IMAGENET_C
    assert holdout == ("speckle_noise", "gaussian_blur", "spatter", "quantize")
    assert len(IMAGENET_C) == len(MNIST_C) == 15
    assert len(set(ALL)) == len(ALL) == 30
    assert set(IMAGENET_C + HOLDOUT + MNIST_C) <= set(ALL) == set(COLUMNS)
    with pytest.raises(ValueError, match=r"`channels` must be 1 .* got 4"):
        families(4)


def test_every_length_is_a_parameter():
    for name, lengths in LENGTHS.items():
        assert set(lengths) <= set(COLUMNS[name])


def test_the_height_chooses_the_scale():
    heights = (8, 28, 29, 64, 65, 224)
    assert [scale_of(h) for h in heights] == ["mnist"] * 2 + ["cifar"] * 2 + ["imagenet"] * 2
    images = scene(2, 32)
    np.testing.assert_array_equal(
        corrupt(images, "fog", 2), corrupt(images, "fog", 2, scale="cifar")
    )
    assert change(images, "fog", 2, scale="mnist") > change(images, "fog", 2)


def test_lengths_follow_the_height_and_nothing_else_does():
    assert parameters("defocus_blur", 5, scale="imagenet", height=112) == {
        "radius": 5.0,
        "alias": 0.5,
    }
    assert parameters("contrast", 1, scale="cifar", height=64) == {"factor": 0.75}
    assert parameters("translate", 2, scale="imagenet", height=56) == {"distance": 4.0}
    # At the published height nothing is raised to a least value.
    assert parameters("defocus_blur", 1, scale="cifar", height=32)["radius"] == 0.3
    assert parameters("gaussian_blur", 1, scale="mnist", height=8) == {"sigma": 0.4}
    for name, (table, height) in ((n, s) for s in SCALES.values() for n in s[0]):
        for severity in range(1, 6):
            row = table[name][severity - 1]
            values = tuple(parameters(name, severity, scale=_name(table), height=height).values())
            assert values == pytest.approx(row if isinstance(row, tuple) else (row,))


def _name(table: object) -> str:
    return next(name for name, (known, _) in SCALES.items() if known is table)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"name": "rain"},
            r"Unknown corruption 'rain'; the known ones are gaussian_noise, .*line\.",
        ),
        ({"severity": 0}, r"`severity` must be 1, 2, 3, 4 or 5, got 0\."),
        ({"severity": 6}, r"`severity` must be 1, 2, 3, 4 or 5, got 6\."),
        ({"scale": "coco"}, r"Unknown scale 'coco'; pass 'mnist', 'cifar', 'imagenet', or None"),
        ({"seed": -1}, r"`seed` must not be negative, got -1\."),
        ({"images": np.zeros((8, 8), np.uint8)}, r"shape \[n, h, w, c\] .* got \[8, 8\]\."),
        ({"images": np.zeros((1, 8, 8, 4), np.uint8)}, r"got \[1, 8, 8, 4\]\."),
        ({"images": np.zeros((1, 8, 8, 3))}, r"must be uint8 .* got float64; .* np\.rint"),
        ({"images": np.zeros((0, 8, 8, 3), np.uint8)}, r"no pixels: its shape is \[0, 8, 8, 3\]"),
    ],
)
def test_bad_arguments_are_met_with_a_sentence(arguments, message):
    good = {"images": np.zeros((1, 8, 8, 3), np.uint8), "name": "fog", "severity": 1}
    with pytest.raises(ValueError, match=message):
        corrupt(**{**good, **arguments})
