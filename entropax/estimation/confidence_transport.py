"""Confidence optimal transport: the accuracy that is left if the labels are those of the source."""

from typing import get_args

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from entropax.estimation.base import Estimator, Evidence
from entropax.estimation.transport import Solver, label_distribution, reduced_costs, transport
from entropax.types import Array
from entropax.uncertainty import Sample, mean


def confidence_transport(*, solver: str = "auto") -> Estimator:
    r"""Estimator by the cost of transporting predictions to the source's labels (COT).

    $$1 - \mathrm{COT} = 1 - \min_\pi \sum_{ik} \pi_{ik} (1 - p_{ik}),$$

    over the plans with 1/n for each example and the source's share for each class. Never above
    average confidence; lower as far as predictions crowd in fewer classes than the labels. It takes
    for granted that the classes are as frequent in the target as in the source, and says nothing
    where they are not. Scale the logits by a fitted temperature first.

    `fit` takes logits `[m, c]` and labels, and keeps the shares `[c]` of the classes; `estimate`
    takes logits `[n, c]`. Flagged as extrapolated when the source's labels lack a class, of which
    the target is then allowed no example. The interval keeps the dual variables, which is right
    to first order.

    Args:
      solver: as for `transport`.

    Returns:
      The estimator.

    Raises:
      ValueError: an unknown solver.

    Reference: Y. Lu et al., "Characterizing out-of-distribution error via optimal transport"
    (2023).

    >>> cot = confidence_transport()
    >>> source = jnp.log(jnp.array([[0.9, 0.1], [0.2, 0.8]]))
    >>> fitted = cot.fit(source, jnp.array([0, 1]))
    >>> target = jnp.log(jnp.array([[0.9, 0.1], [0.6, 0.4]]))
    >>> float(cot.estimate(jax.random.key(0), fitted, target).value.round(4))  # (0.9 + 0.4) / 2
    0.6499999761581421
    """
    if solver not in get_args(Solver):
        known = ", ".join(get_args(Solver))
        raise ValueError(f"`solver` must be one of {known}, got {solver!r}.")

    def fit(
        logits: Float[Array, "m c"],
        labels: Int[Array, " m"],
        *,
        where: Bool[Array, " m"] | None = None,
    ) -> Float[Array, " c"]:
        return label_distribution(labels, logits.shape[-1], where=where)

    def evidence(
        fitted: Float[Array, " c"],
        outputs: Float[Array, "n c"],
        *,
        where: Bool[Array, " n"] | None = None,
    ) -> Evidence:
        probs = jax.nn.softmax(outputs)
        plan = transport(probs, fitted, solver=solver, where=where)
        constant = fitted @ plan.potentials

        def statistic(sample: Sample) -> Float[Array, ""]:
            return 1 - constant - mean(sample)

        values = reduced_costs(1 - probs, plan.potentials)
        return Evidence(values, statistic, jnp.any(fitted == 0))

    return Estimator(fit, evidence)
