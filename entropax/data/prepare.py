"""Write sets of images as a named data set, in the `array_record` format of tensorflow-datasets.

TensorFlow is not needed. What is written reads by `entropax.data.load_named` and by plain
`tfds.data_source(name, data_dir=..., split=..., download=False)`; for a name that
tensorflow-datasets itself knows, the latter looks for the version that it knows.
"""

import hashlib
import io
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from entropax.data.images import ImageSet

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_SPLIT = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_VERSION = re.compile(r"(0|[1-9]\d*)(\.(0|[1-9]\d*)){2}")
# The words that `entropax.data.load` takes for sources that are not prepared.
_TAKEN = ("digits", "folder", "idx", "npz")


def prepare(
    name: str,
    splits: Mapping[str, ImageSet],
    data_dir: str | Path,
    *,
    version: str = "1.0.0",
    encoding: str = "png",
    overwrite: bool = False,
    check: bool = True,
    on_image: Callable[[str], object] | None = None,
) -> Path:
    """Write a named data set, all of it or nothing.

    The files are made in a hidden folder of `data_dir` and moved to their place at the end; a run
    that is killed leaves at most that folder. Each split is stored in the order in which
    tensorflow-datasets shuffles examples numbered from 0: it depends on the split's name and
    length alone, and the same input gives the same bytes.

    Args:
      name: lower-case letters, digits and `_`.
      splits: the images of each split, at least one; all labelled, with the same classes, or none.
      data_dir: the folder of prepared data sets.
      version: three numbers.
      encoding: "png" is lossless, "jpeg" is smaller and not.
      overwrite: replace a data set of the same name and version.
      check: read everything back before moving it, and compare: images and labels for "png",
        labels for "jpeg".
      on_image: called with the split's name after each image, for a progress bar.

    Returns:
      `data_dir/name/version`.

    Raises:
      FileExistsError: it is there already and `overwrite` is false.
      ValueError: a malformed name, version or split name; splits that do not go together.
      RuntimeError: what was read back is not what was written.
    """
    data_dir = Path(data_dir).expanduser()
    target = target_folder(name, version, data_dir, overwrite=overwrite)
    if encoding not in ("png", "jpeg"):
        raise ValueError(f"`encoding` must be 'png' or 'jpeg', got {encoding!r}.")
    class_names = _common_classes(name, splits)
    data_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".preparing-", dir=data_dir) as staging:
        made = Path(staging, name, version)
        made.mkdir(parents=True)
        _write(made, name, version, splits, class_names, encoding, on_image or (lambda split: None))
        if check:
            for split, images in splits.items():
                _compare(name, split, images, Path(staging), pixels=encoding == "png")
        target.parent.mkdir(exist_ok=True)
        if target.exists():
            os.replace(target, Path(staging, "replaced"))
        os.replace(made, target)
    return target


def target_folder(
    name: str, version: str, data_dir: str | Path, *, overwrite: bool = False
) -> Path:
    """Where `prepare` will write, or why it cannot: worth asking before images are loaded.

    Raises:
      FileExistsError: it is there already and `overwrite` is false.
      ValueError: a malformed name or version.
    """
    if not _NAME.fullmatch(name) or name in _TAKEN:
        raise ValueError(
            "The name of a data set is made of lower-case letters, digits and `_`, begins with a "
            f"letter, and is none of {', '.join(_TAKEN)}; got {name!r}."
        )
    if not _VERSION.fullmatch(version):
        raise ValueError(f"The version must be three numbers such as 1.0.0, got {version!r}.")
    target = Path(data_dir).expanduser() / name / version
    if target.exists() and not overwrite:
        raise FileExistsError(f"{target} exists already; pass overwrite to replace it.")
    return target


