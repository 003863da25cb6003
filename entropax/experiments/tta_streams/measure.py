"""One stream under one adapter."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, PRNGKeyArray, UInt8

from entropax import tta
from entropax.data.shifts import ShiftStream, lookup
from entropax.experiments.tta_benchmark.measure import as_float, setting
from entropax.experiments.tta_benchmark.methods import METHODS
from entropax.experiments.tta_benchmark.networks import Network
from entropax.types import Array, Batch, Params, Variables

# Batches that are compiled as one scan; what is kept in memory does not depend on the stream.
_STRETCH = 250


class Course(NamedTuple):
    """What happened batch by batch.

    Attributes:
      accuracy: `[t]` share of right predictions, made before the update.
      reset: `[t]` whether the adapter went back to the source network.
      collapsed: `[t]` whether the collapse alarm rang.
      finite: `[t]` whether the step was free of NaN and infinity.
    """

    accuracy: Float[np.ndarray, " t"]
    reset: Bool[np.ndarray, " t"]
    collapsed: Bool[np.ndarray, " t"]
    finite: Bool[np.ndarray, " t"]


def build_adapter(
    network: Network,
    method: str,
    *,
    image_shape: tuple[int, ...],
    learning_rate: float,
    period: int,
) -> tuple[Callable[..., tta.State], Callable[..., tuple[tta.State, tuple]]]:
    """Compiled `(variables, fisher, key) -> state`, `(state, fisher, key, bank, batches) -> ...`.

    Of the network only the architecture is compiled in, so that all seeds share them. The second
    is a stretch of the stream: it returns the state and, for each batch, the predicted classes,
    whether the adapter was reset, whether the alarm rang, and whether all was finite.
    """

    def adapter(fisher: Params, key: PRNGKeyArray, bank: Array | None) -> tta.Adapter:
        of_network = setting(
            network,
            key,
            image_shape=image_shape,
            fisher=fisher,
            learning_rate=learning_rate,
            period=period,
        )
        watched = tta.collapse_alarm(
            METHODS[method](of_network), num_classes=of_network.num_classes
        )
        if bank is None:
            return watched
        return tta.map_inputs(tta.map_inputs(watched, as_float), lookup(bank))

    @jax.jit
    def init(variables: Variables, fisher: Params, key: PRNGKeyArray) -> tta.State:
        return adapter(fisher, key, None).init(variables)

    @jax.jit
    def advance(
        state: tta.State, fisher: Params, key: PRNGKeyArray, bank: Array, batches: Batch
    ) -> tuple[tta.State, tuple[Array, ...]]:
        step = adapter(fisher, key, bank).step

        def one(state: tta.State, batch: Batch) -> tuple[tta.State, tuple[Array, ...]]:
            state, info = step(state, batch)
            predicted = jnp.argmax(info.logits, axis=-1)
            return state, (predicted, *map(jnp.asarray, (info.reset, info.collapsed, info.finite)))

        return jax.lax.scan(one, state, batches)

    return init, advance


def follow(
    init: Callable[..., tta.State],
    advance: Callable[..., tuple[tta.State, tuple]],
    network: Network,
    fisher: Params,
    stream: ShiftStream,
    bank: UInt8[Array, "d n h w channels"],
    labels: Int[np.ndarray, " n"],
    *,
    on_steps: Callable[[int], None],
) -> Course:
    """Run an adapter over a stream.

    Args:
      init: from `build_adapter`.
      advance: from `build_adapter`.
      network: the source network.
      fisher: Fisher information of its adapted parameters.
      stream: domains and images.
      bank: the images under each domain (`data.shifts.corrupted_bank`).
      labels: of the images.
      on_steps: called with the number of batches done after each stretch.
    """
    batches = jax.tree.map(np.asarray, stream.batches)
    total = len(batches.where)
    truth = labels[np.asarray(stream.image)]
    key = jax.random.key(network.seed)
    state = init(network.variables, fisher, key)
    found: list[tuple[np.ndarray, ...]] = []
    for first in range(0, total, _STRETCH):
        part = jax.tree.map(lambda a, i=first: a[i : i + _STRETCH], batches)
        state, (predicted, *flags) = advance(state, fisher, key, bank, part)
        right = (np.asarray(predicted) == truth[first : first + _STRETCH]) & part.where
        found.append((right.sum(-1) / part.where.sum(-1), *map(np.asarray, flags)))
        on_steps(min(first + _STRETCH, total))
    return Course(*(np.concatenate(each) for each in zip(*found, strict=True)))
