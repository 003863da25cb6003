"""Each corruption against the slow, obvious computation of what it does."""

import colorsys
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from entropax.data.corruptions import blur, digital, geometry, noise, strokes, weather
from entropax.data.corruptions.filters import luma, zoom_matrix


def rng():
    return np.random.default_rng(0)


def random_images(n=4, size=16, channels=3):
    """Images whose values are whole levels, as `corrupt` passes them."""
    levels = np.random.default_rng(1).integers(0, 256, (n, size, size, channels))
    return levels.astype(np.float32) / np.float32(255)


def constant(value, n=64, size=32, channels=1):
    return np.full((n, size, size, channels), value, np.float32)


def test_gaussian_noise_has_the_given_deviation():
    added = noise.gaussian_noise(rng(), constant(0.5), sigma=0.18) - 0.5
    assert abs(added.mean()) < 0.005
    assert added.std() == pytest.approx(0.18, rel=0.02)


def test_speckle_noise_is_proportional_to_the_pixel():
    for value in (0.2, 0.8):
        added = noise.speckle_noise(rng(), constant(value), sigma=0.3) - value
        assert added.std() == pytest.approx(0.3 * value, rel=0.02)


def test_shot_noise_is_poisson():
    counts = noise.shot_noise(rng(), constant(0.5), photons=12.0) * 12
    np.testing.assert_allclose(counts, np.rint(counts), atol=1e-5)
    assert counts.mean() == pytest.approx(6, rel=0.02)
    assert counts.var() == pytest.approx(6, rel=0.03)


def test_impulse_noise_makes_salt_and_pepper_in_equal_parts():
    images = noise.impulse_noise(rng(), constant(0.5), amount=0.2)
    assert (images == 1).mean() == pytest.approx(0.1, abs=0.005)
    assert (images == 0).mean() == pytest.approx(0.1, abs=0.005)
    assert set(np.unique(images)) == {0, 0.5, 1}


@pytest.mark.parametrize("sigma", [0.05, 0.4, 1.0, 6.0])
def test_gaussian_blur_is_scipys_on_every_channel(sigma):
    images = random_images()
    expected = np.stack(
        [
            np.stack(
                [
                    ndimage.gaussian_filter(plane, sigma, mode="nearest")
                    for plane in np.moveaxis(image, -1, 0)
                ],
                axis=-1,
            )
            for image in images
        ]
    )
    actual = blur.gaussian_blur(rng(), images, sigma=sigma)
    np.testing.assert_allclose(actual, expected, atol=1e-5)


