"""Average confidence: the accuracy of a calibrated network is the mean of its top probabilities."""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from entropax.estimation.base import Estimator, Evidence, nothing_to_fit
from entropax.types import Array
from entropax.uncertainty import max_softmax, mean


def average_confidence(
    logits: Float[Array, "*batch n c"], *, where: Bool[Array, "*#batch n"] | None = None
) -> Float[Array, "*batch"]:
    r"""Mean of the largest softmax probability, as an estimate of the accuracy.

    $$\mathrm{AC} = \frac1n \sum_i \max_k p_{ik}.$$

    Networks are over-confident on shifted data, so that it is usually too high.

    Args:
      logits: `[..., n, c]`.
      where: `[..., n]` examples that count.

    Returns:
      `[...]` estimated accuracies; NaN when no example counts.

    Reference: D. Hendrycks and K. Gimpel, "A baseline for detecting misclassified and
    out-of-distribution examples in neural networks" (2017).

    >>> average_confidence(jnp.log(jnp.array([[0.9, 0.1], [0.3, 0.7]]))).round(3).tolist()
    0.800000011920929
    """
    return jnp.mean(jnp.max(jax.nn.softmax(logits), axis=-1), axis=-1, where=where)


def mean_confidence() -> Estimator:
    """Estimator by `average_confidence`, with the interval that all estimators have.

    There is nothing to fit: `fit` ignores what it gets. `estimate` takes logits `[n, c]`; scale
    them by a fitted temperature first. Never flagged as extrapolated, however wrong it is.

    Returns:
      The estimator.

    >>> logits = jnp.log(jnp.array([[0.9, 0.1], [0.3, 0.7]]))
    >>> found = mean_confidence().estimate(jax.random.key(0), (), logits)
    >>> round(float(found.value), 4)
    0.8
    """

    def evidence(
        fitted: tuple[()],
        outputs: Float[Array, "n c"],
        *,
        where: Bool[Array, " n"] | None = None,
    ) -> Evidence:
        return Evidence(max_softmax(outputs), mean, jnp.zeros((), bool))

    return Estimator(nothing_to_fit, evidence)
