"""ASR: reset when predictions get concentrated, and only as deep as that calls for."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Bool, Float, Int, PyTree

from entropax.entropy import softmax_entropy
from entropax.tta.base import Adapter, Info, State, require_classes
from entropax.tta.depth import order_of_use
from entropax.tta.eata import eta
from entropax.tta.reset_rules import source_flips
from entropax.types import ApplyFn, Array, Batch, Params, Variables, forward

Method = Callable[[ApplyFn, optax.GradientTransformation], Adapter]


class AsrSettings(NamedTuple):
    r"""The constants of ASR; as they stand, the published ones.

    Attributes:
      classes: $\alpha_0$: the threshold begins as if this share of the classes were predicted.
      inertia: $\mu_0$, how much of the threshold moves with a batch when no label has flipped.
      share: $r_0$, the share of the parameters that a reset takes back at least.
      slope: $\lambda_r$, more of them for every nat below the threshold.
      recovery: $\lambda_0$, weight of the pull when all labels have flipped.
      decay: weight of the past when the pull's centre and importances are brought up to date.
    """

    classes: float = 0.5
    inertia: float = 0.15
    share: float = 0.5
    slope: float = 20.0
    recovery: float = 5.0
    decay: float = 0.9


ASR_SETTINGS = AsrSettings()


class Recovery(NamedTuple):
    """State of the optimiser that ASR gives to the method it wraps.

    Attributes:
      opt_state: the optimiser's own.
      weight: of the pull, for the next step.
      importance: of each parameter; 0 until the first reset.
      centre: where the pull goes.
      known: whether there has been a reset.
      squares: sum of the squared gradients since the last reset.
      total: sum of the parameters since the last reset.
      steps: number of terms in these sums.
    """

    opt_state: optax.OptState
    weight: Float[Array, ""]
    importance: Params
    centre: Params
    known: Bool[Array, ""]
    squares: Params
    total: Params
    steps: Int[Array, ""]


class Selective(NamedTuple):
    """Memory of `asr`: the wrapped method's, where it began, and the threshold in nats."""

    memory: PyTree[Any]
    initial_params: Params
    initial_memory: PyTree[Any]
    threshold: Float[Array, ""]


