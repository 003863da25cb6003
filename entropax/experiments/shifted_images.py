"""Images and their corruptions: to train on, to calibrate on, to test on, and the user's own."""

import dataclasses
import itertools
import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from entropax import data
from entropax.data import ImageSet, corruptions
from entropax.experiments.data_options import DataOptions


@dataclass(frozen=True)
class ShiftOptions(DataOptions):
    """Which images, and how they are corrupted; the base of a program's `Config`."""

    target: Path | None = None
    """Your shifted images, a folder of files or an .npz; with or without labels."""
    corruptions: tuple[str, ...] = ()
    """Test corruptions; by default the 15 of ImageNet-C."""
    calibration: tuple[str, ...] = ()
    """Corruptions on which estimates are fitted; by default the 4 that ImageNet-C holds out."""
    severities: tuple[int, ...] = (1, 2, 3, 4, 5)
    """Of both."""
    scale: Literal["mnist", "cifar", "imagenet"] | None = None
    """Table of severities; by default that of the image size."""
    max_images: int = 10_000
    """Use at most this many validation images, and as many test images."""
    level: float = 0.9
    """Nominal coverage of the intervals."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.target is not None:
            object.__setattr__(self, "target", Path(self.target))  # a string does as well
        if self.max_images < 1:
            raise ValueError(f"`max_images` must be positive, got {self.max_images}.")
        if not 0 < self.level < 1:
            raise ValueError(f"`level` must be between 0 and 1, got {self.level}.")
        for name in ("severities", "corruptions", "calibration"):
            chosen = getattr(self, name)
            if len(set(chosen)) < len(chosen):
                raise ValueError(f"`{name}` must be different, got {chosen}.")
        if not self.severities or not set(self.severities) <= {1, 2, 3, 4, 5}:
            raise ValueError(f"`severities` must be among 1 to 5, got {self.severities}.")
        splits = 1 + (len(self.calibration) or 4) * len(self.severities)
        needed = max(4, math.ceil(1 / (1 - self.level) - 1 - 1e-9))
        if splits < needed:
            raise ValueError(
                f"{splits} calibration splits (clean images, and each calibration corruption at "
                f"each severity) are too few for intervals of level {self.level}, which take "
                f"{needed}; name more `severities` or `calibration` corruptions, or lower `level`."
            )
        unknown = set(self.corruptions + self.calibration) - set(corruptions.ALL)
        if unknown:
            known = ", ".join(corruptions.ALL)
            raise ValueError(f"Unknown corruption {', '.join(sorted(unknown))}; known: {known}.")


class ImageSets(NamedTuple):
    """Disjoint sets of images of one size and one list of classes.

    Attributes:
      train: for the source network, or None if that is trained already.
      validation: to be corrupted, for the curve from flips to accuracy.
      test: to be corrupted, to see how good the estimates are.
      target: the user's own, or None.
    """

    train: ImageSet | None
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


def load_sets(options: ShiftOptions, *, training: bool = True) -> ImageSets:
    """Read the images that `options` name.

    Args:
      options: which data.
      training: whether training images are wanted. If not, validation and test images are the
        halves of the test split, whatever the network was trained on.

    Raises:
      FileNotFoundError: they are not there; the message says where to put them.
      ValueError: labels are missing, or the target does not fit the rest.
    """
    if not training:
        train, validation, test = (None, *_test_halves(options))
    elif options.data == "digits":
        few = min(500, options.max_images)
        train, validation, test = _divide(data.load("digits", None), 797, few, few)
    else:
        train, test = (_load_split(options, split) for split in ("train", "test"))
        if len(train) < 10:
            raise ValueError(f"{len(train)} training images of {options.data!r} are too few.")
        held_out = min(options.max_images, len(train) // 5)
        train, validation = _divide(train, len(train) - held_out, held_out)
        (test,) = _divide(test, min(options.max_images, len(test)))
    if train is not None:
        assert train.labels is not None
        if len(np.unique(train.labels)) < 2:
            raise ValueError(
                f"Training needs two classes or more; every label of {options.data!r} is "
                f"{train.labels[0]}."
            )
    target = None if options.target is None else _load_target(options, options.target, validation)
    return ImageSets(train, validation, test, target)


def planned_splits(options: ShiftOptions, sets: ImageSets) -> Iterator[Split]:
    """All splits of a run, in the order in which they are adapted to.

    With a target, test corruptions are only those that the user names.

    Raises:
      ValueError: a corruption is in both families.
    """
    default_test, default_calibration = corruptions.families(sets.validation.images.shape[-1])
    calibration = options.calibration or default_calibration
    test = options.corruptions or (default_test if sets.target is None else ())
    if both := set(test) & set(calibration):
        raise ValueError(
            f"{', '.join(sorted(both))}: a corruption that the curve is fitted on cannot test it. "
            "Name other --corruptions or another --calibration."
        )
    yield Split("calibration", "clean", 0)
    yield from _corrupted("calibration", calibration, options)
    if sets.target is not None:
        yield target_split(options, sets.target)
    elif not options.corruptions:
        yield Split("test", "clean", 0)
    yield from _corrupted("test", test, options)


def target_split(options: ShiftOptions, target: ImageSet) -> Split:
    """The split of the user's own images."""
    assert options.target is not None
    return Split("target", f"{options.target.stem}-{checksum(target):08x}", 0)


