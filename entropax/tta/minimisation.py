"""Entropy minimisation: the part that Tent, ETA, EATA and RDumb share.

A method says how much each example's entropy weighs and, if it likes, adds a penalty on the
parameters; one gradient step is the same for all of them.
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
    logits_of = forward(apply_fn)

    def init(variables: Variables) -> State:
        params, frozen = partition(variables, trainable)
        return State(params, frozen, Descent(tx.init(params), start(params)))

    def step(state: State, batch: Batch) -> tuple[State, Info]:
        descent: Descent = state.memory

        def loss_fn(params: Params) -> tuple[Array, tuple[Array, Array, Array, Memory]]:
            logits = logits_of(state._replace(params=params).variables, batch)
            entropy = softmax_entropy(logits)
            weight, method = weigh(
                descent.method, *jax.lax.stop_gradient((logits, entropy)), batch.where
            )
            loss = jnp.sum(jnp.where(weight > 0, weight * entropy, 0))
            if penalty is not None:
                loss += penalty(descent.method, params)
            return loss, (logits, entropy, weight, method)

        (loss, (logits, entropy, weight, method)), grads = jax.value_and_grad(
            loss_fn, has_aux=True
        )(state.params)
        selected = jnp.sum(weight > 0)
        finite = finite_rows(batch, logits) & _all_finite((loss, grads))
        stepped = finite & (selected > 0)
        updates, opt_state = tx.update(grads, descent.opt_state, state.params)
        moved = (optax.apply_updates(state.params, updates), Descent(opt_state, method))
        params, memory = jax.tree.map(
            lambda new, old: jnp.where(stepped, new, old), moved, (state.params, descent)
        )
        info = Info(
            logits=logits,
            entropy=entropy,
            weight=weight,
            selected=selected,
            loss=jnp.where(selected > 0, loss, 0),
            stepped=stepped,
            finite=finite,
        )
        return State(params, state.frozen, memory), info

    def predict(state: State, batch: Batch) -> Array:
        return logits_of(state.variables, batch)

    return Adapter(init, step, predict)


def _all_finite(tree: PyTree[Array]) -> Bool[Array, ""]:
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))
