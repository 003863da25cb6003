"""The mean predictive entropy of a network over a stream of batches.

A sum on the device takes the place of the list of all logits: the memory is that of one batch, and
sums of several streams, devices or processes add up.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, DTypeLike, Float, Int, Num

from entropax.entropy import softmax_entropy
from entropax.types import Array

LOG_EPS = 1e-10


class EntropySum(NamedTuple):
    """What has been added up so far.

    Attributes:
      total: weighted sum of the entropies, in nats.
      total_error: what rounding has taken from `total`.
      weight: sum of the weights.
      weight_error: what rounding has taken from `weight`.
      examples: how many counted.
      nonfinite: those among them without a finite entropy or a finite, positive weight; they are
        in no sum.
    """

    total: Float[Array, "*model"]
    total_error: Float[Array, "*model"]
    weight: Float[Array, "*model"]
    weight_error: Float[Array, "*model"]
    examples: Int[Array, "*model"]
    nonfinite: Int[Array, "*model"]


class EntropyAccumulator(NamedTuple):
    """A streaming mean of entropies, from `entropy_accumulator`; all but `init` may run in `jit`.

    Attributes:
      init: `init() -> EntropySum` of nothing.
      update: `update(sums, logits, *, where=None, weights=None) -> EntropySum` with the examples
        `logits` `[..., c]` added; `where` `[...]` is False on padding, whatever it holds, and
        `weights` `[...]` are not negative, those of 0 being padding as well.
      merge: `merge(sums, sums) -> EntropySum` of both streams.
      psum: `psum(sums, axis_name) -> EntropySum` of the streams of all devices along an axis.
      value: `value(sums)`, the mean in nats; NaN if nothing counted, or if an example did that is
        not finite.
    """

    init: Callable[[], EntropySum]
    update: Callable[..., EntropySum]
    merge: Callable[[EntropySum, EntropySum], EntropySum]
    psum: Callable[[EntropySum, str], EntropySum]
    value: Callable[[EntropySum], Array]


def top2_entropy(
    logits: Float[Array, "*batch c"],
    *,
    log_eps: float = LOG_EPS,
    where: Bool[Array, "*#batch #c"] | None = None,
) -> Float[Array, "*batch"]:
    r"""Entropy of the two largest probabilities as they are, in nats.

    $$H_2(z) = -\sum_{k \in \{(1), (2)\}} p_k \ln(p_k + \epsilon), \qquad p = \mathrm{softmax}(z).$$

    The two do not sum to 1, so this is no entropy of a distribution: it is largest, $2/e$, at two
    probabilities of $1/e$, and small again where the network knows nothing, $2 \ln(c) / c$ at a
    uniform distribution over many classes.

    Args:
      logits: `[..., c]`, two classes or more; `-inf` is a class of probability 0.
      log_eps: `epsilon`, which the published code adds in the logarithm.
      where: classes that count; the others get probability 0.

    Returns:
      `[...]` numbers in `[0, 2/e]`, but for a rounding of `epsilon`; NaN where a logit is NaN or
      `+inf`, or no class counts.

    Raises:
      ValueError: there are fewer than two classes.

    Reference: the published class `EntropyCheckPoint` for PyTorch.

    >>> round(float(top2_entropy(jnp.zeros(10))), 5)  # 0.2 ln 10
    0.46052
    """
    log_probs = _top2_log_probs(logits, where)
    probs = jnp.exp(log_probs)
    # Where the probability is 0 and epsilon as well, the limit.
    safe = jnp.where(probs == 0, 1, probs + log_eps)
    return -jnp.sum(probs * jnp.log(safe), axis=-1)


def entropy_accumulator(
    *,
    mode: str | Callable[[Array], Array] = "top2",
    log_eps: float = LOG_EPS,
    dtype: DTypeLike = jnp.float32,
) -> EntropyAccumulator:
    r"""Mean predictive entropy of a stream, with sums that lose nothing to rounding.

    $$\bar H = \sum_i w_i H(z_i) \Big/ \sum_i w_i.$$

    Args:
      mode: `"top2"`, see `top2_entropy`, the default and the published choice;
        `"top2_normalized"`, the entropy of the two largest probabilities divided by their sum, in
        `[0, ln 2]`; `"full"`, that of all classes, in `[0, ln c]`; or a function from logits
        `[..., c]` to numbers `[...]`.
      log_eps: of `"top2"`.
      dtype: of the sums, float32 or, where JAX has it enabled, float64. Logits of fewer bits than
        float32 become float32 first.

    Raises:
      ValueError: an unknown mode, an epsilon below 0, a dtype that JAX does not have.

    Reference: A. Neumaier, "Rundungsfehleranalyse einiger Verfahren zur Summation endlicher Summen"
    (1974), method IV.

    Example:
      >>> entropy = entropy_accumulator(mode="full")
      >>> logits = jnp.zeros((4, 3, 10))  # 4 batches
      >>> sums, _ = jax.lax.scan(lambda s, z: (entropy.update(s, z), None), entropy.init(), logits)
      >>> round(float(entropy.value(sums)), 4), int(sums.examples)  # ln 10
      (2.3026, 12)
    """
    entropy_fn = _entropy_fn(mode, log_eps)
    kind = jnp.dtype(dtype)
    if kind not in (jnp.float32, jnp.float64):
        raise ValueError(f"`dtype` must be float32 or float64, got {kind}.")
    if jax.dtypes.canonicalize_dtype(kind) != kind:
        raise ValueError("`dtype` is float64, which needs `with jax.enable_x64(True):`.")

    def init() -> EntropySum:
        zero, none = jnp.zeros((), kind), jnp.zeros((), jnp.int32)
        return EntropySum(zero, zero, zero, zero, none, none)

    def update(
        sums: EntropySum,
        logits: Float[Array, "*batch c"],
        *,
        where: Bool[Array, "*#batch"] | None = None,
        weights: Num[Array, "*#batch"] | None = None,
    ) -> EntropySum:
        logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
        values = entropy_fn(logits).astype(kind)
        weight = jnp.broadcast_to(jnp.ones((), kind) if weights is None else weights, values.shape)
        weight = weight.astype(kind)
        counts = weight != 0
        if where is not None:
            counts &= where
        kept = counts & jnp.isfinite(values) & (weight > 0) & jnp.isfinite(weight)
        weight = jnp.where(kept, weight, 0)
        total = _sum(jnp.where(kept, values, 0) * weight)
        number = jnp.sum(counts, dtype=jnp.int32)
        added = EntropySum(*total, *_sum(weight), number, number - jnp.sum(kept, dtype=jnp.int32))
        return merge(sums, added)

    return EntropyAccumulator(init, update, merge, jax.lax.psum, value)


def merge(a: EntropySum, b: EntropySum) -> EntropySum:
    """The sums of two streams together."""
    return EntropySum(
        *_add((a.total, a.total_error), (b.total, b.total_error)),
        *_add((a.weight, a.weight_error), (b.weight, b.weight_error)),
        a.examples + b.examples,
        a.nonfinite + b.nonfinite,
    )


def value(sums: EntropySum) -> Float[Array, "*model"]:
    """The mean; NaN if nothing counted, or if an example did that is not finite."""
    weight = sums.weight + sums.weight_error
    defined = (weight > 0) & (sums.nonfinite == 0)
    mean = (sums.total + sums.total_error) / jnp.where(defined, weight, 1)
    return jnp.where(defined, mean, jnp.nan)


def _entropy_fn(mode: str | Callable[[Array], Array], log_eps: float) -> Callable[[Array], Array]:
    if not 0 <= log_eps < 1:
        raise ValueError(f"`log_eps` must be in [0, 1), got {log_eps}.")
    if callable(mode):
        return mode
    if mode == "top2":
        return lambda logits: top2_entropy(logits, log_eps=log_eps)
    if mode == "top2_normalized":
        return lambda logits: softmax_entropy(_top2_log_probs(logits, None))
    if mode == "full":
        return softmax_entropy
    raise ValueError(
        f"`mode` must be 'top2', 'top2_normalized', 'full' or a function of logits, got {mode!r}."
    )


def _top2_log_probs(
    logits: Float[Array, "*batch c"], where: Bool[Array, "*#batch #c"] | None
) -> Float[Array, "*batch 2"]:
    if logits.shape[-1] < 2:
        raise ValueError(f"Two probabilities need two classes, got logits {logits.shape}.")
    if where is not None:
        logits = jnp.where(where, logits, -jnp.inf)
    log_probs = jax.nn.log_softmax(logits, axis=-1)
    return jax.lax.top_k(log_probs, 2)[0]


def _add(a: tuple[Array, Array], b: tuple[Array, Array]) -> tuple[Array, Array]:
    """Neumaier's sum of two numbers, each with the error that it has made so far."""
    (x, x_error), (y, y_error) = a, b
    total = x + y
    lost = jnp.where(jnp.abs(x) >= jnp.abs(y), (x - total) + y, (y - total) + x)
    return total, x_error + y_error + lost


def _sum(values: Float[Array, "*batch"]) -> tuple[Array, Array]:
    """Neumaier's sum of an array: one loop, which is nothing beside the softmax of the logits."""
    flat = jnp.ravel(values)
    zero = jnp.zeros((), flat.dtype)
    return jax.lax.reduce((flat, jnp.zeros_like(flat)), (zero, zero), _add, (0,))
