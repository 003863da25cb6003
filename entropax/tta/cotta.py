"""CoTTA: learn from a slow teacher that is averaged over augmentations, and forget a little."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Bool, Float, PRNGKeyArray

from entropax.entropy import softmax_entropy
from entropax.parameters import PathPredicate, merge, partition_floats
from entropax.tta.augmentation import augment as augment_images
from entropax.tta.base import Adapter, Info, State, finite_rows
from entropax.tta.minimisation import Descent, all_finite, descend, mean_weight, weighted_sum
from entropax.tta.resets import bernoulli_restore
from entropax.types import ApplyFn, Array, Batch, Params, Variables, forward


class Student(NamedTuple):
    """Memory of CoTTA; the parameters of the state are the teacher's.

    Attributes:
      params: the student's parameters.
      source: those of the source network.
      opt_state: the optimiser's state.
      key: for the augmentations and the restoring.
    """

    params: Params
    source: Params
    opt_state: optax.OptState
    key: PRNGKeyArray


def cotta(
    key: PRNGKeyArray,
    apply_fn: ApplyFn,
    tx: optax.GradientTransformation,
    *,
    threshold: float,
    augment: Callable[[PRNGKeyArray, Array], Array] = augment_images,
    num_augmentations: int = 32,
    teacher_decay: float = 0.999,
    restore_rate: float = 0.01,
    symmetric: bool = False,
    trainable: PathPredicate | None = None,
) -> Adapter:
    r"""CoTTA: a student learns from its own slow average, and goes back to the source bit by bit.

    $$L(\theta) = -\frac1n \sum_{i=1}^n \sum_k \bar p_{ik} \ln p_{ik}(\theta), \qquad
      \theta' \leftarrow \alpha \theta' + (1 - \alpha) \theta,$$

    where $\bar p$ is the softmax of the teacher's logits $z(\theta')$. If the source network's mean
    confidence on the batch is below the threshold, the logits are averaged over augmented copies of
    the batch. After the step each of the student's parameters is put back to its source value with
    the probability `restore_rate`; the teacher follows before that.

    The logits in the info, and those of `predict`, are the teacher's $\bar z$, and the state's
    parameters are the teacher's: it is the network that predicts. The augmented passes are skipped
    when they are not needed (`jax.lax.cond`); under `vmap` both branches are computed.

    As long as no batch was unsure, teacher and student agree and the gradient is 0 but for
    rounding: a threshold of 0 adapts nothing (and Adam, which rescales gradients, makes noise of
    it).

    Args:
      key: for augmentations and restoring; it is carried in the state.
      apply_fn: the network with batch statistics, `(variables, x) -> logits [b, c]`.
      tx: an optax optimiser; published: `optax.adam(1e-3)` at 200 images (CIFAR),
        `optax.sgd(0.01, momentum=0.9)` at 64 (ImageNet).
      threshold: confidence in [0, 1] from which the teacher is asked once. It depends on the
        source network: see `confidence_threshold`. Published: 0.92 (CIFAR-10), 0.72 (CIFAR-100),
        0.1 (ImageNet).
      augment: `(key, x) -> x'` of the same shape.
      num_augmentations: copies that the average is taken over.
      teacher_decay: $\alpha$ in [0, 1).
      restore_rate: in [0, 1]; published: 0.01 for CIFAR, 0.001 for ImageNet.
      symmetric: take the mean of this cross-entropy and the one with the two networks' roles
        exchanged, as published for ImageNet.
      trainable: which paths of the variables to adapt; by default all floating-point arrays of
        "params", or all of them if the variables have no such collection. With
        `is_norm_affine` only the normalisation layers.

    Raises:
      ValueError: a setting outside its range, fewer than 1 augmentation; when a step is traced,
        parameters in half precision.

    Reference: Q. Wang et al., "Continual test-time domain adaptation" (2022), section 3.

    >>> adapter = cotta(jax.random.key(0), lambda variables, x: x, optax.adam(1e-3), threshold=0.92)
    """
    for name, value in (("threshold", threshold), ("restore_rate", restore_rate)):
        if not 0 <= value <= 1:
            raise ValueError(f"`{name}` must be in [0, 1], got {value}.")
    if not 0 <= teacher_decay < 1:
        raise ValueError(f"`teacher_decay` must be in [0, 1), got {teacher_decay}.")
    if num_augmentations < 1:
        raise ValueError(f"`num_augmentations` must be at least 1, got {num_augmentations}.")
    logits_of = forward(apply_fn)

    def init(variables: Variables) -> State:
        params, frozen = partition_floats(variables, trainable)
        return State(params, frozen, Student(params, params, tx.init(params), key))

    def predict(state: State, batch: Batch) -> Float[Array, "b c"]:
        memory: Student = state.memory
        teacher = state.variables

        def averaged() -> Float[Array, "b c"]:
            def add(total: Array, key: PRNGKeyArray) -> tuple[Array, None]:
                return total + logits_of(teacher, batch._replace(x=augment(key, batch.x))), None

            keys = jax.random.split(jax.random.fold_in(memory.key, 0), num_augmentations)
            shape = jax.eval_shape(logits_of, teacher, batch)
            total, _ = jax.lax.scan(add, jnp.zeros(shape.shape, shape.dtype), keys)
            return total / num_augmentations

        anchor = logits_of(merge(memory.source, state.frozen), batch)
        confidence = jnp.max(jax.nn.softmax(anchor), axis=-1)
        unsure = weighted_sum(mean_weight(batch.where), confidence) < threshold
        unsure &= jnp.any(batch.where)
        return jax.lax.cond(unsure, averaged, lambda: logits_of(teacher, batch))

    def step(state: State, batch: Batch) -> tuple[State, Info]:
        memory: Student = state.memory
        target = predict(state, batch)
        weight = mean_weight(batch.where).astype(target.dtype)
        student = State(memory.params, state.frozen, Descent(memory.opt_state, ()))

        def loss_fn(params: Params) -> Float[Array, ""]:
            logits = logits_of(student._replace(params=params).variables, batch)
            loss = soft_cross_entropy(target, logits)
            if symmetric:
                loss = (loss + soft_cross_entropy(logits, target)) / 2
            return weighted_sum(weight, loss)

        loss, grads = jax.value_and_grad(loss_fn)(student.params)
        finite = finite_rows(batch, target) & all_finite((loss, grads))
        stepped = finite & jnp.any(batch.where)
        moved = descend(tx, student, grads, (), allowed=stepped)
        teacher = follow(state.params, moved.params, 1 - teacher_decay, allowed=stepped)
        restored = bernoulli_restore(
            jax.random.fold_in(memory.key, 1),
            restore_rate,
            memory.source,
            moved.params,
            allowed=stepped,
        )
        after = jax.random.fold_in(memory.key, 2)
        memory = Student(restored, memory.source, moved.memory.opt_state, after)
        info = Info(
            logits=target,
            entropy=softmax_entropy(target),
            weight=weight,
            selected=jnp.sum(weight > 0),
            loss=loss,
            stepped=stepped,
            finite=finite,
        )
        return State(teacher, state.frozen, memory), info

    return Adapter(init, step, predict)


def confidence_threshold(
    logits: Float[Array, "n c"],
    *,
    quantile: float = 0.05,
    margin: float = 0.05,
    where: Bool[Array, " n"] | None = None,
) -> Float[Array, ""]:
    """CoTTA's threshold from the source network's logits on images of the source.

    A low quantile of the largest probabilities, less a margin: batches that are on average less
    sure than that are unlike the source.

    Args:
      logits: `[n, c]`, in the mode in which the network will be adapted.
      quantile: in [0, 1].
      margin: subtracted; the result is not less than 0.
      where: images that count.

    Returns:
      The threshold, for `cotta` as a `float`; NaN if no image counts, or the logits of one that
      counts are NaN.

    Raises:
      ValueError: `quantile` is outside [0, 1].

    Reference: Q. Wang et al., "Continual test-time domain adaptation" (2022), supplement; both
    numbers are in the authors' answer to issue 16 of the published code, qinenergy/cotta.

    >>> logits = jnp.log(jnp.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]]))
    >>> round(float(confidence_threshold(logits, quantile=0.5)), 4)
    0.75
    """
    if not 0 <= quantile <= 1:
        raise ValueError(f"`quantile` must be in [0, 1], got {quantile}.")
    confidence = jnp.max(jax.nn.softmax(logits), axis=-1)
    where = jnp.ones(len(confidence), bool) if where is None else where
    chosen = jnp.nanquantile(jnp.where(where, confidence, jnp.nan), quantile)
    broken = jnp.any(jnp.isnan(confidence) & where)
    return jnp.where(broken, jnp.nan, jnp.maximum(chosen - margin, 0))


def soft_cross_entropy(
    target: Float[Array, "*b c"], logits: Float[Array, "*b c"]
) -> Float[Array, "*b"]:
    """Cross-entropy in nats of the softmax of `logits` under that of `target`.

    >>> float(soft_cross_entropy(jnp.zeros(2), jnp.zeros(2)))  # ln 2
    0.6931471824645996
    """
    return -jnp.sum(jax.nn.softmax(target) * jax.nn.log_softmax(logits), axis=-1)


def follow(average: Params, params: Params, rate: float, *, allowed: Bool[Array, ""]) -> Params:
    """Move a running average of parameters towards them, if that is `allowed`.

    Written so that an average equal to the parameters stays exactly what it is.

    Raises:
      ValueError: parameters in half precision.
    """
    if half := [p.dtype.name for p in jax.tree.leaves(average) if jnp.finfo(p.dtype).bits < 32]:
        raise ValueError(
            f"A slow average needs parameters in float32, got {half[0]}, in which a small step of "
            "it is rounded to none; the network may still compute in half precision."
        )
    return jax.tree.map(lambda a, p: jnp.where(allowed, a + rate * (p - a), a), average, params)
