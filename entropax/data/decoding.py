"""Encoded images (PNG, JPEG, ...) to arrays, strictly: a damaged one is an error."""

import contextlib
import errno
import io
import struct
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFile

# What pillow raises for a file that is not, or not wholly, an image.
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error)
# What the system says when it is short of something; no image is to blame.
_SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


class UnreadableImageError(ValueError):
    """A file is not an image, not the whole of one, or grey of more than 8 bits."""


class Preprocessing(NamedTuple):
    """From a decoded image to the pixels that a network takes: resize, then cut out the centre.

    Pixel by pixel equal to `Resize(resize)` and `CenterCrop(crop)` of torchvision on pillow images:
    the longer side becomes `int(resize * longer / shorter)`, the cut begins at `(side - crop) / 2`
    rounded half to even, and an image smaller than the cut gets a black border.

    Attributes:
      resize: pixels of the shorter side; or `(height, width)`, whatever the proportions were; or
        None to leave the size as it is.
      crop: side of the central square in pixels; None takes the whole image.
      interpolation: `"bilinear"`, `"bicubic"` or `"nearest"`; the first two are smoothed when an
        image shrinks.
      channels: 3 for RGB, where grey images get three equal channels; 1 for grey, where colours are
        replaced by their luma (0.299 R + 0.587 G + 0.114 B).
    """

    resize: int | tuple[int, int] | None = 256
    crop: int | None = 224
    interpolation: str = "bilinear"
    channels: int = 3


def check_preprocessing(preprocessing: Preprocessing) -> None:
    """Raise a ValueError with the first field that cannot be used."""
    resize, crop, interpolation, channels = preprocessing
    sides = resize if isinstance(resize, tuple) else (1 if resize is None else resize,)
    if len(sides) > 2 or min(sides) < 1:
        raise ValueError(
            f"`resize` must be at least one pixel, or (height, width) of that, got {resize}."
        )
    if crop is not None and crop < 1:
        raise ValueError(f"`crop` must be at least one pixel, got {crop}.")
    if interpolation not in _RESAMPLING:
        raise ValueError(
            f"`interpolation` must be one of {', '.join(_RESAMPLING)}, got {interpolation!r}."
        )
    if channels not in (1, 3):
        raise ValueError(f"`channels` must be 1 or 3, got {channels}.")


def decode_image(source: bytes | Path, preprocessing: Preprocessing, *, name: str) -> np.ndarray:
    """Decode one image; several threads may do so at a time.

    Args:
      source: an encoded image, or the file that holds one.
      preprocessing: checked by `check_preprocessing`.
      name: what an error message should call the image.

    Returns:
      `[h, w, channels]` uint8. An alpha channel is dropped, CMYK becomes RGB, and an orientation
      tag is not applied.

    Raises:
      UnreadableImageError: the image cannot be decoded to its end, or is grey of more than 8
        bits. Of colours of 16 bits pillow keeps the upper 8.
    """

    def prepare(image: Image.Image) -> np.ndarray:
        pixels = _in_mode(image, "RGB" if preprocessing.channels == 3 else "L")
        return _array(_prepared(pixels, preprocessing))

    with _strict():
        return _open(source, name, prepare)


