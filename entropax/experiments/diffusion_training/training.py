"""The networks of a study, and how a step of training goes."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from entropax.experiments.diffusion_training.config import Config, Network
from entropax.experiments.labelled_images import Parts
from entropax.models.contrastive import Projected, contrastive_loss
from entropax.models.convnet import ConvNet
from entropax.models.intermediates import layer_features
from entropax.models.transformer import VisionTransformer
from entropax.types import Array, Variables

_HIDDEN, _PROJECTION = 128, 64
_WEIGHT_DECAY = 1e-4


class State(NamedTuple):
    """A network in training.

    Attributes:
      variables: of the module, all collections.
      opt_state: of the optimiser.
    """

    variables: Variables
    opt_state: Any


class Trainer(NamedTuple):
    """A network with its loss, as functions that are compiled once for all seeds.

    Attributes:
      init: `key -> state`. The weights before the last dense layer are the same for every loss.
      step: `(state, key, x, labels) -> (state, loss)`.
      layers: names of the layers that are measured, the last one last.
      features_fn: `(variables, x) -> {layer: [n, ...]}`, with the network's output as `"output"`.
    """

    init: Callable[[Array], State]
    step: Callable[[State, Array, Array, Array], tuple[State, Array]]
    layers: tuple[str, ...]
    features_fn: Callable[[Variables, Array], dict[str, Array]]


def build_trainer(
    config: Config,
    network: Network,
    *,
    contrastive: bool,
    images: Parts,
) -> Trainer:
    """Make the functions of one network and one loss.

    Args:
      config: of the run.
      network: which of the networks.
      contrastive: the contrastive loss instead of the cross-entropy.
      images: of the run.
    """
    shape = images.train.x.shape[1:]
    outputs = _HIDDEN if contrastive else len(images.class_names)
    classifier, layers = _network(network, outputs, shape)
    if config.layers == "last":
        layers = {"last": layers["last"]}
    module: nn.Module = classifier
    paths = {**layers, "output": ""}
    if contrastive:
        # Unbound, as a field of the other: it becomes the submodule "network".
        module = Projected(classifier, features=_PROJECTION)
        paths = {name: f"network/{path}" for name, path in layers.items()} | {"output": ""}
    total = max(2, config.amounts.epochs * (len(images.train.x) // config.batch_size))
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, config.learning_rate, max(1, total // 10), total
    )
    tx = optax.adamw(schedule, weight_decay=_WEIGHT_DECAY)
    example = jnp.zeros((1, *shape))

    @jax.jit
    def init(key: Array) -> State:
        variables = dict(module.init(key, example, train=True))
        if contrastive:
            inner = classifier.init(key, example, train=True)
            variables = {k: {**v, "network": inner[k]} for k, v in variables.items() if k in inner}
        return State(variables, tx.init(variables["params"]))

    # One call a step instead of a scan: on the CPU, XLA computes the gradient of a convolution
    # kernel tens of times more slowly inside a loop body.
    @jax.jit
    def step(state: State, key: Array, x: Array, labels: Array) -> tuple[State, Array]:
        def apply_fn(params: Any, x: Array) -> tuple[Array, Any]:
            variables = {**state.variables, "params": params}
            outputs, updated = module.apply(variables, x, train=True, mutable=["batch_stats"])
            return outputs, updated

        def loss_fn(params: Any) -> tuple[Array, Any]:
            if contrastive:
                return contrastive_loss(key, apply_fn, params, x, temperature=config.temperature)
            logits, updated = apply_fn(params, x)
            loss = optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels)
            return jnp.mean(loss), updated

        params = state.variables["params"]
        (loss, updated), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
        updates, opt_state = tx.update(grads, state.opt_state, params)
        params = optax.apply_updates(params, updates)
        return State({**state.variables, **updated, "params": params}, opt_state), loss

    features_fn = jax.jit(layer_features(module, paths, train=False))
    return Trainer(init, step, tuple(layers), features_fn)


def _network(
    name: Network, outputs: int, shape: tuple[int, ...]
) -> tuple[nn.Module, dict[str, str]]:
    """A network for images of a shape, and the paths of its layers."""
    if name == "convnet":
        blocks = {f"block{i}": f"conv{i + 1}:input" for i in (0, 1)}
        return ConvNet(outputs), {**blocks, "last": "head:input"}
    blocks = {f"block{i}": f"block{i}" for i in (0, 1)}
    module = VisionTransformer(outputs, patch_size=_patch_size(shape))
    return module, {**blocks, "last": "head:input"}


def _patch_size(shape: tuple[int, ...]) -> int:
    """The largest divisor of both sides that leaves at least 4 patches along each."""
    height, width, _ = shape
    sizes = [
        size
        for size in range(1, min(height, width) + 1)
        if height % size == 0 and width % size == 0 and min(height, width) // size >= 4
    ]
    return max(sizes, default=1)