def shifted_images(options: ShiftOptions, sets: ImageSets, split: Split, *, seed: int) -> ImageSet:
    """The images of a split, corrupted, by this seed, if they are to be."""
    images = {"calibration": sets.validation, "test": sets.test, "target": sets.target}[
        split.family
    ]
    assert images is not None
    if split.severity == 0:
        return images
    shifted = corruptions.corrupt(
        images.images, split.name, split.severity, seed=seed, scale=options.scale
    )
    return dataclasses.replace(images, images=shifted)


def checksum(images: ImageSet) -> int:
    """A number that tells one set from another: by its images, labels and classes."""
    number = zlib.crc32(repr((images.images.shape, images.class_names)).encode())
    number = zlib.crc32(images.images.tobytes(), number)
    return number if images.labels is None else zlib.crc32(images.labels.tobytes(), number)


def _corrupted(
    family: Literal["calibration", "test"], names: Sequence[str], options: ShiftOptions
) -> Iterator[Split]:
    for name in names:
        yield from (Split(family, name, severity) for severity in options.severities)


def _divide(images: ImageSet, *sizes: int) -> list[ImageSet]:
    """Disjoint random parts; which image is in which part does not depend on the run's seed."""
    order = np.random.default_rng(0).permutation(len(images))
    bounds = np.cumsum([0, *sizes])
    parts = [np.sort(order[start:end]) for start, end in itertools.pairwise(bounds)]
    assert images.labels is not None
    labels = images.labels
    return [ImageSet(images.images[p], labels[p], images.class_names) for p in parts]


def _load_split(options: ShiftOptions, split: str) -> ImageSet:
    size = options.size if options.data not in ("idx", "npz") else None
    images = data.load(options.data, split, path=options.path, data_dir=options.data_dir, size=size)
    if images.labels is None:
        raise ValueError(f"The {split} split of {options.data!r} needs labels.")
    return images


def _test_halves(options: ShiftOptions) -> list[ImageSet]:
    if options.data == "digits":
        raise ValueError("A trained network needs the images it was trained for: pass --data.")
    images = _load_split(options, "test")
    if len(images) < 4:
        raise ValueError(f"{len(images)} test images of {options.data!r} are too few.")
    half = min(options.max_images, len(images) // 2)
    return _divide(images, half, half)


def _load_target(options: ShiftOptions, path: Path, known: ImageSet) -> ImageSet:
    """The user's images, with labels, if any, in the numbers of the source classes."""
    if path.suffix == ".npz":
        target = data.load("npz", None, path=path)
    else:
        target = data.load("folder", None, path=path, size=options.size)
    if target.images.shape[1:] != known.images.shape[1:]:
        raise ValueError(
            f"The images of {path} have the shape {target.images.shape[1:]} (height, width, "
            f"channels), those of {options.data!r} {known.images.shape[1:]}; convert them, or pass "
            "--size for image files."
        )
    if len(target) < 2:
        raise ValueError(f"{path} holds one image; counting label flips takes at least two.")
    if target.labels is None:
        return target
    if unknown := sorted(set(target.class_names) - set(known.class_names)):
        raise ValueError(
            f"{path} has classes that the network does not know: {', '.join(unknown[:5])}; it "
            f"knows {', '.join(known.class_names[:10])}. Rename them, or leave the labels out."
        )
    number = np.array([known.class_names.index(name) for name in target.class_names], np.int32)
    return dataclasses.replace(target, labels=number[target.labels], class_names=known.class_names)
