"""Training many networks as one pure function, and what they are worth on a test set."""

import inspect
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Float, Int, PyTree, Shaped

from entropax.types import ApplyFn, Array, Params


class EnsembleState(NamedTuple):
    """Networks in the middle of their training; every array has a leading axis `[k]`.

    Attributes:
      params: the parameters.
      opt_state: of the optimiser.
      key: from which each network draws the order of its examples.
      epoch: number of epochs done.
      loss: mean loss over the last epoch; NaN before the first.
    """

    params: Params
    opt_state: PyTree
    key: Array
    epoch: Int[Array, " k"]
    loss: Float[Array, " k"]


class Trainer(NamedTuple):
    """Two pure functions; see `ensemble_trainer`.

    Attributes:
      init: `(keys [k], params) -> state`; every leaf of `params` has a leading axis `[k]`.
      advance: `(state, x [k, n, ...], labels [k, n], epochs) -> state`; `epochs` is an ordinary
        number, so that other numbers of epochs do not compile again.
    """

    init: Callable[[Array, Params], EnsembleState]
    advance: Callable[[EnsembleState, Array, Array, Array | int], EnsembleState]


def ensemble_trainer(
    apply_fn: ApplyFn,
    tx: optax.GradientTransformation,
    *,
    batch_size: int,
    at_once: int = 1,
) -> Trainer:
    r"""Train k networks on the cross-entropy, each on examples of its own.

    In every epoch a network visits its n examples once, in an order drawn from its key and the
    number of the epoch: the result does not depend on how the epochs are divided among calls of
    `advance`, on the other networks, or on `at_once`. If `batch_size` does not divide n, the last
    batch of an epoch is smaller; if it exceeds n, there is one batch of n.

    Args:
      apply_fn: `(params, x [b, ...]) -> logits [b, c]`, each example by itself: a last batch that
        is smaller is filled up.
      tx: the optimiser.
      batch_size: examples a step.
      at_once: networks that take their steps side by side (`jax.vmap`); the others wait. On a CPU
        one network at a time is fastest unless it is tiny, since its weights then stay in the
        cache; an accelerator wants all of them.

    Returns:
      `Trainer(init, advance)`, not compiled.

    Raises:
      ValueError: `batch_size` or `at_once` is not positive; a function of the batch (one that takes
        `where`); and, when it is called, the arrays do
        not have one set of examples for each network.

    >>> trainer = ensemble_trainer(lambda w, x: x @ w, optax.adam(0.1), batch_size=2)
    >>> x = jnp.array([[[1.0, 0.0], [0.0, 1.0], [1.0, 0.1]]])  # one network, three examples
    >>> state = trainer.init(jax.random.split(jax.random.key(0), 1), jnp.zeros((1, 2, 2)))
    >>> state = trainer.advance(state, x, jnp.array([[0, 1, 0]]), 50)
    >>> int(state.epoch[0]), bool(state.loss[0] < 0.1)
    (50, True)
    """
    _check(apply_fn, batch_size, at_once)

    def init(keys: Array, params: Params) -> EnsembleState:
        networks = len(keys)
        return EnsembleState(
            params=params,
            opt_state=jax.vmap(tx.init)(params),
            key=keys,
            epoch=jnp.zeros(networks, jnp.int32),
            loss=jnp.full(networks, jnp.nan),
        )

    def advance(
        state: EnsembleState,
        x: Shaped[Array, "k n *shape"],
        labels: Int[Array, "k n"],
        epochs: Array | int,
    ) -> EnsembleState:
        if not len(state.epoch) == len(x) == len(labels) or x.shape[1] != labels.shape[1]:
            raise ValueError(
                f"{len(state.epoch)} networks need as many sets of examples and labels, got "
                f"{jnp.shape(x)} and {jnp.shape(labels)}."
            )

        def of_one(network: tuple[EnsembleState, Array, Array]) -> EnsembleState:
            return _advance_one(apply_fn, tx, *network, epochs, batch_size)

        return _map_networks(of_one, (state, x, labels), at_once)

    return Trainer(init, advance)


