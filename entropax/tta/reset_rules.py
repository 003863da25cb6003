"""Resets by an estimated accuracy, and by how many labels have flipped since the source network."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from entropax.tta.base import Adapter, Info, State
from entropax.tta.flips import flip_rate
from entropax.tta.resets import RunningMean, reset_when, unseen_mean, updated_mean
from entropax.types import ApplyFn, Array, Batch, Variables, forward

Estimate = Callable[[State, Batch, Info], Float[Array, ""]]


class AccuracyTrend(NamedTuple):
    """What `reset_on_low_accuracy` remembers.

    Attributes:
      smoothed: running mean of the estimates.
      recent: `[2 window]` its last values, the newest at the end.
      number: how many of them there have been since the last reset.
    """

    smoothed: RunningMean
    recent: Float[Array, " n"]
    number: Int[Array, ""]


def reset_on_low_accuracy(
    adapter: Adapter,
    estimate: Estimate,
    *,
    limit: float = 0.2,
    window: int = 5,
    drop: float = 0.02,
    decay: float = 0.6,
) -> Adapter:
    r"""Return to the source network when its estimated accuracy is low, or is falling.

    $$a_t = \rho\, a_{t-1} + (1 - \rho)\, \hat a_t, \qquad
      \text{reset if } a_t < \text{limit or }
      \frac1w \sum_{i=0}^{w-1} a_{t-i} + \text{drop} < \frac1w \sum_{i=w}^{2w-1} a_{t-i}.$$

    A step that was not finite, a batch without examples and an estimate that is NaN do not count.
    The reset comes after the step. All is forgotten then, the running mean included: the published
    code keeps it, so that a low mean resets again at the next steps.

    Args:
      adapter: the adapter to watch.
      estimate: $\hat a_t$ in [0, 1]: `(state, batch, info) -> accuracy`, a pure function of the
        state before the step (the wrapped adapter's), the batch, and the info of the step, whose
        logits are that state's predictions. For AETTA: logits of `models.dropout_passes` at
        `state.variables` and `info.logits`, put into `estimation.aetta_error`.
      limit: an accuracy. AETTA's estimates are never below $1/C$: with few classes, raise it.
      window: $w$, a number of steps.
      drop: an accuracy.
      decay: $\rho$ in [0, 1).

    Raises:
      ValueError: `limit` or `drop` outside [0, 1], `window` not positive, `decay` outside [0, 1).

    Reference: T. Lee et al., "AETTA: label-free accuracy estimation for test-time adaptation"
    (2024), and its published code, which has these defaults.

    >>> import jax, optax
    >>> from entropax.tta.tent import tent
    >>> def mean_confidence(state, batch, info):
    ...     confidence = jax.nn.softmax(info.logits).max(-1)
    ...     return jnp.mean(confidence, where=batch.where)
    >>> adapter = tent(lambda variables, x: x, optax.sgd(2.5e-4))
    >>> adapter = reset_on_low_accuracy(adapter, mean_confidence)
    """
    for name, value in (("limit", limit), ("drop", drop)):
        if not 0 <= value <= 1:
            raise ValueError(f"`{name}` is an accuracy in [0, 1], got {value}.")
    if window < 1:
        raise ValueError(f"`window` must be at least 1 step, got {window}.")
    if not 0 <= decay < 1:
        raise ValueError(f"`decay` must be in [0, 1), got {decay}.")

    def start(variables: Variables) -> AccuracyTrend:
        mean = unseen_mean(variables)
        recent = jnp.zeros(2 * window, mean.value.dtype)
        return AccuracyTrend(mean, recent, jnp.zeros((), jnp.int32))

    def judge(
        trend: AccuracyTrend, source: State, state: State, batch: Batch, info: Info
    ) -> tuple[AccuracyTrend, Bool[Array, ""]]:
        accuracy = jnp.asarray(estimate(state, batch, info))
        if accuracy.shape:
            raise ValueError(f"`estimate` must return one number, got shape {accuracy.shape}.")
        counts = info.finite & jnp.any(batch.where) & jnp.isfinite(accuracy)
        smoothed = updated_mean(trend.smoothed, accuracy, decay, counts=counts)
        shifted = jnp.append(trend.recent[1:], smoothed.value)
        recent = jnp.where(counts, shifted, trend.recent)
        number = trend.number + counts
        fallen = jnp.mean(recent[window:]) + drop < jnp.mean(recent[:window])
        due = (smoothed.value < limit) | ((number >= 2 * window) & fallen)
        return AccuracyTrend(smoothed, recent, number), counts & due

    return reset_when(adapter, start=start, judge=judge)


def reset_on_flips(
    adapter: Adapter, apply_fn: ApplyFn, *, limit: float, decay: float = 0.9
) -> Adapter:
    r"""Return to the source network when too many of its predictions have flipped.

    $$v_t = \frac1n \sum_{i=1}^n \mathbf 1[\hat y_i \ne \hat y^0_i], \qquad
      \bar v \leftarrow \rho\, \bar v + (1 - \rho)\, v_t, \qquad
      \text{reset if } \bar v > \text{limit},$$

    with $\hat y^0$ the source network's predictions of the same batch, and $\bar v = v_t$ to begin
    with and after a reset. It costs one forward pass a step. A step that was not finite and a batch
    without examples do not count. Adaptation is there to flip labels: the limit says how many are
    too many. No paper proposes this rule; the more labels flip, the less accurate the source
    network was (Press et al., 2024, section 4).

    Args:
      adapter: the adapter to watch.
      apply_fn: the network that it adapts. It gets `x` as it is in the batch, before any
        `map_inputs` inside the adapter.
      limit: a share of the labels, in (0, 1).
      decay: $\rho$ in [0, 1).

    Raises:
      ValueError: `limit` outside (0, 1), `decay` outside [0, 1).

    >>> import optax
    >>> from entropax.tta.tent import tent
    >>> apply_fn = lambda variables, x: x * variables["norm"]["scale"]
    >>> adapter = reset_on_flips(tent(apply_fn, optax.sgd(0.1)), apply_fn, limit=0.5)
    """
    if not 0 < limit < 1:
        raise ValueError(f"`limit` must be in (0, 1), got {limit}.")
    if not 0 <= decay < 1:
        raise ValueError(f"`decay` must be in [0, 1), got {decay}.")
    flips = source_flips(apply_fn)

    def judge(
        average: RunningMean, source: State, state: State, batch: Batch, info: Info
    ) -> tuple[RunningMean, Bool[Array, ""]]:
        counts = info.finite & jnp.any(batch.where)
        rate = flips(source, batch, info)
        average = updated_mean(average, rate, decay, counts=counts)
        return average, average.seen & (average.value > limit)

    return reset_when(adapter, start=unseen_mean, judge=judge)


def source_flips(apply_fn: ApplyFn) -> Callable[[State, Batch, Info], Float[Array, ""]]:
    """Make `(source state, batch, info) -> v`: the share of labels the source network disagrees on.

    Its own predictions of the batch cost a forward pass; those of the adapted one are in the info.
    """
    logits_of = forward(apply_fn)

    def flips(source: State, batch: Batch, info: Info) -> Float[Array, ""]:
        labels0 = jnp.argmax(logits_of(source.variables, batch), axis=-1)
        return flip_rate(labels0, jnp.argmax(info.logits, axis=-1), where=batch.where)

    return flips
