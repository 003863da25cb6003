"""MaNo: the norm of normalised logits, which is large where they are far from the boundaries."""

from functools import partial
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from entropax.estimation.base import Estimator
from entropax.estimation.score_line import Score, score_line
from entropax.types import Array
from entropax.uncertainty import Sample, mean, sample

Normalisation = Literal["softmax", "taylor"]
_ORDER = 4


def mano_score(
    logits: Float[Array, "n c"],
    *,
    normalisation: str = "softmax",
    where: Bool[Array, " n"] | None = None,
) -> Float[Array, ""]:
    r"""Matrix norm of normalised logits.

    $$\Big( \frac{1}{n c} \sum_{ik} \sigma(z_i)_k^4 \Big)^{1/4}.$$

    The published code averages this norm over batches of the data; here all examples are one
    batch, so that their order does not matter.

    Args:
      logits: `[n, c]`.
      normalisation: sigma: `"softmax"`, or `"taylor"`, its expansion $1 + z + z^2 / 2$, less its
        smallest entry, as shares of the row. The published code takes the latter for a set whose
        `uniform_cross_entropy` is at most 5, where errors are too many for the softmax to be
        trusted. That choice may differ between two targets, whose scores cannot be compared then;
        so it has to be made once here.
      where: `[n]` examples that count.

    Returns:
      A number in [1 / c, c ** -0.25]; NaN when a logit that counts is, or no example counts.

    Raises:
      ValueError: an unknown normalisation.

    Reference: R. Xie et al., "MaNo: exploiting matrix norm for unsupervised accuracy estimation
    under distribution shifts" (2024).

    >>> float(mano_score(jnp.array([[99.0, 0.0], [0.0, 99.0]])).round(4))  # 2 ** -0.25
    0.8409000039100647
    """
    _check(normalisation)
    return _of(sample(_rows(normalisation, logits), where=where))


def uniform_cross_entropy(
    logits: Float[Array, "n c"], *, where: Bool[Array, " n"] | None = None
) -> Float[Array, ""]:
    r"""Mean cross-entropy between the uniform distribution and the predictions, in nats.

    $$-\frac{1}{n c} \sum_{ik} \ln p_{ik}.$$

    The published code means to average over five batches, and keeps the last of them alone.

    Args:
      logits: `[n, c]`.
      where: `[n]` examples that count.

    Returns:
      A number from ln c on; NaN when no example counts.

    Reference: R. Xie et al. (2024).

    >>> float(uniform_cross_entropy(jnp.zeros((3, 2))))  # ln 2
    0.6931471824645996
    """
    return -jnp.mean(jnp.mean(jax.nn.log_softmax(logits), axis=-1), where=where)


def mano(*, normalisation: str = "softmax") -> Estimator:
    """Estimator by a line through the `mano_score` of labelled splits; see `score_line`.

    Args:
      normalisation: as for `mano_score`.

    Returns:
      The estimator.

    Raises:
      ValueError: an unknown normalisation.

    >>> logits = jax.random.normal(jax.random.key(0), (4, 30, 3))
    >>> fitted = mano().fit(logits, jnp.zeros((4, 30), int))
    >>> found = mano().estimate(jax.random.key(1), fitted, logits[0])
    >>> bool(found.lower < found.value < found.upper)
    True
    """
    _check(normalisation)
    return score_line(Score(partial(_rows, normalisation), _of))


def _check(normalisation: str) -> None:
    if normalisation not in get_args(Normalisation):
        known = ", ".join(get_args(Normalisation))
        raise ValueError(f"`normalisation` must be one of {known}, got {normalisation!r}.")


def _rows(normalisation: str, logits: Array) -> Array:
    if normalisation == "softmax":
        shares = jax.nn.softmax(logits)
    else:
        expanded = 1 + logits + jnp.square(logits) / 2
        expanded = expanded - jnp.min(expanded, axis=-1, keepdims=True)
        total = jnp.sum(expanded, axis=-1, keepdims=True)
        # Equal logits are as good as nothing: shares of 1 / c.
        flat = total == 0
        shares = jnp.where(flat, 1 / logits.shape[-1], expanded / jnp.where(flat, 1, total))
    return jnp.mean(shares**_ORDER, axis=-1)


def _of(data: Sample) -> Float[Array, ""]:
    return mean(data) ** (1 / _ORDER)
