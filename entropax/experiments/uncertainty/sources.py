"""Where the outputs of the models come from; here, from files.

A source knows the names of its models at once, and makes their outputs when asked, one model at a
time. Those that apply networks to images are in `classifiers`.
"""

import zipfile
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int


class Outputs(NamedTuple):
    """What a model says about the examples.

    Attributes:
      logits: `[n, c]`.
      labels: `[n]` classes.
      about: further columns of the results.
    """

    logits: Float[np.ndarray, "n c"]
    labels: Int[np.ndarray, " n"]
    about: dict[str, Any]


@runtime_checkable
class Source(Protocol):
    """Models by name.

    Attributes:
      names: of all models.
      settings: what tells these data from others, as JSON values.
      title: for the heading of a table.
    """

    names: list[str]
    settings: dict[str, Any]
    title: str

    def identity(self, name: str) -> Any:
        """What tells a model from another of the same name, found without loading it.

        Raises:
          ValueError: the model cannot be read; the message names it.
        """

    def load(self, name: str) -> Outputs:
        """The outputs of a model.

        Raises:
          ValueError: the model cannot be read or is not finite; the message names it.
        """


class Files:
    """Models whose outputs were saved: `NAME.npz` with the arrays `logits` and `labels`.

    Args:
      folder: where they are.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise FileNotFoundError(f"There is no folder {folder}.")
        self.paths = {path.stem: path for path in sorted(folder.glob("*.npz"))}
        if not self.paths:
            raise ValueError(f"There is no .npz file in {folder}.")
        self.names = list(self.paths)
        self.settings: dict[str, Any] = {}
        self.title = folder.name

    def identity(self, name: str) -> dict[str, int]:
        """Checksums of the arrays, which a zip archive keeps in its directory."""
        path = self.paths[name]
        try:
            with zipfile.ZipFile(path) as archive:
                return {item.filename.removesuffix(".npy"): item.CRC for item in archive.infolist()}
        except (zipfile.BadZipFile, OSError) as error:
            raise ValueError(f"{path}: this is no .npz archive: {error}") from error

    def load(self, name: str) -> Outputs:
        """Read a file; see `Source`."""
        path = self.paths[name]
        try:
            with np.load(path, allow_pickle=False) as archive:
                wanted = [key for key in ("logits", "labels") if key in archive.files]
                arrays = {key: archive[key] for key in wanted}
                found = ", ".join(archive.files) or "nothing"
        except (ValueError, zipfile.BadZipFile, EOFError, OSError) as error:
            raise ValueError(f"{path}: this is no .npz archive of plain arrays: {error}") from error
        missing = [key for key in ("logits", "labels") if key not in arrays]
        if missing:
            raise ValueError(
                f"{path}: {' and '.join(missing)} missing; it holds {found}. Save "
                "np.savez(path, logits=[n, c], labels=[n])."
            )
        logits, labels = arrays["logits"], arrays["labels"]
        if logits.ndim != 2 or not np.issubdtype(logits.dtype, np.floating):
            raise ValueError(
                f"{path}: `logits` must be floating-point numbers [n, c], got {logits.dtype} of "
                f"shape {logits.shape}."
            )
        if labels.shape != logits.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
            raise ValueError(
                f"{path}: `labels` must be {len(logits)} whole numbers, one for each row of "
                f"`logits`, got {labels.dtype} of shape {labels.shape}."
            )
        if len(labels) == 0 or labels.min() < 0 or labels.max() >= logits.shape[1]:
            raise ValueError(
                f"{path}: `labels` must be classes from 0 to {logits.shape[1] - 1}, at least one."
            )
        bad = np.flatnonzero(~np.isfinite(logits.max(axis=1)))
        if len(bad):
            raise ValueError(
                f"{path}: `logits` hold NaN or infinity in {len(bad)} of {len(logits)} rows, "
                f"first in row {bad[0]}."
            )
        own = logits[np.arange(len(labels)), labels]
        if not np.isfinite(own).all():
            raise ValueError(
                f"{path}: the logit of the right class is -inf in row "
                f"{np.argmin(np.isfinite(own))}, so that the likelihood is 0."
            )
        if logits.min() >= 0 and np.allclose(logits.sum(axis=1, dtype=np.float64), 1, atol=1e-3):
            raise ValueError(
                f"{path}: `logits` look like probabilities, every row sums to 1; save their np.log."
            )
        return Outputs(logits, labels.astype(np.int32), {})
