"""Where the models come from: trained here, or files with their features."""

import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from entropax.diffusion.classes import Classes, classes, cluster_reference
from entropax.experiments.diffusion_models.config import Config
from entropax.experiments.diffusion_models.networks import draw_design, hidden, train_network
from entropax.experiments.labelled_images import Parts, load_parts


class Model(NamedTuple):
    """One model, as it is measured.

    Attributes:
      features: `[n, d]`, of the images that are measured.
      labels: of these images.
      inputs: clusters of these images, if they are known.
      accuracy: of the model, by whatever images.
      about: further columns of the results.
    """

    features: Float[np.ndarray, "n d"]
    labels: Classes
    inputs: Classes | None
    accuracy: float
    about: dict[str, Any]


class Trained:
    """Networks of random design.

    Args:
      config: how many, and of which data.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        max_test = min(config.max_test, 500) if config.data == "digits" else config.max_test
        self.parts: Parts = load_parts(
            config, train=config.max_train, probe=config.probe, test=max_test
        )
        self.max_train = len(self.parts.train.labels)
        self.names = [
            (f"draw {draw}", str(number))
            for draw in range(config.draws)
            for number in range(config.models)
        ]
        self.checksums = self.parts.checksums()

    def models(self, names: list[tuple[str, str]]) -> Iterator[Model]:
        """The models of these names, one after the other."""
        flat = [jnp.asarray(x.reshape(len(x), -1)) for x, _ in self.parts[:3]]
        x, probe, test = flat
        labels = jnp.asarray(self.parts.train.labels)
        probe_classes = classes(self.parts.probe.labels)
        inputs = cluster_reference(self.parts.probe.x, num_clusters=self.config.clusters)
        for draw, number in names:
            seed = self.config.seed + int(draw.removeprefix("draw "))
            design = draw_design(
                seed, int(number), max_train=self.max_train, max_epochs=self.config.max_epochs
            )
            key = jax.random.fold_in(jax.random.key(seed), int(number))
            params = train_network(key, design, x, labels, len(self.parts.class_names))
            weights, bias = params[-1]
            logits = hidden(params, design.activation, test) @ weights + bias
            right = np.argmax(logits, -1) == self.parts.test.labels
            features = np.asarray(hidden(params, design.activation, probe))
            yield Model(features, probe_classes, inputs, float(right.mean()), design._asdict())


class Files:
    """Models whose features were saved.

    Args:
      config: names the folder.
    """

    def __init__(self, config: Config) -> None:
        assert config.features is not None
        self.config = config
        if not config.features.is_dir():
            raise FileNotFoundError(f"There is no folder {config.features}.")
        self.paths = {path.stem: path for path in sorted(config.features.glob("*.npz"))}
        if len(self.paths) < 3:
            raise ValueError(
                f"{config.features} holds {len(self.paths)} .npz files; a correlation needs at "
                "least 3 models."
            )
        self.names = [("files", name) for name in self.paths]
        self.checksums = [zlib.crc32(path.read_bytes()) for path in self.paths.values()]

    def models(self, names: list[tuple[str, str]]) -> Iterator[Model]:
        """The models of these names, one after the other."""
        clusters: dict[int, Classes] = {}
        for _, name in names:
            arrays = _read(self.paths[name])
            inputs = None
            if "inputs" in arrays:
                # Most often the same images for every model: cluster them once.
                vectors = np.ascontiguousarray(arrays["inputs"])
                checksum = zlib.crc32(vectors.tobytes())
                if checksum not in clusters:
                    clusters[checksum] = cluster_reference(
                        vectors, num_clusters=self.config.clusters
                    )
                inputs = clusters[checksum]
            labels = classes(arrays["labels"], discrete=True)
            accuracy = float(arrays["accuracy"])
            yield Model(arrays["features"], labels, inputs, accuracy, {})


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (ValueError, zipfile.BadZipFile, EOFError, OSError) as error:
        raise ValueError(f"{path}: this is no .npz archive of plain arrays: {error}") from error
    missing = [name for name in ("features", "labels", "accuracy") if name not in arrays]
    if missing:
        raise ValueError(
            f"{path}: {' and '.join(missing)} missing; it holds {', '.join(arrays) or 'nothing'}. "
            "Save np.savez(path, features=[n, d], labels=[n], accuracy=number)."
        )
    features, labels, accuracy = (arrays[name] for name in ("features", "labels", "accuracy"))
    if features.ndim != 2 or not np.issubdtype(features.dtype, np.floating):
        raise ValueError(
            f"{path}: `features` must be floating-point numbers [n, d], got {features.dtype} of "
            f"shape {features.shape}."
        )
    if not np.isfinite(features).all():
        raise ValueError(f"{path}: `features` must be finite.")
    for name in ("labels", "inputs"):
        if name in arrays and len(np.atleast_1d(arrays[name])) != len(features):
            raise ValueError(
                f"{path}: {len(features)} rows of features, {len(np.atleast_1d(arrays[name]))} of "
                f"`{name}`."
            )
    if labels.ndim != 1:
        raise ValueError(f"{path}: `labels` must be [n], got shape {labels.shape}.")
    if accuracy.size != 1 or not np.isfinite(float(accuracy.reshape(()))):
        raise ValueError(f"{path}: `accuracy` must be one number, got {accuracy}.")
    return {**arrays, "accuracy": accuracy.reshape(())}
