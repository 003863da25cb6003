"""MEMO: adapt to one example at a time by asking for one answer to all its augmented copies."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Bool, Float, PRNGKeyArray, Shaped

from entropax.entropy import softmax_entropy
from entropax.parameters import PathPredicate, merge, partition_floats
from entropax.tta.augmentation import augment as augment_images
from entropax.tta.base import Adapter, Info, State, finite_rows
from entropax.tta.minimisation import all_finite, mean_weight, weighted_sum
from entropax.types import ApplyFn, Array, Batch, Params, Variables, forward


class Copying(NamedTuple):
    """Memory of MEMO: the key from which the next batch's copies are augmented."""

    key: PRNGKeyArray


def memo(
    key: PRNGKeyArray,
    apply_fn: ApplyFn,
    tx: optax.GradientTransformation,
    *,
    augment: Callable[[PRNGKeyArray, Array], Array] = augment_images,
    num_copies: int = 32,
    steps: int = 1,
    examples_at_once: int = 1,
    trainable: PathPredicate | None = None,
) -> Adapter:
    r"""MEMO: minimise the entropy of the mean prediction for copies of one example, then forget.

    $$L(\theta) = H\Big(\frac1K \sum_{j=1}^K p\big(a_j(x); \theta\big)\Big)$$

    for each example $x$ alone, from the source parameters and with a fresh optimiser; the adapted
    network predicts $x$ itself and is thrown away. So the examples of a batch have nothing to do
    with each other, the state's parameters stay those of the source, and `stepped` is always False.
    An example whose loss or gradient is not finite is predicted by the source network, and flagged.

    The logits in the info, and those of `predict`, are the adapted networks'; `loss` is the mean
    over the examples of $L$ at the last step's beginning. A batch of $b$ costs $b$ times the
    `steps` gradients of $K$ images: on a CPU that is slow whatever one does.

    Args:
      key: for the augmentations; it is carried in the state.
      apply_fn: `(variables, x) -> logits [b, c]`. It sees the copies together and the example
        alone: batch statistics need a share of the running ones,
        `models.batch_statistics(module, batch_weight=1 / 17)` as published (prior strength 16).
      tx: an optax optimiser; published: `optax.sgd(5e-3)` for CIFAR-10 (a ResNet-26 with group
        normalisation), `optax.sgd(2.5e-4)` for ImageNet's ResNet-50 and
        `optax.adamw(1e-5, weight_decay=0.01)` for larger networks.
      augment: `(key, x [k, ...]) -> x'` of the same shape, with its own change for every row. The
        published code uses AugMix.
      num_copies: $K$.
      steps: gradient steps on each example, with new copies every time.
      examples_at_once: examples that are adapted side by side (by `vmap`): more keep an
        accelerator busy, and take as many times the memory.
      trainable: which paths of the variables to adapt; by default all floating-point arrays of
        "params", or all of them if the variables have no such collection.

    Raises:
      ValueError: a number of copies, steps or examples below 1.

    Reference: M. Zhang et al., "MEMO: test time robustness via adaptation and augmentation" (2022).

    >>> adapter = memo(jax.random.key(0), lambda variables, x: x, optax.sgd(5e-3))
    """
    for name, value in (
        ("num_copies", num_copies),
        ("steps", steps),
        ("examples_at_once", examples_at_once),
    ):
        if value < 1:
            raise ValueError(f"`{name}` must be at least 1, got {value}.")
    logits_of = forward(apply_fn)

    def init(variables: Variables) -> State:
        params, frozen = partition_floats(variables, trainable)
        return State(params, frozen, Copying(key))

    def adapt_to(
        state: State, image: Shaped[Array, "*shape"], real: Bool[Array, ""], key: PRNGKeyArray
    ) -> tuple[Float[Array, " c"], Float[Array, ""], Bool[Array, ""]]:
        """Logits of one example, the loss, and whether everything was finite."""
        copies = jnp.broadcast_to(image, (num_copies, *image.shape))

        def one_step(
            carry: tuple[Params, optax.OptState], key: PRNGKeyArray
        ) -> tuple[tuple[Params, optax.OptState], tuple[Array, Array]]:
            params, opt_state = carry
            batch = Batch(augment(key, copies), jnp.full(num_copies, real))

            def loss_fn(params: Params) -> Float[Array, ""]:
                return marginal_entropy(logits_of(merge(params, state.frozen), batch))

            loss, grads = jax.value_and_grad(loss_fn)(params)
            updates, opt_state = tx.update(grads, opt_state, params)
            params = optax.apply_updates(params, updates)
            return (params, opt_state), (loss, all_finite((loss, grads)))

        start = (state.params, tx.init(state.params))
        (params, _), (losses, finite) = jax.lax.scan(one_step, start, jax.random.split(key, steps))
        finite = jnp.all(finite)
        params = jax.tree.map(lambda new, old: jnp.where(finite, new, old), params, state.params)
        alone = Batch(image[None], real[None])
        return logits_of(merge(params, state.frozen), alone)[0], losses[-1], finite

    def adapt_each(
        state: State, batch: Batch
    ) -> tuple[Float[Array, "b c"], Float[Array, " b"], Bool[Array, " b"]]:
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(
            state.memory.key, jnp.arange(len(batch.where))
        )
        return jax.lax.map(
            lambda one: adapt_to(state, *one),
            (batch.x, batch.where, keys),
            batch_size=examples_at_once if examples_at_once > 1 else None,
        )

    def step(state: State, batch: Batch) -> tuple[State, Info]:
        logits, losses, finite = adapt_each(state, batch)
        weight = mean_weight(batch.where).astype(logits.dtype)
        _, after = jax.random.split(state.memory.key)
        return state._replace(memory=Copying(after)), Info(
            logits=logits,
            entropy=softmax_entropy(logits),
            weight=weight,
            selected=jnp.sum(weight > 0),
            loss=weighted_sum(weight, losses),
            stepped=jnp.zeros((), bool),
            finite=finite_rows(batch, logits) & jnp.all(finite | ~batch.where),
        )

    def predict(state: State, batch: Batch) -> Array:
        return adapt_each(state, batch)[0]

    return Adapter(init, step, predict)


def marginal_entropy(logits: Float[Array, "*b k c"]) -> Float[Array, "*b"]:
    r"""Entropy in nats of the mean of $K$ softmax distributions.

    $$H\Big(\frac1K \sum_j \mathrm{softmax}(z_j)\Big),$$

    by logarithms throughout, so that confident predictions have a gradient as well.

    >>> float(marginal_entropy(jnp.array([[0.0, 99.0], [99.0, 0.0]])))  # sure of two things: ln 2
    0.6931471824645996
    """
    log_probs = jax.nn.log_softmax(logits, axis=-1)
    mean = jax.nn.logsumexp(log_probs, axis=-2) - math.log(logits.shape[-2])
    return softmax_entropy(mean)
