"""Disjoint parts of a labelled data set, as networks see them."""

import zlib
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from entropax import data
from entropax.experiments.data_options import DataOptions


class Labelled(NamedTuple):
    """Images and their classes.

    Attributes:
      x: `[n, h, w, channels]` in [0, 1].
      labels: `[n]` classes.
    """

    x: Float[np.ndarray, "n h w channels"]
    labels: Int[np.ndarray, " n"]

    def checksum(self) -> int:
        """A number that tells one set of images from another."""
        return zlib.crc32(self.labels.tobytes(), zlib.crc32(self.x.tobytes()))


class Parts(NamedTuple):
    """Images of one size and one list of classes, no image in two parts.

    Attributes:
      train: what networks are trained on.
      probe: those whose features are measured.
      test: those that decide the accuracy.
      class_names: one for each class.
    """

    train: Labelled
    probe: Labelled
    test: Labelled
    class_names: tuple[str, ...]

    def checksums(self) -> list[int]:
        """Numbers that tell these images from others."""
        return [part.checksum() for part in (self.train, self.probe, self.test)]


def labelled(images: data.ImageSet, rows: Int[np.ndarray, " n"]) -> Labelled:
    """Some of the images of a set that has labels."""
    assert images.labels is not None
    return Labelled(images.images[rows].astype(np.float32) / 255, images.labels[rows])


def load_parts(options: DataOptions, *, train: int, probe: int, test: int) -> Parts:
    """Draw three disjoint parts, the same ones every time.

    The digits, one set without splits, are divided; of other data, training images come from the
    train split and both others from the test split.

    Args:
      options: which data.
      train: most images of this part; of the digits it gets what the others leave, at most this.
      probe: number of images.
      test: most images.

    Raises:
      FileNotFoundError: the data are not there; the message says where to put them.
      ValueError: labels are missing, or there are too few images.
    """
    rng = np.random.default_rng(0)
    if options.data == "digits":
        train_set = test_set = data.load("digits", None)
        order = rng.permutation(len(train_set))
        held_out, trained = order[: probe + test], order[probe + test :]
        needed = probe + test + 1
    else:
        train_set, test_set = (
            data.load(
                options.data, split, path=options.path, data_dir=options.data_dir, size=options.size
            )
            for split in ("train", "test")
        )
        held_out = rng.permutation(len(test_set))[: probe + test]
        trained = rng.permutation(len(train_set))
        needed = probe + 1
    if len(test_set) < needed:
        raise ValueError(
            f"{options.data!r} has {len(test_set)} images to test with, fewer than the {needed} "
            "needed; give a smaller --probe."
        )
    if train_set.labels is None or test_set.labels is None:
        raise ValueError(f"The train and test splits of {options.data!r} need labels.")
    if train_set.images.shape[1:] != test_set.images.shape[1:]:
        raise ValueError(
            f"Training images {train_set.images.shape[1:]} and test images "
            f"{test_set.images.shape[1:]} differ in shape."
        )

    return Parts(
        labelled(train_set, trained[:train]),
        labelled(test_set, held_out[:probe]),
        labelled(test_set, held_out[probe:]),
        train_set.class_names,
    )
