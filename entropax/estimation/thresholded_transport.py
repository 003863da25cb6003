"""Thresholded transport costs: examples that get a label only at a high cost count as errors."""

from typing import NamedTuple, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from entropax.estimation.base import Estimator, Evidence, correctness
from entropax.estimation.threshold import Threshold, fit_threshold, share_above
from entropax.estimation.transport import Solver, label_distribution, transport
from entropax.types import Array
from entropax.uncertainty import mean


class CostThreshold(NamedTuple):
    """What thresholded transport knows of the source.

    Attributes:
      marginal: `[c]` shares of the classes.
      threshold: on minus the cost.
    """

    marginal: Float[Array, " c"]
    threshold: Threshold


def thresholded_transport(*, solver: str = "auto") -> Estimator:
    r"""Estimator by a threshold on each example's transport cost (COTT).

    $$\mathrm{COTT} = \frac1n \#\{i : -c_i \ge t\},$$

    with the costs $c_i$ of the plan of `transport`, and t such that on the source, with costs of
    its own, this is the accuracy (`fit_threshold`; the published code counts one error too few).
    `fit` takes logits `[m, c]` and labels, `estimate` logits `[n, c]`. Flagged as extrapolated when
    the source lacks a class, or is all right or all wrong. The interval keeps the plan.

    Where several plans are best, the costs of single examples are not unique, though their mean
    is; they are those that the solver finds.

    Args:
      solver: as for `transport`.

    Returns:
      The estimator.

    Raises:
      ValueError: an unknown solver.

    Reference: Y. Lu et al., "Characterizing out-of-distribution error via optimal transport"
    (2023).

    >>> cott = thresholded_transport()
    >>> source = jnp.log(jnp.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7]]))
    >>> fitted = cott.fit(source, jnp.array([0, 1, 1, 1]))
    >>> float(cott.estimate(jax.random.key(0), fitted, source).value)
    0.75
    """
    if solver not in get_args(Solver):
        known = ", ".join(get_args(Solver))
        raise ValueError(f"`solver` must be one of {known}, got {solver!r}.")

    def costs(logits: Array, marginal: Array, where: Array | None) -> Array:
        return transport(jax.nn.softmax(logits), marginal, solver=solver, where=where).costs

    def fit(
        logits: Float[Array, "m c"],
        labels: Int[Array, " m"],
        *,
        where: Bool[Array, " m"] | None = None,
    ) -> CostThreshold:
        marginal = label_distribution(labels, logits.shape[-1], where=where)
        scores, correct = -costs(logits, marginal, where), correctness(logits, labels)
        return CostThreshold(marginal, fit_threshold(scores, correct, where=where))

    def evidence(
        fitted: CostThreshold,
        outputs: Float[Array, "n c"],
        *,
        where: Bool[Array, " n"] | None = None,
    ) -> Evidence:
        above = share_above(fitted.threshold, -costs(outputs, fitted.marginal, where))
        extrapolated = ~fitted.threshold.identified | jnp.any(fitted.marginal == 0)
        return Evidence(above, mean, extrapolated)

    return Estimator(fit, evidence)
