"""One network: its features before training, and how it trains."""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float

from entropax.diffusion.entropy import dse
from entropax.experiments.diffusion_initialisation.config import Config
from entropax.experiments.labelled_images import Parts
from entropax.kernels.bandwidth import bandwidth
from entropax.models import batch_statistics, running_statistics
from entropax.models.resnet import ResNet
from entropax.types import Array, Variables

# Of the last layer, as published.
_DENSE_STD = 1e-3
# Compiled once: outside of `jit`, its loop is compiled anew at every call.
_bandwidth = jax.jit(bandwidth, static_argnames="sigma")

Measure = Callable[[float, int, Callable[[], None]], dict[str, Any]]


def build_measure(config: Config, parts: Parts) -> Measure:
    """The measurement of one network, `(std, number, on_epoch) -> a line of metrics.jsonl`.

    `on_epoch` is called before training and after every epoch.

    Raises, when it is called, a FloatingPointError if the loss is not finite.
    """
    module = ResNet(
        num_classes=len(parts.class_names),
        widths=config.widths,
        blocks=config.blocks,
        conv_init=nn.initializers.normal(1.0),
        dense_init=nn.initializers.normal(_DENSE_STD),
    )
    tx = optax.adam(config.learning_rate)
    probe, test = jnp.asarray(parts.probe.x), jnp.asarray(parts.test.x)
    init = jax.jit(lambda key: module.init(key, probe[:1]))
    statistics = {"running": running_statistics, "batch": batch_statistics}
    features = {k: jax.jit(make(module, method="features")) for k, make in statistics.items()}
    logits = {k: jax.jit(make(module)) for k, make in statistics.items()}

    @jax.jit
    def step(
        variables: Variables, opt_state: Any, x: Array, labels: Array
    ) -> tuple[Variables, Any, Array]:
        def loss_fn(params: Variables) -> tuple[Array, Variables]:
            logits, updated = module.apply(
                {**variables, "params": params}, x, train=True, mutable=["batch_stats"]
            )
            losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels)
            return jnp.mean(losses), updated

        (loss, updated), grads = jax.value_and_grad(loss_fn, has_aux=True)(variables["params"])
        updates, opt_state = tx.update(grads, opt_state)
        params = optax.apply_updates(variables["params"], updates)
        return {"params": params, **updated}, opt_state, loss

    def accuracies(variables: Variables) -> dict[str, float]:
        return {
            f"{kind}_accuracy": float(
                np.mean(np.argmax(of_kind(variables, test), -1) == parts.test.labels)
            )
            for kind, of_kind in logits.items()
        }

    def entropies(variables: Variables, *kinds: str) -> dict[str, float]:
        return {
            f"{kind}_{name}": value
            for kind in kinds
            for name, value in _describe(features[kind](variables, probe), config.sigma).items()
        }

    def measure(std: float, number: int, on_epoch: Callable[[], None]) -> dict[str, Any]:
        key_init, key_order = jax.random.split(
            jax.random.fold_in(jax.random.key(config.seed), number)
        )
        variables = _scaled(init(key_init), std)
        epochs = [entropies(variables, *features)]
        on_epoch()
        opt_state = tx.init(variables["params"])
        n = len(parts.train.labels)
        size = min(config.batch_size, n)
        for epoch in range(1, config.epochs + 1):
            order = np.asarray(jax.random.permutation(jax.random.fold_in(key_order, epoch), n))
            losses = []
            for start in range(0, n - size + 1, size):
                rows = order[start : start + size]
                variables, opt_state, loss = step(
                    variables, opt_state, parts.train.x[rows], parts.train.labels[rows]
                )
                losses.append(loss)
            mean = float(jnp.mean(jnp.stack(losses)))
            if not math.isfinite(mean):
                raise FloatingPointError(
                    f"The loss of epoch {epoch} with std {std:g} is {mean}; lower --learning-rate, "
                    f"{config.learning_rate}, and give another --run-dir."
                )
            entropy = entropies(variables, "running")
            epochs.append({"loss": mean, **accuracies(variables), **entropy})
            on_epoch()
        return {"std": std, "network": number, "epochs": epochs}

    return measure


def _scaled(variables: Variables, std: float) -> Variables:
    """The network whose convolutions, drawn from N(0, 1), have the standard deviation asked for."""

    def scale(path: Any, leaf: Array) -> Array:
        in_convolution = any(getattr(entry, "key", None) == "conv" for entry in path)
        return leaf * std if in_convolution else leaf

    return jax.tree.map_with_path(scale, variables)


def _describe(z: Float[Array, "n d"], sigma: float) -> dict[str, float]:
    """Entropies in nats by both bandwidths, and the median distance of two examples."""
    if not bool(jnp.all(jnp.isfinite(z))):
        raise FloatingPointError(
            "Features are not finite; lower the largest --std, or --learning-rate."
        )
    return {
        "dse": float(dse(z, sigma=sigma)),
        "dse_median": float(dse(z, sigma="median")),
        "distance": float(math.sqrt(2) * _bandwidth(z, sigma="median")),
    }
