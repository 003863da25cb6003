"""Published weights as variables of linen modules: by name, and nothing missing in silence.

The names in a file become paths in the variables, and the arrays get the layout that linen has.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from entropax.models import resnet_names
from entropax.models.recognition import Recognised
from entropax.models.resnet import ResNet
from entropax.models.tensors import Tensors, load_tensors
from entropax.types import Variables

__all__ = [
    "Conversion",
    "Recognised",
    "cifar_resnet",
    "convert_recognised",
    "convert_tensors",
    "load_tensors",
]


class Conversion(NamedTuple):
    """What became of a file of weights.

    Attributes:
      variables: all of the module's.
      unused: names of tensors for which the module has no place.
    """

    variables: Variables
    unused: tuple[str, ...]


def convert_tensors(
    tensors: Tensors, like: Variables, rename: Callable[[str], str | None]
) -> Conversion:
    """Put tensors named and laid out as in torch into the variables of a linen module.

    The `weight` of a layer that is a matrix `[out, in]` is transposed, a kernel `[out, in, h, w]`
    becomes `[h, w, in, out]`, one of another number of axes likewise; a `weight` without such axes
    is a `scale`. Other tensors keep their axes. `num_batches_tracked`, which linen lacks, is
    dropped.

    Args:
      tensors: by name, from `load_tensors`.
      like: variables of the module or their shapes, as `jax.eval_shape(module.init, ...)` gives.
      rename: from the name of a torch layer, `layer1.0.conv1`, to its path in the module,
        `residual_0/first/conv`; None if the module has no such layer. A tensor that is no weight,
        bias or running statistic of a layer, such as `cls_token`, is asked for by its whole name
        first, and the answer is the path of the parameter, `class_token`.

    Returns:
      Variables in the module's dtypes, and what in the file was not used.

    Raises:
      ValueError: the file lacks a variable, has it twice or in another shape, or one that is not
        finite in the module's dtype; the message names them.

    >>> import flax.linen as nn
    >>> like = jax.eval_shape(nn.Dense(3).init, jax.random.key(0), jnp.zeros((1, 2)))
    >>> tensors = {"fc.weight": np.ones((3, 2)), "fc.bias": np.zeros(3), "scale": np.ones(1)}
    >>> found = convert_tensors(tensors, like, lambda layer: "" if layer == "fc" else None)
    >>> found.variables["params"]["kernel"].shape, found.unused
    ((2, 3), ('scale',))
    """
    expected = traverse_util.flatten_dict(like, sep="/")
    found: dict[str, np.ndarray] = {}
    unused = []
    for name, value in tensors.items():
        leaf = name.rpartition(".")[2]
        if leaf == "num_batches_tracked":
            continue
        target = _target(name, rename, value.ndim)
        if target is None or target not in expected:
            unused.append(name)
            continue
        if target in found:
            raise ValueError(f"Two tensors belong to {target}; the second one is {name}.")
        turned = leaf == "weight" and value.ndim > 1
        found[target] = value.transpose(*range(2, value.ndim), 1, 0) if turned else value
    problems = [f"{path} is not there" for path in sorted(expected.keys() - found.keys())]
    problems += [
        f"{path} is {found[path].shape}, expected {expected[path].shape}"
        for path in sorted(found)
        if found[path].shape != expected[path].shape
    ]
    if problems:
        raise ValueError(
            f"These are weights of another network: {'; '.join(problems[:5])}"
            + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
            + (f"; not used: {', '.join(unused[:5])}" if unused else "")
            + "."
        )
    leaves = {path: jnp.asarray(found[path], expected[path].dtype) for path in expected}
    if broken := [path for path, leaf in leaves.items() if not jnp.isfinite(leaf).all()]:
        raise ValueError(f"These weights hold NaN or infinity: {', '.join(broken[:5])}.")
    return Conversion(traverse_util.unflatten_dict(leaves, sep="/"), tuple(unused))


def _target(name: str, rename: Callable[[str], str | None], ndim: int) -> str | None:
    """Where linen keeps what torch calls `name`."""
    layer, _, leaf = name.rpartition(".")
    leaves = {
        "weight": "params kernel" if ndim > 1 else "params scale",
        "bias": "params bias",
        "running_mean": "batch_stats mean",
        "running_var": "batch_stats var",
    }
    if leaf not in leaves and (path := rename(name)):
        return f"params/{path}"
    path = rename(layer)
    if path is None:
        return None
    collection, _, name = leaves.get(leaf, f"params {leaf}").partition(" ")
    return "/".join(part for part in (collection, path, name) if part)


def convert_recognised(recognised: Recognised) -> Conversion:
    """The variables of a network that was recognised in a file of weights.

    Returns:
      Variables, and the names of the tensors that rightly have no place in the module.

    Raises:
      ValueError: a variable is missing or has another shape, or the module has no place for a
        tensor; the message names them.
    """
    module, tensors, rename, inputs, ignored = recognised
    image = jax.ShapeDtypeStruct((1, inputs.crop, inputs.crop, len(inputs.mean)), jnp.float32)
    like = jax.eval_shape(module.init, jax.random.key(0), image)
    variables, unused = convert_tensors(tensors, like, rename)
    left = [name for name in unused if not any(re.fullmatch(each, name) for each in ignored)]
    if left:
        raise ValueError(
            f"The network has no place for {', '.join(left[:5])}"
            + (f" and {len(left) - 5} more." if len(left) > 5 else ".")
        )
    return Conversion(variables, unused)


def cifar_resnet(tensors: Tensors) -> tuple[ResNet, Variables]:
    """The residual network for CIFAR-10 of He et al. (ResNet-20, 32, 44, 56, 110) with its weights.

    Its tensors are named `conv1`, `bn1`, `layer1.0.conv1`, ..., `linear`, as in the repository
    akamaster/pytorch_resnet_cifar10. There it takes images normalised by the mean and deviation of
    ImageNet, `normalised_inputs`. `load_published` reads this network and others.

    Raises:
      ValueError: the tensors are another network's, such as one with convolutions in its shortcuts.

    Reference: K. He et al., "Deep residual learning for image recognition" (2015), section 4.2.
    """
    recognised = resnet_names.recognise(tensors)
    module = None if recognised is None else recognised.module
    if (
        recognised is None
        or not isinstance(module, ResNet)
        or module.shortcut != "zeros"
        or len(module.widths) != 3
        or not isinstance(module.blocks, int)
    ):
        raise ValueError(
            "A ResNet for CIFAR has three stages of equally many blocks, layer1 to layer3, no "
            f"weights in its shortcuts, and `linear`; the file holds {', '.join(list(tensors)[:5])}"
            ", ..."
        )
    return module, convert_recognised(recognised).variables
