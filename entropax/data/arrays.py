"""NumPy `.npz` archives, read without executing anything they contain."""

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from entropax.data.images import ImageSet, image_set

_IMAGES = ("x", "images")
_LABELS = ("y", "labels")


def load_npz(path: str | Path, split: str | None = None) -> ImageSet:
    """Load one set of images from an `.npz` archive.

    Args:
      path: an archive with `x_train`, `y_train`, `x_test`, `y_test` (the names Keras uses), or
        with one set `x` and, if it is labelled, `y`. `images` and `labels` may stand for `x` and
        `y`, and the split may come first: `train_images`. Strings in `class_names` name the
        classes.
      split: the split, or None for an archive with one set.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: not an `.npz` archive, cut short, with pickled objects, without the arrays
        looked for, or with arrays that `entropax.data.image_set` refuses.

    Example:
      >>> import pathlib, tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = pathlib.Path(folder, "target.npz")
      ...     np.savez(path, x=np.zeros((5, 8, 8), np.uint8))
      ...     load_npz(path).images.shape
      (5, 8, 8, 1)
    """
    path = Path(path)
    with _open(path) as archive:
        images_key = _key(archive, _IMAGES, split, path)
        if images_key is None:
            raise ValueError(_no_images(archive, split, path))
        images = _member(archive, images_key, path)
        labels_key = _key(archive, _LABELS, split, path)
        if labels_key is None:
            return image_set(images, origin=f"{path} ({images_key})")
        labels = _member(archive, labels_key, path)
        class_names = _class_names(archive, path)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]  # the labels of Keras' CIFAR are a column
    origin = f"{path} ({images_key}, {labels_key})"
    return image_set(images, labels, class_names=class_names, origin=origin)


def npz_splits(path: str | Path) -> tuple[str, ...]:
    """The splits of which the archive holds images, in the order of the archive.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is not an `.npz` archive.
    """
    with _open(Path(path)) as archive:
        return _splits(archive, _IMAGES)


@contextmanager
def _open(path: Path) -> Iterator[np.lib.npyio.NpzFile]:
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}; expected an .npz archive of arrays.")
    with path.open("rb") as file:
        magic = file.read(6)
        if magic == b"\x93NUMPY":
            raise ValueError(
                f"{path}: this is a single array; save images and labels together with "
                "np.savez(path, x=images, y=labels)."
            )
        if not magic.startswith(b"PK"):
            raise ValueError(
                f"{path}: this is not an .npz archive (pickled data is never loaded); save images "
                "and labels with np.savez(path, x=images, y=labels)."
            )
        file.seek(0)
        try:
            archive = np.load(file, allow_pickle=False)
        except zipfile.BadZipFile as error:
            raise ValueError(f"{path}: the archive is damaged or cut short: {error}") from error
        with archive:
            yield archive


def _member(archive: np.lib.npyio.NpzFile, key: str, path: Path) -> np.ndarray:
    try:
        return archive[key]
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise ValueError(f"{path}: the array {key!r} is damaged: {error}") from error
    except ValueError as error:
        raise ValueError(
            f"{path}: the array {key!r} is refused, for it holds Python objects, which only a "
            f"pickle can store, or is damaged: {error}"
        ) from error


def _keys(kinds: tuple[str, ...], split: str | None) -> list[str]:
    if split is None:
        return list(kinds)
    return [f"{kind}_{split}" for kind in kinds] + [f"{split}_{kind}" for kind in kinds]


def _key(
    archive: np.lib.npyio.NpzFile, kinds: tuple[str, ...], split: str | None, path: Path
) -> str | None:
    found = [key for key in _keys(kinds, split) if key in archive.files]
    if len(found) > 1:
        raise ValueError(f"{path}: either of {' and '.join(found)} could be meant; keep one.")
    return found[0] if found else None


def _splits(archive: np.lib.npyio.NpzFile, kinds: tuple[str, ...]) -> tuple[str, ...]:
    splits = [
        key.removeprefix(f"{kind}_").removesuffix(f"_{kind}")
        for key in archive.files
        for kind in kinds
        if key.startswith(f"{kind}_") or key.endswith(f"_{kind}")
    ]
    return tuple(dict.fromkeys(splits))


def _no_images(archive: np.lib.npyio.NpzFile, split: str | None, path: Path) -> str:
    message = (
        f"{path}: no images found; looked for {', '.join(_keys(_IMAGES, split))} among the arrays "
        f"{', '.join(archive.files) or '(none)'}."
    )
    if split is None and (splits := _splits(archive, _IMAGES)):
        return f"{message} Pass split=, one of {', '.join(splits)}."
    if split is not None and any(key in archive.files for key in _IMAGES):
        return f"{message} The archive holds one set without splits: pass split=None."
    return message


def _class_names(archive: np.lib.npyio.NpzFile, path: Path) -> tuple[str, ...] | None:
    """The names stored in the archive, or numbers that cover the labels of every split."""
    if "class_names" in archive.files:
        return tuple(str(name) for name in _member(archive, "class_names", path).ravel())
    every_split = [None, *_splits(archive, _LABELS)]
    keys = {key for split in every_split for key in _keys(_LABELS, split)} & set(archive.files)
    labels = [_member(archive, key, path) for key in keys]
    if not all(np.issubdtype(array.dtype, np.integer) and array.size for array in labels):
        return None
    return tuple(str(i) for i in range(max(int(array.max()) for array in labels) + 1))
