"""Generalisation disagreement equality: two networks disagree as often as either is wrong."""

import jax.numpy as jnp
from jaxtyping import Bool, Float

from entropax.estimation.base import Estimator, Evidence, nothing_to_fit
from entropax.types import Array
from entropax.uncertainty import mean


def agreement(
    a: Float[Array, "*batch n c"], b: Float[Array, "*#batch n c"]
) -> Float[Array, "*batch n"]:
    """Whether two networks predict the same class: 1 or 0, NaN where a logit is NaN.

    Args:
      a: `[..., n, c]` logits.
      b: `[..., n, c]` logits of another network.

    Returns:
      `[..., n]`.

    >>> agreement(jnp.array([[2.0, 1.0], [0.0, 1.0]]), jnp.array([[9.0, 1.0], [5.0, 1.0]])).tolist()
    [1.0, 0.0]
    """
    same = jnp.argmax(a, axis=-1) == jnp.argmax(b, axis=-1)
    invalid = jnp.any(jnp.isnan(a) | jnp.isnan(b), axis=-1)
    return jnp.where(invalid, jnp.nan, same.astype(a.dtype))


def disagreement() -> Estimator:
    r"""Estimator by the agreement of two networks (GDE).

    $$\mathrm{GDE} = \frac1n \#\{i : \hat y_i^{(1)} = \hat y_i^{(2)}\}.$$

    The networks have to be trained alike with different seeds, and their ensemble to be calibrated.
    There is nothing to fit: `fit` ignores what it gets. `estimate` takes a pair of logits
    `([n, c], [n, c])`. Flagged as extrapolated when they never disagree: it may be the same network
    twice, or two that have collapsed.

    Returns:
      The estimator.

    Reference: Y. Jiang et al., "Assessing generalization of SGD via disagreement" (2022),
    theorem 4.1.

    >>> import jax
    >>> gde = disagreement()
    >>> fitted = gde.fit(jnp.zeros((2, 2)), jnp.zeros(2, int))
    >>> pair = (jnp.array([[2.0, 1.0], [0.0, 1.0]]), jnp.array([[9.0, 1.0], [5.0, 1.0]]))
    >>> float(gde.estimate(jax.random.key(0), fitted, pair).value)
    0.5
    """

    def evidence(
        fitted: tuple[()],
        outputs: tuple[Float[Array, "n c"], Float[Array, "n c"]],
        *,
        where: Bool[Array, " n"] | None = None,
    ) -> Evidence:
        agree = agreement(*outputs)
        return Evidence(agree, mean, jnp.all(agree == 1, where=where))

    return Estimator(nothing_to_fit, evidence)
