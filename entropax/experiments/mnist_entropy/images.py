"""The images of a study: the pool that sets are chosen from, and the test images."""

from typing import NamedTuple

import numpy as np

from entropax import data
from entropax.experiments.labelled_images import Labelled, labelled
from entropax.experiments.mnist_entropy.config import Config


class Images(NamedTuple):
    """Disjoint images of one size and one list of classes.

    Attributes:
      pool: what sets are chosen from.
      test: what networks are tested on; the same for every seed.
      class_names: one for each class.
    """

    pool: Labelled
    test: Labelled
    class_names: tuple[str, ...]


def load_images(config: Config) -> Images:
    """Read the images that `config` names, and draw the pool.

    Raises:
      FileNotFoundError: they are not there; the message says where to put them.
      ValueError: labels are missing, or there are too few images.
    """
    fixed, drawn = np.random.default_rng(0), np.random.default_rng(config.seed)
    amounts = config.amounts
    if config.data == "digits":
        train_set = test_set = data.load("digits", None)
        order = fixed.permutation(len(train_set))
        held_out = min(amounts.max_test, len(order) // 3)
        test, train = np.sort(order[:held_out]), np.sort(order[held_out:])
    else:
        train_set, test_set = (
            data.load(
                config.data, split, path=config.path, data_dir=config.data_dir, size=config.size
            )
            for split in ("train", "test")
        )
        train = np.arange(len(train_set))
        test = np.sort(fixed.permutation(len(test_set))[: amounts.max_test])
    if train_set.labels is None or test_set.labels is None:
        raise ValueError(f"The train and test splits of {config.data!r} need labels.")
    if len(np.unique(train_set.labels[train])) < 2:
        raise ValueError(
            f"Training needs two classes or more; every label of {config.data!r} is "
            f"{train_set.labels[0]}."
        )
    if len(train) < amounts.pool:
        raise ValueError(
            f"There are {len(train)} training images of {config.data!r}, fewer than the pool of "
            f"{amounts.pool}; give a smaller --pool."
        )
    pool = drawn.permutation(train)[: amounts.pool]
    return Images(labelled(train_set, pool), labelled(test_set, test), train_set.class_names)
