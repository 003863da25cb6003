"""Folders of images that need not fit in memory: a list of their files, and decoding on demand.

Keep the list, and read what is needed when it is needed:

    folder = index_folder("imagenet/val", class_names=imagenet_classes())
    images, readable = read_images(folder, rows, Preprocessing(resize=256, crop=224))

`loader.image_batches` reads a whole folder batch by batch.
"""

import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int, UInt8

from entropax.data.classes import some
from entropax.data.decoding import (
    Preprocessing,
    UnreadableImageError,
    check_preprocessing,
    decode_image,
    width_x_height,
)
from entropax.data.folder import list_images, split_folder


@dataclass(frozen=True, eq=False)
class ImageFolder:
    """The image files of a folder with their labels. Build it with `index_folder`.

    Attributes:
      root: the folder.
      files: relative to `root`, with slashes.
      labels: `[n]` int32 in `[0, len(class_names))`, or None when they are unknown.
      class_names: one name a class, in label order; empty when labels are unknown.
    """

    root: Path
    files: tuple[str, ...]
    labels: np.ndarray | None
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.files)

    def take(self, rows: Int[np.ndarray, " k"] | Sequence[int]) -> "ImageFolder":
        """The same folder with these of its images, in this order; labels keep their meaning.

        Raises:
          ValueError: rows that are not whole numbers in `[0, n)`.
        """
        taken = checked_rows(self, rows)
        return replace(
            self,
            files=tuple(self.files[row] for row in taken),
            labels=None if self.labels is None else self.labels[taken],
        )


def index_folder(
    path: str | Path,
    *,
    split: str | None = None,
    class_names: Sequence[str] | None = None,
    on_empty: str = "stop",
) -> ImageFolder:
    """List `path/CLASS/*.jpeg` with labels, or `path/*.jpeg` without; no file is opened.

    Order, labels and what is passed over are those of `load_folder`; with `split` it is
    `path/SPLIT/CLASS/*.jpeg` and `load_folder_split`. A damaged file is found when it is read.

    Args:
      path: the folder.
      split: the name of a folder in it that holds the class folders.
      class_names: the classes of the network in the order of its logits: labels then count among
        them, whichever of them are there. Folders whose names are whole numbers, none of them a
        name of a class, are taken for numbers of classes. By default the class folders that are
        there.
      on_empty: what becomes of a class folder without images: `"stop"`, or `"skip"`, where it keeps
        its label.

    Raises:
      FileNotFoundError: there is no such folder, or none of the split.
      ValueError: no images, a class folder without images or with folders in it, images beside
        class folders, a class folder that `class_names` does not list, or an unknown option.
    """
    root = Path(path)
    if split is not None:
        root, together = split_folder(root, split)
        class_names = together if class_names is None else class_names
    return ImageFolder(root, *list_images(root, class_names=class_names, on_empty=on_empty))


def read_images(
    folder: ImageFolder,
    rows: Int[np.ndarray, " k"] | Sequence[int],
    preprocessing: Preprocessing,
    *,
    workers: int | None = None,
    on_error: str = "stop",
) -> tuple[UInt8[np.ndarray, "k h w c"], Bool[np.ndarray, " k"]]:
    """Decode images of a folder into memory, several at a time.

    Args:
      folder: where they are.
      rows: which of them, in this order.
      preprocessing: how they come to one size.
      workers: threads; by default one for each core that this process may use. Their number changes
        no pixel.
      on_error: what becomes of an unreadable image: `"stop"`, or `"skip"`, where it stays black, is
        not marked as readable, and a warning tells how many there are.

    Returns:
      The images, and which of them were readable.

    Raises:
      ValueError: no rows or none that is readable, rows outside the folder, images of several
        sizes, an unknown option, or unreadable images that are not skipped (the first are named).
    """
    check_preprocessing(preprocessing)
    check_reading(workers, on_error)
    chosen = checked_rows(folder, rows)
    shape = image_shape(folder, chosen, preprocessing)
    images = np.zeros((len(chosen), *shape), np.uint8)

    def fill(place: int) -> str | None:
        try:
            images[place] = read_image(folder, int(chosen[place]), preprocessing, shape=shape)
        except UnreadableImageError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(workers or available_cores()) as pool:
        messages = list(pool.map(fill, range(len(chosen))))
    if failures := [message for message in messages if message is not None]:
        if len(failures) == len(chosen):
            on_error = "stop"  # nothing is left
        report(folder, failures, of=len(chosen), on_error=on_error)
    return images, np.array([message is None for message in messages])


