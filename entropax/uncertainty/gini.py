"""Gini coefficient of scores: how unequally confidence is spread over the examples."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Bool, Float

from entropax.types import Array
from entropax.uncertainty.ordering import Ranking, are_counts, rank, ratio, undefined_as_nan


def gini(
    scores: Float[Array, "*batch n"] | Ranking,
    *,
    where: Bool[Array, "*#batch #n"] | None = None,
) -> Float[Array, "*batch"]:
    r"""Gini coefficient of the scores: half their mean difference, relative to their mean.

    $$G = \frac{\sum_i \sum_j |x_i - x_j|}{2 n^2 \bar x}
    = \frac{\sum_i (2i - n - 1)\, x_{(i)}}{n \sum_i x_i}, \qquad x_{(1)} \le \dots \le x_{(n)}.$$

    It is defined for numbers that are not negative. If the smallest score is negative, it is
    subtracted from all first, as the published code of Galil et al. (2023) does, which also adds
    1e-7 to each in the caller's array (`compat.gini`).

    Args:
      scores: `[..., n]`, or a `Ranking` in their place.
      where: `[..., n]` examples that count; not with a `Ranking`.

    Returns:
      `[...]` coefficients from 0 (all equal, all 0 included) to `1 - 1/n` (one is all); NaN where
      no example counts, or a score is not finite.

    Raises:
      ValueError: if `where` comes with a `Ranking`.

    Reference: C. Gini, "Variabilita e mutabilita" (1912); the sum over sorted numbers is that
    of P. M. Dixon et al., "Bootstrapping the Gini coefficient of inequality" (1987).

    >>> float(gini(jnp.array([0.0, 0.0, 0.0, 1.0])))
    0.75
    """
    if isinstance(scores, Ranking):
        if where is not None:
            raise ValueError("A Ranking holds `where`; pass it alone.")
        ranking = scores
    else:
        ranking = rank(scores, jnp.zeros(jnp.shape(scores)), where=where)
    weights = ranking.weights.astype(jnp.int32)
    total = jnp.sum(weights, axis=-1, keepdims=True, dtype=jnp.int32)
    through = lax.cumsum(weights, axis=weights.ndim - 1)
    counts = weights > 0
    smallest = jnp.min(ranking.scores, axis=-1, keepdims=True, where=counts, initial=jnp.inf)
    # As many copies of a number as its weight, from the largest to the smallest: their 2i - n - 1
    # have the mean n - (copies before it) - (copies through it). The sum of all is 0, so that what
    # is the same in all numbers may be left out.
    lead = (total - 2 * through + weights) * (ranking.scores - smallest)
    values = ranking.scores - jnp.minimum(smallest, 0)
    sizes = (weights * x / jnp.maximum(total, 1) for x in (lead, values))
    spread, mean = (jnp.sum(x, axis=-1, where=counts) for x in sizes)
    value = ratio(spread, mean * total[..., 0])
    defined = (total[..., 0] > 0) & ~jnp.isnan(value) & are_counts(ranking.weights)
    return undefined_as_nan(value, defined=defined, like=ranking)
