"""What several corruptions share: separable filters, bilinear sampling, luminance, rounding.

A linear filter along one image axis is a matrix. Building it once per call and multiplying turns a
blur or a zoom of a whole batch into two matrix products.
"""

import numpy as np
from jaxtyping import Float, UInt8
from scipy import ndimage

Images = Float[np.ndarray, "n h w c"]

# ITU-R BT.601, the weights of OpenCV and pillow.
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def separable(
    images: Images, rows: Float[np.ndarray, "h h"], columns: Float[np.ndarray, "w w"]
) -> Images:
    """Apply `rows` along the height of every image and `columns` along its width."""
    # Contiguous planes: the matrix product of strided ones is many times slower.
    planes = np.ascontiguousarray(np.moveaxis(images, -1, 1))
    return np.moveaxis(rows @ planes @ columns.T, 1, -1)


def gaussian_matrix(
    size: int, sigma: float, *, mode: str = "nearest", truncate: float = 4.0
) -> Float[np.ndarray, "size size"]:
    """The matrix of `scipy.ndimage.gaussian_filter1d` on signals of length `size`."""
    identity = np.eye(size, dtype=np.float32)
    if sigma == 0:
        return identity
    return ndimage.gaussian_filter1d(identity, sigma, axis=0, mode=mode, truncate=truncate)


def gaussian(images: Images, sigma: float) -> Images:
    """Blur every image with a Gaussian of `sigma` pixels; the border pixel is repeated."""
    _, h, w, _ = images.shape
    return separable(images, gaussian_matrix(h, sigma), gaussian_matrix(w, sigma))


def zoom_matrix(size: int, factor: float) -> Float[np.ndarray, "size size"]:
    """The matrix that enlarges a signal `factor >= 1` times about its centre, linearly."""
    pixels = np.arange(size, dtype=np.float32)
    centre = (size - 1) / 2
    source = (pixels - centre) / factor + centre
    return np.maximum(1 - np.abs(source[:, None] - pixels), 0)


def sample(
    images: Images, y: Float[np.ndarray, "n h w"], x: Float[np.ndarray, "n h w"], *, mode: str
) -> Images:
    """Read image i at the real positions `(y[i], x[i])`, bilinearly.

    `mode` is the border rule of `scipy.ndimage.map_coordinates`.
    """
    image = np.broadcast_to(np.arange(len(images), dtype=float)[:, None, None], y.shape)
    # An explicit image axis: order-1 interpolation at a whole index reads that image alone.
    position = np.stack([image, y, x])
    planes = [
        ndimage.map_coordinates(images[..., k], position, order=1, mode=mode)
        for k in range(images.shape[-1])
    ]
    return np.stack(planes, axis=-1)


def luma(images: Images) -> Float[np.ndarray, "n h w 1"]:
    """The luminance of RGB images; a grey image is its own."""
    return images if images.shape[-1] == 1 else (images @ _LUMA)[..., None]


def to_uint8(images: Images) -> UInt8[np.ndarray, "n h w c"]:
    """Clip to [0, 1] and round to the nearest of the 256 levels."""
    return np.rint(np.clip(images, 0, 1) * 255).astype(np.uint8)
