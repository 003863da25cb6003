"""Entropies: from probabilities or logits to nats.

Every function works on the last axis, takes any leading batch axes, and leaves `jit` to the caller.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from entropax.types import Array


def shannon(
    probs: Float[Array, "*batch c"], *, where: Bool[Array, "*#batch #c"] | None = None
) -> Float[Array, "*batch"]:
    r"""Shannon entropy of a distribution, in nats.

    $$H(p) = -\sum_k p_k \ln p_k, \qquad 0 \ln 0 = 0.$$

    Args:
      probs: `[..., c]` probabilities.
      where: entries that count; the others contribute nothing.

    Returns:
      `[...]` entropies in `[0, ln c]`; NaN where a probability is negative or NaN. At `p_k = 0`
      the derivative, which is infinite, is taken to be 0, so that gradients stay finite.

    Reference: C. E. Shannon, "A mathematical theory of communication" (1948), section 6.

    >>> float(shannon(jnp.array([0.5, 0.5, 0.0])))  # ln 2
    0.6931471824645996
    """
    counts = probs != 0 if where is None else (probs != 0) & where
    safe = jnp.where(counts, probs, 1)
    return -jnp.sum(safe * jnp.log(safe), axis=-1)


def softmax_entropy(
    logits: Float[Array, "*batch c"], *, where: Bool[Array, "*#batch #c"] | None = None
) -> Float[Array, "*batch"]:
    r"""Entropy of the softmax of logits, in nats, without forming a logarithm of a probability.

    $$H(z) = -\sum_k p_k \ln p_k, \qquad p = \mathrm{softmax}(z).$$

    Args:
      logits: `[..., c]`; `-inf` is a class of probability 0.
      where: classes that count; the others get probability 0.

    Returns:
      `[...]` entropies in `[0, ln c]`; NaN where a logit is NaN or `+inf`, or no class counts.

    >>> float(softmax_entropy(jnp.array([7.0, 7.0, -jnp.inf])))  # ln 2
    0.6931471824645996
    """
    if where is not None:
        logits = jnp.where(where, logits, -jnp.inf)
    log_probs = jax.nn.log_softmax(logits, axis=-1)
    log_probs = jnp.where(jnp.isneginf(log_probs), 0, log_probs)
    probs = jax.nn.softmax(logits, axis=-1)
    return -jnp.sum(probs * log_probs, axis=-1)
