"""Corruptions that move pixels: shear, scale, rotate, translate, elastic transform."""

import numpy as np

from entropax.data.corruptions.filters import Images, gaussian_matrix, sample, separable


def _warp(images: Images, matrix: np.ndarray, shift: np.ndarray) -> Images:
    """Fill position p, counted from the centre as (y, x), from position `matrix @ p + shift`.

    What comes from outside the image is black.
    `matrix` is `[n, 2, 2]` and `shift` `[n, 2]`; either may have a single entry for all images.
    """
    n, h, w, _ = images.shape
    centre = np.array([(h - 1) / 2, (w - 1) / 2])
    here = np.moveaxis(np.indices((h, w)), 0, -1) - centre
    source = np.einsum("nij,hwj->nhwi", matrix, here) + shift[:, None, None, :] + centre
    source = np.broadcast_to(source, (n, h, w, 2))
    return sample(images, source[..., 0], source[..., 1], mode="grid-constant")


def _signs(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.choice([-1.0, 1.0], shape)


_STAY = np.zeros((1, 2))


def shear(rng: np.random.Generator, images: Images, *, angle: float) -> Images:
    """Lean to the left or the right by `angle` radians.

    As in MNIST-C, whose library sheared so at the time, rows move by `sin(angle)` of their
    distance from the centre and that distance is stretched by `1 / cos(angle)`.
    """
    angles = angle * _signs(rng, (len(images),))
    matrix = np.zeros((len(images), 2, 2))
    matrix[:, 0, 0] = np.cos(angles)
    matrix[:, 1, 0] = -np.sin(angles)
    matrix[:, 1, 1] = 1
    return _warp(images, matrix, _STAY)


def scale(rng: np.random.Generator, images: Images, *, factor: float) -> Images:
    """Shrink the image to `factor` of its size."""
    return _warp(images, np.eye(2)[None] / factor, _STAY)


def rotate(rng: np.random.Generator, images: Images, *, angle: float) -> Images:
    """Turn the image by `angle` radians, to the left or to the right."""
    angles = angle * _signs(rng, (len(images),))
    cos, sin = np.cos(angles), np.sin(angles)
    matrix = np.stack([np.stack([cos, sin], -1), np.stack([-sin, cos], -1)], axis=1)
    return _warp(images, matrix, _STAY)


def translate(rng: np.random.Generator, images: Images, *, distance: float) -> Images:
    """Move the image by `distance` pixels up or down and as far to the left or the right."""
    return _warp(images, np.eye(2)[None], distance * _signs(rng, (len(images), 2)))


def elastic_transform(
    rng: np.random.Generator, images: Images, *, alpha: float, sigma: float, affine: float
) -> Images:
    """Stretch the image like rubber: a random affine map and a smooth random displacement.

    The affine map moves three corners of a square, each coordinate by at most `affine` pixels. The
    displacement is uniform noise in [-1, 1] blurred by `sigma` pixels, `alpha` times. Both are
    applied in one interpolation instead of two. The border is mirrored.

    In the published tables severities 3 to 5 tremble and 1 and 2 bend, and the fraction of the
    side that they bend by grows as images shrink: at 28 pixels severity 2 is the harshest.
    """
    n, h, w, _ = images.shape
    corners, wobble = rng.spawn(2)

    arm = min(h, w) / 3
    triangle = np.array([[1, 1], [-1, 1], [-1, -1]]) * arm + [h / 2, w / 2]
    moved = triangle + corners.uniform(-affine, affine, (n, 3, 2))
    # The map is needed from the new image to the old: from the moved corners to the triangle.
    back = np.linalg.solve(np.concatenate([moved, np.ones((n, 3, 1))], axis=-1), triangle[None])

    noise = wobble.random((n, h, w, 2), np.float32) * 2 - 1
    rows, columns = (gaussian_matrix(size, sigma, mode="reflect", truncate=3.0) for size in (h, w))
    shift = alpha * separable(noise, rows, columns)
    here = np.moveaxis(np.indices((h, w)), 0, -1) + shift.astype(float)
    source = np.einsum("nhwi,nij->nhwj", here, back[:, :2]) + back[:, None, None, 2]
    return sample(images, source[..., 0], source[..., 1], mode="reflect")
