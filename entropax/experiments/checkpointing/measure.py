"""Train one network, keep checkpoints by every criterion, restore them, see how good they are."""

import itertools
import math
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Int

from entropax.checkpoint import EntropyCheckpointer, EntropySum, entropy_accumulator
from entropax.experiments.checkpointing.config import Config
from entropax.experiments.labelled_images import Parts
from entropax.types import Array, Params

_EVALUATED = 256  # images in a batch
_ENTROPIES = {mode: entropy_accumulator(mode=mode) for mode in ("top2", "full")}


class Criterion(NamedTuple):
    """What a checkpoint is kept by.

    Attributes:
      value: a key of what `evaluate` measures.
      select: `"max"` or `"min"`; None for the last one.
      late: only after the warm-up.
    """

    value: str
    select: str | None
    late: bool = False


CRITERIA = {
    "val_accuracy": Criterion("val_accuracy", "max"),
    "val_loss": Criterion("val_loss", "min"),
    "top2_max": Criterion("top2", "max"),
    "top2_max_late": Criterion("top2", "max", late=True),
    "top2_min": Criterion("top2", "min"),
    "full_max": Criterion("full", "max"),
    "full_max_late": Criterion("full", "max", late=True),
    "full_min": Criterion("full", "min"),
    "last": Criterion("val_accuracy", None),
}


class State(NamedTuple):
    """All that training needs to go on."""

    params: Params
    opt_state: optax.OptState
    key: Array


def wrong_labels(
    rng: np.random.Generator, labels: Int[np.ndarray, " n"], share: float, num_classes: int
) -> Int[np.ndarray, " n"]:
    """Replace a share of the labels, rounded, by other classes, each as likely."""
    rows = rng.permutation(len(labels))[: round(share * len(labels))]
    noisy = labels.copy()
    noisy[rows] = (labels[rows] + rng.integers(1, num_classes, len(rows))) % num_classes
    return noisy


def measure(config: Config, parts: Parts, noise: float, seed: int, folder: Path) -> dict[str, Any]:
    """One network: what was measured along the training, and the checkpoints of every criterion.

    Args:
      config: of the run.
      parts: `probe` is for validation.
      noise: share of wrong training labels.
      seed: of the labels that are wrong, the initial weights and the order of the images.
      folder: of the checkpoints, empty.

    Returns:
      `curves`, lists by name, with the epochs under `step`; and `chosen`, for every criterion the
      `step`, the `value` and the `test_accuracy` of the restored network.

    Raises:
      FloatingPointError: the loss is not finite.
    """
    classes = len(parts.class_names)
    rng = np.random.default_rng((seed, round(1e6 * noise)))
    labels = wrong_labels(rng, parts.train.labels, noise, classes)
    share = noise if config.validation_labels == "noisy" else 0.0
    val = _padded(parts.probe.x, wrong_labels(rng, parts.probe.labels, share, classes))
    test = _padded(parts.test.x, parts.test.labels)

    curves: dict[str, list[float]] = {}
    with ExitStack() as stack:
        keepers = {
            name: stack.enter_context(
                EntropyCheckpointer(
                    folder,
                    phase=name,
                    mode=criterion.value if criterion.value in _ENTROPIES else "top2",
                    select=criterion.select or "max",
                    keep_latest=0 if criterion.select else 1,
                    min_step=config.warm_up_step if criterion.late else 0,
                )
            )
            for name, criterion in CRITERIA.items()
        }
        for step, loss, state in _training(config, parts.train.x, labels, classes, seed):
            if not math.isfinite(loss):
                raise FloatingPointError(
                    f"The loss of epoch {step} is {loss}; lower --learning-rate, "
                    f"{config.learning_rate}."
                )
            on_val, on_test = evaluate(state.params, *val), evaluate(state.params, *test)
            values = {
                "val_accuracy": float(on_val["accuracy"]),
                "val_loss": float(on_val["loss"]),
                **{mode: float(_ENTROPIES[mode].value(on_val[mode])) for mode in _ENTROPIES},
            }
            more = {"train_loss": loss, "test_accuracy": float(on_test["accuracy"])}
            for name, value in ({"step": step} | values | more).items():
                curves.setdefault(name, []).append(value)
            for name, keeper in keepers.items():
                wanted = CRITERIA[name].value
                keeper.step(
                    step, state, on_val.get(wanted) if wanted in _ENTROPIES else values[wanted]
                )
        like = jax.eval_shape(lambda: state)
        chosen = {}
        for name, keeper in keepers.items():
            last = CRITERIA[name].select is None
            restored = (keeper.restore_latest if last else keeper.restore_best)(like)
            kept = keeper.history()[-1] if last else keeper.best
            assert kept is not None
            chosen[name] = {
                "step": kept.step,
                "value": kept.value,
                "test_accuracy": float(evaluate(restored.params, *test)["accuracy"]),
            }
    return {"curves": curves, "chosen": chosen}


