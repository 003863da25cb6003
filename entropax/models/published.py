"""Networks with their published weights, from a file or a folder as users have it."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import flax.linen as nn

from entropax.models import (
    convnext_names,
    keras_names,
    resnet_names,
    strided,
    transformer_names,
)
from entropax.models.convert import convert_recognised
from entropax.models.inputs import InputFormat
from entropax.models.preparation import TORCHVISION_FILES, published_inputs
from entropax.models.recognition import Recognised
from entropax.models.tensors import Tensors, load_tensors
from entropax.types import Variables

RECOGNISERS: tuple[Callable[[Tensors], Recognised | None], ...] = (
    resnet_names.recognise,
    transformer_names.recognise,
    convnext_names.recognise,
    keras_names.recognise,
    strided.recognise,
)


class Published(NamedTuple):
    """A network as it was published.

    Attributes:
      module: it takes normalised images; `normalised_inputs` puts their preparation in front.
      variables: its weights.
      inputs: how its images are prepared.
      unused: names of tensors that rightly have no place in the module.
    """

    module: nn.Module
    variables: Variables
    inputs: InputFormat
    unused: tuple[str, ...]


def load_published(path: str | Path, *, inputs: InputFormat | None = None) -> Published:
    """Read a file of weights, find out which network it is, and build that.

    Which files: those of torchvision (`resnet50-0676ba61.pth`), timm and Hugging Face
    (`model.safetensors`, alone or in a folder with its configuration) for the networks in
    `models.architectures`, and of some small networks for CIFAR-10 and MNIST. The architecture is
    that of the names and shapes in the file. Nothing is downloaded and no code in a file is run.

    For mixed precision, `published.module.clone(dtype=jnp.bfloat16)` takes the same variables.

    Args:
      path: the file, or a folder with `model.safetensors` or `pytorch_model.bin` in it.
      inputs: how images are prepared; by default what torchvision says of a file of that name,
        else what a `preprocessor_config.json` (Hugging Face) or `config.json` (timm) beside the
        weights says, else what the publisher's weights of this kind mostly expect.

    Raises:
      FileNotFoundError: there is no such file; the message says which ones are published.
      ValueError: the file is damaged or holds code, the network is none of these, or a tensor is
        missing, has another shape, or has no place; the message names it.
    """
    try:
        tensors = load_tensors(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error} {_what_is_published(Path(path))}") from error
    recognised = _recognised(tensors, Path(path))
    inputs = published_inputs(path, recognised.inputs) if inputs is None else inputs
    recognised = recognised._replace(inputs=inputs)
    try:
        variables, unused = convert_recognised(recognised)
    except ValueError as error:
        raise ValueError(f"{Path(path).name}: {error}") from error
    return Published(recognised.module, variables, recognised.inputs, unused)


def _recognised(tensors: Tensors, path: Path) -> Recognised:
    for name, value in tensors.items():
        if name.endswith(("weight", "kernel")) and not (value.ndim and value.size):
            raise ValueError(f"{path.name}: {name} is no weight, its shape is {value.shape}.")
    for recognise in RECOGNISERS:
        found = recognise(tensors)
        if found is not None:
            return found
    raise ValueError(
        f"{path.name} holds the weights of no network that is known here; its tensors are "
        f"{', '.join(list(tensors)[:5])}, ..."
    )


def _what_is_published(path: Path) -> str:
    """Files to look for, those of the network that the path seems to mean if there are some."""
    wanted = "".join(filter(str.isalnum, path.stem.lower()))
    names = [
        name
        for name in TORCHVISION_FILES
        if wanted and "".join(filter(str.isalnum, name.partition("-")[0])) == wanted
    ]
    return (
        f"Nothing is downloaded: get the file from its publisher and pass where it is. "
        f"torchvision publishes {', '.join(names or TORCHVISION_FILES)}; timm and Hugging Face a "
        "folder for each network, with model.safetensors and a configuration in it."
    )
