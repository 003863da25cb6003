"""Published networks for folders of images: what they are called, take and know."""

import os
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from entropax.data.decoding import Preprocessing
from entropax.data.folder import SPLITS, class_folders
from entropax.data.image_folder import ImageFolder, index_folder
from entropax.data.imagenet import CORRUPTION_GROUPS, corruption_folders, imagenet_classes
from entropax.models import (
    InputFormat,
    batch_statistics,
    load_published,
    normalised_inputs,
    running_statistics,
)
from entropax.types import ApplyFn, Variables

SEVERITIES = ("1", "2", "3", "4", "5")
# Images of a folder whose bytes tell it from another one.
_SAMPLED = 64


@dataclass(frozen=True)
class InputOptions:
    """How published networks read images; part of a program's `Config`."""

    resize: int | None = None
    """Pixels of the shorter side; like the next four, by default what the weights expect."""
    crop: int | None = None
    """Side of the central square that is cut out."""
    interpolation: Literal["bilinear", "bicubic", "nearest"] | None = None
    """Of the resizing."""
    mean: tuple[float, ...] | None = None
    """Subtracted from each channel of images in [0, 1]."""
    std: tuple[float, ...] | None = None
    """What each channel is divided by then."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the activations; weights, statistics and logits stay float32."""
    classes: Path | None = None
    """Text file with the class folder of each logit, one a line; 1,000 logits are ImageNet's."""
    workers: int | None = None
    """Threads that decode images; by default one for each core."""
    on_error: Literal["stop", "skip"] = "stop"
    """What to do with what cannot be read."""

    def __post_init__(self) -> None:
        if self.classes is not None:
            object.__setattr__(self, "classes", Path(self.classes))  # a string does as well
        for name in ("resize", "crop", "workers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}.")
        if self.std is not None and not all(each > 0 for each in self.std):
            raise ValueError(f"`std` must be positive for each channel, got {self.std}.")


class Network(NamedTuple):
    """A published network.

    Attributes:
      name: of its file.
      module: it takes normalised images.
      variables: its weights.
      inputs: how images are prepared.
    """

    name: str
    module: nn.Module
    variables: Variables
    inputs: InputFormat

    @property
    def num_classes(self) -> int:
        """Number of logits."""
        return int(self.module.num_classes)

    @property
    def preprocessing(self) -> Preprocessing:
        """What an image file goes through before the network."""
        resize, crop, interpolation, mean, _, squash = self.inputs
        size = (resize, resize) if squash else resize
        return Preprocessing(size, crop, interpolation, channels=len(mean))

    def source_fn(self) -> ApplyFn:
        """`apply_fn(variables, x)` on images in [0, 1], with running statistics."""
        return self._normalised(running_statistics(self.module))

    def batch_fn(self) -> ApplyFn:
        """`apply_fn(variables, x, where=None)` on images in [0, 1], with batch statistics."""
        return self._normalised(batch_statistics(self.module))

    def _normalised(self, apply_fn: ApplyFn) -> ApplyFn:
        return normalised_inputs(apply_fn, mean=self.inputs.mean, std=self.inputs.std)


def load_network(path: Path, options: InputOptions) -> Network:
    """Read published weights, and prepare images as the options say or else as these expect.

    A warning tells where the options differ from what the weights expect.

    Raises:
      FileNotFoundError: there is no such file; the message says which ones are published.
      ValueError: it is no file of weights, or of a network that is not known.
    """
    published = load_published(path)
    given = {
        name: getattr(options, name)
        for name in ("resize", "crop", "interpolation", "mean", "std")
        if getattr(options, name) is not None
    }
    inputs = published.inputs._replace(**given)
    differing = [
        f"`{name}` is {getattr(inputs, name)}, they expect {getattr(published.inputs, name)}"
        for name in given
        if getattr(inputs, name) != getattr(published.inputs, name)
    ]
    if differing:
        warnings.warn(f"{path.name}: {'; '.join(differing)}.", stacklevel=2)
    channels = len(published.inputs.mean)
    if len(inputs.mean) != channels or len(inputs.std) != channels:
        raise ValueError(
            f"`mean` and `std` need {channels} numbers each, one for each channel that "
            f"{path.name} takes; got {inputs.mean} and {inputs.std}."
        )
    module = published.module
    if options.precision == "bfloat16":
        if not hasattr(module, "dtype"):
            raise ValueError(f"{path.name}: {type(module).__name__} has no mixed precision.")
        module = module.clone(dtype=jnp.bfloat16)
    return Network(network_name(path), module, published.variables, inputs)


