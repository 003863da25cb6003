"""Wrappers that take an adapter back to the source network when, or wherever, that is due."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, PRNGKeyArray, PyTree

from entropax.tta.base import Adapter, Info, State
from entropax.types import Array, Batch, Params, Variables

Watched: TypeAlias = PyTree[Any]
Judge = Callable[[Watched, State, State, Batch, Info], tuple[Watched, Bool[Array, ""]]]


class Guarded(NamedTuple):
    """Memory of `reset_when`.

    Attributes:
      memory: the wrapped adapter's memory.
      watched: what the rule remembers.
      initial_params: the source parameters.
      initial_memory: the wrapped adapter's memory at the beginning.
      initial_watched: what the rule remembers at the beginning.
    """

    memory: PyTree[Any]
    watched: Watched
    initial_params: Params
    initial_memory: PyTree[Any]
    initial_watched: Watched


class RunningMean(NamedTuple):
    """A running mean; `value` is meaningless until `seen`."""

    value: Float[Array, ""]
    seen: Bool[Array, ""]


def reset_when(
    adapter: Adapter, *, start: Callable[[Variables], Watched], judge: Judge, whole: bool = True
) -> Adapter:
    """Return to the source network after every step of which a rule says so.

    All resets that depend on what is seen are this wrapper with a rule: `reset_on_low_entropy`,
    `reset_on_low_accuracy`, `reset_on_flips`. `info.reset` tells when it happened.

    Args:
      adapter: the adapter to watch.
      start: what the rule remembers at the beginning, from the source variables.
      judge: the rule, `(watched, source state, state before the step, batch, info) -> (watched,
        whether a reset is due)`.
      whole: a reset restores parameters, optimiser and memory of the wrapped adapter, its random
        key included, and the rule starts anew; if False, the parameters alone.

    >>> import optax
    >>> from entropax.tta.tent import tent
    >>> adapter = reset_when(  # at once after a step that failed
    ...     tent(lambda variables, x: x, optax.sgd(2.5e-4)),
    ...     start=lambda variables: (),
    ...     judge=lambda watched, source, state, batch, info: (watched, ~info.finite),
    ... )
    """

    def init(variables: Variables) -> State:
        begin = adapter.init(variables)
        watched = start(variables)
        memory = Guarded(begin.memory, watched, begin.params, begin.memory, watched)
        return begin._replace(memory=memory)

    def step(state: State, batch: Batch) -> tuple[State, Info]:
        memory: Guarded = state.memory
        before = state._replace(memory=memory.memory)
        source = State(memory.initial_params, state.frozen, memory.initial_memory)
        moved, info = adapter.step(before, batch)
        watched, due = judge(memory.watched, source, before, batch, info)

        def restored(initial: PyTree[Any], current: PyTree[Any]) -> PyTree[Any]:
            return jax.tree.map(lambda a, b: jnp.where(due, a, b), initial, current)

        params, inner = restored(memory.initial_params, moved.params), moved.memory
        if whole:
            inner = restored(memory.initial_memory, inner)
            watched = restored(memory.initial_watched, watched)
        memory = memory._replace(memory=inner, watched=watched)
        return State(params, state.frozen, memory), info._replace(reset=info.reset | due)

    def predict(state: State, batch: Batch) -> Array:
        return adapter.predict(state._replace(memory=state.memory.memory), batch)

    return Adapter(init, step, predict)


def unseen_mean(variables: Variables) -> RunningMean:
    """A running mean of nothing, in the precision of the variables."""
    dtype = jnp.result_type(jnp.float32, *jax.tree.leaves(variables))
    return RunningMean(jnp.zeros((), dtype), jnp.zeros((), bool))


def updated_mean(
    mean: RunningMean, value: Float[Array, ""], decay: float, *, counts: Bool[Array, ""]
) -> RunningMean:
    """`decay` of the old mean and the rest of the value; the value itself if it is the first."""
    value = value.astype(mean.value.dtype)
    mixed = jnp.where(mean.seen, decay * mean.value + (1 - decay) * value, value)
    return RunningMean(jnp.where(counts, mixed, mean.value), mean.seen | counts)


class Restored(NamedTuple):
    """Memory of `restore_at_random`: the wrapped method's, where it began, and the key."""

    memory: PyTree[Any]
    initial_params: Params
    key: PRNGKeyArray


def selected_entropy(info: Info) -> Float[Array, ""]:
    """Mean entropy, in nats, of the examples that a step learnt from; 0 when there is none."""
    total = jnp.sum(jnp.where(info.weight > 0, info.entropy, 0))
    return total / jnp.maximum(info.selected, 1)


