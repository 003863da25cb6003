"""Corruptions that put something between the camera and the scene: fog, frost, snow, spatter.

Fog and frost come from random height maps, made by the diamond-square rule on a torus. No
photographs are needed.
"""

import numpy as np
from jaxtyping import Float
from scipy import ndimage

from entropax.data.corruptions.blur import smear
from entropax.data.corruptions.filters import Images, gaussian, luma, separable, zoom_matrix

# Mean colour of photographs of frosted glass, relative to their brightness.
_ICE = {1: (1.0,), 3: (0.86, 1.03, 1.11)}
# Pale turquoise and brown. Grey water has their luminance; grey mud is MNIST-C's 63.
_WATER = {1: (219 / 255,), 3: (175 / 255, 238 / 255, 238 / 255)}
_MUD = {1: (63 / 255,), 3: (63 / 255, 42 / 255, 20 / 255)}


def plasma(
    rng: np.random.Generator, n: int, size: int, decay: float
) -> Float[np.ndarray, "n size size"]:
    """Cloudy height maps in [0, 1] on a torus, by the diamond-square rule.

    Every midpoint is the mean of its four neighbours and a uniform wobble. From one level to the
    next the wobble shrinks by `decay` squared: the published code multiplies by it twice.

    Args:
      rng: source of randomness.
      n: number of maps.
      size: side of a map, a power of two.
      decay: greater is smoother.
    """
    wobble = rng.random((n, size, size), np.float32) * 2 - 1
    heights = np.zeros_like(wobble)
    step, amplitude = size, 1.0
    while step > 1:
        half = step // 2
        corners = heights[:, ::step, ::step]
        right, down = np.roll(corners, -1, axis=2), np.roll(corners, -1, axis=1)
        centres = (corners + right + down + np.roll(right, -1, axis=1)) / 4
        centres += amplitude * wobble[:, half::step, half::step]
        tops = (corners + right + centres + np.roll(centres, 1, axis=1)) / 4
        sides = (corners + down + centres + np.roll(centres, 1, axis=2)) / 4
        heights[:, half::step, half::step] = centres
        heights[:, ::step, half::step] = tops + amplitude * wobble[:, ::step, half::step]
        heights[:, half::step, ::step] = sides + amplitude * wobble[:, half::step, ::step]
        step = half
        amplitude /= decay**2
    heights -= heights.min(axis=(1, 2), keepdims=True)
    return heights / heights.max(axis=(1, 2), keepdims=True)


def _cloud(
    rng: np.random.Generator, images: Images, size: float, decay: float
) -> Float[np.ndarray, "n h w 1"]:
    """A window of a plasma map for every image.

    The side of the map is the power of two nearest to `size` that covers the image. The published
    code keeps the corner of a map and throws the rest away. A map on a torus looks the same
    everywhere, so a window may lie anywhere, and neighbouring images share a map: it holds
    `(side / h)^2` windows, and a quarter as many are cut from it.
    """
    n, h, w, _ = images.shape
    cover = max(h, w)
    side = 2 ** max(round(np.log2(size)), int(np.ceil(np.log2(cover))))
    share = max(1, (side // cover) ** 2 // 4)
    heights, corners = rng.spawn(2)
    maps = plasma(heights, -(-n // share), side, decay)
    top, left = corners.integers(side, size=(n, 2)).T
    y = (top[:, None] + np.arange(h)) % side
    x = (left[:, None] + np.arange(w)) % side
    owner = np.arange(n) // share
    return maps[owner[:, None, None], y[:, :, None], x[:, None, :]][..., None]


def fog(
    rng: np.random.Generator, images: Images, *, amount: float, decay: float, size: float
) -> Images:
    """Add `amount` of plasma cloud, and darken so that the brightest pixel can stay in range."""
    brightest = images.max(axis=(1, 2, 3), keepdims=True)
    cloud = _cloud(rng, images, size, decay)
    return (images + amount * cloud) * brightest / (brightest + amount)


def frost(
    rng: np.random.Generator, images: Images, *, keep: float, ice: float, size: float
) -> Images:
    """Show `keep` of the image through `ice` of a frosted window.

    The published code crops five photographs. Here the veins of ice run along the middle level of
    a plasma map. Their mean brightness (0.55), contrast (0.1) and tint are about those of the
    photographs.
    """
    veins = (1 - np.abs(2 * _cloud(rng, images, size, decay=1.2) - 1)) ** 2
    tint = np.array(_ICE[images.shape[-1]], np.float32)
    return keep * images + ice * (0.25 + 0.5 * veins) * tint


def snow(
    rng: np.random.Generator,
    images: Images,
    *,
    loc: float,
    noise: float,
    flake: float,
    threshold: float,
    radius: float,
    sigma: float,
    mix: float,
) -> Images:
    """Let snow fall on a whitened image.

    Flakes are what exceeds `threshold` in normal noise (`loc`, `noise`) enlarged `flake` times.
    They fall in a direction drawn within 45 degrees of the vertical, as in `blur.smear`, and are
    added twice, the second time turned by half a turn. The image keeps its weight `mix`; the rest
    is brightened towards white.
    """
    n, h, w, _ = images.shape
    grain, directions = rng.spawn(2)
    layer = loc + noise * grain.standard_normal((n, h, w, 1), np.float32)
    layer = separable(layer, zoom_matrix(h, flake), zoom_matrix(w, flake))
    layer = np.where(layer < threshold, np.float32(0), np.minimum(layer, np.float32(1)))
    angles = np.deg2rad(directions.uniform(-135, -45, n))
    layer = smear(np.ascontiguousarray(layer), angles, radius=radius, sigma=sigma)

    whitened = np.maximum(images, 1.5 * luma(images) + 0.5)
    return mix * images + (1 - mix) * whitened + layer + layer[:, ::-1, ::-1]


def spatter(
    rng: np.random.Generator,
    images: Images,
    *,
    loc: float,
    noise: float,
    sigma: float,
    threshold: float,
    shine: float,
    softness: float,
) -> Images:
    """Splash water (`shine > 0`) or mud (`shine == 0`) on the lens.

    The liquid stands where normal noise (`loc`, `noise`), blurred by `sigma`, exceeds `threshold`.
    Mud covers the image where the wet patch, blurred by `softness`, is at least 0.8. Water adds
    light, at most `shine` of pale turquoise, shaded as if lit from one corner. The published
    shading embosses the distance to the rim of a drop, found by an edge detector; here it is the
    depth of the liquid, which grows away from the rim as well.
    """
    n, h, w, c = images.shape
    liquid = gaussian(loc + noise * rng.standard_normal((n, h, w, 1), np.float32), sigma)
    if shine == 0:
        wet = gaussian((liquid > threshold).astype(np.float32), softness)
        wet = np.where(wet < 0.8, np.float32(0), wet)
        return images * (1 - wet) + wet * np.array(_MUD[c], np.float32)

    depth = np.maximum(liquid - threshold, 0)
    lit = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]], np.float32)[None, :, :, None]
    light = liquid * (depth > 0) * np.maximum(ndimage.correlate(depth, lit), 0)
    brightest = light.max(axis=(1, 2), keepdims=True)
    # A lens that stayed dry has nothing to normalise.
    light = shine * light / np.where(brightest > 0, brightest, 1)
    return images + light * np.array(_WATER[c], np.float32)
