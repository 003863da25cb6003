"""Each piece against SciPy, the standard library or a loop; then the whole of it.

In float32 the pieces differ from their oracles by a few roundings of numbers up to 1: 2e-6, and
1e-5 where coordinates up to 12 pixels multiply the rounding.
"""

import colorsys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from entropax.tta.augmentation import (
    COTTA_AUGMENTATION,
    SOFT_COTTA_AUGMENTATION,
    Augmentation,
    augment,
    blur,
    change_colours,
    turn_hue,
    warp,
)

KEY = jax.random.key(4)
RNG = np.random.default_rng(4)
X = jnp.asarray(RNG.uniform(size=(6, 9, 12, 3)), jnp.float32)
STILL = Augmentation(
    brightness=(1.0, 1.0),
    contrast=(1.0, 1.0),
    saturation=(1.0, 1.0),
    hue=(0.0, 0.0),
    gamma=(1.0, 1.0),
    rotation=0.0,
    shift=0.0,
    scale=(1.0, 1.0),
    blur=(0.001, 0.001),
    noise=0.0,
)
run = jax.jit(augment, static_argnames="settings")


def test_hue_by_the_standard_library():
    pixels = np.concatenate([RNG.uniform(size=(60, 3)), np.eye(3), np.ones((1, 3)), [[0.2] * 3]])
    turns = RNG.uniform(-1.5, 1.5, size=len(pixels))

    def turned(pixel, turn):
        hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
        return colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value)

    expected = [turned(*both) for both in zip(pixels, turns, strict=True)]
    result = turn_hue(jnp.asarray(pixels, jnp.float32), jnp.asarray(turns, jnp.float32)[:, None])
    np.testing.assert_allclose(result, expected, atol=2e-6)


@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4), (4, 2, 0, 3, 1), (1, 4, 3, 2, 0)])
def test_colours_by_a_loop(order):
    """A factor above 1 cuts values off, so that the order matters."""
    factors = RNG.uniform(
        [[0.6], [0.7], [0.5], [-0.06], [0.7]], [[1.4], [1.3], [1.5], [0.06], [1.3]]
    )
    factors = np.broadcast_to(factors, (5, 6)) * RNG.uniform(0.9, 1.1, size=(5, 6))
    result = change_colours(X, jnp.array(order), jnp.asarray(factors, jnp.float32))
    for image, factor, new in zip(np.asarray(X, np.float64), factors.T, result, strict=True):
        for which in order:
            light = image @ [0.2989, 0.587, 0.114]
            if which == 0:
                image = image * factor[0]
            elif which == 1:
                image = factor[1] * image + (1 - factor[1]) * light.mean()
            elif which == 2:
                image = factor[2] * image + (1 - factor[2]) * light[..., None]
            elif which == 3:
                image = np.array(turn_hue(jnp.asarray(image), jnp.full((9, 12, 1), factor[3])))
            else:
                image = np.clip(image, 1e-8, 1) ** factor[4]
            image = np.clip(image, 0, 1)
        np.testing.assert_allclose(new, image, atol=2e-6)


@pytest.mark.parametrize("margin", [0, 2])
def test_warp_by_scipy(margin):
    angle, scale = RNG.uniform(-0.5, 0.5, 6), RNG.uniform(0.8, 1.2, 6)
    shift = RNG.uniform(-3, 3, (6, 2))
    as32 = (jnp.asarray(a, jnp.float32) for a in (angle, scale, shift))
    result = warp(X, *as32, margin=margin)
    centre = np.array([4.0, 5.5])
    for image, new, a, s, t in zip(np.asarray(X), result, angle, scale, shift, strict=True):
        back = np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]]) / s
        offset = centre - back @ (centre + t + margin)
        for channel in range(3):
            expected = ndimage.affine_transform(
                image[..., channel],
                back,
                offset,
                output_shape=(9 + 2 * margin, 12 + 2 * margin),
                order=1,
                mode="nearest",
            )
            np.testing.assert_allclose(new[..., channel], expected, atol=1e-5)


def test_a_whole_shift_and_a_quarter_turn():
    """By hand: down by 1 and right by 2; and the rows of a square that become its columns."""
    image = jnp.arange(16.0).reshape(1, 4, 4, 1)
    zero, one = jnp.zeros(1), jnp.ones(1)
    moved = warp(image, zero, one, jnp.array([[1.0, 2.0]]))[0, ..., 0]
    np.testing.assert_array_equal(moved[1:, 2:], image[0, :3, :2, 0])
    turned = warp(image, one * np.pi / 2, one, jnp.zeros((1, 2)))[0, ..., 0]
    np.testing.assert_allclose(turned, image[0, :, ::-1, 0].T, atol=1e-5)


def test_blur_by_scipy():
    sigma = jnp.array([0.001, 0.1, 0.25, 0.5, 1.0, 9.0])
    result = blur(X, sigma)
    for image, new, s in zip(np.asarray(X), result, np.asarray(sigma, np.float64), strict=True):
        kernel = np.exp(-0.5 * (np.arange(-2, 3) / s) ** 2)
        kernel /= kernel.sum()
        for axis in (0, 1):
            image = ndimage.correlate1d(image, kernel, axis)
        np.testing.assert_allclose(new, image[2:-2, 2:-2], atol=2e-6)
    np.testing.assert_array_equal(result[0], X[0, 2:-2, 2:-2])


