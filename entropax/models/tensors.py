"""Files of named tensors, read without running anything that is in them."""

import json
import pickle
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import ml_dtypes
import numpy as np
from jaxtyping import Shaped

Tensors = dict[str, Shaped[np.ndarray, "..."]]

# What a folder of weights may hold, in the order in which they are looked for.
FOLDER_FILES = (
    "model.safetensors.index.json",
    "model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
)
_INDEX = ".index.json"
# Dictionaries that training programs put round the weights.
_WRAPPERS = ("state_dict", "model", "model_state_dict")


def load_tensors(path: str | Path) -> Tensors:
    """Read named tensors: .npz, .safetensors, or what torch saves (.pth, .pt, .th, .bin).

    The latter need torch, .safetensors the package of that name. A folder is searched for
    `model.safetensors` and `pytorch_model.bin`, as Hugging Face names them; weights in several
    files are read by their `.index.json`. A dictionary inside a dictionary (`state_dict`, `model`)
    is taken out, and a common prefix `module.` is taken off.

    Returns:
      Arrays in the byte order of the machine. float16 stays what it is; bfloat16 does so in
      .safetensors and .npz, where NumPy writes it as two bytes without a type, and is widened to
      float32 in the files of torch.

    Raises:
      FileNotFoundError: there is no such file, or none of these in the folder.
      ValueError: it is of another kind, it is damaged, or it holds more than arrays, such as code.
    """
    path = weights_file(path)
    tensors = _indexed(path) if path.name.endswith(_INDEX) else _read(path)
    if tensors and all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): value for name, value in tensors.items()}
    return {name: _native(name, value, path) for name, value in tensors.items()}


def weights_file(path: str | Path) -> Path:
    """The file that `load_tensors` reads: the path itself, or what it finds in a folder.

    Raises:
      FileNotFoundError: there is none.
    """
    path = Path(path)
    if path.is_dir():
        found = [path / name for name in FOLDER_FILES if (path / name).is_file()]
        if not found:
            raise FileNotFoundError(
                f"The folder {path} holds none of {', '.join(FOLDER_FILES)}; put one of them there "
                "or name the file itself."
            )
        return found[0]
    if not path.is_file():
        raise FileNotFoundError(f"There is no file of weights at {path}.")
    return path


def _read(path: Path) -> Tensors:
    readers: dict[str, Callable[[Path], Tensors]] = {".npz": _npz, ".safetensors": _safetensors}
    readers |= dict.fromkeys((".pth", ".pt", ".th", ".bin"), _torch)
    if path.suffix not in readers:
        raise ValueError(f"Weights come as {', '.join(readers)}, got {path.name}.")
    return readers[path.suffix](path)


def _indexed(path: Path) -> Tensors:
    """The tensors of all files that an index names; they lie beside it."""
    try:
        places = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        names = sorted(set(places.values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not an index of files of tensors: {error!r}.") from error
    tensors: Tensors = {}
    for name in names:
        if Path(name).name != name or name.endswith(_INDEX):
            raise ValueError(f"{path} names a file outside its folder, or an index: {name!r}.")
        if not (path.parent / name).is_file():
            raise FileNotFoundError(f"{path} names {name}, which is not beside it.")
        tensors |= _read(path.parent / name)
    if missing := sorted(places.keys() - tensors.keys()):
        raise ValueError(f"{path} names tensors that its files lack: {', '.join(missing[:5])}.")
    return tensors


def _npz(path: Path) -> Tensors:
    try:
        with zipfile.ZipFile(path), path.open("rb") as opened:
            file = np.load(opened, allow_pickle=False)
            return {name: file[name] for name in file.files}
    except (ValueError, zipfile.BadZipFile, EOFError, zlib.error) as error:
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
    for name in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    if not isinstance(content, Mapping) or not all(map(torch.is_tensor, content.values())):
        raise ValueError(f"{path} does not hold a dictionary of tensors.")
    # NumPy has no bfloat16 of its own.
    return {
        name: (value.float() if value.dtype == torch.bfloat16 else value).detach().numpy()
        for name, value in content.items()
    }


def _native(name: str, value: np.ndarray, path: Path) -> np.ndarray:
    if value.dtype.kind == "V" and value.dtype != ml_dtypes.bfloat16:
        if value.dtype != np.dtype("V2"):
            raise ValueError(f"{name} in {path} has no type that is a number, {value.dtype}.")
        return value.view(ml_dtypes.bfloat16)
    return value.astype(value.dtype.newbyteorder("="), copy=False)