def network_name(path: Path) -> str:
    """What a network is called: its file without the suffix, or its folder as it is.

    >>> network_name(Path("resnet50-0676ba61.pth"))
    'resnet50-0676ba61'
    """
    return path.resolve().name if path.is_dir() else path.stem


def image_split(path: Path) -> str | None:
    """`"test"` if a folder holds splits; None if the images, or the folders of classes, are in it.

    One that has a `train` and neither `val` nor `test` is none of splits: CIFAR-100 has a class of
    that name.
    """
    return "test" if any((path / name).is_dir() for name in SPLITS if name != "train") else None


def labelled_folder(path: Path, network: Network, options: InputOptions) -> ImageFolder:
    """List a folder of images, whose labels, if any, are numbers of the network's logits.

    A folder with the splits test or val is taken for its test or validation images.

    Raises:
      FileNotFoundError: there is no such folder.
      ValueError: it holds no images, or classes that the network does not know.
    """
    known = class_names(network, options)
    try:
        folder = index_folder(path, split=image_split(path), class_names=known)
    except ValueError as error:
        if known is None or options.classes is not None:
            raise
        raise ValueError(
            f"{error} A network of 1,000 classes is taken for one of ImageNet; for other classes "
            "name with --classes the folder of each logit."
        ) from error
    own = known is None and folder.labels is not None
    if own and len(folder.class_names) != network.num_classes:
        raise ValueError(
            f"{path} has {len(folder.class_names)} class folders and {network.name} "
            f"{network.num_classes} classes; name with --classes the folder of each logit."
        )
    return folder


def class_names(network: Network, options: InputOptions) -> tuple[str, ...] | None:
    """The class folders in the order of the logits, or None if they are those of each folder.

    Raises:
      OSError: the file of the classes cannot be read.
      ValueError: it has not one line a class.
    """
    if options.classes is None:
        return imagenet_classes() if network.num_classes == 1000 else None
    names = tuple(options.classes.read_text(encoding="utf-8").split("\n"))
    names = names[:-1] if names[-1] == "" else names
    if len(names) != network.num_classes or len(set(names)) < len(names) or "" in names:
        raise ValueError(
            f"{options.classes} must name {network.num_classes} different classes, one a line, "
            f"and has {len(names)} lines."
        )
    return names


def corrupted_folders(path: Path) -> dict[tuple[str, int], Path] | None:
    """Folders by corruption and severity if they lie as in ImageNet-C, otherwise None."""
    names = class_folders(path)
    if image_split(path):
        return None
    grouped = any(name in CORRUPTION_GROUPS for name in names)
    inner = [class_folders(path / name) for name in names]
    if grouped or (inner and all(found and set(found) <= set(SEVERITIES) for found in inner)):
        return corruption_folders(path)
    return None


def folder_checksum(folder: ImageFolder) -> int:
    """A number that tells one folder from another: names and sizes of files, labels, a few images.

    Corruptions of the same images have the same names, and those that are not compressed the same
    sizes. All bytes would take as long as the measurement.

    Raises:
      OSError: a file cannot be read.
    """
    files = [folder.root / file for file in folder.files]
    number = zlib.crc32("\n".join(folder.files).encode("utf-8", "surrogateescape"))
    number = zlib.crc32(np.array([os.stat(file).st_size for file in files]).tobytes(), number)
    if folder.labels is not None:
        number = zlib.crc32(folder.labels.tobytes(), number)
    for i in np.unique(np.linspace(0, len(files) - 1, _SAMPLED, dtype=int)):
        number = zlib.crc32(files[i].read_bytes(), number)
    return number


def weights_checksum(variables: Variables) -> int:
    """A number that tells one set of variables from another."""
    number = 0
    for leaf in jax.tree.leaves(variables):
        number = zlib.crc32(np.ascontiguousarray(leaf).tobytes(), number)
    return number
