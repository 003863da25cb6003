"""One network: train it, and note what its layers are like on the way."""

from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from entropax.diffusion.binned import binned_entropy
from entropax.diffusion.classes import cluster_reference
from entropax.diffusion.tracking import Features, Tracker, evaluate_features, track
from entropax.experiments.diffusion_training.config import Bandwidth, Config, Network, Objective
from entropax.experiments.diffusion_training.training import State, Trainer, build_trainer
from entropax.experiments.labelled_images import Parts
from entropax.models.probe import linear_probe

_EVALUATION_BATCH = 250


class Unit(NamedTuple):
    """A network to be trained.

    Attributes:
      network: one of `Config.networks`.
      objective: one of `Config.objectives`.
      seed: one of `Config.seeds`.
    """

    network: Network
    objective: Objective
    seed: int

    def __str__(self) -> str:
        return f"{self.network}, {self.objective.replace('_', ' ')}, seed {self.seed}"


Measure = Callable[[Unit, Collection[int]], Iterator[dict[str, Any]]]


def planned_units(config: Config) -> list[Unit]:
    """All networks of a run; the first seed of all comes first."""
    return [
        Unit(network, objective, seed)
        for seed in config.seeds
        for network in config.networks
        for objective in config.objectives
    ]


def record_epochs(config: Config) -> list[int]:
    """The epochs after which networks are measured, from 0 to the last one."""
    last = config.amounts.epochs
    spaced = np.rint(np.geomspace(1, last, config.amounts.records)).astype(int)
    return sorted({0, *spaced.tolist(), last})


def sigma_name(sigma: Bandwidth) -> str:
    """How a bandwidth is called in records and tables."""
    return sigma if isinstance(sigma, str) else f"{sigma:g}"


def build_measure(config: Config, images: Parts) -> Measure:
    """The training of one network as a stream of records.

    `(unit, skipped) -> records`, one after each of `record_epochs`. It ends with the last epoch;
    of the epochs in `skipped` there is no record.

    Raises, while it goes on, a FloatingPointError if the network diverges.
    """
    num_classes = len(images.class_names)
    clusters = cluster_reference(
        images.probe.x.reshape(len(images.probe.x), -1), num_clusters=num_classes
    )
    trainers: dict[tuple[Network, bool], Trainer] = {}
    classify = jax.jit(lambda x, y, x_test: linear_probe(x, y, x_test, num_classes=num_classes))
    # For the accuracy in training, and for the linear classifier to learn from.
    seen = slice(0, len(images.probe.x))

    def trainer_of(unit: Unit) -> Trainer:
        kind = unit.network, unit.objective == "contrastive"
        if kind not in trainers:
            trainers[kind] = build_trainer(config, unit.network, contrastive=kind[1], images=images)
        return trainers[kind]

    def measure(unit: Unit, skipped: Collection[int]) -> Iterator[dict[str, Any]]:
        trainer = trainer_of(unit)
        key_init, key_steps = jax.random.split(jax.random.key(unit.seed))
        state = trainer.init(key_init)
        labels = trained_labels(unit, images)
        trackers = {
            sigma_name(sigma): track(
                trainer.features_fn,
                images.probe.x,
                images.probe.labels,
                sigma=sigma,
                t=config.t,
                inputs=clusters,
                num_bins=None,
            )
            for sigma in config.sigma
        }
        recorded = set(record_epochs(config))
        loss = None
        for epoch in range(config.amounts.epochs + 1):
            if epoch > 0:
                state, loss = _train(
                    config, trainer, state, jax.random.fold_in(key_steps, epoch), images, labels
                )
                if not np.isfinite(loss):
                    raise FloatingPointError(
                        f"The loss of {unit} is {loss} in epoch {epoch}; lower --learning-rate, "
                        f"{config.learning_rate}, and give another --run-dir."
                    )
            if epoch in recorded and epoch not in skipped:
                yield {
                    **unit._asdict(),
                    "epoch": epoch,
                    "train_loss": loss,
                    **observe(unit, trainer, trackers, state, labels),
                }

    def observe(
        unit: Unit,
        trainer: Trainer,
        trackers: dict[str, Tracker],
        state: State,
        labels: Int[np.ndarray, " n"],
    ) -> dict[str, Any]:
        def features_of(x: np.ndarray) -> Features:
            return evaluate_features(
                trainer.features_fn, state.variables, x, batch_size=_EVALUATION_BATCH
            )

        train, test = features_of(images.train.x[seen]), features_of(images.probe.x)
        scores = classify(train["last"], jnp.asarray(images.train.labels[seen]), test["last"])
        linear = _accuracy(np.asarray(scores), images.probe.labels)
        layers = {name: test[name] for name in trainer.layers}
        by_sigma = {name: tracker.measure(layers) for name, tracker in trackers.items()}
        classifies = unit.objective != "contrastive"
        return {
            "train_accuracy": _accuracy(train["output"], labels[seen]) if classifies else None,
            "test_accuracy": _accuracy(test["output"], images.probe.labels)
            if classifies
            else linear,
            "linear_accuracy": linear,
            "layers": {
                name: {
                    "width": z.shape[1],
                    "binned_entropy": binned_entropy(z, num_bins=config.num_bins),
                    "sigma": {sigma: record[name] for sigma, record in by_sigma.items()},
                }
                for name, z in layers.items()
            },
        }

    return measure


def trained_labels(unit: Unit, images: Parts) -> Int[np.ndarray, " n"]:
    """The labels that a network is trained on."""
    if unit.objective != "wrong_labels":
        return images.train.labels
    return np.random.default_rng(unit.seed).permutation(images.train.labels)


def _train(
    config: Config,
    trainer: Trainer,
    state: State,
    key: jax.Array,
    images: Parts,
    labels: Int[np.ndarray, " n"],
) -> tuple[State, float]:
    """One epoch, and its mean loss."""
    key_order, key_steps = jax.random.split(key)
    order = np.asarray(jax.random.permutation(key_order, len(labels)))
    steps = len(labels) // config.batch_size
    losses = []
    for i, key_step in enumerate(jax.random.split(key_steps, steps)):
        rows = order[i * config.batch_size : (i + 1) * config.batch_size]
        state, loss = trainer.step(state, key_step, images.train.x[rows], labels[rows])
        losses.append(loss)
    return state, float(jnp.mean(jnp.stack(losses)))


def _accuracy(scores: np.ndarray, labels: Int[np.ndarray, " n"]) -> float:
    return float(np.mean(scores.argmax(1) == labels))