def impulse(size=33):
    image = np.zeros((1, size, size, 1), np.float32)
    image[0, size // 2, size // 2] = 1
    return image


@pytest.mark.parametrize(
    "blurred",
    [
        blur.gaussian_blur(rng(), impulse(), sigma=2.0),
        blur.defocus_blur(rng(), impulse(), radius=4.0, alias=0.5),
        blur.motion_blur(rng(), impulse(), radius=6.0, sigma=2.0),
        blur.glass_blur(rng(), impulse(), sigma=1.0, reach=2.0, passes=2, chance=1.0),
    ],
    ids=["gaussian", "defocus", "motion", "glass"],
)
def test_a_blur_keeps_the_light_of_an_interior_impulse(blurred):
    assert blurred.sum() == pytest.approx(1, abs=1e-4)
    assert blurred.max() < 0.5


def test_a_constant_image_stays_constant():
    images = constant(0.3, n=2, channels=3)
    for blurred in (
        blur.gaussian_blur(rng(), images, sigma=3.0),
        blur.defocus_blur(rng(), images, radius=10.0, alias=0.5),
        blur.motion_blur(rng(), images, radius=20.0, sigma=15.0),
        blur.glass_blur(rng(), images, sigma=1.0, reach=2.0, passes=2, chance=1.0),
        blur.zoom_blur(rng(), images, limit=1.31, step=0.03),
        digital.contrast(rng(), images, factor=0.1),
        geometry.elastic_transform(rng(), images, alpha=9.0, sigma=1.0, affine=2.0),
    ):
        np.testing.assert_allclose(blurred, 0.3, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_glass_blur_without_blur_only_moves_pixels(channels):
    images = random_images(channels=channels)
    shuffled = blur.glass_blur(rng(), images, sigma=0.0, reach=2.0, passes=2, chance=1.0)
    assert (shuffled != images).mean() > 0.5
    for before, after in zip(images, shuffled, strict=True):
        # Whole pixels move: their multiset stays, colours and all.
        before, after = (
            np.sort([p.tobytes() for p in x.reshape(-1, channels)]) for x in (before, after)
        )
        assert (before == after).all()


def test_glass_blur_swaps_one_pair_after_the_other():
    images = random_images(n=3, size=7, channels=1)
    reach = 1
    offsets, gates = rng().spawn(2)
    steps = offsets.integers(-reach, reach, (3, 2, 5, 5, 2), dtype=np.int8)
    gate = gates.random((3, 2, 5, 5), np.float32) < 0.5
    expected = images.copy()
    for n, turn, i, j in np.ndindex(3, 2, 5, 5):
        y, x = 6 - i, 6 - j
        if gate[n, turn, i, j]:
            there = (y + steps[n, turn, i, j, 0], x + steps[n, turn, i, j, 1])
            expected[n, y, x], expected[(n, *there)] = (
                expected[(n, *there)].copy(),
                expected[n, y, x].copy(),
            )
    actual = blur.glass_blur(rng(), images, sigma=0.0, reach=float(reach), passes=2, chance=0.5)
    np.testing.assert_array_equal(actual, expected)


def test_defocus_blur_averages_over_a_disk_of_the_mirrored_image():
    image = random_images(n=1, channels=1)
    blurred = blur.defocus_blur(rng(), image, radius=3.0, alias=0.01)[0, :, :, 0]
    padded = np.pad(image[0, :, :, 0], 3, mode="reflect")
    disk = [(y, x) for y in range(-3, 4) for x in range(-3, 4) if y * y + x * x <= 9]
    for y, x in ((0, 0), (8, 8), (15, 2)):
        mean = np.mean([padded[y + 3 + dy, x + 3 + dx] for dy, dx in disk])
        assert blurred[y, x] == pytest.approx(mean, abs=1e-5)


def test_smear_at_angle_zero_is_a_one_sided_average_along_the_row():
    images = random_images(n=2, channels=1)
    smeared = blur.smear(images, np.zeros(2), radius=2.0, sigma=1.5)
    weights = np.exp(-(np.arange(5) ** 2) / 4.5)
    weights /= weights.sum()
    expected = sum(
        weight * images[:, :, np.minimum(np.arange(16) + tap, 15)]
        for tap, weight in enumerate(weights)
    )
    np.testing.assert_allclose(smeared, expected, atol=1e-6)


def test_smear_downwards_is_smear_along_the_row_of_the_transposed_image():
    images = random_images(n=2)
    down = blur.smear(images, np.full(2, np.pi / 2), radius=3.0, sigma=2.0)
    right = blur.smear(images.swapaxes(1, 2), np.zeros(2), radius=3.0, sigma=2.0)
    np.testing.assert_allclose(down, right.swapaxes(1, 2), atol=1e-6)


def test_zoom_is_about_the_centre_and_linear():
    ramp = np.arange(9.0)
    np.testing.assert_allclose(zoom_matrix(9, 2.0) @ ramp, np.linspace(2, 6, 9), atol=1e-6)
    np.testing.assert_array_equal(zoom_matrix(9, 1.0), np.eye(9))


def test_plasma_fills_the_unit_interval_and_is_smoother_with_decay():
    for decay in (1.4, 3.0):
        maps = weather.plasma(rng(), 3, 64, decay)
        assert maps.shape == (3, 64, 64)
        assert (maps.min(axis=(1, 2)) == 0).all()
        assert (maps.max(axis=(1, 2)) == 1).all()
    rough, smooth = (
        np.abs(np.diff(weather.plasma(rng(), 3, 64, decay), axis=1)).mean() for decay in (1.4, 3.0)
    )
    assert smooth < rough / 2


def test_plasma_is_a_torus():
    """The step across the edge is as small as a step inside."""
    maps = weather.plasma(rng(), 8, 64, 2.5)
    across = np.abs(maps[:, 0] - maps[:, -1]).mean()
    assert across == pytest.approx(np.abs(np.diff(maps, axis=1)).mean(), rel=0.5)


def test_fog_keeps_the_brightest_pixel_in_range_and_lowers_contrast():
    images = random_images()
    foggy = weather.fog(rng(), images, amount=1.5, decay=2.0, size=32.0)
    assert foggy.max() <= images.max() + 1e-6
    assert foggy.std() < images.std()


def test_frost_and_snow_brighten_black():
    black = constant(0.0, n=8, channels=3)
    frosted = weather.frost(rng(), black, keep=1.0, ice=1.0, size=256.0)
    assert frosted.mean() == pytest.approx(0.55, abs=0.1)
    assert (frosted[..., 2] > frosted[..., 0]).all()  # ice is blue
    snowy = weather.snow(
        rng(), black, loc=0.1, noise=0.3, flake=2.0, threshold=0.5, radius=4.0, sigma=2.0, mix=0.8
    )
    assert snowy.min() >= 0.1 - 1e-6  # (1 - mix) / 2: whitened black
    # The flakes come back turned by half a turn.
    np.testing.assert_allclose(snowy, snowy[:, ::-1, ::-1], atol=1e-6)


def test_snow_falls_downwards():
    black = constant(0.0, n=16)
    snowy = weather.snow(
        rng(), black, loc=0.1, noise=0.3, flake=1.0, threshold=0.6, radius=8.0, sigma=6.0, mix=1.0
    )
    down, across = (np.abs(np.diff(snowy, axis=axis)).mean() for axis in (1, 2))
    assert down < 0.7 * across


def test_mud_is_brown_and_water_adds_light():
    grey = constant(0.5, n=16, channels=3)
    common = {"loc": 0.65, "noise": 0.3, "sigma": 1.0, "threshold": 0.65}
    muddy = weather.spatter(rng(), grey, **common, shine=0.0, softness=0.6)
    wet = np.abs(muddy - 0.5).max(axis=-1) > 0.3
    assert 0.2 < wet.mean() < 0.6
    np.testing.assert_allclose(muddy[wet].min(axis=0) * 255, [63, 42, 20], atol=1)
    watery = weather.spatter(rng(), grey, **common, shine=0.5, softness=0.0)
    assert watery.min() == 0.5
    np.testing.assert_allclose(
        watery.max(axis=(1, 2)) - 0.5, np.tile(np.array([175, 238, 238]) / 510, (16, 1)), atol=1e-5
    )


def test_a_dry_lens_changes_nothing():
    images = random_images(channels=1)
    for shine in (0.0, 0.5):
        dry = weather.spatter(
            rng(), images, loc=0.0, noise=0.1, sigma=1.0, threshold=1.0, shine=shine, softness=1.0
        )
        np.testing.assert_array_equal(dry, images)


def test_contrast_by_brute_force():
    images = random_images()
    actual = digital.contrast(rng(), images, factor=0.3)
    for n, k in np.ndindex(4, 3):
        plane = images[n, :, :, k]
        expected = plane.mean() + 0.3 * (plane - plane.mean())
        np.testing.assert_allclose(actual[n, :, :, k], expected, atol=1e-6)


def hsv_cases():
    special = [(0, 0, 0), (1, 1, 1), (0.5, 0.5, 0.5), (1, 0, 0), (0, 1, 0.5), (0.2, 0.2, 0.9)]
    return np.concatenate([np.array(special), np.random.default_rng(2).random((30, 3))])


def test_brightness_raises_the_value_of_hsv():
    pixels = hsv_cases()
    actual = digital.brightness(rng(), pixels.reshape(1, 6, 6, 3), add=0.3).reshape(-1, 3)
    for pixel, result in zip(pixels, actual, strict=True):
        h, s, v = colorsys.rgb_to_hsv(*pixel)
        np.testing.assert_allclose(result, colorsys.hsv_to_rgb(h, s, min(v + 0.3, 1)), atol=1e-6)


@pytest.mark.parametrize(("factor", "add"), [(0.3, 0.0), (2.0, 0.0), (20.0, 0.2)])
def test_saturate_maps_the_saturation_of_hsv(factor, add):
    pixels = hsv_cases()
    actual = digital.saturate(rng(), pixels.reshape(1, 6, 6, 3), factor=factor, add=add)
    for pixel, result in zip(pixels, actual.reshape(-1, 3), strict=True):
        h, s, v = colorsys.rgb_to_hsv(*pixel)
        expected = colorsys.hsv_to_rgb(h, min(factor * s + add, 1), v)
        np.testing.assert_allclose(result, expected, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_and_pixelate_are_pillows(channels):
    images = random_images(channels=channels)
    compressed = digital.jpeg_compression(rng(), images, quality=15)
    coarse = digital.pixelate(rng(), images, factor=0.4)
    for image, jpeg, blocks in zip(images, compressed, coarse, strict=True):
        picture = Image.fromarray(np.rint(image * 255).astype(np.uint8).squeeze())
        buffer = BytesIO()
        picture.save(buffer, "JPEG", quality=15)
        expected = np.asarray(Image.open(buffer))
        np.testing.assert_array_equal(np.rint(jpeg * 255).squeeze(), expected)
        expected = picture.resize((6, 6), Image.Resampling.BOX).resize(
            (16, 16), Image.Resampling.BOX
        )
        np.testing.assert_array_equal(np.rint(blocks * 255).squeeze(), np.asarray(expected))


@pytest.mark.parametrize("bits", [1, 3, 5])
def test_quantize_keeps_the_nearest_of_its_levels(bits):
    levels = np.linspace(0, 1, 2**bits)
    images = random_images()
    actual = digital.quantize(rng(), images, bits=bits)
    nearest = np.abs(images[..., None] - levels).min(axis=-1)
    np.testing.assert_allclose(np.abs(actual - images), nearest, atol=1e-6)
    assert len(np.unique(actual)) == 2**bits


def test_the_full_negative():
    images = random_images()
    np.testing.assert_allclose(digital.inverse(rng(), images, weight=1.0), 1 - images, atol=1e-6)


def test_translate_moves_diagonally_by_slices():
    images = random_images(n=32, channels=1)
    moved = geometry.translate(rng(), images, distance=3.0)
    seen = set()
    for image, result in zip(images, moved, strict=True):
        padded = np.pad(image, ((3, 3), (3, 3), (0, 0)))
        candidates = {
            (dy, dx): padded[3 + dy : 19 + dy, 3 + dx : 19 + dx] for dy in (-3, 3) for dx in (-3, 3)
        }
        matches = [k for k, v in candidates.items() if np.allclose(v, result, atol=1e-5)]
        assert len(matches) == 1
        seen.add(matches[0])
    assert len(seen) == 4


def test_a_quarter_turn_and_a_round_thing():
    images = random_images(n=8, channels=1)
    turned = geometry.rotate(rng(), images, angle=np.pi / 2)
    for image, result in zip(images, turned, strict=True):
        assert any(np.allclose(np.rot90(image, k), result, atol=1e-5) for k in (1, 3))
    y, x = np.indices((33, 33)) - 16
    hill = np.exp(-(y**2 + x**2) / 50.0).astype(np.float32)[None, :, :, None]
    np.testing.assert_allclose(geometry.rotate(rng(), hill, angle=0.6), hill, atol=0.01)


def test_scale_halves_about_the_centre():
    image = np.zeros((1, 17, 17, 1), np.float32)
    image[:, 2:15, 2:15] = 1
    small = geometry.scale(rng(), image, factor=0.5)[0, :, :, 0]
    expected = np.zeros((17, 17))
    expected[5:12, 5:12] = 1
    np.testing.assert_allclose(small, expected, atol=1e-6)


def test_shear_slides_rows_and_keeps_the_centre():
    image = np.zeros((1, 17, 17, 1), np.float32)
    image[:, :, 8] = 1
    leaning = geometry.shear(rng(), image, angle=0.4)[0, :, :, 0]
    assert leaning[8, 8] == pytest.approx(1)
    columns = (leaning * np.arange(17)).sum(axis=1) / leaning.sum(axis=1)
    np.testing.assert_allclose(np.abs(np.diff(columns)), np.sin(0.4), atol=1e-5)


def test_elastic_transform_without_strength_is_the_identity():
    images = random_images()
    still = geometry.elastic_transform(rng(), images, alpha=0.0, sigma=1.0, affine=0.0)
    np.testing.assert_allclose(still, images, atol=1e-5)
    bent = geometry.elastic_transform(rng(), images, alpha=0.0, sigma=1.0, affine=2.0)
    assert np.abs(bent - images).mean() > 0.05


def test_stripes_are_negatives_of_both_sides():
    images = random_images(size=28, channels=1)
    striped = strokes.stripe(rng(), images, width=7.0)
    np.testing.assert_allclose(striped[:, :, :7], 1 - images[:, :, :7])
    np.testing.assert_allclose(striped[:, :, 21:], 1 - images[:, :, 21:])
    np.testing.assert_array_equal(striped[:, :, 7:21], images[:, :, 7:21])


def test_strokes_are_drawn_where_they_should_be():
    black = constant(0.0, n=32, size=28)
    solid = strokes.line(rng(), black, strokes=1, reach=2.3)[..., 0]
    assert (solid[:, :, 5:22].max(axis=1) > 0.5).all()
    dotted = strokes.dotted_line(rng(), black, strokes=1, reach=2.3, dash=2.0)[..., 0]
    inked = dotted.max(axis=1) > 0.5
    np.testing.assert_array_equal(inked, np.tile(np.arange(28) // 2 % 2 == 1, (32, 1)))
    jagged = strokes.zigzag(rng(), black, strokes=1, reach=2.3, length=2.0, swing=2.0)[..., 0]
    inked = jagged.max(axis=1) > 0
    assert not inked[:, [0, 1, 25, 26, 27]].any()
    assert inked[:, 2:25].mean() > 0.9


def test_ink_fades_with_the_distance_as_published():
    black = constant(0.0, n=1, size=9)
    drawn = strokes._draw(black, np.full((1, 1, 9), 4.0), np.ones((1, 1, 9), bool), 2.3)
    expected = [0, 0, 0, 1 + np.log(1 - 1 / 2.3), 1, 1 + np.log(1 - 1 / 2.3), 0, 0, 0]
    np.testing.assert_allclose(drawn[0, :, 4, 0], expected, atol=1e-6)


def test_canny_outlines_a_square_and_nothing_else():
    image = np.zeros((2, 28, 28, 1), np.float32)
    image[0, 8:20, 8:20] = 1
    edges = strokes.canny_edges(rng(), image, sigma=1.0, weight=1.0)
    assert set(np.unique(edges)) == {0, 1}
    assert not edges[1].any()
    outline = edges[0, :, :, 0] > 0
    y, x = np.indices((28, 28))
    # Chebyshev distance to the border of the square, which lies between pixels.
    distance = np.abs(np.maximum(np.abs(y - 13.5), np.abs(x - 13.5)) - 6)
    assert (distance[outline] <= 1.5).all()
    assert outline[10:18].any(axis=1).all()
    assert outline[:, 10:18].any(axis=0).all()


def test_faint_edges_survive_only_beside_strong_ones():
    image = np.zeros((2, 28, 28, 1), np.float32)
    # A step whose height grows along the row: strong at one end, faint at the other.
    image[0, 14:] = np.linspace(0.03, 0.2, 28)[:, None]
    image[1, 14:] = 0.05
    edges = strokes.canny_edges(rng(), image, sigma=1.0, weight=1.0)
    assert edges[0].any(axis=0)[:, 0].sum() > 20
    assert not edges[1].any()


def test_luma_is_pillows_grey():
    images = random_images(n=1)
    picture = Image.fromarray(np.rint(images[0] * 255).astype(np.uint8)).convert("L")
    np.testing.assert_allclose(luma(images)[0, :, :, 0] * 255, np.asarray(picture), atol=1)