def asr(
    apply_fn: ApplyFn,
    tx: optax.GradientTransformation,
    *,
    num_classes: int,
    method: Method | None = None,
    settings: AsrSettings = ASR_SETTINGS,
) -> Adapter:
    r"""ASR, adaptive and selective reset, round another method.

    After each step it looks at the entropy of the mean prediction and at the share of labels that
    have flipped since the source network,

    $$h = H\Big(\frac1n \sum_i z_i\Big), \qquad
      v = \frac1n \sum_i \mathbf 1[\hat y_i \ne \hat y_i^0].$$

    If $h < c$, the last $\min(r_0 + \lambda_r (c - h), 1)$ of the parameters, counted from the
    output, go back to the source, optimiser and memory of the method go back as a whole, and $c$
    starts again at $\ln(\alpha_0 C)$. Otherwise

    $$c \leftarrow \mu c + (1 - \mu) h, \qquad \mu = 1 - \mu_0 + \mu_0 v.$$

    To the gradient of every step it adds a pull towards what was known before the last resets,

    $$R(\theta) = \lambda_0 v^2 \sum_j F_j (\theta_j - \bar\theta_j)^2,$$

    with $v$ of the step before. Between two resets the squared gradients (without the pull) and the
    parameters are averaged; at a reset these means become $F$ and $\bar\theta$ the first time, and
    a tenth of them afterwards (`decay`). The loss in the info is that of the method, without $R$.

    A step that was not finite and a batch without examples change nothing; steps that the method
    did not take are left out of the averages. The depth of a parameter is the place at which the
    network uses it (`tta.depth.order_of_use`). As in the published code each array counts once and
    goes back as a whole or not at all: a reset may end between the scale and the shift of a layer.
    The source network's predictions cost a forward pass a step. `predict` is that of the method.

    Args:
      apply_fn: the network with batch statistics, `(variables, x) -> logits [b, c]`.
      tx: an optax optimiser.
      num_classes: C.
      method: `(apply_fn, tx) -> adapter`, which has to use the optimiser that it is given;
        `eta(..., num_classes=C)` by default.
      settings: the constants.

    Raises:
      ValueError: fewer than 2 classes; `classes` outside (0, 1]; `slope` that is not positive;
        `inertia`, `share` or `decay` outside [0, 1]; a negative `recovery`; by `init`, a method
        that does not use the optimiser, or in several places.

    Reference: T. Lim, J. Hwang and K. Lee, "When and where to reset matters for long-term test-time
    adaptation" (2026), sections 3.3 to 3.5, which writes the concentration $-h$; and its published
    code, which has these constants, and which wraps ETA, EATA and ROID.

    >>> from entropax.tta.tent import tent
    >>> tx = optax.sgd(2.5e-4, momentum=0.9)
    >>> adapter = asr(lambda variables, x: x, tx, num_classes=1000)
    >>> adapter = asr(lambda variables, x: x, tx, num_classes=1000, method=tent)
    """
    _check(num_classes, settings)
    if method is None:
        inner = eta(apply_fn, _with_recovery(tx), num_classes=num_classes)
    else:
        inner = method(apply_fn, _with_recovery(tx))
    logits_of, flips_of = forward(apply_fn), source_flips(apply_fn)
    first_threshold = math.log(settings.classes * num_classes)

    def init(variables: Variables) -> State:
        start = inner.init(variables)
        found = len(_recoveries(start.memory))
        if found != 1:
            raise ValueError(
                f"`method` must use the optimiser that it is given, once; its memory has {found} "
                "states of it."
            )
        threshold = jnp.asarray(
            first_threshold, jnp.result_type(jnp.float32, *jax.tree.leaves(start.params))
        )
        return start._replace(memory=Selective(start.memory, start.params, start.memory, threshold))

    def step(state: State, batch: Batch) -> tuple[State, Info]:
        memory: Selective = state.memory
        moved, info = inner.step(state._replace(memory=memory.memory), batch)
        require_classes(info.logits, num_classes)
        source = State(memory.initial_params, state.frozen, memory.initial_memory)
        counts = info.finite & jnp.any(batch.where)
        flips = flips_of(source, batch, info)
        entropy = _mean_entropy(info.logits, batch.where)

        due = counts & (entropy < memory.threshold)
        below = memory.threshold - entropy
        share = jnp.minimum(settings.share + settings.slope * below, 1)
        ranks = order_of_use(lambda p, b: logits_of(_with(state, p), b), state.params, batch)
        params = _taken_back(memory.initial_params, moved.params, ranks, due, share)

        inertia = 1 - settings.inertia + settings.inertia * flips
        threshold = inertia * memory.threshold + (1 - inertia) * entropy
        threshold = jnp.where(counts, threshold, memory.threshold)
        threshold = jnp.where(due, first_threshold, threshold).astype(memory.threshold.dtype)

        (before,), (start,) = map(_recoveries, (moved.memory, memory.initial_memory))
        weight = jnp.where(counts, settings.recovery * flips**2, before.weight)
        before = before._replace(weight=weight.astype(before.weight.dtype))
        consolidated = _consolidated(before, start, settings.decay)
        anew = jax.tree.map(
            lambda a, b: jnp.where(due, a, b),
            _with_recoveries(memory.initial_memory, consolidated),
            _with_recoveries(moved.memory, before),
        )
        memory = memory._replace(memory=anew, threshold=threshold)
        return State(params, state.frozen, memory), info._replace(reset=info.reset | due)

    def predict(state: State, batch: Batch) -> Array:
        return inner.predict(state._replace(memory=state.memory.memory), batch)

    return Adapter(init, step, predict)


