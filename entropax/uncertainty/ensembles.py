"""Several predictions for each example: what they agree on, and how much they disagree."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Shaped

from entropax.entropy import shannon, softmax_entropy
from entropax.types import Array, Variables

# Below this, the series; above it, the logarithm loses less than two digits.
_SMALL = 0.1
_TERMS = 16


class EnsembleUncertainty(NamedTuple):
    """Entropies in nats; `total` is the sum of the two others.

    Attributes:
      probs: `[..., c]` mean probabilities of the members.
      total: `[...]` entropy of the mean.
      expected: `[...]` mean entropy of the members: noise that all of them see.
      mutual_information: `[...]` what the choice of the member tells about the prediction, from 0,
        where all agree, to `ln s`: disagreement.
    """

    probs: Float[Array, "*batch c"]
    total: Float[Array, "*batch"]
    expected: Float[Array, "*batch"]
    mutual_information: Float[Array, "*batch"]


def ensemble_uncertainty(
    logits: Float[Array, "s *batch c"], *, where: Bool[Array, "*#batch #c"] | None = None
) -> EnsembleUncertainty:
    r"""Uncertainty of an ensemble, split into noise and disagreement.

    $$\underbrace{H(\bar p)}_{\text{total}} = \underbrace{\frac1s \sum_i H(p_i)}_{\text{expected}}
      + \underbrace{\frac1s \sum_i \mathrm{KL}(p_i \,\|\, \bar p)}_{\text{mutual information}},
      \qquad \bar p = \frac1s \sum_i p_i.$$

    The mutual information is summed from terms that are not negative, not taken as a difference of
    two entropies: it is never below 0, and small values keep their digits.

    Args:
      logits: `[s, ..., c]` of `s` members: networks, dropout masks, augmented inputs. `-inf` is a
        class of probability 0.
      where: `[..., c]` classes that count; the others get probability 0.

    Returns:
      Mean probabilities and the three entropies; as a score of confidence take the negative of one.
      NaN where a logit is NaN or `+inf`, or no class counts.

    Reference: S. Depeweg et al., "Decomposition of uncertainty in Bayesian deep learning for
    efficient and risk-sensitive learning" (2018), equations 3 and 4; N. Houlsby et al., "Bayesian
    active learning for classification and preference learning" (2011), equation 2.

    >>> two_minds = ensemble_uncertainty(jnp.log(jnp.eye(2)))  # each sure of another class
    >>> float(two_minds.mutual_information), float(two_minds.expected)  # ln 2, 0
    (0.6931471824645996, 0.0)
    """
    dtype = jnp.promote_types(logits.dtype, jnp.float32)
    logits = logits.astype(dtype)
    if where is not None:
        logits = jnp.where(where, logits, -jnp.inf)
    probs = jax.nn.softmax(logits, axis=-1)
    mean = jnp.mean(probs, axis=0)
    expected = jnp.mean(softmax_entropy(logits), axis=0)
    possible = mean != 0  # NaN is
    excess = (probs - mean) / jnp.where(possible, mean, 1)
    terms = jnp.where(possible, mean * _divergence(excess), 0)
    information = jnp.mean(jnp.sum(terms, axis=-1), axis=0)
    return EnsembleUncertainty(mean, shannon(mean), expected, information)


def _divergence(x: Float[Array, "..."]) -> Float[Array, "..."]:
    r"""`(1 + x) ln(1 + x) - x`, which is not negative; by its series where it would cancel."""
    small = jnp.abs(x) < _SMALL
    near = jnp.where(small, x, 0)
    series = jnp.zeros_like(x)
    for n in range(_TERMS, 1, -1):  # x^2/2 - x^3/6 + x^4/12 - ...
        series = 1 / (n * (n - 1)) - near * series
    # A member without the class has x = -1, or a little less by rounding.
    ratio = jnp.where(small, 1, jnp.maximum(1 + x, 0))
    empty = ratio == 0
    far = ratio * jnp.log(jnp.where(empty, 1, ratio)) - (ratio - 1)
    return jnp.where(small, near**2 * series, far)


def monte_carlo_dropout(
    key: Array,
    apply_fn: Callable[[Array, Variables, Array], Array],
    variables: Variables,
    x: Shaped[Array, "b *shape"],
    *,
    num_samples: int = 32,
    where: Bool[Array, "*#batch #c"] | None = None,
) -> EnsembleUncertainty:
    """Uncertainty of a random network, such as one whose dropout stays on, over its randomness.

    Args:
      key: for all samples.
      apply_fn: `apply_fn(key, variables, x) -> logits [b, c]`, random by its key; of a linen module
        `lambda key, variables, x: module.apply(variables, x, rngs={"dropout": key})`.
      variables: its second argument.
      x: inputs.
      num_samples: forward passes, one after the other; their logits are kept.
      where: `[c]` or `[b, c]` classes that count.

    Returns:
      That of `ensemble_uncertainty` over the samples.

    Raises:
      ValueError: fewer than one sample.

    Reference: Y. Gal and Z. Ghahramani, "Dropout as a Bayesian approximation" (2016).

    >>> def noisy(key, variables, x):
    ...     return x @ variables + jax.random.normal(key, (1, 2))
    >>> found = monte_carlo_dropout(jax.random.key(0), noisy, jnp.eye(2), jnp.ones((3, 2)))
    >>> bool((found.mutual_information > 0).all())
    True
    """
    if num_samples < 1:
        raise ValueError(f"`num_samples` must be at least 1, got {num_samples}.")
    keys = jax.random.split(key, num_samples)
    logits = jax.lax.map(lambda key: apply_fn(key, variables, x), keys)
    return ensemble_uncertainty(logits, where=where)
