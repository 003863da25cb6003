"""Where the outputs of the models come from: files, published weights, networks trained here.

A source knows the names of its models at once, and makes their outputs when asked, one model at a
time.
"""

import math
import zipfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from entropax import data
from entropax.checkpoint import restore_variables, save_variables
from entropax.experiments.labelled_images import Labelled, Parts, labelled, load_parts
from entropax.experiments.uncertainty.config import Config
from entropax.experiments.uncertainty.networks import NETWORKS
from entropax.models.convert import cifar_resnet, load_tensors
from entropax.models.inputs import normalised_inputs
from entropax.models.statistics import running_statistics
from entropax.models.training import fit_classifier
from entropax.types import ApplyFn, Variables

_DIGITS_TEST = 797
_BATCH = 500


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


class Trained:
    """Small networks, trained when first asked for and kept in the run folder.

    Args:
      config: which networks, and on which data.
      folder: where their variables are kept.
    """

    def __init__(self, config: Config, folder: Path) -> None:
        unknown = [name for name in config.networks if name not in NETWORKS]
        if unknown:
            raise ValueError(f"`networks` must be among {list(NETWORKS)}, got {unknown}.")
        self.config, self.folder = config, folder
        self.names = list(dict.fromkeys(config.networks or NETWORKS))
        max_test = (
            min(config.max_test, _DIGITS_TEST) if config.data == "digits" else config.max_test
        )
        self.parts: Parts = load_parts(config, train=config.max_train, probe=0, test=max_test)
        self.settings = {"checksums": self.parts.checksums()}
        self.title = config.data

    def identity(self, name: str) -> None:
        """The settings of the run say all."""
        return

    def load(self, name: str) -> Outputs:
        """Train a network or read its variables, and apply it; see `Source`."""
        train, test = self.parts.train, self.parts.test
        module = NETWORKS[name](len(self.parts.class_names), math.gcd(*train.x.shape[1:3]))
        path = self.folder / name
        if path.exists():
            like = jax.eval_shape(
                lambda: module.init(jax.random.key(0), jnp.zeros((1, *train.x.shape[1:])))
            )
            variables = restore_variables(path, like)
        else:
            key = jax.random.fold_in(jax.random.key(self.config.seed), list(NETWORKS).index(name))
            variables = fit_classifier(
                key,
                module,
                np.rint(255 * train.x).astype(np.uint8),
                train.labels,
                epochs=self.config.epochs,
                batch_size=min(64, len(train.labels)),
            )
            save_variables(path, variables)
        return _applied(running_statistics(module), variables, test)


class Weights:
    """Published residual networks for CIFAR on the test images of a data set.

    Args:
      config: which files, and which data.
    """

    def __init__(self, config: Config) -> None:
        self.paths = {path.stem: path for path in config.weights}
        if len(self.paths) < len(config.weights):
            raise ValueError(f"`weights` must have different names, got {config.weights}.")
        if config.data == "digits":
            raise ValueError("`weights` need the images they were trained for: pass --data.")
        images = data.load(
            config.data, "test", path=config.path, data_dir=config.data_dir, size=config.size
        )
        if images.labels is None:
            raise ValueError(f"The test split of {config.data!r} needs labels.")
        rows = np.random.default_rng(0).permutation(len(images))[: config.max_test]
        self.test = labelled(images, rows)
        self.names = list(self.paths)
        self.settings = {"checksums": [self.test.checksum()]}
        self.title = config.data

    def identity(self, name: str) -> int:
        """Checksum of the file."""
        path = self.paths[name]
        if not path.is_file():
            raise FileNotFoundError(f"There is no file of weights at {path}.")
        return zlib.crc32(path.read_bytes())

    def load(self, name: str) -> Outputs:
        """Apply a network; see `Source`."""
        path = self.paths[name]
        tensors = load_tensors(path)
        try:
            module, variables = cifar_resnet(tensors)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        if self.test.labels.max() >= module.num_classes:
            raise ValueError(
                f"{path}: the network has {module.num_classes} classes, the images have labels up "
                f"to {self.test.labels.max()}."
            )
        apply_fn = normalised_inputs(running_statistics(module))
        return _applied(apply_fn, variables, self.test)


def _applied(apply_fn: ApplyFn, variables: Variables, images: Labelled) -> Outputs:
    apply_fn = jax.jit(apply_fn)
    logits = [
        np.asarray(apply_fn(variables, images.x[i : i + _BATCH]))
        for i in range(0, len(images.x), _BATCH)
    ]
    parameters = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    labels = images.labels.astype(np.int32)
    return Outputs(np.concatenate(logits), labels, {"parameters": parameters})
