"""What a family of networks says of tensors that it knows."""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn

from entropax.models.inputs import InputFormat
from entropax.models.tensors import Tensors


class Recognised(NamedTuple):
    """A network found in a file of weights, by the names and shapes of its tensors.

    Each family has a function `recognise(tensors) -> Recognised | None`: None for tensors of
    another family, a ValueError for a network of this family that the module cannot be.

    Attributes:
      module: the network.
      tensors: its weights, perhaps re-arranged, for `convert_tensors`.
      rename: from torch's names to paths in the module, for `convert_tensors`.
      inputs: what weights of this kind expect where no file beside them says otherwise.
      ignored: regular expressions; a tensor whose whole name matches one of them rightly has no
        place in the module.
    """

    module: nn.Module
    tensors: Tensors
    rename: Callable[[str], str | None]
    inputs: InputFormat
    ignored: tuple[str, ...] = ()
