"""Folders of image files, one folder a class: the layout known as ImageFolder."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from entropax.data.images import ImageSet, image_set

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
SPLITS = ("train", "val", "validation", "test")


def load_folder(
    path: str | Path, *, size: int | None = None, class_names: Sequence[str] | None = None
) -> ImageSet:
    """Load `path/CLASS/*.png` as a labelled set, or `path/*.png` as an unlabelled one.

    Labels follow the sorted names of the class folders, images the sorted names of their files
    within them. Files that are not images by their suffix, and hidden ones, are passed over.

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
      ValueError: no images, a class folder without images, images beside class folders, a class
        folder that `class_names` does not list, a damaged image, or images of several sizes.
    """
    root = Path(path)
    classes = class_folders(root)
    loose = _image_files(root)
    if classes and loose:
        raise ValueError(
            f"{root} holds class folders ({_some(classes)}) and also {len(loose)} images beside "
            f"them, such as {loose[0].name}; move those into a class folder or elsewhere."
        )
    if not classes:
        if not loose:
            raise ValueError(
                f"{root} holds neither class folders nor images; looked for "
                f"CLASS/*{{{','.join(SUFFIXES)}}} and the same without CLASS."
            )
        return _named(image_set(_decode(loose, size), origin=root), loose, root)
    names = tuple(class_names) if class_names is not None else classes
    if unlisted := [name for name in classes if name not in names]:
        raise ValueError(f"{root}: no label is known for the class folders {_some(unlisted)}.")
    files: list[Path] = []
    labels: list[int] = []
    for name in classes:
        members = _image_files(root / name)
        if not members:
            raise ValueError(_no_images_in_class(root, name))
        files += members
        labels += [names.index(name)] * len(members)
    loaded = image_set(_decode(files, size), np.array(labels), class_names=names, origin=root)
    return _named(loaded, files, root)


def class_folders(path: str | Path) -> tuple[str, ...]:
    """The sorted names of the folders in `path`, which name its classes.

    Raises:
      FileNotFoundError: there is no such folder.
    """
    root = Path(path)
    if not root.is_dir():
        what = "a file, not a folder" if root.is_file() else "not there"
        raise FileNotFoundError(f"The image folder {root} is {what}.")
    return tuple(sorted(p.name for p in root.iterdir() if p.is_dir() and p.name[0] != "."))


def folder_splits(path: str | Path) -> tuple[str, ...]:
    """The splits in `path`: those of its folders called train, val, validation or test."""
    return tuple(split for split in SPLITS if (Path(path) / split).is_dir())


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
            f"and found {_some(folders) if folders else 'no folders'}. Expected "
            f"{root}/{split}/CLASS/*.png."
        )
    siblings = {*folder_splits(root), found}
    classes = sorted({name for sibling in siblings for name in class_folders(root / sibling)})
    return load_folder(root / found, size=size, class_names=classes)


def _named(images: ImageSet, files: Sequence[Path], root: Path) -> ImageSet:
    return dataclasses.replace(images, names=tuple(str(file.relative_to(root)) for file in files))


def _image_files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and p.name[0] != ".")


def _decode(files: list[Path], size: int | None) -> np.ndarray:
    from entropax.data.decoding import decode_images

    return decode_images(files, name=lambda i: str(files[i]), size=size)


def _no_images_in_class(root: Path, name: str) -> str:
    message = f"The class folder {root / name} holds no images ({', '.join(SUFFIXES)})"
    inner = class_folders(root / name)
    if name in SPLITS and inner:
        return f"{message}; it looks like a split: load {root / name}, or pass split={name!r}."
    if inner:
        return f"{message}, but folders ({_some(inner)}); images are looked for one level down."
    return f"{message}; remove it or fill it."


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f", ... ({len(names)} in all)" if len(names) > 5 else "")
