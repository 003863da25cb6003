"""A labelled or unlabelled set of images in memory, checked once on the way in."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images of one size with their labels. Build it with `image_set`, which checks them.

    Attributes:
      images: `[n, h, w, c]` uint8, `c` is 1 (grey) or 3 (RGB).
      labels: `[n]` int32 in `[0, len(class_names))`, or None when they are unknown.
      class_names: one name a class, in label order; empty when labels are unknown.
      names: one name an image, for images from files; empty otherwise.
    """

    images: np.ndarray
    labels: np.ndarray | None
    class_names: tuple[str, ...]
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)


def image_set(
    images: np.ndarray,
    labels: np.ndarray | None = None,
    *,
    class_names: Sequence[str] | None = None,
    origin: str | Path = "the images",
) -> ImageSet:
    """Build an `ImageSet` from raw arrays, or say in one sentence why it cannot be done.

    Args:
      images: `[n, h, w]`, `[n, h, w, 1]` or `[n, h, w, 3]`; uint8 in 0..255, or floating point
        in [0, 1], which is rounded to the nearest of the 256 levels.
      labels: `[n]` integers, or None.
      class_names: names in label order; by default `"0", "1", ...` up to the largest label.
      origin: where the arrays come from; it opens every error message.

    Returns:
      The same images and labels as uint8 `[n, h, w, c]` and int32 `[n]`.

    Raises:
      ValueError: no images, another shape or dtype, NaN or values outside the range,
        labels of another length, not integers, negative, or without a class name;
        class names that repeat, or that come without labels.

    Example:
      >>> grey = np.zeros((2, 8, 8))
      >>> data = image_set(grey, np.array([1, 0]), class_names=("cat", "dog"))
      >>> data.images.shape, data.images.dtype.name, len(data)
      ((2, 8, 8, 1), 'uint8', 2)
    """
    checked = _checked_images(np.asarray(images), origin)
    if labels is None:
        if class_names:
            raise ValueError(f"{origin}: class names were given without labels.")
        return ImageSet(checked, None, ())
    labels = _checked_labels(np.asarray(labels), len(checked), origin)
    largest = int(labels.max())
    names = (
        tuple(str(i) for i in range(largest + 1))
        if class_names is None
        else tuple(str(name) for name in class_names)
    )
    if len(set(names)) < len(names):
        repeated = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{origin}: the class name {repeated!r} is given more than once.")
    if largest >= len(names):
        raise ValueError(
            f"{origin}: label {largest} has no class name: there are {len(names)} names, "
            f"for labels 0..{len(names) - 1}."
        )
    return ImageSet(checked, labels, names)


def _checked_images(images: np.ndarray, origin: str | Path) -> np.ndarray:
    floating = np.issubdtype(images.dtype, np.floating)
    if images.dtype != np.uint8 and not floating:
        raise ValueError(
            f"{origin}: images must be uint8 in 0..255 or floating point in [0, 1], "
            f"got dtype {images.dtype}."
        )
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[-1] not in (1, 3):
        hint = ""
        if images.ndim == 4 and images.shape[1] in (1, 3):
            hint = " They look channels-first: pass images.transpose(0, 2, 3, 1)."
        elif images.ndim == 4 and images.shape[-1] == 4:
            hint = " To drop an alpha channel pass images[..., :3]."
        raise ValueError(
            f"{origin}: images must have shape [n, h, w], [n, h, w, 1] or [n, h, w, 3], "
            f"got {images.shape}.{hint}"
        )
    if images.size == 0:
        raise ValueError(f"{origin}: there are no images, or they have no pixels: {images.shape}.")
    if not floating:
        return images
    finite = np.isfinite(images).all(axis=(1, 2, 3))
    if not finite.all():
        bad = np.flatnonzero(~finite)
        raise ValueError(
            f"{origin}: {len(bad)} of {len(images)} images hold NaN or infinite values (the first "
            f"is number {bad[0]}); repair them or leave them out, "
            "e.g. images[np.isfinite(images).all(axis=(1, 2, 3))]."
        )
    low, high = float(images.min()), float(images.max())
    if low >= 0 and 1 < high <= 255:
        raise ValueError(
            f"{origin}: floating-point images must lie in [0, 1], got values up to {high:g}; "
            "divide them by 255 or pass uint8."
        )
    if low < 0 or high > 1:
        raise ValueError(
            f"{origin}: floating-point images must lie in [0, 1], got values from {low:g} "
            f"to {high:g}; undo any normalisation first, or pass uint8."
        )
    return np.rint(images * 255.0).astype(np.uint8)


def _checked_labels(labels: np.ndarray, n: int, origin: str | Path) -> np.ndarray:
    if labels.shape != (n,):
        hint = " For one-hot labels pass labels.argmax(-1)." if labels.ndim == 2 else ""
        raise ValueError(
            f"{origin}: {n} images need labels of shape ({n},), got {labels.shape}.{hint}"
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"{origin}: labels must be integers, got dtype {labels.dtype}.")
    if labels.min() < 0:
        raise ValueError(
            f"{origin}: {int((labels < 0).sum())} of {n} labels are negative, down to "
            f"{int(labels.min())}; labels count from 0, and unknown ones are passed as None."
        )
    if labels.max() > np.iinfo(np.int32).max:
        raise ValueError(f"{origin}: label {int(labels.max())} does not fit in 32 bits.")
    return labels.astype(np.int32)
