"""One folder of images: adapt to it while it is read, note flips and accuracies."""

import functools
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Float, Int, UInt8

from entropax import tta
from entropax.data import corruptions
from entropax.data.image_folder import ImageFolder
from entropax.data.loader import ImageBatch
from entropax.data.streams import shuffled_stream
from entropax.data.subsets import restrict_logits
from entropax.distributed import replicated_sharding
from entropax.estimation import average_confidence
from entropax.experiments.published_networks import Network
from entropax.experiments.read_batches import ReadBatch, on_devices, read_batches
from entropax.experiments.tta.config import Eta, Rdumb, Tent
from entropax.experiments.tta_published.config import Config
from entropax.types import Array, Batch, Variables

# Corrupted images that are kept for their next visit.
_KEPT_BYTES = 2**30


class Shift(NamedTuple):
    """A folder, and what is done to its images.

    Attributes:
      name: of the corruption; `"clean"`, or the folder's name, for images as they are.
      severity: 1 to 5; 0 for images as they are.
      folder: its files.
      corrupt: whether the images are still to be corrupted.
    """

    name: str
    severity: int
    folder: ImageFolder
    corrupt: bool

    def __str__(self) -> str:
        return f"{self.name} {self.severity}" if self.severity else self.name


class Compiled(NamedTuple):
    """The network and its adapter on uint8 images, each part compiled once for all folders."""

    init: Callable[[Variables], tta.State]
    step: Callable[[tta.State, Batch], tuple[tta.State, tta.Info]]
    source: Callable[[Variables, Array], Array]
    predict: Callable[[tta.State, Batch], Array]


def compile_adapter(network: Network, config: Config, mesh: Mesh | None) -> Compiled:
    """The adapter that `config` names, for a published network.

    On a mesh, what it gives is whole on every device.
    """
    apply_fn, classes = network.batch_fn(), network.num_classes
    tx = optax.sgd(config.learning_rate, momentum=config.momentum)
    # The published constants for ImageNet; for other numbers of classes the same rule.
    limits = tta.IMAGENET_LIMITS if classes == 1000 else None
    match config.method:
        case Tent():
            adapter = tta.tent(apply_fn, tx)
        case Eta():
            adapter = tta.eta(apply_fn, tx, num_classes=classes, limits=limits)
        case Rdumb(period):
            adapter = tta.rdumb(apply_fn, tx, num_classes=classes, period=period, limits=limits)
    on_pixels = tta.map_inputs(adapter, _as_float)
    source_fn = network.source_fn()
    place = None if mesh is None else replicated_sharding(mesh)
    compiled = functools.partial(jax.jit, out_shardings=place)
    return Compiled(
        compiled(on_pixels.init),
        compiled(on_pixels.step),
        compiled(lambda variables, x: source_fn(variables, _as_float(x))),
        compiled(on_pixels.predict),
    )


