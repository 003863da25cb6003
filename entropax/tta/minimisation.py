"""Entropy minimisation: the part that Tent, ETA, EATA and RDumb share.

A method says how much each example's entropy weighs and, if it likes, adds a penalty on the
parameters; one gradient step is the same for all of them. `follow_gradient` takes any other loss,
and `descend` is the guarded step itself.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Bool, Float, PyTree

from entropax.entropy import softmax_entropy
from entropax.parameters import PathPredicate, is_norm_affine, partition
from entropax.tta.base import Adapter, Info, State, finite_rows
from entropax.types import ApplyFn, Array, Batch, Params, Variables, forward

Memory: TypeAlias = PyTree[Any]
Weigh = Callable[
    [Memory, Float[Array, "b c"], Float[Array, " b"], Bool[Array, " b"]],
    tuple[Float[Array, " b"], Memory],
]
Objective = Callable[
    [State, Params, Batch, Float[Array, "b c"]],
    tuple[Float[Array, ""], Float[Array, " b"], Memory],
]


class Descent(NamedTuple):
    """Memory of an entropy minimiser: the optimiser's state and the method's own."""

    opt_state: optax.OptState
    method: Memory


def mean_weight(selected: Bool[Array, " b"]) -> Float[Array, " b"]:
    """Weights of a mean over the selected examples: `1 / n` on each, all 0 when there is none."""
    return selected / jnp.maximum(jnp.sum(selected), 1)


def minimise_entropy(
    apply_fn: ApplyFn,
    tx: optax.GradientTransformation,
    *,
    start: Callable[[Params], Memory],
    weigh: Weigh,
    penalty: Callable[[Memory, Params], Float[Array, ""]] | None = None,
    trainable: PathPredicate = is_norm_affine,
) -> Adapter:
    r"""Build an adapter that follows the gradient of a weighted sum of entropies.

    $$L(\theta) = \sum_i w_i H(z_i(\theta)) + R(\theta),
      \qquad w_i \text{ held constant}.$$

    The step is taken only if some weight is positive and the gradient is finite; otherwise
    parameters and optimiser stay as they are, momentum included.

    Args:
      apply_fn: the network, with the batch statistics that adaptation needs.
      tx: an optax optimiser.
      start: the method's memory from the parameters at the beginning.
      weigh: `(memory, logits [b, c], entropy [b], where [b]) -> (weights [b], memory)`.
      penalty: $R$, from the method's memory and the parameters.
      trainable: which paths of the variables are parameters; by default the scales and shifts of
        normalisation layers.
    """

    def objective(
        state: State, params: Params, batch: Batch, logits: Float[Array, "b c"]
    ) -> tuple[Float[Array, ""], Float[Array, " b"], Memory]:
        before = state.memory.method
        entropy = softmax_entropy(logits)
        weight, method = weigh(before, *jax.lax.stop_gradient((logits, entropy)), batch.where)
        loss = weighted_sum(weight, entropy)
        if penalty is not None:
            loss += penalty(before, params)
        return loss, weight, method

    return follow_gradient(apply_fn, tx, start=start, objective=objective, trainable=trainable)


def follow_gradient(
    apply_fn: ApplyFn,
    tx: optax.GradientTransformation,
    *,
    start: Callable[[Params], Memory],
    objective: Objective,
    trainable: PathPredicate = is_norm_affine,
) -> Adapter:
    """Build an adapter that takes one gradient step a batch on a loss of the batch's logits.

    The step is taken only if some example has a positive weight and the gradient is finite.

    Args:
      apply_fn: the network, with the batch statistics that adaptation needs.
      tx: an optax optimiser.
      start: the method's memory from the parameters at the beginning.
      objective: `(state before the step, params, batch, logits [b, c]) -> (loss, weights [b],
        method's memory)`; it is differentiated with respect to `params`, on which the logits
        depend. A weight of 0 says that the loss leaves an example out.
      trainable: which paths of the variables are parameters.
    """
    logits_of = forward(apply_fn)

    def init(variables: Variables) -> State:
        params, frozen = partition(variables, trainable)
        return State(params, frozen, Descent(tx.init(params), start(params)))

    def step(state: State, batch: Batch) -> tuple[State, Info]:
        def loss_fn(params: Params) -> tuple[Array, tuple[Array, Array, Memory]]:
            logits = logits_of(state._replace(params=params).variables, batch)
            loss, weight, method = objective(state, params, batch, logits)
            return loss, (logits, weight, method)

        (loss, (logits, weight, method)), grads = jax.value_and_grad(loss_fn, has_aux=True)(
            state.params
        )
        selected = jnp.sum(weight > 0)
        finite = finite_rows(batch, logits) & all_finite((loss, grads))
        stepped = finite & (selected > 0)
        info = Info(
            logits=logits,
            entropy=softmax_entropy(logits),
            weight=weight,
            selected=selected,
            loss=jnp.where(selected > 0, loss, 0),
            stepped=stepped,
            finite=finite,
        )
        return descend(tx, state, grads, method, allowed=stepped), info

    def predict(state: State, batch: Batch) -> Array:
        return logits_of(state.variables, batch)

    return Adapter(init, step, predict)


def mean_over_batch(example_loss: Callable[[Array], Array]) -> Objective:
    """The mean of `logits [b, c] -> losses [b]` over the real examples, as an objective."""

    def objective(
        state: State, params: Params, batch: Batch, logits: Float[Array, "b c"]
    ) -> tuple[Float[Array, ""], Float[Array, " b"], Memory]:
        weight = mean_weight(batch.where).astype(logits.dtype)
        return weighted_sum(weight, example_loss(logits)), weight, state.memory.method

    return objective


def descend(
    tx: optax.GradientTransformation,
    state: State,
    grads: Params,
    method: Memory,
    *,
    allowed: Bool[Array, ""],
) -> State:
    """Take an optimiser step and the method's new memory, or neither if that is not `allowed`."""
    before: Descent = state.memory
    updates, opt_state = tx.update(grads, before.opt_state, state.params)
    moved = (optax.apply_updates(state.params, updates), Descent(opt_state, method))
    params, memory = jax.tree.map(
        lambda new, old: jnp.where(allowed, new, old), moved, (state.params, before)
    )
    return State(params, state.frozen, memory)


def weighted_sum(weight: Float[Array, " b"], value: Float[Array, " b"]) -> Float[Array, ""]:
    """Sum of the values with their weights; where the weight is 0, the value may be anything."""
    return jnp.sum(jnp.where(weight > 0, weight * value, 0))


def all_finite(tree: PyTree[Array]) -> Bool[Array, ""]:
    """Whether every number in the tree is finite."""
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))
