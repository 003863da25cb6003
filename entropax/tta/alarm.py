"""Collapse alarm: say so when an adapting network comes to predict few classes only."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float, PyTree

from entropax.entropy import shannon
from entropax.tta.base import Adapter, Info, State, require_classes
from entropax.types import Array, Batch, Variables


class Vigil(NamedTuple):
    """Memory of `collapse_alarm`: the wrapped method's, and two fading sums over the examples.

    Attributes:
      memory: the wrapped adapter's memory.
      counts: `[c]` how often each class was predicted.
      entropy: sum of the entropies of the predictions, in nats.
    """

    memory: PyTree[Any]
    counts: Float[Array, " c"]
    entropy: Float[Array, ""]


def collapse_alarm(
    adapter: Adapter,
    *,
    num_classes: int,
    diversity_limit: float | None = None,
    entropy_limit: float | None = None,
    window: float | None = None,
) -> Adapter:
    r"""Raise `info.collapsed` while the predictions keep to few classes, or are too certain.

    $$N_k \leftarrow e^{-n/w} N_k + \#\{i : \hat y_i = k\}, \qquad
      \text{alarm if } H\Big(\frac{N}{\sum_k N_k}\Big) < \text{limit},$$

    for a batch of $n$ real examples: the counts fade over a window of $w$ examples, whatever the
    size of the batches. The mean entropy of the single predictions fades alike. Nothing is
    changed in the wrapped adapter; a batch that was not finite does not count; there is no alarm
    before the counts add up to half a window.

    Args:
      adapter: the adapter to watch.
      num_classes: C.
      diversity_limit: nats; $0.5 \ln C$ by default, as if $\sqrt C$ classes were predicted equally
        often. A stream that comes class by class rings it, too: widen the window to two rounds of
        all classes, or lower the limit.
      entropy_limit: nats; the alarm also rings while the mean entropy is below this. Off by
        default, since an accurate network on easy data is just as certain as a collapsed one.
      window: number of examples; 10 C by default.

    Raises:
      ValueError: fewer than 2 classes; a `diversity_limit` outside (0, ln C]; an `entropy_limit` or
        a `window` that is not positive.

    >>> import optax
    >>> from entropax.tta.tent import tent
    >>> adapter = tent(lambda variables, x: x * variables["norm"]["scale"], optax.sgd(0.1))
    >>> adapter = collapse_alarm(adapter, num_classes=2)
    >>> state = adapter.init({"norm": {"scale": jnp.ones(2)}})
    >>> always_the_first = Batch(jnp.tile(jnp.array([1.0, 0.0]), (32, 1)), jnp.ones(32, bool))
    >>> state, info = adapter.step(state, always_the_first)
    >>> bool(info.collapsed)
    True
    """
    if num_classes < 2:
        raise ValueError(f"`num_classes` must be at least 2, got {num_classes}.")
    highest = math.log(num_classes)
    diversity_limit = 0.5 * highest if diversity_limit is None else diversity_limit
    window = 10.0 * num_classes if window is None else window
    if not 0 < diversity_limit <= highest:
        raise ValueError(
            f"`diversity_limit` must be in (0, ln {num_classes}], got {diversity_limit} nats."
        )
    if entropy_limit is not None and not entropy_limit > 0:
        raise ValueError(f"`entropy_limit` must be positive, got {entropy_limit} nats.")
    if not window > 0:
        raise ValueError(f"`window` must be a positive number of examples, got {window}.")

    def init(variables: Variables) -> State:
        start = adapter.init(variables)
        return start._replace(memory=Vigil(start.memory, jnp.zeros(num_classes), jnp.zeros(())))

    def step(state: State, batch: Batch) -> tuple[State, Info]:
        memory: Vigil = state.memory
        moved, info = adapter.step(state._replace(memory=memory.memory), batch)
        require_classes(info.logits, num_classes)
        counts_rows = batch.where & info.finite
        fade = jnp.exp(-jnp.sum(counts_rows) / window)
        predicted = jax.nn.one_hot(jnp.argmax(info.logits, axis=-1), num_classes)
        counts = fade * memory.counts + jnp.where(counts_rows[:, None], predicted, 0).sum(0)
        entropy = fade * memory.entropy + jnp.where(counts_rows, info.entropy, 0).sum()
        total = jnp.sum(counts)
        safe_total = jnp.where(total > 0, total, 1)
        collapsed = shannon(counts / safe_total) < diversity_limit
        if entropy_limit is not None:
            collapsed = collapsed | (entropy / safe_total < entropy_limit)
        collapsed = collapsed & (total >= window / 2)
        memory = Vigil(moved.memory, counts, entropy.astype(memory.entropy.dtype))
        return moved._replace(memory=memory), info._replace(collapsed=info.collapsed | collapsed)

    def predict(state: State, batch: Batch) -> Array:
        return adapter.predict(state._replace(memory=state.memory.memory), batch)

    return Adapter(init, step, predict)
