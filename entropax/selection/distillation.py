"""Random network distillation: add the example that a predictor of a random network knows least."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Float, Int, Shaped

from entropax.distributed import data_axis, mesh_of
from entropax.kernels.base import on_shares
from entropax.selection.base import Agent, Info, State, empty, mask_chosen
from entropax.selection.checks import Pool, check_examples, check_index
from entropax.selection.distances import order_n
from entropax.types import ApplyFn, Array, Params

Distance: TypeAlias = Callable[[Array, Array], Array]


class _Memory(NamedTuple):
    params: Params
    opt_state: optax.OptState
    targets: Float[Array, "m c"]
    stationary: Int[Array, ""]


def _in_batches(
    apply_fn: ApplyFn, params: Params, x: Shaped[Array, "m *shape"], batch_size: int | None
) -> Float[Array, "m c"]:
    """`apply_fn(params, x)`, on each device a limited number of its examples at a time."""
    mesh = mesh_of(x)
    if mesh is not None and len(x) % mesh.shape[data_axis(mesh)] == 0:
        batches = partial(_one_batch_after_the_other, apply_fn, batch_size=batch_size)
        return on_shares(batches, mesh)(params, x)
    return _one_batch_after_the_other(apply_fn, params, x, batch_size=batch_size)


def _one_batch_after_the_other(
    apply_fn: ApplyFn, params: Params, x: Shaped[Array, "m *shape"], *, batch_size: int | None
) -> Float[Array, "m c"]:
    if batch_size is None or batch_size >= len(x):
        return apply_fn(params, x)
    whole = len(x) - len(x) % batch_size
    batches = x[:whole].reshape(-1, batch_size, *x.shape[1:])
    outputs = jax.lax.map(partial(apply_fn, params), batches)
    outputs = outputs.reshape(whole, *outputs.shape[2:])
    return jnp.concatenate([outputs, apply_fn(params, x[whole:])]) if whole < len(x) else outputs


def distillation(
    target_fn: ApplyFn,
    predictor_fn: ApplyFn,
    target_params: Params,
    predictor_params: Params,
    tx: optax.GradientTransformation,
    *,
    distance: Distance = order_n,
    loss: Distance = order_n,
    training_steps: int = 100,
    start: int | None = None,
    threshold: float = 0.0,
    tolerance: int | None = None,
    batch_size: int | None = None,
) -> Agent:
    r"""Random network distillation: the example joins on which the predictor is farthest off.

    $$s_{k+1} = \arg\max_{j \notin s} d(f(x_j), f_\theta(x_j)), \qquad
      \theta \leftarrow \arg\min_\theta \frac1k \sum_{i \in s} \ell(f(x_i), f_\theta(x_i)).$$

    Every round adds one example and then trains the predictor toward the target network on the set,
    from where it was, with the optimiser's memory kept, `training_steps` steps on the whole set.
    `Info.gain` is the distance of the example that joined, and the objective is minus the mean
    distance over the pool before the round.

    ZnNL's agent, which this follows, may add an example twice, never counts a round as stationary
    (its threshold is compared with nothing) and does not train in one.

    Args:
      target_fn: the network to be predicted, `(params, x) -> [b, c]`.
      predictor_fn: the network that learns, with as many outputs.
      target_params: parameters of the target, usually random.
      predictor_params: parameters of the predictor before the first round.
      tx: an optax optimiser.
      distance: `(targets [b, c], outputs [b, c]) -> [b]`, high where they differ; see
        `entropax.selection.distances`.
      loss: what training minimises, of the same form; differentiable where both agree.
      training_steps: optimiser steps a round.
      start: the first example; by default the farthest, as in every round.
      threshold: with `tolerance`, a round in which no remaining example is farther off than this
        is stationary: nothing joins, but training goes on.
      tolerance: number of stationary rounds, in all, after which the agent stops with what it has,
        so that there may be fewer than `n` indices; by default `n` examples join in any case.
      batch_size: number of the pool's examples that the networks see at a time; by default all.

    Raises:
      ValueError: `training_steps`, `tolerance` or `batch_size` is below 1, `threshold` is negative,
        `start` is not in the pool, or the two networks have outputs of different shapes.

    Reference: Y. Burda et al., "Exploration by random network distillation" (2018), section 2.2;
    RND in ZnNL.

    >>> from entropax.selection.base import select
    >>> linear = lambda params, x: x @ params
    >>> x = jnp.array([[1.0, 0.0], [5.0, 0.0], [0.0, 3.0]])
    >>> agent = distillation(linear, linear, jnp.eye(2), jnp.zeros((2, 2)), optax.sgd(0.03))
    >>> select(jax.random.key(0), agent, x, 2).indices.tolist()  # after 1 it knows 0 as well
    [1, 2]
    """
    counts = {"training_steps": training_steps, "tolerance": tolerance, "batch_size": batch_size}
    for name, value in counts.items():
        if value is not None and value < 1:
            raise ValueError(f"`{name}` must be at least 1, got {value}.")
    if not threshold >= 0:
        raise ValueError(f"`threshold` must not be negative, got {threshold}.")

    def init(key: Array, pool: Shaped[Array, "m *shape"], n: int) -> State:
        targets = _in_batches(target_fn, target_params, pool, batch_size)
        outputs = jax.eval_shape(predictor_fn, predictor_params, pool)
        if jnp.shape(outputs) != targets.shape:
            raise ValueError(
                f"The predictor's outputs have the shape {jnp.shape(outputs)}, those of the target "
                f"{targets.shape}; they must be the same."
            )
        params = jax.tree.map(jnp.asarray, predictor_params)
        return State(empty(n), _Memory(params, tx.init(params), targets, jnp.array(0)))

    def train(memory: _Memory, indices: Int[Array, " n"], pool: Any) -> _Memory:
        chosen = indices >= 0
        x, targets = pool[indices], memory.targets[indices]

        def loss_of(params: Params) -> Float[Array, ""]:
            losses = loss(targets, predictor_fn(params, x))
            return jnp.sum(losses, where=chosen) / jnp.maximum(jnp.sum(chosen), 1)

        def update(carry: Any, _: None) -> tuple[Any, None]:
            params, opt_state = carry
            updates, opt_state = tx.update(jax.grad(loss_of)(params), opt_state, params)
            return (optax.apply_updates(params, updates), opt_state), None

        (params, opt_state), _ = jax.lax.scan(
            update, (memory.params, memory.opt_state), length=training_steps
        )
        return memory._replace(params=params, opt_state=opt_state)

    def step(state: State, pool: Shaped[Array, "m *shape"]) -> tuple[State, Info]:
        indices, memory = state
        outputs = _in_batches(predictor_fn, memory.params, pool, batch_size)
        distances = distance(memory.targets, outputs)
        position = jnp.sum(indices >= 0)
        best = jnp.argmax(mask_chosen(indices, distances))
        joins = position < len(indices)
        stopped = jnp.zeros((), bool)
        if tolerance is not None:
            stopped = memory.stationary >= tolerance
            joins = joins & ~stopped & (distances[best] > threshold)
        if start is not None:
            best = jnp.where(position == 0, start, best)
            joins = joins | (position == 0)
        grown = indices.at[position].set(best.astype(jnp.int32), mode="drop")
        full = position == len(indices)
        indices = jnp.where(joins, grown, indices)
        over = full | stopped
        memory = jax.lax.cond(
            over, lambda memory: memory, lambda memory: train(memory, indices, pool), memory
        )
        stationary = memory.stationary + ~(joins | over)
        done = jnp.all(indices >= 0)
        if tolerance is not None:
            done = done | (stationary >= tolerance)
        gain = jnp.where(joins, distances[best], 0)
        info = Info(-jnp.mean(distances), gain, joins, done)
        return State(indices, memory._replace(stationary=stationary)), info

    def num_steps(n: int) -> int:
        return n if tolerance is None else n + tolerance - 1

    def check(pool: Pool, n: int) -> None:
        check_examples(pool, n)
        check_index("start", start, len(pool))

    return Agent(init, step, num_steps, check)
