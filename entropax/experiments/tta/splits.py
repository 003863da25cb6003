"""The sets of images that the program works on: training, validation, test, and the user's own."""

import dataclasses
import itertools
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from entropax import data
from entropax.data import ImageSet, corruptions
from entropax.experiments.tta.config import Config


class ImageSets(NamedTuple):
    """Disjoint sets of images of one size and one list of classes.

    Attributes:
      train: for the source network.
      validation: to be corrupted, for the curve from flips to accuracy.
      test: to be corrupted, to see how good the estimates are.
      target: the user's own, or None.
    """

    train: ImageSet
    validation: ImageSet
    test: ImageSet
    target: ImageSet | None


class Split(NamedTuple):
    """One set of images to adapt to.

    Attributes:
      family: `"calibration"`, where the curve is fitted; `"test"`; or `"target"`, the user's.
      name: the corruption; `"clean"` for images as they are; for the target its name and checksum.
      severity: 1 to 5; 0 for images as they are.
    """

    family: Literal["calibration", "test", "target"]
    name: str
    severity: int

    def __str__(self) -> str:
        return f"{self.name} {self.severity}" if self.severity else self.name


def load_sets(config: Config) -> ImageSets:
    """Read the images that `config` names.

    Raises:
      FileNotFoundError: they are not there; the message says where to put them.
      ValueError: labels are missing, or the target does not fit the rest.
    """
    if config.data == "digits":
        few = min(500, config.max_images)
        train, validation, test = _divide(data.load("digits", None), 797, few, few)
    else:
        size = config.size if config.data not in ("idx", "npz") else None
        train, test = (
            data.load(config.data, split, path=config.path, data_dir=config.data_dir, size=size)
            for split in ("train", "test")
        )
        if train.labels is None or test.labels is None:
            raise ValueError(f"The train and test splits of {config.data!r} need labels.")
        if len(train) < 10:
            raise ValueError(f"{len(train)} training images of {config.data!r} are too few.")
        held_out = min(config.max_images, len(train) // 5)
        train, validation = _divide(train, len(train) - held_out, held_out)
        (test,) = _divide(test, min(config.max_images, len(test)))
    assert train.labels is not None
    if len(np.unique(train.labels)) < 2:
        raise ValueError(
            f"Training needs two classes or more; every label of {config.data!r} is "
            f"{train.labels[0]}."
        )
    if config.target is None:
        return ImageSets(train, validation, test, None)
    return ImageSets(train, validation, test, _load_target(config, config.target, train))


def planned_splits(config: Config, sets: ImageSets) -> Iterator[Split]:
    """All splits of a run, in the order in which they are adapted to.

    With a target, test corruptions are only those that the user names.

    Raises:
      ValueError: a corruption is in both families.
    """
    default_test, default_calibration = corruptions.families(sets.train.images.shape[-1])
    calibration = config.calibration or default_calibration
    test = config.corruptions or (default_test if sets.target is None else ())
    if both := set(test) & set(calibration):
        raise ValueError(
            f"{', '.join(sorted(both))}: a corruption that the curve is fitted on cannot test it. "
            "Name other --corruptions or another --calibration."
        )
    yield Split("calibration", "clean", 0)
    yield from _corrupted("calibration", calibration, config)
    if config.target is not None and sets.target is not None:
        yield Split("target", f"{config.target.stem}-{checksum(sets.target):08x}", 0)
    elif not config.corruptions:
        yield Split("test", "clean", 0)
    yield from _corrupted("test", test, config)


def shifted_images(config: Config, sets: ImageSets, split: Split) -> ImageSet:
    """The images of a split, corrupted if they are to be."""
    images = {"calibration": sets.validation, "test": sets.test, "target": sets.target}[
        split.family
    ]
    assert images is not None
    if split.severity == 0:
        return images
    shifted = corruptions.corrupt(
        images.images, split.name, split.severity, seed=config.seed, scale=config.scale
    )
    return dataclasses.replace(images, images=shifted)


def checksum(images: ImageSet) -> int:
    """A number that tells one set from another: by its images, labels and classes."""
    number = zlib.crc32(repr((images.images.shape, images.class_names)).encode())
    number = zlib.crc32(images.images.tobytes(), number)
    return number if images.labels is None else zlib.crc32(images.labels.tobytes(), number)


def _corrupted(
    family: Literal["calibration", "test"], names: Sequence[str], config: Config
) -> Iterator[Split]:
    for name in names:
        yield from (Split(family, name, severity) for severity in config.severities)


def _divide(images: ImageSet, *sizes: int) -> list[ImageSet]:
    """Disjoint random parts; which image is in which part does not depend on the run's seed."""
    order = np.random.default_rng(0).permutation(len(images))
    bounds = np.cumsum([0, *sizes])
    parts = [np.sort(order[start:end]) for start, end in itertools.pairwise(bounds)]
    assert images.labels is not None
    labels = images.labels
    return [ImageSet(images.images[p], labels[p], images.class_names) for p in parts]


def _load_target(config: Config, path: Path, train: ImageSet) -> ImageSet:
    """The user's images, with labels, if any, in the numbers of the source classes."""
    if path.suffix == ".npz":
        target = data.load("npz", None, path=path)
    else:
        target = data.load("folder", None, path=path, size=config.size)
    if target.images.shape[1:] != train.images.shape[1:]:
        raise ValueError(
            f"The images of {path} have the shape {target.images.shape[1:]} (height, width, "
            f"channels), those of {config.data!r} {train.images.shape[1:]}; convert them, or pass "
            "--size for image files."
        )
    if len(target) < 2:
        raise ValueError(f"{path} holds one image; counting label flips takes at least two.")
    if target.labels is None:
        return target
    if unknown := sorted(set(target.class_names) - set(train.class_names)):
        raise ValueError(
            f"{path} has classes that the network does not know: {', '.join(unknown[:5])}; it "
            f"knows {', '.join(train.class_names[:10])}. Rename them, or leave the labels out."
        )
    number = np.array([train.class_names.index(name) for name in target.class_names], np.int32)
    return dataclasses.replace(target, labels=number[target.labels], class_names=train.class_names)
