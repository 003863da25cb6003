"""Corruptions that mix neighbouring pixels: Gaussian, glass, defocus, motion and zoom blur."""

import numpy as np
from jaxtyping import Float
from scipy import fft, ndimage

from entropax.data.corruptions.filters import Images, gaussian, separable, zoom_matrix


def gaussian_blur(rng: np.random.Generator, images: Images, *, sigma: float) -> Images:
    """Blur with a Gaussian of `sigma` pixels."""
    return gaussian(images, sigma)


def glass_blur(
    rng: np.random.Generator,
    images: Images,
    *,
    sigma: float,
    reach: float,
    passes: int,
    chance: float,
) -> Images:
    """Blur, let pixels change places with near ones, and blur again.

    A pass visits the pixels from the last to the first; each one changes places, with probability
    `chance`, with the pixel at a vertical and a horizontal offset drawn from
    `-reach, ..., reach - 1`.

    The published code swaps views of an RGB array, so one of the two pixels is overwritten and
    lost. Here the swap is a true one, as it has always been for grey images: it moves indices,
    and every pixel survives. A pixel that is swapped towards the first may be swapped again, so
    that a few travel further than `reach`: on RGB images the result is harsher than the published.
    """
    n, h, w, c = images.shape
    reach = round(reach)
    ys, xs = range(h - reach, reach, -1), range(w - reach, reach, -1)
    offsets, gates = rng.spawn(2)
    steps = offsets.integers(-reach, reach, (n, passes, len(ys), len(xs), 2), dtype=np.int8)
    jumps = steps[..., 0] * np.intp(w) + steps[..., 1]
    jumps *= gates.random(jumps.shape, np.float32) < chance
    # One row per pixel and one column per image, so that a swap reads contiguous memory.
    jumps = np.ascontiguousarray(np.moveaxis(jumps, 0, -1))
    order = np.repeat(np.arange(h * w)[:, None], n, axis=1)
    image = np.arange(n)
    for turn in range(passes):
        for i, y in enumerate(ys):
            for j, x in enumerate(xs):
                here = y * w + x
                there = here + jumps[turn, i, j]
                mine = order[here].copy()
                order[here] = order[there, image]
                order[there, image] = mine

    pixels = gaussian(images, sigma).reshape(n, h * w, c)
    shuffled = np.take_along_axis(pixels, order.T[..., None], axis=1)
    return gaussian(shuffled.reshape(images.shape), sigma)


def _disk(radius: float, alias: float) -> Float[np.ndarray, "k k"]:
    """A uniform disk whose rim is softened by a 3 x 3 Gaussian of `alias` pixels."""
    reach = int(radius) + 1
    offsets = np.arange(-reach, reach + 1)
    inside = offsets[:, None] ** 2 + offsets**2 <= radius**2
    return ndimage.gaussian_filter(
        inside.astype(np.float32) / inside.sum(), alias, radius=1, mode="constant"
    )


def defocus_blur(
    rng: np.random.Generator, images: Images, *, radius: float, alias: float
) -> Images:
    """Spread every pixel over a disk; the border is mirrored.

    `alias` softens the rim of the disk on the pixel grid. It is not scaled with the image.
    """
    kernel = _disk(radius, alias)
    margin = len(kernel) // 2
    padded = np.pad(images, ((0, 0), (margin, margin), (margin, margin), (0, 0)), mode="reflect")
    size = padded.shape[1:3]
    transfer = fft.rfft2(kernel, s=size)[:, :, None]
    blurred = fft.irfft2(fft.rfft2(padded, axes=(1, 2)) * transfer, s=size, axes=(1, 2))
    # A product of spectra convolves on a circle: what has wrapped around is cut off.
    return blurred[:, 2 * margin :, 2 * margin :]


def smear(
    images: Images, angles: Float[np.ndarray, " n"], *, radius: float, sigma: float
) -> Images:
    """Move image i along a straight line at `angles[i]` (radians) while the shutter is open.

    The exposure is ImageMagick's: `2 ceil(radius) + 1` taps one pixel apart on one side of the
    pixel, each at the nearest whole pixel, weighted by half a Gaussian of `sigma` pixels. The
    border pixel is repeated.
    """
    n, h, w, c = images.shape
    taps = np.arange(2 * int(np.ceil(radius)) + 1)
    weights = np.exp(-(taps**2) / (2 * sigma**2))
    weights /= weights.sum()

    pixels = images.reshape(n * h * w, c)
    first = np.arange(n)[:, None, None] * (h * w)
    blurred = np.zeros_like(images)
    for tap, weight in zip(taps, weights.astype(np.float32), strict=True):
        down = np.rint(tap * np.sin(angles)).astype(int)
        right = np.rint(tap * np.cos(angles)).astype(int)
        y = np.clip(np.arange(h) + down[:, None], 0, h - 1)
        x = np.clip(np.arange(w) + right[:, None], 0, w - 1)
        blurred += weight * np.take(pixels, first + (y * w)[:, :, None] + x[:, None, :], axis=0)
    return blurred


def motion_blur(rng: np.random.Generator, images: Images, *, radius: float, sigma: float) -> Images:
    """Shake the camera in a direction drawn within 45 degrees of the horizontal."""
    angles = np.deg2rad(rng.uniform(-45, 45, len(images)))
    return smear(images, angles, radius=radius, sigma=sigma)


def zoom_blur(rng: np.random.Generator, images: Images, *, limit: float, step: float) -> Images:
    """Average the image with its enlargements by `1, 1 + step, ..., limit`.

    The published code crops to whole pixels, so that on small images most of its enlargements are
    the image itself, moved to one side. Here every enlargement is exact and centred.
    """
    _, h, w, _ = images.shape
    factors = np.arange(1, limit, step)
    total = images.copy()
    for factor in factors:
        total += separable(images, zoom_matrix(h, factor), zoom_matrix(w, factor))
    return total / np.float32(len(factors) + 1)
