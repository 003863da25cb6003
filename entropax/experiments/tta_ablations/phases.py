"""How embeddings move while a network adapts: silhouette and shift along the stream."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from entropax import tta
from entropax.data.streams import one_pass, shuffled_stream
from entropax.experiments.shifted_images import shifted_images
from entropax.experiments.tta_ablations.config import Config
from entropax.experiments.tta_benchmark.measure import as_float, fisher_information, setting
from entropax.experiments.tta_benchmark.methods import METHODS
from entropax.experiments.tta_benchmark.networks import Network
from entropax.experiments.tta_benchmark.observations import Observations
from entropax.tta.embedding import EmbeddingTrack, track_embeddings
from entropax.types import ApplyFn, Array, Batch, Params, Variables


def head_inputs(apply_fn: ApplyFn, *, head: str = "head") -> ApplyFn:
    """What the last layer of a linen module is called with, as an `apply_fn` of its own.

    Args:
      apply_fn: of the module, with either kind of statistics.
      head: name of the layer.

    Returns:
      `(variables, x, where=None) -> features [b, d]`.
    """

    def features_fn(variables: Variables, x: Array, where: Array | None = None) -> Array:
        seen: list[Array] = []

        def record(layer_call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
            if context.module.name == head and context.method_name == "__call__":
                seen.append(args[0])
            return layer_call(*args, **kwargs)

        with nn.intercept_methods(record):
            apply_fn(variables, x, where=where)
        return seen[-1].reshape(len(x), -1)

    return features_fn


def measure_phases(
    config: Config,
    observations: Observations,
    networks: Sequence[Network],
    *,
    on_split: Callable[[str], None],
) -> list[dict[str, Any]]:
    """One record for each network and test split: what was seen every `config.every` steps.

    Records are kept in metrics.jsonl of the run folder; what is there is not measured again. None
    stands where there is no number: the silhouette of one cluster, for instance.
    """
    folder = observations.folder
    done = {_unit(record) for record in folder.records()}
    splits = [split for split in observations.splits if split.family == "test"]
    compiled: dict[str, Callable[..., Any]] = {}
    wanted = []
    for network in networks:
        fisher = None
        for split in splits:
            unit = (network.name, network.seed, config.adapters[0], split.name, split.severity)
            wanted.append(unit)
            on_split(f"{network.name}, seed {network.seed}: {split}")
            if unit in done:
                continue
            if fisher is None:
                fisher = fisher_information(network, observations.sets.validation)
            if network.name not in compiled:
                compiled[network.name] = _build_track(config, network)
            images = shifted_images(
                observations.config, observations.sets, split, seed=network.seed
            )
            n = len(images)
            stream = shuffled_stream(
                n, batch_size=config.batch_size, steps=config.steps, seed=network.seed + 1
            )
            order = one_pass(n, batch_size=config.batch_size, seed=network.seed + 2)
            track = compiled[network.name](
                network.variables,
                fisher,
                jax.random.key(network.seed),
                jnp.asarray(images.images),
                stream,
                order,
            )
            assert images.labels is not None
            labels = images.labels[np.asarray(order.x).ravel()]
            right = (np.asarray(track.labels) == labels)[:, np.asarray(order.where).ravel()]
            names = ("network", "seed", "adapter", "corruption", "severity")
            folder.append(
                dict(zip(names, unit, strict=True))
                | {
                    "steps": np.asarray(track.steps).tolist(),
                    "accuracy": right.mean(-1).tolist(),
                    "silhouette": _without_nan(track.silhouette),
                    "shift": _without_nan(track.shift.distance),
                    "relative_shift": _without_nan(track.shift.relative),
                }
            )
    return [record for record in folder.records() if _unit(record) in set(wanted)]


def _build_track(config: Config, network: Network) -> Callable[..., EmbeddingTrack]:
    @jax.jit
    def track(
        variables: Variables,
        fisher: Params,
        key: PRNGKeyArray,
        images: Array,
        stream: Batch,
        order: Batch,
    ) -> EmbeddingTrack:
        of_network = setting(
            network,
            key,
            image_shape=images.shape[1:],
            fisher=fisher,
            learning_rate=config.learning_rate,
        )
        adapter = METHODS[config.adapters[0]](of_network)

        def look_up(rows: Array) -> Array:
            return as_float(images[rows])

        features_fn = head_inputs(of_network.apply_fn)
        _, found = track_embeddings(
            tta.map_inputs(adapter, look_up),
            adapter.init(variables),
            stream,
            order,
            lambda variables, x, where=None: features_fn(variables, look_up(x), where=where),
            every=config.every,
        )
        return found

    return track


def _without_nan(values: Float[Array, " k"]) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in np.asarray(values)]


def _unit(record: dict[str, Any]) -> tuple[str, int, str, str, int]:
    return (
        record["network"],
        record["seed"],
        record["adapter"],
        record["corruption"],
        record["severity"],
    )
