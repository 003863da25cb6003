"""A memory of a stream, of fixed size, that keeps the classes in balance."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from entropax.types import Array


class Bank(NamedTuple):
    """What is kept of the stream, apart from the images; the slots are in no order.

    Attributes:
      label: `[n]` predicted class; -1 where the slot is free.
      entropy: `[n]` of the prediction, in nats.
      age: `[n]` examples seen since this one, itself included.
      row: `[n]` row of the batch at hand where it comes from; -1 if it is older.
    """

    label: Int[Array, " n"]
    entropy: Float[Array, " n"]
    age: Int[Array, " n"]
    row: Int[Array, " n"]


def empty_bank(capacity: int) -> Bank:
    """A bank of free slots."""
    free = jnp.full(capacity, -1, jnp.int32)
    return Bank(free, jnp.zeros(capacity), jnp.zeros(capacity, jnp.int32), free)


def insert(
    bank: Bank,
    label: Int[Array, ""],
    entropy: Float[Array, ""],
    row: Int[Array, ""],
    *,
    num_classes: int,
    time_weight: float = 1.0,
    entropy_weight: float = 1.0,
) -> Bank:
    r"""Offer an example to a category-balanced bank, and let everything in it grow older by one.

    A class may fill its share of the slots, capacity / C rounded up. If the example's class has not
    done so and a slot is free, the example takes it. Otherwise it takes the slot of the worst
    example (of its own class if that has its share, of the largest classes if the bank is full),
    provided that this is worse than itself; worse is the larger

    $$\lambda_t \frac{1}{1 + e^{-a}} + \lambda_u \frac{H}{\ln C},$$

    with the age $a$ in units of the capacity and 0 for the newcomer. Of equals, that of the highest
    class goes, then the youngest.

    Args:
      bank: from `empty_bank`.
      label: the example's class.
      entropy: its entropy in nats.
      row: its place in the batch.
      num_classes: C.
      time_weight: $\lambda_t$.
      entropy_weight: $\lambda_u$.

    Reference: L. Yuan et al., "Robust test-time adaptation in dynamic scenarios" (2023), algorithm
    1.

    >>> bank = empty_bank(2)
    >>> for row, (label, entropy) in enumerate([(0, 0.3), (1, 0.5), (0, 0.1)]):
    ...     at = jnp.asarray(label), jnp.asarray(entropy), jnp.asarray(row)
    ...     bank = insert(bank, *at, num_classes=2)
    >>> bank.row.tolist(), bank.age.tolist()  # the last example takes the slot of the first
    ([2, 1], [1, 2])
    """
    capacity = len(bank.label)
    filled = bank.label >= 0
    same = bank.label == label
    has_room = jnp.sum(same) * num_classes < capacity
    free = ~jnp.all(filled)
    size = jnp.sum(bank.label[:, None] == bank.label, axis=1)
    largest = filled & (size == jnp.max(jnp.where(filled, size, 0)))

    def badness(age: Array, entropy: Array) -> Array:
        late = time_weight * jax.nn.sigmoid(age / capacity)
        return late + entropy_weight * entropy / math.log(num_classes)

    score = badness(bank.age.astype(bank.entropy.dtype), bank.entropy)
    score = jnp.where(jnp.where(has_room, largest, same), score, -jnp.inf)
    worst = jnp.max(score)
    equals = score == worst
    equals &= bank.label == jnp.max(jnp.where(equals, bank.label, -1))
    youngest = jnp.argmin(jnp.where(equals, bank.age, jnp.iinfo(jnp.int32).max))

    easy = has_room & free
    slot = jnp.where(easy, jnp.argmin(filled), youngest)
    accepted = easy | (worst > badness(jnp.zeros((), entropy.dtype), entropy))
    here = accepted & (jnp.arange(capacity) == slot)
    return Bank(
        label=jnp.where(here, label.astype(jnp.int32), bank.label),
        entropy=jnp.where(here, entropy.astype(bank.entropy.dtype), bank.entropy),
        age=jnp.where(here, 0, bank.age) + 1,
        row=jnp.where(here, row.astype(jnp.int32), bank.row),
    )
