"""Published weights as variables of linen modules: by name, and nothing missing in silence.

A file of weights is read without running anything that is in it. The names in it become paths in
the variables, and the arrays get the layout that linen has.
"""

import pickle
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jaxtyping import Shaped

from entropax.models.resnet import ResNet
from entropax.types import Variables

Tensors = dict[str, Shaped[np.ndarray, "..."]]


class Conversion(NamedTuple):
    """What became of a file of weights.

    Attributes:
      variables: all of the module's.
      unused: names of tensors for which the module has no place.
    """

    variables: Variables
    unused: tuple[str, ...]


def load_tensors(path: str | Path) -> Tensors:
    """Read a file of named tensors: .npz, .safetensors, or what torch saves (.pth, .pt, .th).

    The latter needs torch, .safetensors the package of that name. A dictionary inside a dictionary
    (`state_dict`, `model`) is taken out, and a common prefix `module.` is taken off.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is of another kind, it is damaged, or it holds more than arrays, such as code.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file of weights at {path}.")
    readers = {".npz": _npz, ".safetensors": _safetensors}
    readers |= dict.fromkeys((".pth", ".pt", ".th"), _torch)
    if path.suffix not in readers:
        raise ValueError(f"Weights come as {', '.join(readers)}, got {path.name}.")
    tensors = readers[path.suffix](path)
    if tensors and all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): value for name, value in tensors.items()}
    return tensors


def _npz(path: Path) -> Tensors:
    try:
        with zipfile.ZipFile(path), path.open("rb") as opened:
            file = np.load(opened, allow_pickle=False)
            return {name: file[name] for name in file.files}
    except (ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is not an .npz file of plain arrays: {error}") from error


def _safetensors(path: Path) -> Tensors:
    try:
        from safetensors import SafetensorError
        from safetensors.flax import load_file
    except ImportError as error:
        raise ValueError(f"Reading {path.name} takes `pip install safetensors`.") from error
    try:
        return {name: np.asarray(value) for name, value in load_file(path).items()}
    except SafetensorError as error:
        raise ValueError(f"{path} is not a file of tensors: {error}") from error


def _torch(path: Path) -> Tensors:
    try:
        import torch
    except ImportError as error:
        raise ValueError(
            f"Reading {path.name} takes torch; or save its tensors as .npz or .safetensors where "
            "torch is installed."
        ) from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        # Torch's own message advises to run what is in the file.
        raise ValueError(
            f"{path} is damaged, or holds more than tensors, such as code, which is not run."
        ) from error
    for name in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    if not isinstance(content, Mapping) or not all(map(torch.is_tensor, content.values())):
        raise ValueError(f"{path} does not hold a dictionary of tensors.")
    # NumPy has no bfloat16 of its own.
    return {
        name: (value.float() if value.dtype == torch.bfloat16 else value).detach().numpy()
        for name, value in content.items()
    }


def convert_tensors(
    tensors: Tensors, like: Variables, rename: Callable[[str], str | None]
) -> Conversion:
    """Put tensors named and laid out as in torch into the variables of a linen module.

    A matrix `[out, in]` is transposed, a kernel `[out, in, h, w]` becomes `[h, w, in, out]`, one of
    another number of axes likewise; a `weight` without such axes is a `scale`.
    `num_batches_tracked`, which linen lacks, is dropped.

    Args:
      tensors: by name, from `load_tensors`.
      like: variables of the module or their shapes, as `jax.eval_shape(module.init, ...)` gives.
      rename: from the name of a torch layer, `layer1.0.conv1`, to its path in the module,
        `residual_0/first/conv`; None if the module has no such layer.

    Returns:
      Variables in the module's dtypes, and what in the file was not used.

    Raises:
      ValueError: the file lacks a variable, has it twice or in another shape; the message names
        them.

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
        layer, _, leaf = name.rpartition(".")
        path = rename(layer)
        if leaf == "num_batches_tracked":
            continue
        if path is None or (target := _target(path, leaf, value.ndim)) not in expected:
            unused.append(name)
            continue
        if target in found:
            raise ValueError(f"Two tensors belong to {target}; the second one is {name}.")
        axes = (*range(2, value.ndim), 1, 0) if value.ndim > 1 else (0,) * value.ndim
        found[target] = value.transpose(axes)
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
    return Conversion(traverse_util.unflatten_dict(leaves, sep="/"), tuple(unused))


def _target(path: str, leaf: str, ndim: int) -> str:
    """Where linen keeps what torch calls `leaf` of a layer."""
    names = {
        "weight": "params kernel" if ndim > 1 else "params scale",
        "bias": "params bias",
        "running_mean": "batch_stats mean",
        "running_var": "batch_stats var",
    }
    collection, _, name = names.get(leaf, f"params {leaf}").partition(" ")
    return "/".join(part for part in (collection, path, name) if part)


def cifar_resnet(tensors: Tensors) -> tuple[ResNet, Variables]:
    """The residual network for CIFAR-10 of He et al. (ResNet-20, 32, 44, 56, 110) with its weights.

    Its tensors are named `conv1`, `bn1`, `layer1.0.conv1`, ..., `linear`, as in the repository
    akamaster/pytorch_resnet_cifar10. There it takes images normalised by the mean and deviation of
    ImageNet, `normalised_inputs`.

    Raises:
      ValueError: the tensors are another network's, such as one with convolutions in its shortcuts.

    Reference: K. He et al., "Deep residual learning for image recognition" (2015), section 4.2.
    """
    number = [len(_matches(rf"layer{stage}\.(\d+)\.conv1\.weight", tensors)) for stage in (1, 2, 3)]
    kernels = [tensors.get(f"layer{stage}.0.conv1.weight") for stage in (1, 2, 3)]
    head = tensors.get("linear.weight")
    if head is None or any(kernel is None for kernel in kernels) or len(set(number)) > 1:
        raise ValueError(
            "A ResNet for CIFAR has three stages of equally many blocks, layer1 to layer3, and "
            f"`linear`; the file holds {', '.join(list(tensors)[:5])}, ..."
        )
    module = ResNet(
        num_classes=len(head),
        widths=tuple(len(kernel) for kernel in kernels if kernel is not None),
        blocks=number[0],
        shortcut="zeros",
        padding=1,
    )

    def rename(layer: str) -> str | None:
        if layer in (outer := {"conv1": "stem/conv", "bn1": "stem/norm", "linear": "head"}):
            return outer[layer]
        block = re.fullmatch(r"layer([123])\.(\d+)\.(conv|bn)([12])", layer)
        if block is None:
            return None
        stage, index, kind, place = block.groups()
        residual = (int(stage) - 1) * number[0] + int(index)
        return f"residual_{residual}/{('first', 'second')[int(place) - 1]}/" + (
            "conv" if kind == "conv" else "norm"
        )

    like = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    variables, unused = convert_tensors(tensors, like, rename)
    if unused:
        raise ValueError(
            f"The network has no place for {', '.join(unused[:5])}"
            + (f" and {len(unused) - 5} more." if len(unused) > 5 else ".")
        )
    return module, variables


def _matches(pattern: str, names: Mapping[str, object]) -> list[str]:
    return [name for name in names if re.fullmatch(pattern, name)]
