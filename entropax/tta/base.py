"""What every test-time adapter is: two pure functions over a state, and a prediction.

`step` is the body of a `jax.lax.scan`, so a stream is one line:

    state, infos = jax.lax.scan(adapter.step, adapter.init(variables), batches)

A batch carries no labels, so an adapter cannot look at them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, PyTree

from entropax.parameters import merge
from entropax.types import Array, Batch, Params, Variables


class State(NamedTuple):
    """What an adapter carries from one batch to the next.

    Attributes:
      params: the variables that it moves; None at the places of the others.
      frozen: the variables that it never touches; None at the places of `params`.
      memory: whatever else the method remembers (optimiser state, running means, counters).
    """

    params: Params
    frozen: Variables
    memory: PyTree[Any]

    @property
    def variables(self) -> Variables:
        """The adapted network's variables, in the structure that `apply_fn` takes."""
        return merge(self.params, self.frozen)


class Info(NamedTuple):
    """What one step lets you see.

    Attributes:
      logits: `[b, c]` predictions for the batch, made before the update.
      entropy: `[b]` their entropies in nats.
      weight: `[b]` coefficient of each example's term (most often its entropy) in the loss; 0 where
        it was left out.
      selected: number of examples with a weight.
      loss: the value whose gradient was followed; 0 when nothing was selected.
      stepped: whether the parameters were updated.
      finite: whether inputs and logits (of real examples), loss and gradient were all finite. When
        they were not, nothing was updated.
      reset: whether a wrapper went back to the source parameters because of this batch.
      collapsed: whether `collapse_alarm` rang; False without it.
    """

    logits: Float[Array, "b c"]
    entropy: Float[Array, " b"]
    weight: Float[Array, " b"]
    selected: Int[Array, ""]
    loss: Float[Array, ""]
    stepped: Bool[Array, ""]
    finite: Bool[Array, ""]
    reset: Bool[Array, ""] | bool = False
    collapsed: Bool[Array, ""] | bool = False


class Adapter(NamedTuple):
    """A test-time adaptation method.

    Attributes:
      init: `variables -> state`.
      step: `(state, batch) -> (state, info)`: predict, then update.
      predict: `(state, batch) -> logits [b, c]`: predict and leave the state alone.
    """

    init: Callable[[Variables], State]
    step: Callable[[State, Batch], tuple[State, Info]]
    predict: Callable[[State, Batch], Float[Array, "b c"]]


def finite_rows(batch: Batch, logits: Float[Array, "b c"]) -> Bool[Array, ""]:
    """Whether the inputs and the logits of all real examples are finite.

    The inputs are looked at too because a ReLU may turn NaN into 0 on its way through.
    """
    x = batch.x.reshape(len(logits), -1)
    finite = jnp.all(jnp.isfinite(x), axis=-1) & jnp.all(jnp.isfinite(logits), axis=-1)
    return jnp.all(finite | ~batch.where)


def require_classes(logits: Float[Array, "b c"], num_classes: int) -> None:
    """Fail, when the step is traced, if the network has another number of classes."""
    if logits.shape[-1] != num_classes:
        raise ValueError(
            f"`num_classes` is {num_classes}, but the network has {logits.shape[-1]} logits."
        )


def adapt(adapter: Adapter, variables: Variables, batches: Batch) -> tuple[State, Info]:
    """Run an adapter over a stream that fits in memory, as one scan.

    Args:
      adapter: from `norm`, `tent`, `eata`, `rdumb`, ... or a wrapper around one of them.
      variables: the source network.
      batches: `x [t, b, ...]` and `where [t, b]`.

    Returns:
      The last state, and the infos stacked along a leading axis `t`.
    """
    return jax.lax.scan(adapter.step, adapter.init(variables), batches)
