"""AETTA: disagreement with dropout, corrected by the entropy of the mean prediction."""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from entropax.entropy import shannon
from entropax.estimation.base import Estimator, Evidence, nothing_to_fit
from entropax.types import Array
from entropax.uncertainty import Sample, mean

# Mean predictions with a smaller share of the largest entropy tell nothing of the disagreement.
_SMALLEST_SHARE = 0.01


def aetta_error(
    disagreement: Float[Array, "*batch"], probs: Float[Array, "*batch c"]
) -> Float[Array, "*batch"]:
    r"""Error rate from disagreement with dropout and the mean prediction.

    $$\mathrm{err} = \min\!\Big(\frac{e}{(H(\bar p) / \ln c)^3},\ 1 - \frac1c\Big).$$

    The error is 1 - 1/c where the entropy is below 0.01 ln c, which is the limit. There a network
    that has collapsed never disagrees with itself, and the published code says that all is right.

    Args:
      disagreement: `[...]` e, share of dropout passes that predict another class.
      probs: `[..., c]` mean of the predictions of all examples and passes.

    Returns:
      `[...]` error rates in [0, 1 - 1/c].

    Reference: T. Lee et al., "AETTA: label-free accuracy estimation for test-time adaptation"
    (2024).

    >>> float(aetta_error(jnp.array(0.25), jnp.array([0.5, 0.5])))
    0.25
    """
    c = probs.shape[-1]
    share = shannon(probs) / jnp.log(max(c, 2)).astype(probs.dtype)
    collapsed = share < _SMALLEST_SHARE
    error = disagreement / jnp.where(collapsed, 1, share) ** 3
    # Of one entry: NaN stays NaN.
    error = jnp.where(collapsed, 1 + 0 * disagreement, error)
    return jnp.clip(error, 0, 1 - 1 / c)


def aetta() -> Estimator:
    """Estimator by the disagreement with dropout passes, see `aetta_error`.

    There is nothing to fit: `fit` ignores what it gets. `estimate` takes a pair: logits `[n, c]`
    without dropout, and logits `[k, n, c]` of k passes with it. The published code has 10 passes,
    and smooths the error over the batches of a stream with 0.6 of the old and 0.4 of the new one.
    Flagged as extrapolated when all examples are predicted to be of one class: then a collapsed
    network and a stream of one class look alike.

    Returns:
      The estimator.

    Reference: T. Lee et al. (2024).

    >>> logits = jnp.array([[1.0, 0.0], [0.0, 1.0]])
    >>> passes = jnp.stack([logits, logits, logits, logits[::-1]])
    >>> found = aetta().estimate(jax.random.key(0), (), (logits, passes))
    >>> round(float(found.value), 4)
    0.75
    """

    def evidence(
        fitted: tuple[()],
        outputs: tuple[Float[Array, "n c"], Float[Array, "k n c"]],
        *,
        where: Bool[Array, " n"] | None = None,
    ) -> Evidence:
        logits, passes = outputs
        where = jnp.ones(len(logits), bool) if where is None else where
        predicted = jnp.argmax(logits, axis=-1)
        differs = jnp.mean((jnp.argmax(passes, axis=-1) != predicted).astype(logits.dtype), axis=0)
        invalid = jnp.any(jnp.isnan(logits), axis=-1) | jnp.any(jnp.isnan(passes), axis=(0, 2))
        differs = jnp.where(invalid, jnp.nan, differs)
        probs = jnp.mean(jax.nn.softmax(passes), axis=0)
        present = jnp.any(
            jax.nn.one_hot(predicted, logits.shape[-1], dtype=bool) & where[:, None], 0
        )
        return Evidence((differs, probs), _statistic, jnp.sum(present) == 1)

    return Estimator(nothing_to_fit, evidence)


def _statistic(data: Sample) -> Float[Array, ""]:
    return 1 - aetta_error(*mean(data))
