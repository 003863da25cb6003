"""Source networks: trained here and kept in the run folder, or published weights."""

import itertools
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from entropax.checkpoint import restore_variables, save_variables
from entropax.data import ImageSet
from entropax.models import ConvNet, ResNet, fit_classifier
from entropax.models import load_published as published_network
from entropax.models.inputs import IMAGENET_MEAN, IMAGENET_STD
from entropax.types import Array, Variables


class Mlp(nn.Module):
    """Dense layers, each with BatchNorm and ReLU, and a last one without.

    Attributes:
      num_classes: number of logits.
      widths: of the hidden layers.
    """

    num_classes: int
    widths: Sequence[int] = (256, 256)

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w channels"], train: bool = False
    ) -> Float[Array, "b c"]:
        """Return the logits `[b, num_classes]` of images `[b, h, w, channels]`."""
        x = x.reshape(len(x), -1)
        for i, width in enumerate(self.widths):
            x = nn.Dense(width, use_bias=False, name=f"dense{i}")(x)
            norm = nn.BatchNorm(use_running_average=not train, momentum=0.9, name=f"norm{i}")
            x = nn.relu(norm(x))
        return nn.Dense(self.num_classes, name="head")(x)


class Normalised(nn.Module):
    """A network that was trained on normalised images, on images in [0, 1].

    Attributes:
      network: `[b, h, w, channels]` to logits.
      mean: of each channel.
      std: of each channel.
    """

    network: nn.Module
    mean: Sequence[float] = IMAGENET_MEAN
    std: Sequence[float] = IMAGENET_STD

    @property
    def num_classes(self) -> int:
        """Number of logits."""
        return int(self.network.num_classes)

    def __call__(
        self, x: Float[Array, "b h w channels"], train: bool = False
    ) -> Float[Array, "b c"]:
        """Return the logits `[b, c]` of images `[b, h, w, channels]` in [0, 1]."""
        return self.network((x - jnp.asarray(self.mean)) / jnp.asarray(self.std), train)


class Network(NamedTuple):
    """A trained network.

    Attributes:
      name: of its architecture, or of the file it came from.
      seed: of its training; of the corruptions and streams that it meets.
      module: linen module; its `norm` layers are what adapts.
      variables: of the module.
    """

    name: str
    seed: int
    module: nn.Module
    variables: Variables


def is_dropout_site(network: Network) -> Callable[[str], bool] | None:
    """Where dropout goes for AETTA: behind each stage of a ResNet, else behind each norm layer."""
    module: Any = network.module
    while not isinstance(module, ResNet) and hasattr(module, "network"):
        module = module.network  # behind a normalisation of the inputs or a scale of the logits
    if not isinstance(module, ResNet):
        return None
    last = {f"residual_{n - 1}" for n in itertools.accumulate(module.stage_blocks)}
    return lambda path: path.split("/")[-1] in last


ARCHITECTURES: Mapping[str, Callable[[int], nn.Module]] = {
    "convnet": lambda classes: ConvNet(classes),
    "convnet-group": lambda classes: ConvNet(classes, norm="group"),
    "resnet": lambda classes: ResNet(classes, widths=(8, 16), blocks=1),
    "mlp": lambda classes: Mlp(classes),
}


def train_or_restore(
    name: str,
    seed: int,
    train: ImageSet,
    folder: Path,
    *,
    epochs: int | None,
    on_epoch: Callable[[int, int, float], None],
) -> Network:
    """The network of the folder, trained first if it is not there yet.

    Args:
      name: one of `ARCHITECTURES`.
      seed: of its initial weights and the order of the images.
      train: images with labels.
      folder: where the variables are kept.
      epochs: passes over the images; by default 4, or more until there are 600 steps.
      on_epoch: called with the epoch, their number and the loss.
    """
    assert train.labels is not None
    module = ARCHITECTURES[name](len(train.class_names))
    key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))
    place = folder / f"{name}-seed{seed}"
    if place.exists():
        example = jnp.zeros((1, *train.images.shape[1:]))
        like = jax.eval_shape(module.init, key, example)
        return Network(name, seed, module, restore_variables(place, like))
    batch_size = min(128, len(train) // 10)
    total = epochs or max(4, -(-600 * batch_size // len(train)))
    variables = fit_classifier(
        key,
        module,
        train.images,
        train.labels,
        epochs=total,
        batch_size=batch_size,
        learning_rate=5e-3,
        shift=1,
        on_epoch=lambda epoch, loss: on_epoch(epoch, total, loss),
    )
    save_variables(place, variables)
    return Network(name, seed, module, variables)


def load_published(path: Path, seeds: Sequence[int], images: ImageSet) -> list[Network]:
    """A published network; the seeds differ in what it meets, not in its weights.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is not a network for these images; the message names the file.
    """
    published = published_network(path)
    module: Any = published.module
    classes = len(images.class_names)
    if module.num_classes != classes:
        raise ValueError(
            f"{path}: the network has {module.num_classes} classes, the images have {classes}."
        )
    wrapped = {
        collection: {"network": values} for collection, values in published.variables.items()
    }
    _, _, _, mean, std, _ = published.inputs
    normalised = Normalised(module, mean, std)
    return [Network(path.stem, seed, normalised, wrapped) for seed in seeds]
