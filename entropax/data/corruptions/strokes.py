"""Corruptions that draw over the image: stripes, lines, zigzags, edges."""

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from entropax.data.corruptions.filters import (
    Images,
    gaussian_matrix,
    luma,
    sample,
    separable,
)


def stripe(rng: np.random.Generator, images: Images, *, width: float) -> Images:
    """Invert a stripe of `width` pixels at the left and at the right."""
    w = images.shape[2]
    column = np.arange(w)
    inside = np.minimum(column, w - 1 - column) < round(width)
    return np.where(inside[:, None], 1 - images, images)


def _draw(
    images: Images,
    height: Float[np.ndarray, "n strokes w"],
    drawn: Bool[np.ndarray, "#n #strokes w"],
    reach: float,
) -> Images:
    """Add white strokes: stroke j of image i passes column x at `height[i, j, x]`.

    The ink at vertical distance d is `1 + log(1 - d / reach)`, and none where that is negative.
    """
    rows = np.arange(images.shape[1], dtype=np.float32)[:, None]
    for j in range(height.shape[1]):
        distance = np.abs(rows - height[:, j, None, :])
        ink = np.maximum(1 + np.log(np.maximum(1 - distance / reach, 1e-9)), 0)
        images = np.minimum(images + (ink * drawn[:, j % drawn.shape[1], None])[..., None], 1)
    return images


def line(rng: np.random.Generator, images: Images, *, strokes: int, reach: float) -> Images:
    """Draw straight lines from near the left border to near the right one."""
    n, h, w, _ = images.shape
    draws = rng.random((n, strokes, 4))
    start, end = draws[..., :1] * 5 / 28 * w, (22 + draws[..., 1:2] * 5) / 28 * w
    first, last = draws[..., 2:3] * (h - 1), draws[..., 3:] * (h - 1)
    column = np.arange(w)
    height = first + (last - first) * (column - start) / (end - start)
    drawn = (column >= np.floor(start)) & (column < np.ceil(end))
    return _draw(images, height, drawn, reach)


def dotted_line(
    rng: np.random.Generator, images: Images, *, strokes: int, reach: float, dash: float
) -> Images:
    """Draw straight lines from border to border, of dashes and gaps `dash` pixels long."""
    n, h, w, _ = images.shape
    ends = rng.random((n, strokes, 2)) * (h - 1)
    column = np.arange(w)
    height = ends[..., :1] + (ends[..., 1:] - ends[..., :1]) * column / (w - 1)
    drawn = column // round(dash) % 2 == 1
    return _draw(images, height, drawn[None, None], reach)


def zigzag(
    rng: np.random.Generator,
    images: Images,
    *,
    strokes: int,
    reach: float,
    length: float,
    swing: float,
) -> Images:
    """Draw zigzags: nearly level lines with a triangle wave of period `4 length` on them.

    The wave reaches `swing` pixels to either side. It is sheared along the line instead of turned
    with it; the line climbs at most 5 rows in 23 columns.
    """
    n, h, w, _ = images.shape
    draws = rng.random((n, strokes, 2))
    first, climb = draws[..., :1] * (h - 1), (draws[..., 1:] * 10 - 5) * h / 28
    start, end = 2 * w / 28, 25 * w / 28
    column = np.arange(w)
    phase = np.pi / 2 * (column - start) / length
    wave = swing * 2 / np.pi * np.arcsin(np.sin(phase))
    height = first + climb * (column - start) / (end - start) + wave
    drawn = (column >= np.floor(start)) & (column < np.ceil(end))
    return _draw(images, height, drawn[None, None], reach)


def canny_edges(rng: np.random.Generator, images: Images, *, sigma: float, weight: float) -> Images:
    """Mix the image with its edges (white on black), which have the given weight."""
    edges = _canny(luma(images), sigma)
    return (1 - weight) * images + weight * edges


def _canny(
    grey: Float[np.ndarray, "n h w 1"], sigma: float, low: float = 0.1, high: float = 0.2
) -> Bool[np.ndarray, "n h w 1"]:
    """Edges by Canny's rule: a ridge of the slope, linked to where the slope exceeds `high`.

    The slope is Sobel's, not normalised, as the thresholds of MNIST-C take it.
    """
    _, h, w, _ = grey.shape
    smooth_y, smooth_x = (gaussian_matrix(size, sigma) for size in (h, w))
    blur_y, blur_x = (
        ndimage.correlate1d(np.eye(size, dtype=np.float32), [1, 2, 1], axis=0) for size in (h, w)
    )
    slope_y, slope_x = (
        ndimage.correlate1d(np.eye(size, dtype=np.float32), [-1, 0, 1], axis=0) for size in (h, w)
    )
    dy = separable(grey, slope_y @ smooth_y, blur_x @ smooth_x)
    dx = separable(grey, blur_y @ smooth_y, slope_x @ smooth_x)
    slope = np.hypot(dy, dx)

    # A ridge is not below the slope one pixel uphill nor one pixel downhill.
    steep = np.where(slope > 0, slope, 1)
    up_y, up_x = (dy / steep)[..., 0], (dx / steep)[..., 0]
    y, x = np.indices((h, w))
    ahead = sample(slope, y + up_y, x + up_x, mode="nearest")
    behind = sample(slope, y - up_y, x - up_x, mode="nearest")
    ridge = (slope >= ahead) & (slope >= behind) & (slope > low)

    within_image = np.zeros((3, 3, 3), bool)
    within_image[1] = True
    labels, count = ndimage.label(ridge[..., 0], within_image)
    strong = np.zeros(count + 1, bool)
    strong[labels[ridge[..., 0] & (slope[..., 0] > high)]] = True
    return strong[labels][..., None]
