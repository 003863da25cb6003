"""Folders of image files, one folder a class: the layout known as ImageFolder."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from entropax.data.classes import class_numbers, ordered_classes, some
from entropax.data.images import ImageSet, image_set

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
SPLITS = ("train", "val", "validation", "test")


class Listing(NamedTuple):
    """The image files of a folder.

    Attributes:
      files: relative to the folder, in the order of their classes and, within a class, of their
        names.
      labels: `[n]` int32, or None where there are no class folders.
      class_names: in label order; empty without labels.
    """

    files: tuple[str, ...]
    labels: np.ndarray | None
    class_names: tuple[str, ...]


def load_folder(
    path: str | Path, *, size: int | None = None, class_names: Sequence[str] | None = None
) -> ImageSet:
    """Load `path/CLASS/*.png` as a labelled set, or `path/*.png` as an unlabelled one.

    Labels follow the sorted names of the class folders (by value where all are whole numbers),
    images the sorted names of their files within them. Files that are not images by their suffix,
    and hidden ones, are passed over.

    Args:
      path: the folder.
      size: resize the shorter side to this many pixels, then cut out the central square;
        None demands images of equal size.
      class_names: the classes in label order, for a folder that lacks some of them or to keep
        the order of another set; by default the class folders that are there.

    Returns:
      Grey images if every file is grey, otherwise RGB.

    Raises:
      FileNotFoundError: there is no such folder.
      ValueError: no images, a class folder without images or with folders in it, images beside
        class folders, a class folder that `class_names` does not list, a damaged image, or images
        of several sizes.
    """
    from entropax.data.decoding import decode_images

    root = Path(path)
    files, labels, names = list_images(root, class_names=class_names)
    images = decode_images(
        (root / file for file in files), name=lambda i: str(root / files[i]), size=size
    )
    kept = None if labels is None else names
    loaded = image_set(images, labels, class_names=kept, origin=root)
    return dataclasses.replace(loaded, names=tuple(str(Path(file)) for file in files))


def list_images(
    root: Path, *, class_names: Sequence[str] | None = None, on_empty: str = "stop"
) -> Listing:
    """The image files of a folder and their labels, from the names alone: no file is opened.

    Args:
      root: the folder.
      class_names: as in `load_folder`; whole numbers as names of folders are then the labels
        (`class_numbers`).
      on_empty: what becomes of a class folder without images: `"stop"`, or `"skip"`, where it keeps
        its label.

    Raises:
      FileNotFoundError: there is no such folder.
      ValueError: as in `load_folder`, as far as names tell; `on_empty` is neither.
    """
    if on_empty not in ("stop", "skip"):
        raise ValueError(f"`on_empty` must be 'stop' or 'skip', got {on_empty!r}.")
    classes = class_folders(root)
    loose = _entries(root)[0]
    if classes and loose:
        raise ValueError(
            f"{root} holds class folders ({some(classes)}) and also {len(loose)} images beside "
            f"them, such as {loose[0]}; move those into a class folder or elsewhere."
        )
    if not classes:
        if not loose:
            raise ValueError(
                f"{root} holds neither class folders nor images; looked for "
                f"CLASS/*{{{','.join(SUFFIXES)}}} and the same without CLASS."
            )
        return Listing(tuple(loose), None, ())
    names = tuple(class_names) if class_names is not None else classes
    files: list[str] = []
    counts: list[int] = []
    for name in classes:
        members, inner = _entries(root / name)
        if inner or (not members and on_empty == "stop"):
            raise ValueError(_unlike_a_class(root, name, members, inner))
        files += [f"{name}/{member}" for member in members]
        counts.append(len(members))
    if not files:
        raise ValueError(f"{root}: none of its {len(classes)} class folders holds an image.")
    labels = np.repeat(class_numbers(classes, names, origin=str(root)), counts)
    return Listing(tuple(files), labels, names)


def class_folders(path: str | Path) -> tuple[str, ...]:
    """The names of the folders in `path`, which name its classes, in the order of their labels.

    Raises:
      FileNotFoundError: there is no such folder.
    """
    root = Path(path)
    if not root.is_dir():
        what = "a file, not a folder" if root.is_file() else "not there"
        raise FileNotFoundError(f"The image folder {root} is {what}.")
    return ordered_classes(_entries(root)[1])


def folder_splits(path: str | Path) -> tuple[str, ...]:
    """The splits in `path`: those of its folders called train, val, validation or test."""
    return tuple(split for split in SPLITS if (Path(path) / split).is_dir())


def split_folder(path: str | Path, split: str) -> tuple[Path, tuple[str, ...]]:
    """The folder of a split, and the classes of all splits together.

    Where there is no `test`, `val` or `validation` serves as it. The classes are empty where the
    splits hold images without class folders.

    Raises:
      FileNotFoundError: no folder of the split.
    """
    root = Path(path)
    folders = class_folders(root)
    standing_in = {
        "test": ("test", "val", "validation"),
        "val": ("val", "validation"),
        "validation": ("validation", "val"),
    }
    candidates = standing_in.get(split, (split,))
    found = next((name for name in candidates if name in folders), None)
    if found is None:
        raise FileNotFoundError(
            f"{root} has no folder for the split {split!r}; looked for {', '.join(candidates)} "
            f"and found {some(folders) if folders else 'no folders'}. Expected "
            f"{root}/{split}/CLASS/*.png."
        )
    siblings = {*folder_splits(root), found}
    names = {name for sibling in siblings for name in class_folders(root / sibling)}
    return root / found, ordered_classes(names)


def load_folder_split(path: str | Path, split: str, *, size: int | None = None) -> ImageSet:
    """Load `path/SPLIT/CLASS/*.png`; a class has the same label in every split.

    The classes are those of all splits together, so that one without a test image shifts no
    label. Where there is no `test`, `val` or `validation` serves as it.

    Args:
      path: the folder that holds the splits.
      split: the name of a folder in it.
      size: as in `load_folder`.

    Raises:
      FileNotFoundError: no folder of the split.
      ValueError: as in `load_folder`.
    """
    folder, classes = split_folder(path, split)
    return load_folder(folder, size=size, class_names=classes)


def _entries(folder: Path) -> tuple[list[str], list[str]]:
    """The sorted names of the image files and of the folders in a folder, without hidden ones."""
    files: list[str] = []
    folders: list[str] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            name = entry.name
            if name[0] == ".":
                continue
            if entry.is_dir():
                folders.append(name)
            elif os.path.splitext(name)[1].lower() in SUFFIXES:
                files.append(name)
    return sorted(files), sorted(folders)


def _unlike_a_class(root: Path, name: str, members: list[str], inner: list[str]) -> str:
    if members:
        return (
            f"The class folder {root / name} holds {len(members)} images and also folders "
            f"({some(inner)}); images are looked for one level down, so move those elsewhere."
        )
    message = f"The class folder {root / name} holds no images ({', '.join(SUFFIXES)})"
    if name in SPLITS and inner:
        return f"{message}; it looks like a split: load {root / name}, or pass split={name!r}."
    if inner:
        return f"{message}, but folders ({some(inner)}); images are looked for one level down."
    return f"{message}; remove it or fill it."
