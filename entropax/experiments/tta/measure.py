"""One split: adapt to its images, and note predictions, flips and accuracies."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Float, Int, UInt8

from entropax import tta
from entropax.data import ImageSet
from entropax.data.streams import one_pass, shuffled_stream
from entropax.distributed import replicate, replicated_sharding, split_rows
from entropax.estimation import average_confidence
from entropax.experiments.shifted_images import Split
from entropax.experiments.tta.config import Config, Eata, Eta, Rdumb, Tent
from entropax.models import ConvNet, batch_statistics, running_statistics
from entropax.types import Array, Batch, Variables


class Observation(NamedTuple):
    """What adaptation to one split shows; rows are images in the order of evaluation.

    Attributes:
      source: `[n, c]` logits with running statistics.
      batch_statistics: `[n, c]` logits with batch statistics, before the first step.
      adapted: `[n, c]` logits after the last step.
      online: `[t, b]` classes predicted along the stream, each before its own update.
      flips: of the held images.
    """

    source: Float[Array, "n c"]
    batch_statistics: Float[Array, "n c"]
    adapted: Float[Array, "n c"]
    online: Int[Array, "t b"]
    flips: tta.Flips


Observe = Callable[
    [Variables, UInt8[np.ndarray, "images h w channels"], Batch, Batch, np.ndarray], Observation
]


def build_adapter(
    config: Config,
    module: ConvNet,
    variables: Variables,
    validation: ImageSet,
) -> tta.Adapter:
    """The adapter that `config` names; EATA takes its Fisher information from `validation`."""
    apply_fn, classes = batch_statistics(module), module.num_classes
    tx = optax.sgd(config.learning_rate, momentum=config.momentum)
    match config.method:
        case Tent():
            return tta.tent(apply_fn, tx)
        case Eta():
            return tta.eta(apply_fn, tx, num_classes=classes)
        case Rdumb(period):
            return tta.rdumb(apply_fn, tx, num_classes=classes, period=period)
        case Eata(weight, count):
            order = one_pass(
                min(len(validation), count), batch_size=config.batch_size, seed=config.seed
            )
            batches = (
                Batch(_as_float(jnp.asarray(validation.images[rows])), where)
                for rows, where in zip(np.asarray(order.x), order.where, strict=True)
            )
            fisher = tta.fisher_information(apply_fn, variables, batches, compat="reference")
            return tta.eata(apply_fn, tx, fisher, num_classes=classes, fisher_weight=weight)


def build_observer(adapter: tta.Adapter, module: ConvNet, mesh: Mesh | None) -> Observe:
    """The compiled adaptation `(variables, images, stream, order, held) -> Observation`.

    Images stay uint8 and `stream` and `order` hold indices into them, so that only one batch at a
    time is ever made of floats; on a mesh every device has the images, and makes its part of each
    batch. `held` `[n]` is True for the images whose flips count, in the order of `order`.
    """
    source_fn = running_statistics(module)

    def split(batch: Batch) -> Batch:
        return batch if mesh is None else Batch(*(split_rows(x, mesh) for x in batch))

    def observe(
        variables: Variables, images: Array, stream: Batch, order: Batch, held: Array
    ) -> Observation:
        on_images = tta.map_inputs(adapter, lambda rows: _as_float(images[rows]))

        def predict_all(predict: Callable[[Batch], Array]) -> Array:
            logits = jax.lax.map(lambda batch: predict(split(batch)), order)
            return logits.reshape(-1, logits.shape[-1])[: len(images)]

        def step(state: tta.State, batch: Batch) -> tuple[tta.State, tuple[Array, ...]]:
            state, info = on_images.step(state, split(batch))
            return state, (jnp.argmax(info.logits, axis=-1), info.selected, info.finite)

        state = on_images.init(variables)
        source = predict_all(lambda batch: source_fn(variables, _as_float(images[batch.x])))
        before = predict_all(lambda batch: on_images.predict(state, batch))
        state, (online, selected, finite) = jax.lax.scan(step, state, stream)
        adapted = predict_all(lambda batch: on_images.predict(state, batch))
        flips = tta.Flips(
            labels0=jnp.argmax(before, axis=-1),
            confidence0=jnp.max(jax.nn.softmax(before), axis=-1),
            labels=jnp.argmax(adapted, axis=-1)[None],
            steps=jnp.array([len(selected)]),
            where=held,
            selected=selected,
            finite=finite,
        )
        return Observation(source, before, adapted, online, flips)

    if mesh is None:
        return jax.jit(observe)
    compiled = jax.jit(observe, out_shardings=replicated_sharding(mesh))

    def observe_on_mesh(variables: Variables, *indices: Any) -> Observation:
        return compiled(variables, *replicate(indices, mesh))

    return observe_on_mesh


def measure(
    observe: Observe,
    variables: Variables,
    images: ImageSet,
    split: Split,
    config: Config,
) -> tuple[dict[str, Any], Float[np.ndarray, "n c"]]:
    """Adapt to the images of a split.

    Args:
      observe: from `build_observer`.
      variables: of the source network.
      images: of the split.
      split: what they are.
      config: the options.

    Returns:
      One line of metrics.jsonl, and the adapted network's logits in the order of the images.

    Raises:
      FloatingPointError: a step was not finite.
    """
    n = len(images)
    stream = shuffled_stream(
        n, batch_size=config.batch_size, steps=config.steps, seed=config.seed + 1
    )
    # Shuffled, or the batches of a folder sorted by class would hold one class each. The first
    # images in this order are the held ones.
    order = one_pass(n, batch_size=config.batch_size, seed=config.seed + 2)
    held = np.arange(n) < config.held
    # Taken off the mesh, if they are on one.
    observation = jax.tree.map(np.asarray, observe(variables, images.images, stream, order, held))
    flips = jax.tree.map(jnp.asarray, observation.flips)
    if not jnp.all(flips.finite):
        raise FloatingPointError(
            f"{split}: step {int(jnp.argmin(flips.finite))} met values that are not finite. Give a "
            "lower --learning-rate, and another --run-dir."
        )
    stream, order = jax.tree.map(np.asarray, (stream, order))
    logits = {
        name: getattr(observation, name) for name in ("source", "batch_statistics", "adapted")
    }
    record: dict[str, Any] = {
        "split": list(split),
        "images": n,
        "weighted_flips": float(flips.weighted[0]),
        "weighted_flips_stderr": float(flips.weighted_stderr[0]),
        "unweighted_flips": float(flips.unweighted[0]),
        "unweighted_flips_stderr": float(flips.unweighted_stderr[0]),
        "selected": float(jnp.mean(flips.selected)),
    }
    for name, values in logits.items():
        record[f"{name}_confidence"] = float(average_confidence(jnp.asarray(values)))
    rows = order.x[order.where]
    if images.labels is not None:
        for name, values in logits.items():
            record[name] = float(np.mean(np.argmax(values, axis=-1) == images.labels[rows]))
        right = observation.online == images.labels[stream.x]
        record["online"] = float(np.mean(right[stream.where]))
    adapted = np.empty_like(observation.adapted)
    adapted[rows] = observation.adapted
    return record, adapted


def _as_float(images: UInt8[Array, "b h w channels"]) -> Float[Array, "b h w channels"]:
    """What the source network was trained on."""
    return images / 255.0
