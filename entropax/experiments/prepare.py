"""Prepare a named data set from raw files, once, with no network and no TensorFlow.

    python -m entropax.experiments.prepare --name mnist --source idx --path raw/mnist

where `raw/mnist` holds the four files as published: `train-images-idx3-ubyte.gz` and so on.
Afterwards `entropax.data.load("mnist", "train")` finds it. MNIST takes 10 to 20 seconds and 27 MB.
For a name that tensorflow-datasets itself knows, plain `tfds.data_source(name)` looks for the
version it knows: `--version 3.0.1` for MNIST lets it find this one as well.

Other sources: `--source folder --path PATH`, with `PATH/SPLIT/CLASS/*.png`, and
`--source npz --path FILE`, with arrays `x_train`, `y_train`, `x_test`, `y_test`.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import tyro
from rich.console import Console

from entropax.data import ImageSet, image_set, load
from entropax.data.arrays import npz_splits
from entropax.data.folder import folder_splits
from entropax.data.idx import idx_splits
from entropax.data.named import default_data_dir
from entropax.data.prepare import prepare, target_folder
from entropax.experiments.tables import make_progress


@dataclass(frozen=True)
class Config:
    """Turn raw image files into a named data set."""

    name: str
    """What to call it: lower-case letters, digits and `_`."""
    source: Literal["idx", "folder", "npz"]
    """Format of the raw files: IDX as MNIST, a folder of image files, or NumPy arrays."""
    path: Path
    """The folder (idx, folder) or file (npz) to read."""
    data_dir: Path | None = None
    """Where to write; by default $TFDS_DATA_DIR or ~/tensorflow_datasets."""
    splits: tuple[str, ...] = ()
    """Splits to take, by default all; or the name for files without splits, by default train."""
    size: int | None = None
    """For image files: resize the shorter side to this many pixels, cut out the square."""
    class_names: tuple[str, ...] = ()
    """Names of the classes in label order, for idx and npz; by default numbers."""
    version: str = "1.0.0"
    """Three numbers; loading takes the newest version unless told otherwise."""
    encoding: Literal["png", "jpeg"] = "png"
    """PNG is lossless; JPEG is smaller and changes the pixels."""
    overwrite: bool = False
    """Replace a data set of the same name and version."""

    def __post_init__(self) -> None:
        if self.source != "folder" and self.size is not None:
            raise ValueError(f"`size` is for source 'folder', not {self.source!r}.")
        if self.source == "folder" and self.class_names:
            raise ValueError("`class_names` is for idx and npz; class folders name themselves.")
        if self.size is not None and self.size < 1:
            raise ValueError(f"`size` must be at least one pixel, got {self.size}.")
        if repeated := {split for split in self.splits if self.splits.count(split) > 1}:
            raise ValueError(f"`splits` names {', '.join(sorted(repeated))} more than once.")


class Result(NamedTuple):
    """What was written.

    Attributes:
      path: the folder of the data set.
      counts: the number of images in each split.
      num_classes: how many classes; 0 without labels.
      image_shape: `(h, w, c)` of the first split.
    """

    path: Path
    counts: dict[str, int]
    num_classes: int
    image_shape: tuple[int, ...]


def run(config: Config) -> Result:
    """Read the raw files, write the data set, and read it back to compare.

    Raises:
      FileExistsError: the data set is there already and `overwrite` is false.
      FileNotFoundError: the raw files are not there.
      ValueError: the raw files are damaged or do not make a data set.
    """
    data_dir = config.data_dir or default_data_dir()
    target_folder(config.name, config.version, data_dir, overwrite=config.overwrite)
    console = Console(stderr=True)
    with console.status(f"Reading {config.path}"):
        splits = _read(config)
    with make_progress() as progress:
        tasks = {
            split: progress.add_task(f"Writing {split}", total=len(images))
            for split, images in splits.items()
        }
        path = prepare(
            config.name,
            splits,
            data_dir,
            version=config.version,
            encoding=config.encoding,
            overwrite=config.overwrite,
            on_image=lambda split: progress.advance(tasks[split]),
        )
    first = next(iter(splits.values()))
    return Result(
        path,
        {split: len(images) for split, images in splits.items()},
        max(len(images.class_names) for images in splits.values()),
        first.images.shape[1:],
    )


def _read(config: Config) -> dict[str, ImageSet]:
    find = {"idx": idx_splits, "folder": folder_splits, "npz": npz_splits}[config.source]
    found = find(config.path)
    wanted: dict[str, str | None]
    if found or config.source == "idx":
        wanted = {split: split for split in config.splits or found or ("train",)}
    elif len(config.splits) <= 1:
        wanted = dict.fromkeys(config.splits or ("train",))
    else:
        raise ValueError(
            f"{config.path} has no splits, so that it makes one, not {', '.join(config.splits)}."
        )
    splits = {}
    for name, split in wanted.items():
        images = load(config.source, split, path=config.path, size=config.size)
        if config.class_names:
            images = image_set(
                images.images,
                images.labels,
                class_names=config.class_names,
                origin=f"{config.path} ({name})",
            )
        splits[name] = images
    return splits


def main(args: Sequence[str] | None = None) -> None:
    """Run from the command line; wrong input ends with one sentence and exit code 2."""
    try:
        config = tyro.cli(
            Config, prog="python -m entropax.experiments.prepare", description=__doc__, args=args
        )
        result = run(config)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    shape = "x".join(str(size) for size in result.image_shape)
    for split, count in result.counts.items():
        print(f"{split}: {count:,} images of {shape}")
    print(f"{result.num_classes} classes" if result.num_classes else "no labels")
    print(f"written to {result.path}")
    split = next(iter(result.counts))
    place = f', data_dir="{config.data_dir}"' if config.data_dir is not None else ""
    print(f'use it with: entropax.data.load("{config.name}", "{split}"{place})')


if __name__ == "__main__":
    main()
