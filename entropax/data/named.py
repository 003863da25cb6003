"""Named data sets prepared on disk by tensorflow-datasets, read without TensorFlow.

Nothing here can start a download: the directory is found first, by looking, and only then read.
`entropax.data.prepare` writes such directories; those that tensorflow-datasets itself wrote
with `file_format="array_record"` serve as well.
"""

import difflib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from entropax.data.images import ImageSet, image_set

_VERSION = re.compile(r"\d+\.\d+\.\d+")
_FORMAT = "array_record"
# Records are read in blocks: to read one alone takes a time proportional to the whole file.
_BLOCK = 4096


def default_data_dir() -> Path:
    """Where prepared data sets are by default: `$TFDS_DATA_DIR` or `~/tensorflow_datasets`."""
    return Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()


def load_named(
    name: str, split: str, *, data_dir: str | Path | None = None, size: int | None = None
) -> ImageSet:
    """Load a split of a prepared data set; needs neither TensorFlow nor a network.

    The order is that of the prepared files: shuffled, but always the same.

    Args:
      name: `mnist`, `imagenet2012_corrupted/fog_3` or, with a version, `mnist:3.0.1`; without
        one the newest is taken.
      split: `train`, `test[:1000]`, `train[80%:]`, `train+test`, `all`: any split expression of
        tensorflow-datasets.
      data_dir: the folder of prepared data sets; by default `default_data_dir()`.
      size: resize the shorter side to this many pixels, then cut out the central square;
        None demands images of equal size.

    Returns:
      The features `image` and `label`, or else those the data set calls its supervised keys.
      Labels are None if the data set has no feature but the image, or if they are all -1.

    Raises:
      FileNotFoundError: the data set, its split, or its `array_record` files are not there.
        The message says where it looked, what is there, and the command that prepares it.
      ValueError: a malformed split expression, features that are not an image and a class,
        damaged files, images of several sizes.
    """
    folder = _folder(data_dir)
    prepared = _choose(name, split, folder)
    # Here and not at the top: the import takes half a second, and messages should not wait for it.
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(prepared.path)
    image_key, label_key = _keys(builder.info, prepared.path)
    origin = f"{prepared.path} ({split})"
    try:
        source = builder.as_data_source(
            split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
        )
        n = len(source)
    except ValueError as error:
        raise ValueError(
            f"The split {split!r} of {prepared.path} cannot be read or is empty: {error}"
        ) from error
    try:
        images, labels = _decode(source, n, image_key, label_key, size, origin)
    except RuntimeError as error:  # array_record: a missing file, or a checksum that fails
        raise ValueError(
            f"{prepared.path}: the files of {split!r} are damaged or missing; prepare the data set "
            f"again. {error}"
        ) from error
    if labels is None or (labels == -1).all():
        return image_set(images, origin=origin)
    names = _class_names(builder.info.features[label_key])
    return image_set(images, labels, class_names=names, origin=origin)


class _Prepared(NamedTuple):
    """A directory `data_dir/name[/config]/version` that was prepared."""

    name: str
    version: tuple[int, ...]
    path: Path
    formats: frozenset[str]
    splits: tuple[str, ...]


def _folder(data_dir: str | Path | None) -> Path:
    if data_dir is None:
        return default_data_dir()
    if "://" in str(data_dir):
        raise ValueError(f"The data folder must be on a local or mounted disk, got {data_dir}.")
    return Path(data_dir).expanduser()


def _prepared(folder: Path) -> Iterator[_Prepared]:
    """Every data set prepared in `folder`, sorted by path."""
    found = [*folder.glob("*/*/dataset_info.json"), *folder.glob("*/*/*/dataset_info.json")]
    for file in sorted(found):
        path = file.parent
        if not _VERSION.fullmatch(path.name) or not (path / "features.json").is_file():
            continue
        try:
            info = json.loads(file.read_text())
        except ValueError as error:
            raise ValueError(f"{file}: this is not JSON; prepare it again. {error}") from error
        yield _Prepared(
            path.parent.relative_to(folder).as_posix(),
            tuple(int(part) for part in path.name.split(".")),
            path,
            frozenset(
                {info.get("fileFormat", "tfrecord"), *info.get("alternativeFileFormats", ())}
            ),
            tuple(split["name"] for split in info.get("splits", ())),
        )