def _common_classes(name: str, splits: Mapping[str, ImageSet]) -> tuple[str, ...] | None:
    """The class names shared by the splits, None if they are unlabelled."""
    if not splits:
        raise ValueError(f"There is no split to write for {name!r}.")
    for split in splits:
        if not _SPLIT.fullmatch(split) or split == "all":
            raise ValueError(
                "The name of a split is made of letters, digits and `_`, begins with a letter, "
                f"and is not 'all'; got {split!r}."
            )
    channels = {split: images.images.shape[-1] for split, images in splits.items()}
    if len(set(channels.values())) > 1:
        raise ValueError(f"The splits of {name!r} mix grey and RGB images: channels {channels}.")
    labelled = {split: images.labels is not None for split, images in splits.items()}
    if not any(labelled.values()):
        return None
    if not all(labelled.values()):
        without = next(split for split, known in labelled.items() if not known)
        raise ValueError(
            f"The split {without!r} of {name!r} has no labels but others have; prepare it under "
            "another name."
        )
    longest = max((images.class_names for images in splits.values()), key=len)
    for split, images in splits.items():
        # A split in which the last classes do not occur may not know of them.
        if images.class_names != longest[: len(images.class_names)]:
            raise ValueError(
                f"The classes of the split {split!r} of {name!r} are {images.class_names[:5]}..., "
                f"those of another split {longest[:5]}...; they must be the same."
            )
    for class_name in longest:
        # They are stored one a line, and read back without the blanks around them.
        if not class_name.strip() or class_name != class_name.strip() or "\n" in class_name:
            raise ValueError(
                f"A class name is one line without blanks around it, got {class_name!r}."
            )
    return longest


def _write(
    folder: Path,
    name: str,
    version: str,
    splits: Mapping[str, ImageSet],
    class_names: tuple[str, ...] | None,
    encoding: str,
    on_image: Callable[[str], object],
) -> None:
    import tensorflow_datasets as tfds
    from array_record.python import array_record_module

    infos = []
    for split, images in splits.items():
        file = f"{name}-{split}.array_record-00000-of-00001"
        # One record a group: random access then reads no more than the record it wants.
        writer = array_record_module.ArrayRecordWriter(str(folder / file), "group_size:1")
        num_bytes = 0
        for i in _shuffled(split, len(images)):
            label = None if images.labels is None else int(images.labels[i])
            record = _record(images.images[i], label, encoding)
            writer.write(record)
            num_bytes += len(record)
            on_image(split)
        writer.close()
        template = tfds.core.ShardedFileTemplate(
            data_dir=folder, dataset_name=name, split=split, filetype_suffix="array_record"
        )
        infos.append(
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=[len(images)],
                num_bytes=num_bytes,
                filename_template=template,
            )
        )
    shapes = {images.images.shape[1:] for images in splits.values()}
    height, width, channels = zip(*shapes, strict=True)
    shape = tuple(sizes[0] if len(set(sizes)) == 1 else None for sizes in (height, width, channels))
    features = {"image": tfds.features.Image(shape=shape, encoding_format=encoding)}
    if class_names is not None:
        features["label"] = tfds.features.ClassLabel(names=list(class_names))
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=features,
        split_infos=infos,
        version=version,
        supervised_keys=("image", "label") if class_names is not None else None,
        check_data=False,  # it would need TensorFlow
    )


def _shuffled(split: str, n: int) -> list[int]:
    """The order in which tensorflow-datasets stores examples that are numbered from 0."""
    salted = hashlib.md5(split.encode(), usedforsecurity=False)

    def key(i: int) -> bytes:
        digest = salted.copy()
        digest.update(str(i).encode())
        return digest.digest()

    return sorted(range(n), key=key)


def _record(image: np.ndarray, label: int | None, encoding: str) -> bytes:
    from PIL import Image
    from tensorflow_datasets.proto import tf_example_pb2, tf_feature_pb2

    encoded = io.BytesIO()
    pixels = image[..., 0] if image.shape[-1] == 1 else image
    options = {"quality": 95} if encoding == "jpeg" else {}
    Image.fromarray(pixels).save(encoded, encoding, **options)
    values = {
        "image": tf_feature_pb2.Feature(
            bytes_list=tf_feature_pb2.BytesList(value=[encoded.getvalue()])
        )
    }
    if label is not None:
        values["label"] = tf_feature_pb2.Feature(int64_list=tf_feature_pb2.Int64List(value=[label]))
    example = tf_example_pb2.Example(features=tf_feature_pb2.Features(feature=values))
    return example.SerializeToString(deterministic=True)


def _compare(name: str, split: str, written: ImageSet, data_dir: Path, *, pixels: bool) -> None:
    from entropax.data.named import load_named

    read = load_named(name, split, data_dir=data_dir)
    order = np.array(_shuffled(split, len(written)))
    same = len(read) == len(written) and read.images.shape == written.images.shape
    if same and written.labels is not None:
        same = read.labels is not None and np.array_equal(read.labels, written.labels[order])
    if same and pixels:
        same = all(np.array_equal(read.images[k], written.images[i]) for k, i in enumerate(order))
    if not same:
        raise RuntimeError(
            f"The split {split!r} of {name!r} does not read back as it was written; nothing was "
            "kept."
        )