def _check(num_classes: int, settings: AsrSettings) -> None:
    if num_classes < 2:
        raise ValueError(f"`num_classes` must be at least 2, got {num_classes}.")
    if not 0 < settings.classes <= 1:
        raise ValueError(f"`classes` is a share in (0, 1], got {settings.classes}.")
    if not settings.slope > 0:
        raise ValueError(f"`slope` must be positive, got {settings.slope}.")
    for name in ("inertia", "share", "decay"):
        if not 0 <= getattr(settings, name) <= 1:
            raise ValueError(f"`{name}` must be in [0, 1], got {getattr(settings, name)}.")
    if not settings.recovery >= 0:
        raise ValueError(f"`recovery` must not be negative, got {settings.recovery}.")


def _mean_entropy(logits: Float[Array, "b c"], where: Bool[Array, " b"]) -> Float[Array, ""]:
    """Entropy of the prediction that the mean of the real rows' logits stands for."""
    total = jnp.sum(jnp.where(where[:, None], logits, 0), axis=0)
    return softmax_entropy(total / jnp.maximum(jnp.sum(where), 1))


def _with(state: State, params: Params) -> Variables:
    return state._replace(params=params).variables


def _taken_back(
    initial: Params,
    current: Params,
    ranks: list[int],
    due: Bool[Array, ""],
    share: Float[Array, ""],
) -> Params:
    """The last `share` of the parameters from `initial`, the others from `current`."""
    kept = (1 - share) * len(ranks)
    pairs = zip(jax.tree.leaves(initial), jax.tree.leaves(current), ranks, strict=True)
    leaves = [jnp.where(due & (rank >= kept), old, new) for old, new, rank in pairs]
    return jax.tree.unflatten(jax.tree.structure(current), leaves)


def _with_recovery(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """The optimiser with a pull before it, which averages what it sees as it goes."""

    def init(params: Params) -> Recovery:
        nothing = jax.tree.map(jnp.zeros_like, params)
        dtype = jnp.result_type(jnp.float32, *jax.tree.leaves(params))
        return Recovery(
            opt_state=tx.init(params),
            weight=jnp.zeros((), dtype),
            importance=nothing,
            centre=nothing,
            known=jnp.zeros((), bool),
            squares=nothing,
            total=nothing,
            steps=jnp.zeros((), jnp.int32),
        )

    def update(
        grads: Params, state: Recovery, params: Params | None = None
    ) -> tuple[Params, Recovery]:
        pulled = jax.tree.map(
            lambda g, p, f, centre: g + (2 * state.weight * f * (p - centre)).astype(g.dtype),
            grads,
            params,
            state.importance,
            state.centre,
        )
        updates, opt_state = tx.update(pulled, state.opt_state, params)
        return updates, state._replace(
            opt_state=opt_state,
            squares=jax.tree.map(lambda s, g: s + g**2, state.squares, grads),
            total=jax.tree.map(jnp.add, state.total, params),
            steps=state.steps + 1,
        )

    return optax.GradientTransformation(init, update)


def _consolidated(now: Recovery, start: Recovery, decay: float) -> Recovery:
    """A fresh optimiser that has taken over the means since the last reset."""
    old = jnp.where(now.steps == 0, 1, jnp.where(now.known, decay, 0))

    def mixed(before: Array, total: Array) -> Array:
        mean = total / jnp.maximum(now.steps, 1)
        return (old * before + (1 - old) * mean).astype(before.dtype)

    return start._replace(
        weight=now.weight,
        importance=jax.tree.map(mixed, now.importance, now.squares),
        centre=jax.tree.map(mixed, now.centre, now.total),
        known=now.known | (now.steps > 0),
    )


def _is_recovery(node: Any) -> bool:
    return isinstance(node, Recovery)


def _recoveries(memory: PyTree[Any]) -> list[Recovery]:
    return list(filter(_is_recovery, jax.tree.leaves(memory, is_leaf=_is_recovery)))


def _with_recoveries(memory: PyTree[Any], recovery: Recovery) -> PyTree[Any]:
    """The memory with this state of the optimiser in place of its own."""
    return jax.tree.map(
        lambda node: recovery if _is_recovery(node) else node, memory, is_leaf=_is_recovery
    )
