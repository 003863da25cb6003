"""Adapters made from adapters."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Int, PyTree

from entropax.tta.base import Adapter, Info, State
from entropax.types import Array, Batch, Params, Variables


class Periodic(NamedTuple):
    """Memory of `reset_every`: the wrapped method's, where it began, and the step counter."""

    memory: PyTree[Any]
    initial_params: Params
    initial_memory: PyTree[Any]
    step: Int[Array, ""]


def reset_every(adapter: Adapter, *, period: int) -> Adapter:
    """Return to the source network every `period` steps: parameters, optimiser and memory.

    The reset comes before the step, at steps `period`, 2 `period`, ...; `period=1` is the episodic
    mode of Tent. `info.reset` is True on the steps that begin with one. (At step 0 the network is
    the source: there is nothing to go back from, and it is False.) A random key in the memory goes
    back as well, so that after each reset the same numbers are drawn.

    Raises:
      ValueError: `period` is not positive.

    Reference: O. Press et al., "RDumb: a simple approach that questions our progress in continual
    test-time adaptation" (2023), section 4.
    """
    if period < 1:
        raise ValueError(f"`period` must be at least 1 step, got {period}.")

    def init(variables: Variables) -> State:
        start = adapter.init(variables)
        memory = Periodic(start.memory, start.params, start.memory, jnp.zeros((), jnp.int32))
        return start._replace(memory=memory)

    def step(state: State, batch: Batch) -> tuple[State, Info]:
        memory: Periodic = state.memory
        due = (memory.step > 0) & (memory.step % period == 0)
        params, inner = jax.tree.map(
            lambda initial, current: jnp.where(due, initial, current),
            (memory.initial_params, memory.initial_memory),
            (state.params, memory.memory),
        )
        moved, info = adapter.step(State(params, state.frozen, inner), batch)
        memory = memory._replace(memory=moved.memory, step=memory.step + 1)
        return moved._replace(memory=memory), info._replace(reset=info.reset | due)

    def predict(state: State, batch: Batch) -> Array:
        return adapter.predict(state._replace(memory=state.memory.memory), batch)

    return Adapter(init, step, predict)


def repeat(adapter: Adapter, *, steps: int) -> Adapter:
    """Take `steps` steps on each batch; the info, logits included, is that of the last one.

    Raises:
      ValueError: `steps` is not positive.
    """
    if steps < 1:
        raise ValueError(f"`steps` must be at least 1, got {steps}.")

    def step(state: State, batch: Batch) -> tuple[State, Info]:
        for _ in range(steps - 1):
            state, _ = adapter.step(state, batch)
        return adapter.step(state, batch)

    return adapter._replace(step=step)


def map_inputs(adapter: Adapter, function: Callable[[Array], Array]) -> Adapter:
    """Apply `function` to the inputs of every batch before the adapter sees them.

    Use it to scale and normalise uint8 images, or to look images up by their index, inside the
    compiled scan: the stream is then small and the floats live for one step only.
    """

    def mapped(batch: Batch) -> Batch:
        return batch._replace(x=function(batch.x))

    return Adapter(
        adapter.init,
        lambda state, batch: adapter.step(state, mapped(batch)),
        lambda state, batch: adapter.predict(state, mapped(batch)),
    )