def test_nothing_allowed_but_the_mirror():
    mirrored = run(KEY, X, settings=STILL._replace(flip=1.0))
    np.testing.assert_allclose(mirrored, X[:, :, ::-1], atol=2e-6)


def test_saturation_and_hue_do_nothing_to_grey_images():
    settings = STILL._replace(saturation=(0.0, 2.0), hue=(-0.5, 0.5))
    np.testing.assert_allclose(run(KEY, X[..., :1], settings=settings), X[..., :1], atol=2e-6)
    assert float(jnp.max(jnp.abs(run(KEY, X, settings=settings) - X))) > 0.1


@pytest.mark.parametrize(
    ("name", "interval", "measure"),
    [
        ("brightness", (0.6, 1.4), lambda y: y / 0.5),
        ("gamma", (0.7, 1.3), lambda y: np.log(y) / np.log(0.5)),
    ],
)
def test_factors_fill_their_interval_evenly(name, interval, measure):
    """2,000 images: the mean within five standard errors, both ends within 1 % of the width."""
    x = jnp.full((2000, 1, 1, 1), 0.5)
    factors = measure(np.asarray(run(KEY, x, settings=STILL._replace(**{name: interval})), float))
    low, high = interval
    width = high - low
    assert low - 1e-6 < factors.min() < low + 0.01 * width
    assert high - 0.01 * width < factors.max() < high + 1e-6
    assert abs(factors.mean() - 1) < 5 * width / np.sqrt(12 * 2000)


def test_shifts_flips_and_noise():
    """Shifts of up to 1/8 of 16 pixels along each axis; half of the images mirrored; the noise."""
    ramp = jnp.broadcast_to(jnp.linspace(0.2, 0.8, 16)[:, None, None], (2000, 16, 1, 1))
    step = 0.6 / 15
    moved = (ramp - run(KEY, ramp, settings=STILL._replace(shift=1 / 8)))[:, 8, 0, 0] / step
    assert 1.98 < float(jnp.max(moved)) < 2.001
    assert -2.001 < float(jnp.min(moved)) < -1.98

    sides = jnp.broadcast_to(jnp.array([0.2, 0.8])[:, None], (2000, 1, 2, 1))
    flipped = run(KEY, sides, settings=STILL._replace(flip=0.3))[:, 0, 0, 0] > 0.5
    assert abs(float(flipped.mean()) - 0.3) < 5 * np.sqrt(0.21 / 2000)

    noise = run(KEY, jnp.full((100, 8, 8, 1), 0.5), settings=STILL._replace(noise=0.005)) - 0.5
    assert abs(float(noise.std()) / 0.005 - 1) < 5 / np.sqrt(2 * 6400)
    assert abs(float(noise.mean())) < 5 * 0.005 / 80


def test_every_image_has_a_change_of_its_own_that_padding_does_not_touch():
    same = jnp.broadcast_to(X[0], X.shape)
    y = run(KEY, same)
    assert len({image.tobytes() for image in np.asarray(y)}) == 6
    np.testing.assert_array_equal(run(KEY, same[:4]), y[:4])
    broken = same.at[5].set(jnp.nan)
    np.testing.assert_array_equal(run(KEY, broken)[:5], y[:5])
    assert bool(jnp.any(run(jax.random.key(5), same) != y))


def test_values_stay_between_0_and_1_and_arrive_from_outside():
    wild = Augmentation(
        brightness=(0.0, 9.0), contrast=(0.0, 9.0), saturation=(0.0, 9.0), noise=3.0
    )
    for x in (X, 9 * X - 4):
        y = run(KEY, x, settings=wild)
        assert bool(jnp.all((y >= 0) & (y <= 1)))
    np.testing.assert_array_equal(run(KEY, 9 * X - 4), run(KEY, jnp.clip(9 * X - 4, 0, 1)))


def test_published_settings():
    """The strong one and the soft one differ in everything but shift, mirror and noise."""
    assert Augmentation(flip=0.5) == COTTA_AUGMENTATION
    same = [a == b for a, b in zip(COTTA_AUGMENTATION, SOFT_COTTA_AUGMENTATION, strict=True)]
    names = [n for n, s in zip(Augmentation._fields, same, strict=True) if s]
    assert names == ["shift", "flip", "noise"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"brightness": (1.0, 0.5)}, "`brightness` must go from low to high"),
        ({"contrast": (-1.0, 0.5)}, "`contrast` must not be negative"),
        ({"scale": (0.0, 1.0)}, "`scale` must be positive"),
        ({"blur": (0.0, 1.0)}, "`blur` must be positive"),
        ({"noise": -0.1}, "`noise` must not be negative, got -0.1"),
        ({"rotation": float("nan")}, "`rotation` must not be negative, got nan"),
        ({"flip": 1.5}, "`flip` must be a probability, got 1.5"),
    ],
)
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(ValueError, match=message):
        augment(KEY, X, settings=Augmentation(**settings))


def test_half_precision():
    """Drawn and computed in float32, and given back as it came."""
    half = X.astype(jnp.bfloat16)
    y = run(KEY, half)
    assert y.dtype == jnp.bfloat16
    expected = run(KEY, half.astype(jnp.float32))
    np.testing.assert_array_equal(y, expected.astype(jnp.bfloat16))


def test_channels():
    with pytest.raises(ValueError, match=r"1 or 3\] in \[0, 1\], got float32 \(6, 9, 12, 2\)"):
        augment(KEY, X[..., :2])