def image_shape(
    folder: ImageFolder, rows: Int[np.ndarray, " k"], preprocessing: Preprocessing
) -> tuple[int, int, int]:
    """The shape `(h, w, c)` of every image: what the preprocessing says, or that of the first.

    Raises:
      ValueError: the preprocessing does not say, and none of the images can be read.
    """
    if preprocessing.crop is not None:
        return preprocessing.crop, preprocessing.crop, preprocessing.channels
    if isinstance(preprocessing.resize, tuple):
        return *preprocessing.resize, preprocessing.channels
    for row in rows:
        try:
            height, width, channels = read_image(folder, int(row), preprocessing).shape
        except UnreadableImageError:
            continue
        return height, width, channels
    raise ValueError(f"{folder.root}: none of the {len(rows)} images can be read.")


def read_image(
    folder: ImageFolder,
    row: int,
    preprocessing: Preprocessing,
    *,
    shape: tuple[int, int, int] | None = None,
) -> UInt8[np.ndarray, "h w c"]:
    """Decode one image of a folder, which must have this shape if one is given.

    Raises:
      UnreadableImageError: it cannot be decoded.
      ValueError: it has another shape.
    """
    path = folder.root / folder.files[row]
    image = decode_image(path, preprocessing, name=str(path))
    if shape is not None and image.shape != shape:
        raise ValueError(
            f"Images differ in size: {path} is {width_x_height(image.shape)} and others are "
            f"{width_x_height(shape)} (width x height); let `crop` cut them to one size."
        )
    return image


def report(folder: ImageFolder, failures: Sequence[str], *, of: int, on_error: str) -> None:
    """Raise a ValueError with the first messages, or warn with them if they are to be skipped."""
    what = f"{folder.root}: {len(failures)} of {of} images cannot be read"
    first = "; ".join(failures[:3]) + ("; ..." if len(failures) > 3 else "")
    if on_error == "stop":
        raise ValueError(f"{what}: {first}. Repair or remove them, or pass on_error='skip'.")
    warnings.warn(f"{what} and are left out: {first}.", stacklevel=3)


def check_reading(workers: int | None, on_error: str) -> None:
    """Raise a ValueError if a number of workers or an answer to errors is not one."""
    if workers is not None and workers < 1:
        raise ValueError(f"`workers` must be at least 1, got {workers}.")
    if on_error not in ("stop", "skip"):
        raise ValueError(f"`on_error` must be 'stop' or 'skip', got {on_error!r}.")


def checked_rows(
    folder: ImageFolder, rows: Int[np.ndarray, " k"] | Sequence[int]
) -> Int[np.ndarray, " k"]:
    """Rows as an array, or a ValueError if there are none or one lies outside the folder."""
    chosen = np.asarray(rows)
    if chosen.ndim != 1 or not len(chosen) or not np.issubdtype(chosen.dtype, np.integer):
        raise ValueError(
            f"{folder.root}: rows must be a list of at least one whole number, got shape "
            f"{chosen.shape} of {chosen.dtype}."
        )
    outside = chosen[(chosen < 0) | (chosen >= len(folder))]
    if len(outside):
        raise ValueError(
            f"{folder.root}: rows count from 0 to {len(folder) - 1}, got "
            f"{some([str(row) for row in outside])}."
        )
    return chosen


def available_cores() -> int:
    """How many cores this process may use, where the system tells; how many there are otherwise."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