def decode_images(
    sources: Iterable[bytes | Path], *, name: Callable[[int], str], size: int | None = None
) -> np.ndarray:
    """Decode images of one size.

    Args:
      sources: at least one encoded image, or file that holds one.
      name: from the number of an image to what an error message should call it.
      size: resize the shorter side to this many pixels (bilinear with antialiasing), then cut
        out the central square; None demands images of equal size.

    Returns:
      `[n, h, w, c]` uint8: one channel if every image is grey, otherwise RGB. An alpha channel
      is dropped and an orientation tag is not applied.

    Raises:
      ValueError: an image cannot be decoded to its end, is grey of more than 8 bits,
        or differs in size from the first.
    """
    if size is not None and size < 1:
        raise ValueError(f"`size` must be at least one pixel, got {size}.")

    def prepare(image: Image.Image) -> np.ndarray:
        pixels = _in_mode(image, "L" if image.mode in ("1", "L", "LA") else "RGB")
        return _array(pixels if size is None else _square(pixels, size))

    arrays: list[np.ndarray] = []
    # A plain loop: on two cores, threads halve the speed for 28x28 PNG.
    with _strict():
        for i, source in enumerate(sources):
            arrays.append(_open(source, name(i), prepare))
            if arrays[i].shape[:2] != arrays[0].shape[:2]:
                raise ValueError(
                    f"Images differ in size: {name(0)} is {width_x_height(arrays[0].shape)} and "
                    f"{name(i)} is {width_x_height(arrays[i].shape)} (width x height); pass size= "
                    "to resize and crop them all."
                )
    shape = (*arrays[0].shape[:2], max(array.shape[-1] for array in arrays))
    out = np.empty((len(arrays), *shape), np.uint8)
    for i in reversed(range(len(arrays))):
        out[i] = arrays.pop()  # released one by one, so that the set is never held twice
    return out


def width_x_height(shape: tuple[int, ...]) -> str:
    """The size of an image `[h, w, c]` in words."""
    return f"{shape[1]}x{shape[0]}"


def _open(
    source: bytes | Path, name: str, prepare: Callable[[Image.Image], np.ndarray]
) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            if image.mode.startswith(("I", "F")):
                raise ValueError(f"it has more than 8 bits a channel (mode {image.mode})")
            return prepare(image)
    except Image.DecompressionBombError as error:
        raise UnreadableImageError(f"{name}: the image is too large to open: {error}") from error
    except _DAMAGED as error:
        if isinstance(error, OSError) and error.errno in _SHORTAGES:
            raise
        raise UnreadableImageError(f"{name}: the image cannot be decoded: {error}") from error


class _Strictness:
    """How many are decoding now, and what pillow was told before the first of them began."""

    lock = threading.Lock()
    users = 0
    tolerant_before = False


@contextlib.contextmanager
def _strict() -> Iterator[None]:
    """Make pillow refuse truncated images, even where another library told it to accept them."""
    with _Strictness.lock:
        if _Strictness.users == 0:
            _Strictness.tolerant_before = ImageFile.LOAD_TRUNCATED_IMAGES
            ImageFile.LOAD_TRUNCATED_IMAGES = False
        _Strictness.users += 1
    try:
        yield
    finally:
        with _Strictness.lock:
            _Strictness.users -= 1
            if _Strictness.users == 0:
                ImageFile.LOAD_TRUNCATED_IMAGES = _Strictness.tolerant_before


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    if "transparency" in image.info:
        image = image.convert("RGBA")  # pillow warns when it has to drop it from a palette
    if image.mode == mode:
        image.load()
        return image  # `convert` would copy it
    return image.convert(mode)


def _array(image: Image.Image) -> np.ndarray:
    array = np.asarray(image)
    return array if array.ndim == 3 else array[..., None]


def _prepared(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    resize, crop, interpolation, _ = preprocessing
    if resize is not None:
        if isinstance(resize, tuple):
            height, width = resize
        else:
            width, height = image.size
            shorter, longer = min(width, height), int(resize * max(image.size) / min(image.size))
            width, height = (resize, longer) if width == shorter else (longer, resize)
        if (width, height) != image.size:
            image = image.resize((width, height), _RESAMPLING[interpolation])
    if crop is None or image.size == (crop, crop):
        return image
    left, top = (_offset(side, crop) for side in image.size)
    return image.crop((left, top, left + crop, top + crop))  # black beyond the image


def _offset(side: int, crop: int) -> int:
    return round((side - crop) / 2) if side >= crop else -((crop - side) // 2)


def _square(image: Image.Image, size: int) -> Image.Image:
    width, height = image.size
    shorter = min(width, height)
    if shorter != size:
        scale = size / shorter
        width, height = max(size, round(width * scale)), max(size, round(height * scale))
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - size) // 2, (height - size) // 2
    return image.crop((left, top, left + size, top + size))
