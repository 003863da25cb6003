"""Networks that are applied to images: trained here, published, or the user's own."""

import importlib
import json
import math
import zlib
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int

from entropax import data
from entropax.checkpoint import restore_variables, save_variables
from entropax.data.image_folder import index_folder
from entropax.distributed import replicate, replicated_sharding
from entropax.experiments.labelled_images import Labelled, Parts, labelled, load_parts
from entropax.experiments.published_networks import (
    InputOptions,
    Network,
    folder_checksum,
    image_split,
    labelled_folder,
    load_network,
    network_name,
)
from entropax.experiments.read_batches import read_batches
from entropax.experiments.uncertainty.config import Config
from entropax.experiments.uncertainty.networks import NETWORKS
from entropax.experiments.uncertainty.sources import Outputs
from entropax.models.preparation import PREPARATION_FILES
from entropax.models.statistics import running_statistics
from entropax.models.tensors import weights_file, weights_files
from entropax.models.training import fit_classifier
from entropax.types import ApplyFn, Variables

_DIGITS_TEST = 797
_BATCH = 500
# Of full-size images.
_FOLDER_BATCH = 50


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
        return _applied(name, running_statistics(module), variables, test)


class Weights:
    """Published networks on the test images of a data set.

    Folders of images are read in the way that each network expects; other images have the size that
    they have.

    Args:
      config: which files, and which data.
      mesh: the devices among which batches of a folder are split; None for one.
      on_batch: called with what has been done, after every batch of a folder.
    """

    def __init__(
        self,
        config: Config,
        *,
        mesh: Mesh | None = None,
        on_batch: Callable[[str], None] = lambda done: None,
    ) -> None:
        self.config, self.mesh, self.on_batch = config, mesh, on_batch
        self.paths = {network_name(path): path for path in config.weights}
        if len(self.paths) < len(config.weights):
            raise ValueError(f"`weights` must have different names, got {config.weights}.")
        self.names = list(self.paths)
        self.title = config.data
        if config.data == "folder":
            assert config.path is not None
            self.test = None
            folder = index_folder(config.path, split=image_split(config.path))
            checksum = folder_checksum(folder)
        else:
            self.test = _test_images(config)
            checksum = self.test.checksum()
        self.settings = {"checksums": [checksum]}

    def identity(self, name: str) -> list[Any]:
        """Checksum of the weights, and how images are read and numbered, as JSON values."""
        path, number = self.paths[name], 0
        for file in weights_files(path):
            number = zlib.crc32(file.read_bytes(), number)
        # What lies beside the weights says how images are prepared, unless the options do.
        for beside in PREPARATION_FILES:
            file = weights_file(path).with_name(beside)
            number = zlib.crc32(file.read_bytes(), number) if file.is_file() else number
        options = {field.name: getattr(self.config, field.name) for field in fields(InputOptions)}
        del options["workers"]
        if self.config.classes is not None:
            options["classes"] = self.config.classes.read_text(encoding="utf-8")
        return [number, json.loads(json.dumps(options))]

    def load(self, name: str) -> Outputs:
        """Apply a network; see `Source`."""
        path = self.paths[name]
        network = load_network(path, self.config)
        if self.test is None:
            return _outputs(str(path), *self._on_folder(network), network.variables)
        return _applied(str(path), network.source_fn(), network.variables, self.test)

    def _on_folder(
        self, network: Network
    ) -> tuple[Float[np.ndarray, "n c"], Int[np.ndarray, " n"]]:
        """Logits and labels, both among the classes that the folder has."""
        config = self.config
        assert config.path is not None
        folder = labelled_folder(config.path, network, config)
        if folder.labels is None:
            raise ValueError(f"{config.path} has no class folders: its images need labels.")
        rows = np.random.default_rng(0).permutation(len(folder))[: config.max_test]
        mesh, variables, place, devices = self.mesh, network.variables, None, 1
        if mesh is not None:
            variables, devices = replicate(variables, mesh), mesh.size
            place = replicated_sharding(mesh)
        source_fn = network.source_fn()
        apply_fn = jax.jit(
            lambda variables, x: source_fn(variables, x.astype(jnp.float32) / 255),
            out_shardings=place,
        )
        logits = np.zeros((len(rows), network.num_classes), np.float32)
        readable = np.zeros(len(rows), bool)
        batches = read_batches(
            folder,
            network.preprocessing,
            config,
            rows,
            batch_size=-(-min(_FOLDER_BATCH, len(rows)) // devices) * devices,
            mesh=mesh,
        )
        for batch in batches:
            places = batch.places[batch.where]
            logits[places] = np.asarray(apply_fn(variables, batch.x))[batch.where]
            readable[places] = True
            self.on_batch(f"a batch of {folder.root}")
        if not readable.any():
            raise ValueError(f"{folder.root}: none of the {len(rows)} images can be read.")
        classes = np.unique(folder.labels)
        chosen = folder.labels[rows[readable]]
        return logits[readable][:, classes], np.searchsorted(classes, chosen)


class Checkpoints:
    """Networks of the user's own, from folders that `checkpoint.save_variables` wrote.

    Args:
      config: which folders, the module that they belong to, and which data.
    """

    def __init__(self, config: Config) -> None:
        assert config.module is not None
        self.spelling, self.module = config.module, _module(config.module)
        self.paths = {path.resolve().name: path for path in config.checkpoints}
        if len(self.paths) < len(config.checkpoints):
            raise ValueError(f"`checkpoints` must have different names, got {config.checkpoints}.")
        self.test = _test_images(config)
        self.names = list(self.paths)
        self.settings = {"checksums": [self.test.checksum()]}
        self.title = f"{config.data}, {config.module}"

    def identity(self, name: str) -> dict[str, str | int]:
        """What the module is called, and a checksum of all files in the folder."""
        path, number = self.paths[name], 0
        if not path.is_dir():
            raise FileNotFoundError(f"There is no folder of a checkpoint at {path}.")
        for file in sorted(file for file in path.rglob("*") if file.is_file()):
            number = zlib.crc32(file.relative_to(path).as_posix().encode(), number)
            number = zlib.crc32(file.read_bytes(), number)
        return {"module": self.spelling, "checksum": number}

    def load(self, name: str) -> Outputs:
        """Restore the variables into the shapes of `module.init`, and apply them; see `Source`."""
        path, shape = self.paths[name], (1, *self.test.x.shape[1:])
        try:
            like = jax.eval_shape(lambda: self.module.init(jax.random.key(0), jnp.zeros(shape)))
        except TypeError as error:
            raise ValueError(
                f"`module`: {self.spelling} cannot be called with images of shape {shape}: {error}"
            ) from error
        variables = restore_variables(path, like)
        return _applied(str(path), running_statistics(self.module), variables, self.test)


def _module(spelling: str) -> nn.Module:
    """The linen module that `PACKAGE.MODULE:NAME` names, or that what it names returns.

    Raises:
      ValueError: there is none.
    """
    place, colon, name = spelling.partition(":")
    if not (place and colon and name):
        raise ValueError(f"`module` must be PACKAGE.MODULE:NAME, got {spelling!r}.")
    try:
        found = importlib.import_module(place)
    except ImportError as error:
        raise ValueError(f"`module`: {place!r} cannot be imported: {error}.") from error
    if not hasattr(found, name):
        raise ValueError(f"`module`: {place!r} has no {name!r}.")
    made = getattr(found, name)
    if callable(made) and not isinstance(made, nn.Module):
        try:
            made = made()
        except TypeError as error:
            raise ValueError(
                f"`module`: {spelling} has to make a module without arguments: {error}."
            ) from error
    if not isinstance(made, nn.Module):
        raise ValueError(
            f"`module`: {spelling} has to be a linen module, or a function that returns one; it "
            f"gives a {type(made).__name__}."
        )
    return made


def _test_images(config: Config) -> Labelled:
    """Images for networks that were trained elsewhere.

    Raises:
      ValueError: they have no labels, or the data have no test split.
    """
    if config.data == "digits":
        raise ValueError("Trained networks need the images they were trained for: pass --data.")
    images = data.load(
        config.data, "test", path=config.path, data_dir=config.data_dir, size=config.size
    )
    if images.labels is None:
        raise ValueError(f"The test split of {config.data!r} needs labels.")
    return labelled(images, np.random.default_rng(0).permutation(len(images))[: config.max_test])


def _applied(name: str, apply_fn: ApplyFn, variables: Variables, images: Labelled) -> Outputs:
    """The outputs of a network, which `name` names in messages.

    Raises:
      ValueError: they are no finite logits `[n, c]` for the labels of the images.
    """
    apply_fn = jax.jit(apply_fn)
    logits = np.concatenate(
        [
            np.asarray(apply_fn(variables, images.x[i : i + _BATCH]))
            for i in range(0, len(images.x), _BATCH)
        ]
    )
    return _outputs(name, logits, images.labels, variables)


def _outputs(
    name: str,
    logits: Float[np.ndarray, "..."],
    labels: Int[np.ndarray, " n"],
    variables: Variables,
) -> Outputs:
    if logits.ndim != 2:
        raise ValueError(
            f"{name}: the network has to give logits [n, c], got the shape {logits.shape}."
        )
    if labels.max() >= logits.shape[1]:
        raise ValueError(
            f"{name}: the network has {logits.shape[1]} classes, the images have labels up to "
            f"{labels.max()}."
        )
    if not np.isfinite(logits).all():
        raise ValueError(f"{name}: the logits of the network hold NaN or infinity.")
    parameters = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    return Outputs(logits, labels.astype(np.int32), {"parameters": parameters})
