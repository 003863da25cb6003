"""A labelled or unlabelled set of images in memory, checked once on the way in."""

from pathlib import Path
from typing import NamedTuple

import numpy as np


class ImageSet(NamedTuple):
    """Images of one size with their labels.

    Attributes:
      images: `[n, h, w, c]` uint8, `c` is 1 (grey) or 3 (RGB).
      labels: `[n]` int32 in `[0, len(class_names))`, or None when they are unknown.
      class_names: one name a class, in label order; empty when labels are unknown.
    """

    images: np.ndarray
    labels: np.ndarray | None
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.images)


def image_set(
    images: np.ndarray,
    labels: np.ndarray | None = None,
    *,
    class_names: tuple[str, ...] | None = None,
    origin: str | Path = "the images",
) -> ImageSet:
    """Build an `ImageSet` from raw arrays, or say in one sentence why it cannot be done.

    Args:
      images: `[n, h, w]`, `[n, h, w, 1]` or `[n, h, w, 3]`; uint8 in 0..255, or floating point
        in [0, 1], which is rounded to the nearest of the 256 levels.
      labels: `[n]` integers, or None.
      class_names: names in label order; by default `"0", "1", ...` up to the largest label.
      origin: where the arrays come from; it opens every error message.

    Raises:
      ValueError: no images, another shape or dtype, NaN or values outside the range,
        labels of another length, not integers, negative, or without a class name.
    """
    raise NotImplementedError
