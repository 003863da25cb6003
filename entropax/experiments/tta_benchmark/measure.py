"""What networks and adapters say about splits, before any estimator looks at it."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, PRNGKeyArray, UInt8

from entropax import tta
from entropax.data import ImageSet
from entropax.data.streams import one_pass
from entropax.estimation import aetta
from entropax.experiments.tta_benchmark.methods import METHODS, TEACHERS, Setting
from entropax.experiments.tta_benchmark.networks import Network, is_dropout_site
from entropax.models import batch_statistics, dropout_passes, moving_statistics, running_statistics
from entropax.types import Array, Batch, Params, Variables

# Published for CIFAR-10, with 10 passes over each batch of 64 images. Passes cost more than the
# adaptation, so that they see a part of the images.
_DROPOUT_RATE = 0.4
_DROPOUT_BATCHES = 8


class Before(NamedTuple):
    """Splits before adaptation; rows are in the order of the images.

    Attributes:
      source: `[s, n, c]` logits with running statistics.
      batch_statistics: `[s, n, c]` logits with batch statistics.
      partner_source: `[s, n, c]` those of a network of another seed.
      partner_batch_statistics: `[s, n, c]` likewise.
      dropout: `[s, 4]` accuracy with batch statistics from dropout passes (AETTA): value, lower and
        upper end, whether it is extrapolated.
    """

    source: Float[np.ndarray, "s n c"]
    batch_statistics: Float[np.ndarray, "s n c"]
    partner_source: Float[np.ndarray, "s n c"]
    partner_batch_statistics: Float[np.ndarray, "s n c"]
    dropout: Float[np.ndarray, "s 4"]


class After(NamedTuple):
    """Splits under an adapter.

    Attributes:
      adapted: `[s, n, c]` logits after the last step.
      labels: `[s, k, n]` classes predicted after each stretch of steps; -1 where not finite.
      online: `[s, t, b]` classes predicted along the stream, each before its own update.
      selected: `[s, t]` examples that each step learnt from.
      finite: `[s, t]` whether each step was free of NaN and infinity.
      reset: `[s, t]` whether the adapter went back to the source network.
      dropout: `[s, 4]` accuracy of the adapted network from dropout passes; NaN where what adapts
        is not what predicts.
    """

    adapted: Float[np.ndarray, "s n c"]
    labels: Int[np.ndarray, "s k n"]
    online: Int[np.ndarray, "s t b"]
    selected: Int[np.ndarray, "s t"]
    finite: Bool[np.ndarray, "s t"]
    reset: Bool[np.ndarray, "s t"]
    dropout: Float[np.ndarray, "s 4"]


def setting(
    network: Network,
    key: PRNGKeyArray,
    *,
    image_shape: tuple[int, ...],
    fisher: Params,
    learning_rate: float,
    period: int = 1000,
) -> Setting:
    """What the adapters of a network are built from."""
    module = network.module
    return Setting(
        key=key,
        source_fn=running_statistics(module),
        apply_fn=batch_statistics(module),
        mixed_fn=batch_statistics(module, batch_weight=0.1),
        update_fn=moving_statistics(module, momentum=0.05),
        fisher=fisher,
        num_classes=module.num_classes,
        image_shape=image_shape,
        learning_rate=learning_rate,
        period=period,
    )


def fisher_information(network: Network, images: ImageSet, *, count: int = 512) -> Params:
    """What EATA wants to know of the source network, from clean images."""
    order = one_pass(min(len(images), count), batch_size=64, seed=network.seed)
    batches = (
        Batch(as_float(jnp.asarray(images.images[rows])), where)
        for rows, where in zip(np.asarray(order.x), order.where, strict=True)
    )
    return tta.fisher_information(
        batch_statistics(network.module), network.variables, batches, compat="reference"
    )


def build_observe_before(
    network: Network,
) -> Callable[
    [Variables, Variables, PRNGKeyArray, UInt8[Array, "s n h w channels"], Batch], Before
]:
    """The compiled `(variables, partner's variables, key, images, order) -> Before`.

    `order` holds indices into the images, one pass over them.
    """
    module = network.module
    source_fn, apply_fn = running_statistics(module), batch_statistics(module)
    passes_fn = dropout_passes(module, rate=_DROPOUT_RATE, sites=is_dropout_site(network))

    @jax.jit
    def observe(
        variables: Variables, partner: Variables, key: PRNGKeyArray, images: Array, order: Batch
    ) -> tuple[Array, ...]:
        # One after the other, so that the network is compiled once.
        networks = jax.tree.map(lambda *both: jnp.stack(both), variables, partner)

        def of_split(x: Array) -> tuple[Array, ...]:
            def look(v: Variables) -> tuple[Array, Array]:
                def of_batch(rows: Batch) -> Array:
                    batch = _look_up(x, rows)
                    by_batch = apply_fn(v, batch.x, where=batch.where)
                    return jnp.stack([source_fn(v, batch.x), by_batch], axis=1)

                found = _in_order(of_batch, order, len(x))
                return found[:, 0], found[:, 1]

            (source, partner_source), (by_batch, partner_by_batch) = jax.lax.map(look, networks)
            dropout = _by_dropout(passes_fn, variables, key, x, order, by_batch)
            return source, by_batch, partner_source, partner_by_batch, dropout

        return jax.lax.map(of_split, images)

    return observe


def build_observe_after(
    network: Network, method: str, *, learning_rate: float, every: int
) -> Callable[..., tuple[Array, ...]]:
    """The compiled `(variables, fisher, key, images, stream, order) -> fields of After`.

    Variables are arguments, so that networks of all seeds share one compiled program. `stream` and
    `order` hold indices into the images: only one batch at a time is ever made of floats.
    """
    passes_fn = dropout_passes(network.module, rate=_DROPOUT_RATE, sites=is_dropout_site(network))

    @jax.jit
    def observe(
        variables: Variables,
        fisher: Params,
        key: PRNGKeyArray,
        images: Array,
        stream: Batch,
        order: Batch,
    ) -> tuple[Array, ...]:
        of_network = setting(
            network,
            key,
            image_shape=images.shape[2:],
            fisher=fisher,
            learning_rate=learning_rate,
        )
        adapter = METHODS[method](of_network)

        def of_split(x: Array) -> tuple[Array, ...]:
            on_images = tta.map_inputs(adapter, lambda rows: as_float(x[rows]))

            def step(state: tta.State, batch: Batch) -> tuple[tta.State, tuple[Array, ...]]:
                state, info = on_images.step(state, batch)
                seen = (jnp.argmax(info.logits, axis=-1), info.selected, info.finite)
                return state, (*seen, jnp.asarray(info.reset))

            def predict(state: tta.State) -> Array:
                return _in_order(lambda rows: on_images.predict(state, rows), order, len(x))

            def stretch(state: tta.State, part: Batch) -> tuple[tta.State, tuple[Array, ...]]:
                state, seen = jax.lax.scan(step, state, part)
                logits = predict(state)
                finite = jnp.all(jnp.isfinite(logits), axis=-1)
                return state, (jnp.where(finite, jnp.argmax(logits, axis=-1), -1), *seen)

            parts = jax.tree.map(lambda a: a.reshape(-1, every, *a.shape[1:]), stream)
            state, (labels, *seen) = jax.lax.scan(stretch, adapter.init(variables), parts)
            adapted = predict(state)
            if method in TEACHERS:
                dropout = jnp.full(4, jnp.nan)
            else:
                dropout = _by_dropout(passes_fn, state.variables, key, x, order, adapted)
            flat = [a.reshape(-1, *a.shape[2:]) for a in seen]
            return (adapted, labels.astype(jnp.int16), *flat, dropout)

        return jax.lax.map(of_split, images)

    return observe


def as_float(images: UInt8[Array, "b h w channels"]) -> Float[Array, "b h w channels"]:
    """What the source network was trained on."""
    return images / 255.0


def _look_up(images: Array, rows: Batch) -> Batch:
    return rows._replace(x=as_float(images[rows.x]))


def _in_order(of_batch: Callable[[Batch], Array], order: Batch, n: int) -> Float[Array, "n ..."]:
    """Rows for all `n` images, in their own order, made in the batches of `order`."""
    found = jax.lax.map(of_batch, order)
    found = found.reshape(-1, *found.shape[2:])[:n]  # padding comes last
    return jnp.zeros_like(found).at[order.x.reshape(-1)[:n]].set(found)


def _by_dropout(
    passes_fn: Callable[..., Array],
    variables: Variables,
    key: PRNGKeyArray,
    images: Array,
    order: Batch,
    logits: Array,
) -> Float[Array, " 4"]:
    order = jax.tree.map(lambda a: a[:_DROPOUT_BATCHES], order)

    def of_batch(rows: Batch) -> Array:
        batch = _look_up(images, rows)
        own = jax.random.fold_in(key, rows.x[0])
        return jnp.moveaxis(passes_fn(own, variables, batch.x, where=batch.where), 0, 1)

    passes = jax.lax.map(of_batch, order)
    passes = jnp.moveaxis(passes.reshape(-1, *passes.shape[2:]), 1, 0)
    where = order.where.reshape(-1)
    estimate = aetta().estimate(key, (), (logits[order.x.reshape(-1)], passes), where=where)
    return jnp.stack([jnp.asarray(each, logits.dtype) for each in estimate])