def _choose(name: str, split: str, folder: Path) -> _Prepared:
    wanted, _, version = name.partition(":")
    everything = list(_prepared(folder))
    candidates = [p for p in everything if p.name == wanted]
    if not candidates:
        # A data set whose only configuration was prepared needs no more than its name.
        configs = {p.name for p in everything if p.name.startswith(f"{wanted}/")}
        if len(configs) == 1:
            candidates = [p for p in everything if p.name in configs]
        elif configs:
            raise FileNotFoundError(
                f"{name!r} is prepared in {folder} in several configurations; pass one of "
                f"{', '.join(sorted(configs))}."
            )
    if not candidates:
        raise FileNotFoundError(
            f"The data set {name!r} is not prepared in {folder}, where there "
            f"{_listing(wanted, everything)}. {_command(wanted, folder)}"
        )
    if version:
        versions = ", ".join(p.path.name for p in candidates)
        candidates = [p for p in candidates if p.path.name == version]
        if not candidates:
            raise FileNotFoundError(
                f"{wanted!r} is prepared in {folder}, but not in version {version}; there is "
                f"{versions}."
            )
    readable = [p for p in candidates if _FORMAT in p.formats]
    if not readable:
        last = max(candidates, key=lambda p: p.version)
        raise FileNotFoundError(
            f"{last.path} is prepared as {', '.join(sorted(last.formats))}, which takes TensorFlow "
            f"to read; it is needed as {_FORMAT}. Prepare it into another folder, with "
            f'file_format="{_FORMAT}" or from the raw files: {_command(wanted, folder)}'
        )
    newest = max(readable, key=lambda p: p.version)
    parts = [part.partition("[")[0].strip() for part in split.split("+")]
    if missing := [part for part in parts if part not in (*newest.splits, "all")]:
        raise FileNotFoundError(
            f"{newest.path} has no split {missing[0]!r}; it has {', '.join(newest.splits)}."
        )
    return newest


def _listing(wanted: str, everything: list[_Prepared]) -> str:
    names = sorted({p.name for p in everything})
    if not names:
        return "is no prepared data set"
    shown = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
    close = difflib.get_close_matches(wanted, names)
    return f"is {shown}" + (f" (did you mean {' or '.join(close)}?)" if close else "")


def _command(name: str, folder: Path) -> str:
    return (
        "To prepare it from raw files (--source idx, folder or npz): "
        f"python -m entropax.experiments.prepare --name {name} --source idx --path RAW_FILES "
        f"--data-dir {folder}"
    )


def _keys(info: Any, path: Path) -> tuple[str, str | None]:
    """The features that hold the image and the class; None for a set of images alone."""
    from tensorflow_datasets import features as kinds

    features = dict(info.features)
    image_key, label_key = "image", "label" if len(features) > 1 else None
    if not {image_key, label_key or image_key} <= set(features):
        keys = info.supervised_keys
        if not keys or len(keys) != 2 or not all(key in features for key in keys):
            raise ValueError(
                f"{path}: which features are the image and its label is not known: there are no "
                f"`image` and `label` among {', '.join(sorted(features))}, and no supervised keys."
            )
        image_key, label_key = keys
    image = features[image_key]
    if not isinstance(image, kinds.Image) or image.np_dtype != np.uint8:
        raise ValueError(f"{path}: the feature {image_key!r} must be a uint8 image, got {image}.")
    if label_key is not None:
        label = features[label_key]
        if label.shape != () or not np.issubdtype(label.np_dtype, np.integer):
            raise ValueError(
                f"{path}: the feature {label_key!r} must be one integer an image, got {label}."
            )
    return image_key, label_key


def _decode(
    source: Any, n: int, image_key: str, label_key: str | None, size: int | None, where: str
) -> tuple[np.ndarray, np.ndarray | None]:
    from tensorflow_datasets.proto import tf_example_pb2

    from entropax.data.decoding import decode_images

    labels: list[int] = []

    # The records are parsed here because the general decoder of tensorflow-datasets is slower,
    # decodes the features that are not asked for, and leaves palette images as indices.
    def encoded() -> Iterator[bytes]:
        for start in range(0, n, _BLOCK):
            for record in source.__getitems__(range(start, min(start + _BLOCK, n))):
                values = tf_example_pb2.Example.FromString(record).features.feature
                image = values[image_key].bytes_list.value
                label = values[label_key].int64_list.value if label_key is not None else [0]
                if not image or not label:
                    # Some files that were cut short give empty records instead of an error.
                    raise RuntimeError("A record holds no image or no label.")
                labels.append(label[0])
                yield image[0]

    images = decode_images(encoded(), name=lambda i: f"{where}, record {i}", size=size)
    return images, None if label_key is None else np.array(labels)


def _class_names(feature: Any) -> tuple[str, ...] | None:
    names = getattr(feature, "names", None)
    if names:
        return tuple(names)
    count = getattr(feature, "num_classes", None)
    return tuple(str(i) for i in range(count)) if count else None
