"""Batch-statistics prediction: nothing is learnt, the apply function normalises by the batch."""

import jax.numpy as jnp

from entropax.entropy import softmax_entropy
from entropax.tta.base import Adapter, Info, State, finite_rows
from entropax.types import ApplyFn, Array, Batch, Variables, forward


def norm(apply_fn: ApplyFn) -> Adapter:
    """Predict with the statistics of each batch and update nothing.

    What the statistics are is the affair of `apply_fn` (`models.batch_statistics` for a linen
    module); with a function that uses running statistics this is the source network. A mixture of
    both, for small batches, is `norm(batch_statistics(module, batch_weight=0.1))`, often called
    BN-alpha; for statistics that move with the stream there is `moving_norm`.

    Reference: Z. Nado et al., "Evaluating prediction-time batch normalization for robustness under
    covariate shift" (2020); S. Schneider et al., "Improving robustness against common corruptions
    by covariate shift adaptation" (2020).

    >>> import jax
    >>> from entropax.models import ConvNet, batch_statistics
    >>> module = ConvNet(num_classes=3, features=(4,))
    >>> x = jax.random.normal(jax.random.key(0), (1, 4, 4, 1))
    >>> adapter = norm(batch_statistics(module, batch_weight=0.1))
    >>> state = adapter.init(jax.jit(module.init)(jax.random.key(1), x))
    >>> jax.jit(adapter.predict)(state, Batch(x, jnp.ones(1, bool))).shape
    (1, 3)
    """
    logits_of = forward(apply_fn)

    def init(variables: Variables) -> State:
        return State(params=None, frozen=variables, memory=())

    def step(state: State, batch: Batch) -> tuple[State, Info]:
        logits = predict(state, batch)
        return state, Info(
            logits=logits,
            entropy=softmax_entropy(logits),
            weight=jnp.zeros(len(logits), logits.dtype),
            selected=jnp.zeros((), jnp.int32),
            loss=jnp.zeros((), logits.dtype),
            stepped=jnp.zeros((), bool),
            finite=finite_rows(batch, logits),
        )

    def predict(state: State, batch: Batch) -> Array:
        return logits_of(state.variables, batch)

    return Adapter(init, step, predict)
