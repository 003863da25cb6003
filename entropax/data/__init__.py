"""Images to measure entropy on: where they come from.

- `load`: any of the sources below, by a word and a split; the programs call this.
- `images`: `ImageSet`, what every source returns, and `image_set`, which builds and checks one.
- `digits`, `idx`, `folder`, `arrays` (`.npz`), `named` (prepared by tensorflow-datasets, read
  without TensorFlow and without a network): one source a file.
- `image_folder`: folders that need not fit in memory, listed first and decoded on demand;
  `loader`: batches of them, decoded ahead in threads, a share for each process.
- `classes`, `imagenet`: names of classes and what number they have in a network, ImageNet's names,
  the folders of ImageNet-C; `subsets`: networks of 1,000 classes on sets of 200.
- `prepare`: write an `ImageSet` as a named data set; `python -m entropax.experiments.prepare`.
- `decoding`: encoded images to arrays, strictly; `Preprocessing`, how they come to one size.
- `corruptions`: common corruptions of images.
- `streams`: sets of images to streams of batches; `label_streams`: classes in runs, or of other
  frequencies; `shifts`: corruptions that change along a stream (continual, gradual, mixed, smooth).

Importing this package imports NumPy and nothing heavier, and not the streams and subsets, which
import JAX; scikit-learn, pillow, grain and tensorflow-datasets (the extra `entropax[data]`) are
imported by the files and functions that need them.
"""

from pathlib import Path

from entropax.data.arrays import load_npz
from entropax.data.digits import load_digits
from entropax.data.folder import load_folder, load_folder_split
from entropax.data.idx import load_idx, read_idx
from entropax.data.images import ImageSet, image_set
from entropax.data.named import load_named

__all__ = [
    "ImageSet",
    "image_set",
    "load",
    "load_digits",
    "load_folder",
    "load_folder_split",
    "load_idx",
    "load_named",
    "load_npz",
    "read_idx",
]


def load(
    source: str,
    split: str | None,
    *,
    path: str | Path | None = None,
    data_dir: str | Path | None = None,
    size: int | None = None,
) -> ImageSet:
    """Load images by the name of their source.

    | `source`   | `path`                               | `split`                              |
    |------------|--------------------------------------|--------------------------------------|
    | `"digits"` | -                                    | `None` or `"all"`: it has no splits  |
    | `"idx"`    | folder of `train-images-idx3-ubyte`  | `"train"` or `"test"`                |
    | `"folder"` | `path/SPLIT/CLASS/*.png`             | the name of a folder in `path`       |
    | `"folder"` | `path/CLASS/*.png` or `path/*.png`   | `None`: all there is                 |
    | `"npz"`    | file with `x_SPLIT`, `y_SPLIT`       | the name of a split                  |
    | `"npz"`    | file with `x` and perhaps `y`        | `None`: all there is                 |
    | any other  | -: a data set prepared in `data_dir` | `"train"`, `"test[:1000]"`, `"all"`  |

    Args:
      source: see the table.
      split: see the table.
      path: where the files of `"idx"`, `"folder"` and `"npz"` are.
      data_dir: where named data sets are prepared; by default `$TFDS_DATA_DIR` or
        `~/tensorflow_datasets`.
      size: for folders and named data sets, resize the shorter side to this many pixels, then cut
        out the central square.

    Raises:
      FileNotFoundError: the files, the split or the named data set are not there.
      ValueError: an option that the source needs or does not take, or damaged data.

    Example:
      >>> len(load("digits", "all"))
      1797
    """
    files = source in ("idx", "folder", "npz")
    if files and path is None:
        raise ValueError(f"The source {source!r} needs `path`, the place of its files.")
    if not files and path is not None:
        raise ValueError(
            f"The source {source!r} takes no `path`, got {path}; pass 'idx', 'folder' or 'npz' as "
            "the source to read files from there."
        )
    if data_dir is not None and (files or source == "digits"):
        raise ValueError(f"The source {source!r} takes no `data_dir`, got {data_dir}.")
    if size is not None and source in ("digits", "idx", "npz"):
        raise ValueError(f"The images of {source!r} have one size; `size` is for encoded images.")
    match source:
        case "digits":
            if split not in (None, "all"):
                raise ValueError(
                    f"The digits come without splits, got split={split!r}; load them all and "
                    "divide them."
                )
            return load_digits()
        case "idx" if path is not None:
            if split is None:
                raise ValueError("IDX folders hold the splits 'train' and 'test'; pass one.")
            return load_idx(path, split)
        case "folder" if path is not None:
            if split is None:
                return load_folder(path, size=size)
            return load_folder_split(path, split, size=size)
        case "npz" if path is not None:
            return load_npz(path, split)
    if split is None:
        raise ValueError(f"Which split of {source!r}? Pass for instance split='test'.")
    return load_named(source, split, data_dir=data_dir, size=size)
