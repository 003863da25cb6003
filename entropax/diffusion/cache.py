"""Spectra on disk, each under the hash of the points and of all that it was made with."""

import hashlib
import json
import os
import uuid
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import entropax


class SpectrumCache:
    """A folder of spectra, one npz file each.

        cache = SpectrumCache("spectra")
        dse(x, sigma=10.0, cache=cache)  # computed, and written
        dse(x, sigma=10.0, t=4.0, cache=cache)  # read

    The name of a file is a hash of the numbers in `x`, their shape and type, and the options. What
    is read is bit for bit what was written. A file appears whole or not at all, so several
    processes can share a folder.

    Args:
      folder: where the files are; made when the first one is written.

    >>> SpectrumCache("spectra").folder.name
    'spectra'
    """

    def __init__(self, folder: str | os.PathLike[str]):
        self.folder = Path(folder)

    def __repr__(self) -> str:
        return f"SpectrumCache({str(self.folder)!r})"

    def path(self, identity: Mapping[str, Any]) -> Path:
        """Where the spectrum of this identity (from `identify`) is or would be."""
        text = json.dumps(identity, sort_keys=True)
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.npz"

    def load(self, identity: Mapping[str, Any]) -> dict[str, np.ndarray] | None:
        """The arrays that were saved under this identity, or None.

        Args:
          identity: from `identify`.

        Raises:
          ValueError: there is a file, but it is damaged or of something else.
        """
        path = self.path(identity)
        try:
            # Opened here, because NumPy leaves open what it cannot read.
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
            found = json.loads(str(arrays.pop("identity")))
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile) as error:
            raise ValueError(
                f"The cached spectrum {path} cannot be read ({error}). Delete the file, and it is "
                "computed anew."
            ) from error
        if found != dict(identity):
            names = sorted(k for k in {*found, *identity} if found.get(k) != identity.get(k))
            raise ValueError(
                f"The cached spectrum {path} is of something else: it differs in {names}. Delete "
                "the file, and it is computed anew."
            )
        return arrays

    def save(self, identity: Mapping[str, Any], arrays: Mapping[str, Any]) -> None:
        """Write arrays under an identity, in place of what was there.

        Args:
          identity: from `identify`.
          arrays: by name; "identity" is taken.
        """
        path = self.path(identity)
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.stem}.{uuid.uuid4().hex}.part")
        text = np.array(json.dumps(identity, sort_keys=True))
        as_numpy: dict[str, Any] = {name: np.asarray(array) for name, array in arrays.items()}
        try:
            with open(temporary, "xb") as file:
                np.savez(file, allow_pickle=False, identity=text, **as_numpy)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)  # gone, unless something failed


def identify(x: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """All that a spectrum depends on, as JSON: a hash of each array, and numbers and names.

    Args:
      x: `[n, d]` points.
      options: arrays, numbers, strings, None, and tuples or mappings of them.

    >>> identify(np.zeros((2, 1)), {"sigma": 10.0})["options"]
    {'sigma': 10.0}
    """

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: plain(item) for name, item in value.items()}
        if isinstance(value, tuple | list):
            return [plain(item) for item in value]
        if isinstance(value, str | int | float | None):
            return value
        array = np.ascontiguousarray(value)
        digest = hashlib.sha256(array.tobytes()).hexdigest()
        return {"shape": list(array.shape), "dtype": array.dtype.str, "sha256": digest}

    return {"x": plain(x), "options": plain(options), "entropax": entropax.__version__}
