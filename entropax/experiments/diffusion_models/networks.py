"""Networks of all kinds, good and bad: drawn at random and trained."""

import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float, Int

from entropax.types import Array, Params

WIDTHS = (16, 32, 64, 128, 256)
DEPTHS = (1, 2, 3)
ACTIVATIONS = (jax.nn.relu, jnp.tanh, jax.nn.swish)
_BATCH = 32


class Design(NamedTuple):
    """What a network is and how it is trained, by Adam on batches of 32.

    Attributes:
      width: of every hidden layer.
      depth: number of hidden layers.
      activation: its place in `ACTIVATIONS`.
      learning_rate: of Adam.
      train: training images.
      steps: of training.
    """

    width: int
    depth: int
    activation: int
    learning_rate: float
    train: int
    steps: int


def draw_design(seed: int, number: int, *, max_train: int, max_epochs: int) -> Design:
    """Draw one; sizes, rates and times uniformly on a logarithmic scale."""
    rng = np.random.default_rng((seed, number))

    def log_uniform(low: float, high: float) -> float:
        return float(np.exp(rng.uniform(np.log(low), np.log(high))))

    train = round(log_uniform(20, max_train))
    epochs = log_uniform(1, max_epochs)
    return Design(
        width=int(rng.choice(WIDTHS)),
        depth=int(rng.choice(DEPTHS)),
        activation=int(rng.integers(len(ACTIVATIONS))),
        learning_rate=log_uniform(1e-4, 1e-2),
        train=train,
        steps=max(1, round(epochs * train / _BATCH)),
    )


@jax.jit
def hidden(params: Params, activation: Array | int, x: Float[Array, "n p"]) -> Float[Array, "n d"]:
    """The last hidden layer."""
    for weights, bias in params[:-1]:
        x = jax.lax.switch(activation, ACTIVATIONS, x @ weights + bias)
    return x


def train_network(
    key: Array, design: Design, x: Float[Array, "n p"], labels: Int[Array, " n"], num_classes: int
) -> Params:
    """Train a network on the first images of an order of its own; layers of `(weights, bias)`."""
    sizes = (x.shape[1], *([design.width] * design.depth), num_classes)
    return _train(
        key,
        design.activation,
        design.learning_rate,
        design.train,
        design.steps,
        x,
        labels,
        sizes=sizes,
    )


# Compiled once for each shape of network: all the rest is data.
@functools.partial(jax.jit, static_argnames="sizes")
def _train(
    key: Array,
    activation: Array,
    learning_rate: Array,
    n: Array,
    steps: Array,
    x: Array,
    labels: Array,
    *,
    sizes: tuple[int, ...],
) -> Params:
    key_order, key_rows, *keys = jax.random.split(key, len(sizes) + 1)
    init_fn = jax.nn.initializers.lecun_normal()
    params = [
        (init_fn(k, shape), jnp.zeros(shape[1]))
        for k, shape in zip(keys, itertools.pairwise(sizes), strict=True)
    ]
    order = jax.random.permutation(key_order, len(x))
    tx = optax.inject_hyperparams(optax.adam)(learning_rate=learning_rate)

    def step(i: Array, carry: tuple[Params, optax.OptState]) -> tuple[Params, optax.OptState]:
        params, opt_state = carry
        rows = order[jax.random.randint(jax.random.fold_in(key_rows, i), (_BATCH,), 0, n)]

        def loss_fn(params: Params) -> Array:
            weights, bias = params[-1]
            logits = hidden(params, activation, x[rows]) @ weights + bias
            losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels[rows])
            return jnp.mean(losses)

        updates, opt_state = tx.update(jax.grad(loss_fn)(params), opt_state)
        return optax.apply_updates(params, updates), opt_state

    return jax.lax.fori_loop(0, steps, step, (params, tx.init(params)))[0]