def logits_of(params: Params, x: Array) -> Array:
    """A network with ReLU between its layers `(weights, bias)`."""
    for weights, bias in params[:-1]:
        x = jax.nn.relu(x @ weights + bias)
    weights, bias = params[-1]
    return x @ weights + bias


@jax.jit
def evaluate(params: Params, x: Array, labels: Array, where: Array) -> dict[str, Any]:
    """Accuracy and loss over batches, and sums of entropies: the logits are never all there."""

    def add(sums: Any, batch: tuple[Array, Array, Array]) -> tuple[Any, None]:
        x, labels, where = batch
        logits = logits_of(params, x)
        losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels)
        right = jnp.argmax(logits, -1) == labels
        entropies: dict[str, EntropySum] = {
            mode: _ENTROPIES[mode].update(sums[mode], logits, where=where) for mode in _ENTROPIES
        }
        return {
            "accuracy": sums["accuracy"] + jnp.sum(right & where),
            "loss": sums["loss"] + jnp.sum(losses, where=where),
            **entropies,
        }, None

    start = {
        "accuracy": jnp.int32(0),
        "loss": jnp.float32(0),
        **{mode: _ENTROPIES[mode].init() for mode in _ENTROPIES},
    }
    sums, _ = jax.lax.scan(add, start, (x, labels, where))
    count = jnp.sum(where)
    return sums | {"accuracy": sums["accuracy"] / count, "loss": sums["loss"] / count}


def _padded(x: np.ndarray, labels: np.ndarray) -> tuple[Array, Array, Array]:
    """Flat images in batches of one size."""
    n = len(x)
    flat = x.reshape(n, -1)
    fill = -n % _EVALUATED
    rows = np.pad(np.arange(n), (0, fill))
    where = np.arange(n + fill) < n
    return (
        jnp.asarray(flat[rows].reshape(-1, _EVALUATED, flat.shape[1])),
        jnp.asarray(labels[rows].reshape(-1, _EVALUATED)),
        jnp.asarray(where.reshape(-1, _EVALUATED)),
    )


def _training(
    config: Config, images: np.ndarray, labels: np.ndarray, classes: int, seed: int
) -> Iterator[tuple[int, float, State]]:
    """Yield the epoch, its mean loss and the state whenever a checkpoint is possible."""
    x = jnp.asarray(images.reshape(len(images), -1))
    y = jnp.asarray(labels)
    tx = optax.adam(config.learning_rate)
    sizes = (x.shape[1], config.width, config.width, classes)
    key, *keys = jax.random.split(jax.random.key(seed), len(sizes))
    init_fn = jax.nn.initializers.he_normal()
    params = [
        (init_fn(k, shape), jnp.zeros(shape[1]))
        for k, shape in zip(keys, itertools.pairwise(sizes), strict=True)
    ]
    state = State(params, tx.init(params), key)
    for epoch in range(1, config.epochs + 1):
        state, loss = _epoch(state, x, y, config.learning_rate, batch_size=config.batch_size)
        if epoch % config.every == 0:
            yield epoch, float(loss), state


def _epoch_fn(
    state: State, x: Array, y: Array, learning_rate: Array | float, *, batch_size: int
) -> tuple[State, Array]:
    tx = optax.adam(learning_rate)
    key, key_order = jax.random.split(state.key)
    steps = len(x) // batch_size
    order = jax.random.permutation(key_order, len(x))[: steps * batch_size]

    def step(carry: Any, rows: Array) -> tuple[Any, Array]:
        params, opt_state = carry

        def loss_fn(params: Params) -> Array:
            logits = logits_of(params, x[rows])
            losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, y[rows])
            return jnp.mean(losses)

        loss, grads = jax.value_and_grad(loss_fn)(params)
        updates, opt_state = tx.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state), loss

    (params, opt_state), losses = jax.lax.scan(
        step, (state.params, state.opt_state), order.reshape(steps, batch_size)
    )
    return State(params, opt_state, key), jnp.mean(losses)


_epoch = jax.jit(_epoch_fn, static_argnames="batch_size")
