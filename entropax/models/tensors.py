"""Files of named tensors, read without running anything that is in them."""

import json
import pickle
import struct
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
# What torch's unpickler, which runs nothing, stumbles over in a file that is none of its own.
_UNPICKLING = (
    *(pickle.UnpicklingError, RuntimeError, EOFError, LookupError),
    *(ValueError, TypeError, AttributeError, OverflowError, struct.error),
)
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
    tensors: Tensors = {}
    for file in weights_files(path):
        tensors |= _read(file)
    if path.name.endswith(_INDEX) and (missing := sorted(_places(path).keys() - tensors.keys())):
        raise ValueError(f"{path} names tensors that its files lack: {', '.join(missing[:5])}.")
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


def weights_files(path: str | Path) -> tuple[Path, ...]:
    """All files that `load_tensors` reads tensors from: those that an index names, or one.

    Raises:
      FileNotFoundError: one is not there.
      ValueError: a damaged index, or one that names a file in another folder.
    """
    path = weights_file(path)
    if not path.name.endswith(_INDEX):
        return (path,)
    files = []
    for name in sorted(set(_places(path).values())):
        if Path(name).name != name or name.endswith(_INDEX):
            raise ValueError(f"{path} names a file outside its folder, or an index: {name!r}.")
        if not (path.parent / name).is_file():
            raise FileNotFoundError(f"{path} names {name}, which is not beside it.")
        files.append(path.parent / name)
    return tuple(files)


def _places(index: Path) -> dict[str, str]:
    """The file of each tensor."""
    try:
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = set(places.values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{index} is not an index of files of tensors: {error!r}.") from error
    if not all(isinstance(name, str) for name in names):
        raise ValueError(f"{index} is not an index of files of tensors: a file has no name.")
    return dict(places)


def _read(path: Path) -> Tensors:
    readers: dict[str, Callable[[Path], Tensors]] = {".npz": _npz, ".safetensors": _safetensors}
    readers |= dict.fromkeys((".pth", ".pt", ".th", ".bin"), _torch)
    suffix = path.suffix.lower()
    if suffix not in readers:
        raise ValueError(f"Weights come as {', '.join(readers)}, got {path.name}.")
    return readers[suffix](path)


def _npz(path: Path) -> Tensors:
    try:
        with zipfile.ZipFile(path), path.open("rb") as opened:
            file = np.load(opened, allow_pickle=False)
            found = {name: file[name] for name in file.files}
    except (ValueError, RuntimeError, zipfile.BadZipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is not an .npz file of plain arrays: {error}") from error
    # NumPy hands out the bytes of what is no array.
    if others := [name for name, value in found.items() if not isinstance(value, np.ndarray)]:
        raise ValueError(f"{path} is not an .npz file of plain arrays: {others[0]} is none.")
    return found


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
    except _UNPICKLING as error:
        # Torch's own message advises to run what is in the file.
        raise ValueError(
            f"{path} is damaged, or holds more than tensors, such as code, which is not run."
        ) from error
    for name in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    if not isinstance(content, Mapping) or not all(
        isinstance(name, str) and torch.is_tensor(value) for name, value in content.items()
    ):
        raise ValueError(f"{path} does not hold a dictionary of named tensors.")
    found: Tensors = {}
    for name, value in content.items():
        try:
            # NumPy has no bfloat16 of its own.
            value = value.float() if value.dtype == torch.bfloat16 else value
            found[name] = value.detach().numpy()
        except (TypeError, RuntimeError) as error:  # sparse, quantised, 8 bits, ...
            raise ValueError(f"{name} in {path} is no array for NumPy: {error}") from error
    return found


def _native(name: str, value: np.ndarray, path: Path) -> np.ndarray:
    if value.dtype.kind in "cOSUMm":
        raise ValueError(f"{name} in {path} is of the type {value.dtype}, not of real numbers.")
    if value.dtype.kind == "V" and value.dtype != ml_dtypes.bfloat16:
        if value.dtype != np.dtype("V2"):
            raise ValueError(f"{name} in {path} has no type that is a number, {value.dtype}.")
        return value.view(ml_dtypes.bfloat16)
    return value.astype(value.dtype.newbyteorder("="), copy=False)