def reset_on_low_entropy(
    adapter: Adapter,
    *,
    limit: float,
    decay: float = 0.9,
    watch: Callable[[Info], Float[Array, ""]] = selected_entropy,
    compat: str | None = None,
) -> Adapter:
    r"""Return to the source network once the running mean of the entropies is below a limit.

    $$\bar H \leftarrow \rho \bar H + (1 - \rho) H_t, \qquad
      \text{reset if } \bar H < \text{limit},$$

    with $\bar H = H_t$ to begin with, and again after a reset. A step that selected nothing, or was
    not finite, leaves $\bar H$ alone. The reset comes after the step and restores parameters,
    optimiser and the wrapped adapter's memory.

    Args:
      adapter: the adapter to watch.
      limit: nats. SAR uses 0.2 for 1,000 classes, that is $0.029 \ln C$.
      decay: $\rho$ in [0, 1).
      watch: $H_t$ from a step's info.
      compat: `"reference"` restores the parameters alone, keeps the momentum, and keeps $\bar H$,
        so that it resets again at the next steps until $\bar H$ has risen above the limit: what the
        published code of SAR does.

    Raises:
      ValueError: a limit that is not positive, `decay` outside [0, 1), an unknown `compat`.

    Reference: S. Niu et al., "Towards stable test-time adaptation in dynamic wild world" (2023).

    >>> import optax
    >>> from entropax.tta.tent import tent
    >>> adapter = tent(lambda variables, x: x, optax.sgd(2.5e-4))
    >>> adapter = reset_on_low_entropy(adapter, limit=0.067)
    """
    if not limit > 0:
        raise ValueError(f"`limit` must be positive, got {limit} nats.")
    if not 0 <= decay < 1:
        raise ValueError(f"`decay` must be in [0, 1), got {decay}.")
    if compat not in (None, "reference"):
        raise ValueError(f"`compat` must be None or 'reference', got {compat!r}.")

    def judge(
        average: RunningMean, source: State, state: State, batch: Batch, info: Info
    ) -> tuple[RunningMean, Bool[Array, ""]]:
        value = watch(info)
        counts = info.finite & (info.selected > 0) & jnp.isfinite(value)
        average = updated_mean(average, value, decay, counts=counts)
        return average, average.seen & (average.value < limit)

    return reset_when(adapter, start=unseen_mean, judge=judge, whole=compat is None)


def restore_at_random(key: PRNGKeyArray, adapter: Adapter, *, rate: float = 0.01) -> Adapter:
    r"""Put each parameter back to its source value with a small probability after every update.

    $$\theta \leftarrow m \odot \theta^0 + (1 - m) \odot \theta, \qquad
      m_j \sim \mathrm{Bernoulli}(\text{rate}),$$

    drawn anew for every step; a step that was not taken restores nothing. Optimiser and memory of
    the wrapped adapter are left alone.

    Args:
      key: for the masks.
      adapter: the adapter whose parameters are restored.
      rate: share of the parameters, in [0, 1]; published: 0.01 for CIFAR, 0.001 for ImageNet.

    Raises:
      ValueError: `rate` is outside [0, 1].

    Reference: Q. Wang et al., "Continual test-time domain adaptation" (2022).

    >>> import optax
    >>> from entropax.tta.tent import tent
    >>> adapter = tent(lambda variables, x: x, optax.sgd(2.5e-4))
    >>> adapter = restore_at_random(jax.random.key(0), adapter, rate=0.001)
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"`rate` must be in [0, 1], got {rate}.")

    def init(variables: Variables) -> State:
        start = adapter.init(variables)
        return start._replace(memory=Restored(start.memory, start.params, key))

    def step(state: State, batch: Batch) -> tuple[State, Info]:
        memory: Restored = state.memory
        moved, info = adapter.step(state._replace(memory=memory.memory), batch)
        now, after = jax.random.split(memory.key)
        params = bernoulli_restore(
            now, rate, memory.initial_params, moved.params, allowed=info.stepped
        )
        memory = memory._replace(memory=moved.memory, key=after)
        return State(params, state.frozen, memory), info

    def predict(state: State, batch: Batch) -> Array:
        return adapter.predict(state._replace(memory=state.memory.memory), batch)

    return Adapter(init, step, predict)


def bernoulli_restore(
    key: PRNGKeyArray,
    rate: float,
    initial: Params,
    current: Params,
    *,
    allowed: Bool[Array, ""] | bool = True,
) -> Params:
    """Put each number of `current` back to that of `initial` with probability `rate`.

    Nothing goes back where `allowed` is False.
    """
    leaves, structure = jax.tree.flatten(current)
    masks = [
        allowed & jax.random.bernoulli(leaf_key, rate, leaf.shape)
        for leaf_key, leaf in zip(jax.random.split(key, len(leaves)), leaves, strict=True)
    ]
    return jax.tree.map(jnp.where, jax.tree.unflatten(structure, masks), initial, current)
