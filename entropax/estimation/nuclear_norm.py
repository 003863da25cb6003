"""Nuclear norm of the predictions: large when they are sure and spread over the classes."""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from entropax.estimation.base import Estimator
from entropax.estimation.score_line import Score, score_line
from entropax.types import Array
from entropax.uncertainty import Sample, sample


def nuclear_norm_score(
    logits: Float[Array, "n c"], *, where: Bool[Array, " n"] | None = None
) -> Float[Array, ""]:
    r"""Sum of the singular values of the matrix of probabilities, as a share of its maximum.

    $$\frac{\lVert P \rVert_*}{\sqrt{n \min(n, c)}}, \qquad P = \mathrm{softmax}(Z).$$

    Args:
      logits: `[n, c]`.
      where: `[n]` examples that count.

    Returns:
      A number in (0, 1]: 1 for certain predictions, equally often of each class; NaN when a logit
      that counts is NaN, or no example counts.

    Reference: W. Deng et al., "Confidence and dispersity speak: characterizing prediction matrix
    for unsupervised accuracy estimation" (2023).

    >>> float(nuclear_norm_score(jnp.array([[99.0, 0.0], [0.0, 99.0]])))
    1.0
    """
    return _of(sample(jax.nn.softmax(logits), where=where))


def nuclear_norm() -> Estimator:
    """Estimator by a line through the `nuclear_norm_score` of labelled splits; see `score_line`.

    >>> logits = jax.random.normal(jax.random.key(0), (4, 30, 3))
    >>> fitted = nuclear_norm().fit(logits, jnp.zeros((4, 30), int))
    >>> found = nuclear_norm().estimate(jax.random.key(1), fitted, logits[0])
    >>> bool(found.lower < found.value < found.upper)
    True
    """
    return score_line(Score(jax.nn.softmax, _of))


def _of(data: Sample) -> Float[Array, ""]:
    """A row that counts w times adds w times its outer product, so it is scaled by the root."""
    weights = data.weights[:, None]
    matrix = jnp.where(weights != 0, jnp.sqrt(weights) * data.values, 0)
    finite = jnp.all(jnp.isfinite(matrix))
    singular = jnp.linalg.svd(jnp.where(finite, matrix, 0), compute_uv=False)
    number = jnp.sum(weights)
    largest = jnp.sqrt(number * jnp.minimum(number, matrix.shape[1]))
    return jnp.where(finite, jnp.sum(singular) / largest, jnp.nan)
