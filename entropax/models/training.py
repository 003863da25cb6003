"""Supervised training of a source classifier."""

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float, Int, UInt8

from entropax.types import Array, Variables


def fit_classifier(
    key: Array,
    module: nn.Module,
    images: UInt8[np.ndarray, "n h w channels"],
    labels: Int[np.ndarray, " n"],
    *,
    epochs: int,
    batch_size: int = 64,
    learning_rate: float = 3e-3,
    weight_decay: float = 1e-4,
    shift: int = 0,
    on_epoch: Callable[[int, float], None] | None = None,
) -> Variables:
    """Train a linen classifier by AdamW on the cross-entropy, with a cosine schedule.

    Args:
      key: randomness of the initial weights, the order of the images and the shifts.
      module: called with `train=True`; its inputs are images divided by 255.
      images: `[n, h, w, channels]`.
      labels: `[n]` classes.
      epochs: passes over the images; an incomplete last batch is dropped.
      batch_size: images a step, at most n.
      learning_rate: the schedule's maximum, reached after a tenth of the steps.
      weight_decay: of AdamW, on every parameter.
      shift: augmentation: every batch is moved by up to this many pixels along each axis, edges
        filled with zeros.
      on_epoch: called with the epoch, from 1, and the mean loss over it.

    Returns:
      Variables with `params` and `batch_stats`.

    Raises:
      FloatingPointError: the loss is not finite.
      ValueError: a size or rate that is not positive, fewer images than a batch, one class only,
        labels that are not classes of the network or not one for each image.
    """
    positive = {"epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate}
    for name, value in positive.items():
        if not value > 0:
            raise ValueError(f"`{name}` must be positive, got {value}.")
    if images.dtype != np.uint8:
        raise ValueError(f"Images must be uint8 in 0..255, got {images.dtype}.")
    if len(images) != len(labels):
        raise ValueError(f"There are {len(images)} images and {len(labels)} labels.")
    if shift < 0:
        raise ValueError(f"`shift` must not be negative, got {shift}.")
    if len(images) < batch_size:
        raise ValueError(f"{len(images)} images do not fill one batch of {batch_size}.")
    if len(np.unique(labels)) < 2:
        raise ValueError(f"Training needs two classes or more; every label is {labels[0]}.")

    steps = len(images) // batch_size
    total = max(2, epochs * steps)
    schedule = optax.warmup_cosine_decay_schedule(0.0, learning_rate, max(1, total // 10), total)
    tx = optax.adamw(schedule, weight_decay=weight_decay)
    key_init, key_order = jax.random.split(key)
    example = jnp.zeros((1, *images.shape[1:]))
    variables = module.init(key_init, example, train=True)
    opt_state = tx.init(variables["params"])
    logits, _ = jax.eval_shape(
        lambda v: module.apply(v, example, train=True, mutable=["batch_stats"]), variables
    )
    classes = logits.shape[-1]
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(
            f"Labels must be in [0, {classes}), the classes of the network, got {labels.min()} to "
            f"{labels.max()}."
        )

    # One call a step instead of a scan: on the CPU, XLA computes the gradient of a convolution
    # kernel tens of times more slowly inside a loop body.
    @jax.jit
    def step(variables, opt_state, key, x, y):  # type: ignore[no-untyped-def]
        x = _shifted(key, x / 255.0, shift)

        def loss_fn(params: Variables) -> tuple[Array, Variables]:
            logits, updated = module.apply(
                {**variables, "params": params}, x, train=True, mutable=["batch_stats"]
            )
            loss = optax.losses.softmax_cross_entropy_with_integer_labels(logits, y)
            return jnp.mean(loss), updated

        (loss, updated), grads = jax.value_and_grad(loss_fn, has_aux=True)(variables["params"])
        updates, opt_state = tx.update(grads, opt_state, variables["params"])
        params = optax.apply_updates(variables["params"], updates)
        return {"params": params, **updated}, opt_state, loss

    for epoch in range(1, epochs + 1):
        key_order, key_epoch = jax.random.split(key_order)
        order = np.asarray(jax.random.permutation(key_epoch, len(images)))
        losses = []
        for i, key_step in enumerate(jax.random.split(key_epoch, steps)):
            chosen = order[i * batch_size : (i + 1) * batch_size]
            variables, opt_state, loss = step(
                variables, opt_state, key_step, images[chosen], labels[chosen]
            )
            losses.append(loss)
        loss = float(jnp.mean(jnp.stack(losses)))
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"The loss of epoch {epoch} is {loss}; lower `learning_rate`, {learning_rate}."
            )
        if on_epoch is not None:
            on_epoch(epoch, loss)
    return variables


def _shifted(
    key: Array, x: Float[Array, "b h w channels"], shift: int
) -> Float[Array, "b h w channels"]:
    if shift == 0:
        return x
    offset = jax.random.randint(key, (2,), 0, 2 * shift + 1)
    padded = jnp.pad(x, ((0, 0), (shift, shift), (shift, shift), (0, 0)))
    start = (0, offset[0], offset[1], 0)
    return jax.lax.dynamic_slice(padded, start, x.shape)
