"""RoTTA: a balanced memory of the stream, a slow teacher, statistics that move with the memory."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Bool, Float, Int, PRNGKeyArray, Shaped

from entropax.entropy import softmax_entropy
from entropax.parameters import PathPredicate, is_norm_affine, merge, partition
from entropax.tta.augmentation import augment as augment_images
from entropax.tta.base import Adapter, Info, State, finite_rows, require_classes
from entropax.tta.cotta import follow, soft_cross_entropy
from entropax.tta.memory_bank import Bank, empty_bank, insert
from entropax.tta.minimisation import all_finite, weighted_sum
from entropax.tta.moving_norm import UpdateFn, is_running_statistic
from entropax.types import ApplyFn, Array, Batch, Params, Variables, forward


class Networks(NamedTuple):
    """The parts that an update moves; both networks have learnt parameters and statistics."""

    teacher: Params
    student: Params
    opt_state: optax.OptState


class Memory(NamedTuple):
    """Memory of RoTTA; the parameters of the state are the teacher's.

    Attributes:
      student: the student's parameters and statistics.
      opt_state: the optimiser's state.
      bank: labels, entropies and ages.
      images: `[n, ...]` the images of the bank.
      since: examples seen since the last update was due.
      key: for the augmentations.
    """

    student: Params
    opt_state: optax.OptState
    bank: Bank
    images: Shaped[Array, "n *shape"]
    since: Int[Array, ""]
    key: PRNGKeyArray


class Outcome(NamedTuple):
    """What the last update of a batch did."""

    loss: Float[Array, ""]
    weight: Float[Array, " b"]
    stepped: Bool[Array, ""]
    finite: Bool[Array, ""]


def rotta(
    key: PRNGKeyArray,
    apply_fn: ApplyFn,
    update_fn: UpdateFn,
    tx: optax.GradientTransformation,
    *,
    num_classes: int,
    image_shape: tuple[int, ...],
    augment: Callable[[PRNGKeyArray, Array], Array] = augment_images,
    capacity: int = 64,
    time_weight: float = 1.0,
    entropy_weight: float = 1.0,
    teacher_rate: float = 1e-3,
    trainable: PathPredicate = is_norm_affine,
    moving: PathPredicate = is_running_statistic,
) -> Adapter:
    r"""RoTTA: adapt to a correlated stream through a memory that keeps the classes in balance.

    Every example enters the memory (`insert`) with the class that the teacher predicts. Each time
    that `capacity` examples have passed, teacher and student see the memory once, both with
    statistics that move on by it, the student with augmented images, and

    $$L(\theta) = \frac1n \sum_{i=1}^n \frac{e^{-a_i}}{1 + e^{-a_i}}
      \Big(-\sum_k p_{ik} \ln \tilde p_{ik}(\theta)\Big), \qquad
      \theta' \leftarrow (1 - \nu)\, \theta' + \nu\, \theta,$$

    with the teacher's $p$, the student's $\tilde p$ and the age $a_i$ of the $i$-th of the $n$
    examples in the memory, in units of the capacity. The labels of a batch are those of the
    teacher before it.

    The logits in the info are the teacher's, with its running statistics, and the state's
    parameters are the teacher's, statistics included. Nothing but the memory moves until an update
    is due, and `stepped` says whether one was (a batch may hold several if it is larger than the
    capacity). `weight` is each example's coefficient in the loss of the batch's last update, 0 if
    it is not in the memory, and `loss` is that loss, in which older examples have a part too. A
    batch that is not finite, or whose update is not, leaves no trace.

    An update is computed only when it is due (`jax.lax.cond`); under `vmap` it always is.

    Args:
      key: for the augmentations; it is carried in the state.
      apply_fn: the network with its running statistics (`models.running_statistics`).
      update_fn: `(variables, x, where=None) -> (logits [b, c], variables)`, the network that moves
        its statistics on by the batch and normalises by the new ones
        (`models.moving_statistics(module, momentum=0.05)`).
      tx: an optax optimiser; published: `optax.adam(1e-3)`.
      num_classes: C.
      image_shape: shape of one example, for the memory.
      augment: `(key, x) -> x'` of the same shape, for the student's images.
      capacity: examples in the memory, and between two updates.
      time_weight: how much the age counts against an example.
      entropy_weight: how much its entropy does.
      teacher_rate: $\nu$ in (0, 1].
      trainable: which paths of the variables the student learns.
      moving: which paths `update_fn` moves.

    Raises:
      ValueError: fewer than 2 classes, a capacity below 1, a negative weight, a rate outside
        (0, 1]; when a step is traced, examples of another shape, learnt parameters in half
        precision.

    Reference: L. Yuan et al., "Robust test-time adaptation in dynamic scenarios" (2023).

    >>> def update_fn(variables, x, where=None):
    ...     return x, variables
    >>> adapter = rotta(
    ...     jax.random.key(0), lambda variables, x: x, update_fn, optax.adam(1e-3),
    ...     num_classes=10, image_shape=(32, 32, 3),
    ... )
    """
    if num_classes < 2:
        raise ValueError(f"`num_classes` must be at least 2, got {num_classes}.")
    if capacity < 1:
        raise ValueError(f"`capacity` must be at least 1, got {capacity}.")
    for name, value in (("time_weight", time_weight), ("entropy_weight", entropy_weight)):
        if not value >= 0:
            raise ValueError(f"`{name}` must not be negative, got {value}.")
    if not 0 < teacher_rate <= 1:
        raise ValueError(f"`teacher_rate` must be in (0, 1], got {teacher_rate}.")
    logits_of = forward(apply_fn)

    def moves(path: str) -> bool:
        return trainable(path) or moving(path)

    def init(variables: Variables) -> State:
        params, frozen = partition(variables, moves)
        opt_state = tx.init(partition(params, trainable)[0])
        images = jnp.zeros((capacity, *image_shape))
        since = jnp.zeros((), jnp.int32)
        memory = Memory(params, opt_state, empty_bank(capacity), images, since, key)
        return State(params, frozen, memory)

    def update(
        networks: Networks, frozen: Variables, bank: Bank, x: Array, key: PRNGKeyArray
    ) -> tuple[Networks, Float[Array, ""], Float[Array, " n"], Bool[Array, ""]]:
        """One step on the memory: networks, loss, weights in it, whether all was finite."""
        filled = bank.label >= 0
        first = x[jnp.argmax(filled)]
        x = jnp.where(filled.reshape((-1,) + (1,) * (x.ndim - 1)), x, first)
        target, moved = update_fn(merge(networks.teacher, frozen), x, where=filled)
        target = target.astype(jnp.promote_types(target.dtype, jnp.float32))
        teacher = partition(moved, moves)[0]
        seen = augment(key, x)
        timeliness = jax.nn.sigmoid(-bank.age.astype(target.dtype) / capacity)
        weight = jnp.where(filled, timeliness, 0) / jnp.maximum(jnp.sum(filled), 1)
        learnt, _ = partition(networks.student, trainable)

        def loss_fn(learnt: Params) -> tuple[Float[Array, ""], Params]:
            params = _put(learnt, networks.student)
            logits, moved = update_fn(merge(params, frozen), seen, where=filled)
            return weighted_sum(
                weight, soft_cross_entropy(target, logits.astype(target.dtype))
            ), moved

        (loss, moved), grads = jax.value_and_grad(loss_fn, has_aux=True)(learnt)
        updates, opt_state = tx.update(grads, networks.opt_state, learnt)
        learnt = optax.apply_updates(learnt, updates)
        student = _put(learnt, partition(moved, moves)[0])
        average = follow(
            partition(teacher, trainable)[0], learnt, teacher_rate, allowed=jnp.ones((), bool)
        )
        networks = Networks(_put(average, teacher), student, opt_state)
        return networks, loss, weight, all_finite((loss, grads, networks.teacher, student))

    def step(state: State, batch: Batch) -> tuple[State, Info]:
        memory: Memory = state.memory
        b = len(batch.where)
        if batch.x.shape[1:] != image_shape:
            raise ValueError(
                f"`image_shape` is {image_shape}, but the examples have {batch.x.shape[1:]}."
            )
        logits = predict(state, batch)
        require_classes(logits, num_classes)
        entropy, label = softmax_entropy(logits), jnp.argmax(logits, axis=-1)
        number = memory.since + jnp.cumsum(
            batch.where, dtype=jnp.int32
        )  # of each example since the last update
        turn = (number - 1) // capacity
        now, after = jax.random.split(memory.key)

        def enter(bank: Bank, turns: Array) -> Bank:
            """Insert the examples that come before the update of this turn."""

            def one(bank: Bank, i: Array) -> tuple[Bank, None]:
                entered = insert(
                    bank,
                    label[i],
                    entropy[i],
                    i,
                    num_classes=num_classes,
                    time_weight=time_weight,
                    entropy_weight=entropy_weight,
                )
                mine = batch.where[i] & (turn[i] == turns)
                return jax.tree.map(lambda new, old: jnp.where(mine, new, old), entered, bank), None

            return jax.lax.scan(one, bank, jnp.arange(b))[0]

        def images(bank: Bank) -> Array:
            """The bank's images: those of this batch by their row, the others as they were."""
            rows = bank.row.reshape((-1,) + (1,) * len(image_shape))
            return jnp.where(rows >= 0, batch.x[bank.row], memory.images)

        def take_turn(
            carry: tuple[Networks, Bank, Outcome], which: Array
        ) -> tuple[tuple[Networks, Bank, Outcome], None]:
            networks, bank, outcome = carry
            bank = enter(bank, which)

            def learn() -> tuple[Networks, Outcome]:
                x = images(bank).astype(batch.x.dtype)
                moved, loss, weight, finite = update(
                    networks, state.frozen, bank, x, jax.random.fold_in(now, which)
                )
                here = jnp.where(bank.row >= 0, weight, 0).astype(logits.dtype)
                of_rows = jnp.zeros(b, logits.dtype).at[bank.row].add(here)
                finite &= outcome.finite
                loss = loss.astype(logits.dtype)
                return moved, Outcome(loss, of_rows, jnp.ones((), bool), finite)

            due = number[-1] >= (which + 1) * capacity
            networks, outcome = jax.lax.cond(due, learn, lambda: (networks, outcome))
            return (networks, bank, outcome), None

        nothing = Outcome(
            jnp.zeros((), logits.dtype),
            jnp.zeros(b, logits.dtype),
            jnp.zeros((), bool),
            finite_rows(batch, logits),
        )
        networks = Networks(state.params, memory.student, memory.opt_state)
        bank = memory.bank._replace(row=jnp.full(capacity, -1, jnp.int32))
        turns = -(-b // capacity)  # no batch holds more updates than that
        (networks, bank, outcome), _ = jax.lax.scan(
            take_turn, (networks, bank, nothing), jnp.arange(turns)
        )
        bank = enter(bank, jnp.asarray(turns))
        moved = (networks, bank, images(bank).astype(memory.images.dtype), number[-1] % capacity)
        before = (
            Networks(state.params, memory.student, memory.opt_state),
            memory.bank,
            memory.images,
            memory.since,
        )
        networks, bank, kept, since = jax.tree.map(
            lambda new, old: jnp.where(outcome.finite, new, old), moved, before
        )
        memory = Memory(networks.student, networks.opt_state, bank, kept, since, after)
        weight = jnp.where(outcome.finite, outcome.weight, 0)
        info = Info(
            logits=logits,
            entropy=entropy,
            weight=weight,
            selected=jnp.sum(weight > 0),
            loss=outcome.loss,
            stepped=outcome.stepped & outcome.finite,
            finite=outcome.finite,
        )
        return State(networks.teacher, state.frozen, memory), info

    def predict(state: State, batch: Batch) -> Array:
        return logits_of(state.variables, batch)

    return Adapter(init, step, predict)


def _put(learnt: Params, others: Params) -> Params:
    """`others` with the arrays of `learnt` in their places."""
    return merge(learnt, others)