def _advance_one(
    apply_fn: ApplyFn,
    tx: optax.GradientTransformation,
    state: EnsembleState,
    x: Shaped[Array, "n *shape"],
    labels: Int[Array, " n"],
    epochs: Array | int,
    batch_size: int,
) -> EnsembleState:
    n = len(x)
    batch_size = min(batch_size, n)
    steps = -(-n // batch_size)

    def loss_fn(params: Params, rows: Array, where: Array) -> Array:
        losses = optax.losses.softmax_cross_entropy_with_integer_labels(
            apply_fn(params, x[rows]), labels[rows]
        )
        return jnp.sum(jnp.where(where, losses, 0)) / jnp.sum(where)

    def step(
        carry: tuple[Params, PyTree], batch: tuple[Array, Array]
    ) -> tuple[tuple[Params, PyTree], Array]:
        params, opt_state = carry
        loss, grads = jax.value_and_grad(loss_fn)(params, *batch)
        updates, opt_state = tx.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), loss * jnp.sum(batch[1])

    def epoch(_: Array, state: EnsembleState) -> EnsembleState:
        order = jax.random.permutation(jax.random.fold_in(state.key, state.epoch), n)
        padded = jnp.pad(order, (0, steps * batch_size - n)).reshape(steps, batch_size)
        where = jnp.arange(steps * batch_size).reshape(steps, batch_size) < n
        (params, opt_state), losses = lax.scan(
            step, (state.params, state.opt_state), (padded, where)
        )
        return EnsembleState(params, opt_state, state.key, state.epoch + 1, jnp.sum(losses) / n)

    return lax.fori_loop(0, epochs, epoch, state)


def evaluate_ensemble(
    apply_fn: ApplyFn,
    params: Params,
    x: Shaped[Array, "n *shape"],
    labels: Int[Array, " n"],
    *,
    batch_size: int = 50,
    at_once: int = 1,
) -> tuple[Float[Array, " k"], Float[Array, " k"]]:
    """Mean cross-entropy in nats and accuracy of k networks on the same examples.

    Args:
      apply_fn: `(params, x [b, ...]) -> logits [b, c]`, each example by itself.
      params: every leaf has a leading axis `[k]`.
      x: `[n, ...]` examples.
      labels: `[n]` classes.
      batch_size: examples at a time; memory grows with
        `batch_size * at_once`.
      at_once: networks side by side, as in `ensemble_trainer`.

    Returns:
      Losses `[k]` and accuracies `[k]`.

    Raises:
      ValueError: as from `ensemble_trainer`, or there is not one label for each example.

    >>> weights = jnp.stack([jnp.eye(2), -jnp.eye(2)])
    >>> _, accuracy = evaluate_ensemble(lambda w, x: x @ w, weights, jnp.eye(2), jnp.array([0, 1]))
    >>> accuracy.tolist()
    [1.0, 0.0]
    """
    _check(apply_fn, batch_size, at_once)
    n = len(x)
    if not 0 < n == len(labels):
        raise ValueError(f"Examples need one label each, got {n} and {len(labels)}.")

    def of_one(params: Params) -> tuple[Array, Array]:
        def of_example(x: Array, label: Array) -> tuple[Array, Array]:
            logits = apply_fn(params, x[None])[0]
            loss = optax.losses.softmax_cross_entropy_with_integer_labels(logits, label)
            return loss, jnp.argmax(logits) == label

        losses, right = lax.map(lambda pair: of_example(*pair), (x, labels), batch_size=batch_size)
        return jnp.sum(losses) / n, jnp.sum(right) / n

    return _map_networks(of_one, params, at_once)


def _check(apply_fn: ApplyFn, batch_size: int, at_once: int) -> None:
    for name, value in (("batch_size", batch_size), ("at_once", at_once)):
        if value < 1:
            raise ValueError(f"`{name}` must be at least 1, got {value}.")
    if "where" in inspect.signature(apply_fn).parameters:
        raise ValueError(
            "`apply_fn` takes `where`: its outputs depend on the whole batch. Use running "
            "statistics."
        )


def _map_networks(function: Callable[[PyTree], PyTree], networks: PyTree, at_once: int) -> PyTree:
    # One at a time without an axis of length 1: with it, gradients come out transposed.
    return lax.map(function, networks, batch_size=None if at_once == 1 else at_once)
