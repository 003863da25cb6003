"""IDX files, the format of MNIST, Fashion-MNIST, KMNIST and EMNIST.

A file is two zero bytes, one byte for the type, one for the rank, the sizes as big-endian
32-bit integers, and the values in C order.
"""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from entropax.data.images import ImageSet, image_set

_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_PREFIXES = {"train": "train", "test": "t10k"}
# "train-images.idx3-ubyte" is how some archives unpack.
_SEPARATORS = ("-", ".")


def read_idx(path: str | Path) -> np.ndarray:
    """Read one IDX file, plain or compressed with gzip.

    Args:
      path: the file; compression is recognised by its content, whatever the name.

    Returns:
      The array, of any rank, in the machine's byte order.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is not an IDX file, is cut short, goes on after its last value,
        or its compression is damaged.

    Example:
      >>> import pathlib, tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = pathlib.Path(folder, "labels-idx1-ubyte")
      ...     _ = path.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 2, 1]))
      ...     read_idx(path)
      array([7, 2, 1], dtype=uint8)
    """
    path = Path(path)
    raw = path.read_bytes()
    if raw.startswith(b"\x1f\x8b"):
        try:
            raw = gzip.decompress(raw)
        except (EOFError, OSError, zlib.error) as error:
            raise ValueError(
                f"{path}: the gzip compression is damaged or the file is cut short "
                f"({len(raw)} bytes): {error}"
            ) from error
    if len(raw) < 4 or raw[:2] != b"\x00\x00" or raw[2] not in _TYPES:
        raise ValueError(
            f"{path}: this is not an IDX file: it should begin with 00 00, a type from 08 to 0e "
            f"and the rank, but begins with {raw[:4].hex(' ') or 'nothing'}."
        )
    dtype, rank = np.dtype(_TYPES[raw[2]]), raw[3]
    header = 4 + 4 * rank
    if len(raw) < header:
        raise ValueError(
            f"{path}: the file is cut short: the header of rank {rank} takes {header} bytes, "
            f"found {len(raw)}."
        )
    shape = tuple(int(size) for size in np.frombuffer(raw, ">u4", rank, offset=4))
    expected = header + dtype.itemsize * math.prod(shape)
    if len(raw) != expected:
        problem = "is cut short" if len(raw) < expected else "goes on after its last value"
        raise ValueError(
            f"{path}: the file {problem}: shape {shape} of {dtype.name} takes {expected} bytes, "
            f"found {len(raw)}."
        )
    return np.frombuffer(raw, dtype, offset=header).reshape(shape).astype(dtype.newbyteorder("="))


def load_idx(path: str | Path, split: str) -> ImageSet:
    """Load one split of a folder of IDX files named as those of MNIST.

    Args:
      path: a folder with `train-images-idx3-ubyte`, `train-labels-idx1-ubyte`, and the same
        with `t10k` for the test split, each plain or with `.gz`.
      split: "train" or "test".

    Raises:
      FileNotFoundError: the folder or a file is missing; the names looked for are listed.
      ValueError: another split, or a file that is not what its name says.
    """
    folder = Path(path)
    if split not in _PREFIXES:
        raise ValueError(f"IDX folders hold the splits 'train' and 'test', got {split!r}.")
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder; pass the one that holds the IDX files.")
    images = read_idx(_find(folder, split, "images"))
    labels = _read_labels(_find(folder, split, "labels"))
    # A short test split may lack the last classes: count over every label file at hand.
    largest = max(int(_read_labels(file).max(initial=0)) for file in _label_files(folder))
    names = tuple(str(i) for i in range(largest + 1))
    return image_set(images, labels, class_names=names, origin=f"{folder} ({split})")


def idx_splits(path: str | Path) -> tuple[str, ...]:
    """The splits of which the folder `path` holds an image file."""
    folder = Path(path)
    return tuple(
        split
        for split in _PREFIXES
        if any((folder / name).is_file() for name in _file_names(split, "images"))
    )


def _file_names(split: str, kind: str) -> list[str]:
    suffix = {"images": "idx3-ubyte", "labels": "idx1-ubyte"}[kind]
    stems = [f"{_PREFIXES[split]}-{kind}{separator}{suffix}" for separator in _SEPARATORS]
    return [stem + compression for stem in stems for compression in ("", ".gz")]


def _find(folder: Path, split: str, kind: str) -> Path:
    names = _file_names(split, kind)
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(
        f"{folder} holds no {kind} of the {split} split; looked for {', '.join(names)}."
    )


def _read_labels(path: Path) -> np.ndarray:
    labels = read_idx(path)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"{path}: labels are integers of rank 1, this file holds {labels.dtype} of shape "
            f"{labels.shape}."
        )
    return labels


def _label_files(folder: Path) -> list[Path]:
    return [
        folder / name
        for split in _PREFIXES
        for name in _file_names(split, "labels")
        if (folder / name).is_file()
    ]