def measure(
    network: Network,
    compiled: Compiled,
    shift: Shift,
    config: Config,
    mesh: Mesh | None,
    on_batch: Callable[[str], None],
) -> dict[str, Any]:
    """Adapt to a folder; one line of metrics.jsonl.

    Args:
      network: as published.
      compiled: from `compile_adapter`.
      shift: which images.
      config: the options.
      mesh: the devices; None for one.
      on_batch: called after each batch with what it was for.

    Raises:
      FloatingPointError: a step was not finite.
      ValueError: an image cannot be read, unless these are skipped.
    """
    folder, n = shift.folder, len(shift.folder)
    read = _reader(network, shift, config, mesh)
    held = np.random.default_rng(config.seed + 2).permutation(n)[: config.held]
    state = compiled.init(network.variables)

    where = np.zeros(len(held), bool)

    def predict_held(what: str, *predictions: Callable[[Batch], Array]) -> list[np.ndarray]:
        found = [np.zeros((len(held), network.num_classes), np.float32) for _ in predictions]
        for batch in read(held):
            real, images = batch.where, Batch(batch.x, on_devices(batch.where, mesh))
            for logits, predict in zip(found, predictions, strict=True):
                logits[batch.places[real]] = np.asarray(predict(images))[real]
            where[batch.places[real]] = True
            on_batch(what)
        return found

    start = state
    source, before = predict_held(
        "predicting",
        lambda images: compiled.source(network.variables, images.x),
        lambda images: compiled.predict(start, images),
    )
    if not where.any():
        raise ValueError(f"{folder.root}: none of the {len(held)} held images can be read.")

    order = shuffled_stream(
        n, batch_size=config.batch_size, steps=config.steps, seed=config.seed + 1
    )
    selected, right, seen = [], 0, 0
    classes = None if folder.labels is None else np.unique(folder.labels)
    for i, batch in enumerate(read(np.asarray(order.x).ravel())):
        real = batch.where & np.asarray(order.where[i])[batch.places - i * config.batch_size]
        state, info = compiled.step(state, Batch(batch.x, on_devices(real, mesh)))
        if not info.finite:
            raise FloatingPointError(
                f"{shift}: step {i} met values that are not finite. Give a lower --learning-rate, "
                "and another --run-dir."
            )
        selected.append(int(info.selected))
        if classes is not None:
            assert batch.labels is not None
            hits = _classes(np.asarray(info.logits), classes) == batch.labels
            right, seen = right + int(hits[real].sum()), seen + int(real.sum())
        on_batch("adapting")
    end = state
    (adapted,) = predict_held("predicting", lambda images: compiled.predict(end, images))

    flips = tta.Flips(
        labels0=jnp.argmax(before, axis=-1),
        confidence0=jnp.max(jax.nn.softmax(before), axis=-1),
        labels=jnp.argmax(adapted, axis=-1)[None],
        steps=jnp.array([config.steps]),
        where=jnp.asarray(where),
        selected=jnp.asarray(selected),
        finite=jnp.ones(len(selected), bool),
    )
    record: dict[str, Any] = {
        "name": shift.name,
        "severity": shift.severity,
        "images": n,
        "held": int(where.sum()),
        "weighted_flips": float(flips.weighted[0]),
        "weighted_flips_stderr": float(flips.weighted_stderr[0]),
        "unweighted_flips": float(flips.unweighted[0]),
        "unweighted_flips_stderr": float(flips.unweighted_stderr[0]),
        "selected": float(np.mean(selected)),
    }
    for name, logits in (("source", source), ("batch_statistics", before), ("adapted", adapted)):
        among = logits if classes is None else logits[:, classes]
        record[f"{name}_confidence"] = float(average_confidence(jnp.asarray(among[where])))
        if classes is not None and folder.labels is not None:
            hits = _classes(logits, classes) == folder.labels[held]
            record[name] = float(hits[where].mean())
    if seen:
        record["online"] = right / seen
    return record


def batches(images: int, config: Config) -> int:
    """How often `measure` calls `on_batch`."""
    held = min(images, config.held)
    return config.steps + 2 * -(-held // config.batch_size)


def _reader(
    network: Network, shift: Shift, config: Config, mesh: Mesh | None
) -> Callable[[Int[np.ndarray, " n"]], Iterator[ReadBatch]]:
    """Batches of chosen images, corrupted if they are to be."""
    kept: dict[int, UInt8[np.ndarray, "h w c"]] = {}

    def corrupted(batch: ImageBatch) -> ImageBatch:
        # Image by image, so that each looks the same whenever it is visited.
        x, room = batch.x.copy(), _KEPT_BYTES // batch.x[0].nbytes
        for place in np.flatnonzero(batch.where):
            row = int(batch.rows[place])
            found = kept.get(row)
            if found is None:
                seed = zlib.crc32(f"{config.seed} {row}".encode())
                found = corruptions.corrupt(x[[place]], shift.name, shift.severity, seed=seed)[0]
                if len(kept) < room:
                    kept[row] = found
            x[place] = found
        return batch._replace(x=x)

    def read(rows: Int[np.ndarray, " n"]) -> Iterator[ReadBatch]:
        return read_batches(
            shift.folder,
            network.preprocessing,
            config,
            rows,
            batch_size=config.batch_size,
            mesh=mesh,
            change=corrupted if shift.corrupt else None,
        )

    return read


def _as_float(x: Array) -> Float[Array, "b h w channels"]:
    return jnp.asarray(x, jnp.float32) / 255


def _classes(
    logits: Float[np.ndarray, "n c"], classes: Int[np.ndarray, " k"]
) -> Int[np.ndarray, " n"]:
    """Predictions among the classes that the folder has."""
    return np.argmax(np.asarray(restrict_logits(jnp.asarray(logits), classes)), axis=-1)
