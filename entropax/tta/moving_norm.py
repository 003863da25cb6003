"""Running statistics that follow the stream: nothing is learnt, BatchNorm moves its averages."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from entropax.entropy import softmax_entropy
from entropax.parameters import PathPredicate, partition
from entropax.tta.base import Adapter, Info, State, finite_rows
from entropax.tta.minimisation import all_finite
from entropax.types import Array, Batch, Variables, forward

UpdateFn = Callable[..., tuple[Array, Variables]]


def is_running_statistic(path: str) -> bool:
    """Whether a path is in the collection `batch_stats`, where linen keeps running statistics.

    >>> is_running_statistic("batch_stats/bn1/mean"), is_running_statistic("params/bn1/scale")
    (True, False)
    """
    return path.startswith("batch_stats/")


def moving_norm(update_fn: UpdateFn, *, moving: PathPredicate = is_running_statistic) -> Adapter:
    r"""Predict with running statistics that move a little with every batch (BN-EMA).

    $$\mu \leftarrow (1 - m)\,\mu + m\,\mu_{\text{batch}}, \qquad
      \sigma^2 \leftarrow (1 - m)\,\sigma^2 + m\,\sigma^2_{\text{batch}},$$

    and the batch is normalised by the new ones. `predict` uses the statistics and leaves them as
    they are. They are the `params` of the state, so that wrappers such as `reset_every` take them
    back; `info.stepped` says whether they moved. They do not for a batch that is not finite.

    For batches too small to have statistics of their own; where the next batch may come from
    elsewhere, `norm(batch_statistics(module, batch_weight=m))` mixes likewise and forgets.

    Args:
      update_fn: `(variables, x, where) -> (logits [b, c], variables)`, for a linen module
        `models.moving_statistics(module, momentum=m)`. It returns the variables as they came,
        apart from those that are `moving`; with `where` False throughout it moves nothing.
      moving: which paths of the variables it moves.

    Raises:
      ValueError: by `init`, no variable is `moving`: the network has no running statistics.

    Reference: S. Schneider et al., "Improving robustness against common corruptions by covariate
    shift adaptation" (2020).

    >>> from entropax.models import ConvNet, moving_statistics
    >>> module = ConvNet(num_classes=3, features=(4,))
    >>> x = jnp.ones((2, 1, 1, 1))
    >>> adapter = moving_norm(moving_statistics(module))
    >>> state = adapter.init(jax.jit(module.init)(jax.random.key(0), x))
    >>> state, info = adapter.step(state, Batch(x, jnp.ones(2, bool)))
    >>> variance = state.variables["batch_stats"]["norm0"]["var"]
    >>> round(float(variance[0]), 6)  # a tenth of the way from 1 to 0
    0.9
    """

    def init(variables: Variables) -> State:
        params, frozen = partition(variables, moving)
        return State(params, frozen, ())

    def step(state: State, batch: Batch) -> tuple[State, Info]:
        after: list[Variables] = []

        def apply_fn(variables: Variables, x: Array, where: Bool[Array, " b"]) -> Array:
            logits, moved = update_fn(variables, x, where=where)
            after.append(moved)
            return logits

        logits = forward(apply_fn)(state.variables, batch)
        moved, _ = partition(after[0], moving)
        finite = finite_rows(batch, logits) & all_finite(moved)
        stepped = finite & jnp.any(batch.where)
        params = jax.tree.map(lambda new, old: jnp.where(stepped, new, old), moved, state.params)
        return state._replace(params=params), Info(
            logits=logits,
            entropy=softmax_entropy(logits),
            weight=jnp.zeros(len(logits), logits.dtype),
            selected=jnp.zeros((), jnp.int32),
            loss=jnp.zeros((), logits.dtype),
            stepped=stepped,
            finite=finite,
        )

    def predict(state: State, batch: Batch) -> Float[Array, "b c"]:
        def apply_fn(variables: Variables, x: Array, where: Bool[Array, " b"]) -> Array:
            # Of no example there are no statistics: the running ones are all there is.
            return update_fn(variables, x, where=jnp.zeros_like(where))[0]

        return forward(apply_fn)(state.variables, batch)

    return Adapter(init, step, predict)
