"""Confidence scores: how sure a classifier is of each prediction, from its logits.

A score is higher where the network is more confident; only its order matters for ranking, and only
`max_softmax` is a probability that can be calibrated. All work on the last axis, the classes, and
return NaN where a logit is NaN or `+inf` or where no class counts.

| score | of `z = (2, 1, -1)` | sees |
|-|-|-|
| `max_softmax` | 0.705 | differences of logits |
| `log_odds` | 0.873 | the same order, without ties at 1 |
| `entropy_score` | -0.714 | differences of logits, all classes |
| `margin` | 0.446 | the first two classes |
| `max_logit`, `energy_score` | 2, 2.349 | the size of the logits as well |
| `p_norm_max_logit` | 0.756 | the shape of the logits, not their scale |
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from entropax.entropy import softmax_entropy
from entropax.types import Array


def max_softmax(
    logits: Float[Array, "*batch c"], *, where: Bool[Array, "*#batch #c"] | None = None
) -> Float[Array, "*batch"]:
    r"""Largest softmax probability, which is the usual confidence.

    $$s = \max_k p_k = \Big(\sum_k e^{z_k - \max_j z_j}\Big)^{-1}.$$

    In float32 it is exactly 1 once the other logits are about 17 below the first, so that a sure
    network has ties there; `log_odds` has the same order and none of them.

    Args:
      logits: `[..., c]`; `-inf` is a class of probability 0.
      where: classes that count; the others get probability 0.

    Returns:
      `[...]` scores in `[1/c, 1]`.

    Reference: D. Hendrycks and K. Gimpel, "A baseline for detecting misclassified and
    out-of-distribution examples in neural networks" (2017).

    >>> float(max_softmax(jnp.log(jnp.array([0.2, 0.7, 0.1]))).round(5))
    0.699999988079071
    """
    logits, highest = _prepared(logits, where)
    total = jnp.sum(jnp.exp(logits - highest[..., None]), axis=-1)
    # Compiled together with what made the logits, the largest may not be the one it is rounded to.
    return jnp.minimum(1 / total, 1)


def log_odds(
    logits: Float[Array, "*batch c"], *, where: Bool[Array, "*#batch #c"] | None = None
) -> Float[Array, "*batch"]:
    r"""Logarithm of the odds of the first class: `max_softmax` on a scale that does not end at 1.

    $$s = \ln \frac{\max_k p_k}{1 - \max_k p_k} = -\ln \sum_{k \ne \hat y} e^{z_k - z_{\hat y}}.$$

    Args:
      logits: `[..., c]`; `-inf` is a class of probability 0.
      where: classes that count; the others get probability 0.

    Returns:
      `[...]` scores from `-ln(c - 1)` on; `inf` where one class has all the probability.

    >>> float(log_odds(jnp.array([100.0, 60.0])))
    40.0
    """
    logits, highest = _prepared(logits, where)
    below = jnp.where(_first(logits), -jnp.inf, logits - highest[..., None])
    return jnp.where(jnp.isnan(highest), jnp.nan, -_logsumexp(below))


def entropy_score(
    logits: Float[Array, "*batch c"], *, where: Bool[Array, "*#batch #c"] | None = None
) -> Float[Array, "*batch"]:
    r"""Minus the entropy of the softmax, in nats.

    $$s = \sum_k p_k \ln p_k.$$

    Args:
      logits: `[..., c]`; `-inf` is a class of probability 0.
      where: classes that count; the others get probability 0.

    Returns:
      `[...]` scores in `[-ln c, 0]`.

    >>> float(entropy_score(jnp.array([7.0, 7.0, -jnp.inf])))  # - ln 2
    -0.6931471824645996
    """
    return -softmax_entropy(_float32(logits), where=where)


def margin(
    logits: Float[Array, "*batch c"],
    *,
    of: str = "probabilities",
    where: Bool[Array, "*#batch #c"] | None = None,
) -> Float[Array, "*batch"]:
    r"""What the first class has before the second.

    $$s = p_{(1)} - p_{(2)} \qquad\text{or}\qquad s = z_{(1)} - z_{(2)}.$$

    Args:
      logits: `[..., c]`; `-inf` is a class of probability 0.
      of: `"probabilities"` or `"logits"`.
      where: classes that count; the others get probability 0.

    Returns:
      `[...]` scores of at least 0. A single class is 1 before the probability of none, and `inf`
      before its logit.

    Raises:
      ValueError: another word for `of`.

    Reference: T. Scheffer, C. Decomain and S. Wrobel, "Active hidden Markov models for information
    extraction" (2001).

    >>> float(margin(jnp.array([1.0, 4.0, 2.5]), of="logits"))
    1.5
    """
    if of not in ("probabilities", "logits"):
        raise ValueError(f"`of` must be 'probabilities' or 'logits', got {of!r}.")
    logits, highest = _prepared(logits, where)
    others = jnp.where(_first(logits), -jnp.inf, logits)
    second = jnp.max(others, axis=-1)
    difference = highest - second
    if of == "logits":
        return difference
    # p1 - p2 = p1 (1 - exp(z2 - z1)): nothing cancels when the two are close.
    total = jnp.sum(jnp.exp(logits - highest[..., None]), axis=-1)
    return -jnp.expm1(-difference) / total


def max_logit(
    logits: Float[Array, "*batch c"], *, where: Bool[Array, "*#batch #c"] | None = None
) -> Float[Array, "*batch"]:
    r"""Largest logit.

    $$s = \max_k z_k.$$

    A constant added to the logits of one example changes it, although no probability changes:
    use it for networks, whose logits mean something, not for logarithms of probabilities.

    Args:
      logits: `[..., c]`.
      where: classes that count.

    Returns:
      `[...]` scores of any size.

    Reference: D. Hendrycks et al., "Scaling out-of-distribution detection for real-world settings"
    (2022), section 3.

    >>> float(max_logit(jnp.array([1.0, 4.0, 2.5])))
    4.0
    """
    return _prepared(logits, where)[1]


def p_norm_max_logit(
    logits: Float[Array, "*batch c"],
    *,
    p: float = 5,
    where: Bool[Array, "*#batch #c"] | None = None,
) -> Float[Array, "*batch"]:
    r"""Largest logit after centring and division by the p-norm.

    $$s = \max_k \frac{z_k - \bar z}{\lVert z - \bar z \rVert_p}.$$

    The scale of the logits drops out; it is what is broken in classifiers that are accurate and yet
    rank their predictions badly. At `p = 2` it is, up to a constant, how many standard deviations
    the first logit lies above the mean. The paper chooses p for each classifier on held-out data.

    Args:
      logits: `[..., c]`, finite.
      p: order of the norm, positive or `math.inf`, known when the function is traced.
      where: classes that count.

    Returns:
      `[...]` scores in `[0, 1]` for `p` of at least 1; 0 where all logits are the same, NaN where
      one that counts is infinite.

    Raises:
      ValueError: `p` is not positive.

    Reference: L. F. P. Cattelan and D. Silva, "How to fix a broken confidence estimator" (2023),
    arXiv 2305.15508, the estimator MaxLogit-pNorm.

    >>> float(p_norm_max_logit(jnp.array([1.0, 4.0, 2.5]), p=2).round(5))  # 1 / sqrt(2)
    0.7071099877357483
    """
    if not p > 0:
        raise ValueError(f"`p` must be positive, got {p}.")
    logits = _float32(logits)
    counts = jnp.ones_like(logits, bool) if where is None else jnp.broadcast_to(where, logits.shape)
    # Below the largest first: a constant in all of them would cost the mean its digits.
    highest = jnp.max(logits, axis=-1, where=counts, initial=-jnp.inf, keepdims=True)
    below = jnp.where(counts, logits - highest, 0)
    centred = below - jnp.mean(below, axis=-1, where=counts, keepdims=True)
    centred = jnp.where(counts, centred, 0)
    # By the largest, lest a power overflows or vanishes.
    size = jnp.max(jnp.abs(centred), axis=-1, keepdims=True)
    same = size == 0
    scaled = centred / jnp.where(same, 1, size)
    norm = jnp.ones(logits.shape[:-1], logits.dtype)
    if p != math.inf:
        norm = jnp.sum(jnp.abs(scaled) ** p, axis=-1) ** (1 / p)
    score = jnp.max(scaled, axis=-1, where=counts, initial=-jnp.inf) / norm
    score = jnp.where(same[..., 0], 0, score)
    finite = jnp.all(jnp.isfinite(logits) | ~counts, axis=-1) & jnp.any(counts, axis=-1)
    return jnp.where(finite, score, jnp.nan)


def energy_score(
    logits: Float[Array, "*batch c"],
    *,
    temperature: float | Float[Array, ""] = 1,
    where: Bool[Array, "*#batch #c"] | None = None,
) -> Float[Array, "*batch"]:
    r"""Minus the free energy of the logits.

    $$s = T \ln \sum_k e^{z_k / T}.$$

    As for `max_logit`, which is the limit of a low temperature, a constant added to the logits of
    one example changes it.

    Args:
      logits: `[..., c]`; `-inf` is a class of probability 0.
      temperature: $T$, positive.
      where: classes that count.

    Returns:
      `[...]` scores of any size, between `max_logit` and `max_logit` plus $T \ln c$.

    Raises:
      ValueError: a `temperature` that is a number and not positive.

    Reference: W. Liu et al., "Energy-based out-of-distribution detection" (2020), equation 4.

    >>> float(energy_score(jnp.array([0.0, 0.0])))  # ln 2
    0.6931471824645996
    """
    if not isinstance(temperature, jax.Array) and not temperature > 0:
        raise ValueError(f"`temperature` must be positive, got {temperature}.")
    logits, highest = _prepared(logits, where)
    shifted = (logits - highest[..., None]) / temperature
    return highest + temperature * jnp.log(jnp.sum(jnp.exp(shifted), axis=-1))


def _float32(logits: Float[Array, "*batch c"]) -> Float[Array, "*batch c"]:
    """In single precision at least: scores of bfloat16 would mostly be ties."""
    logits = jnp.asarray(logits)
    return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))


def _prepared(
    logits: Float[Array, "*batch c"], where: Bool[Array, "*#batch #c"] | None
) -> tuple[Float[Array, "*batch c"], Float[Array, "*batch"]]:
    """Logits, `-inf` where a class does not count, and the largest; NaN where that is no number."""
    logits = _float32(logits)
    if where is not None:
        logits = jnp.where(where, logits, -jnp.inf)
    highest = jnp.max(logits, axis=-1)
    finite = jnp.isfinite(highest) & ~jnp.any(jnp.isnan(logits), axis=-1)
    return logits, jnp.where(finite, highest, jnp.nan)


def _first(logits: Float[Array, "*batch c"]) -> Bool[Array, "*batch c"]:
    """True at the first of the largest logits."""
    return jnp.arange(logits.shape[-1]) == jnp.argmax(logits, axis=-1, keepdims=True)


def _logsumexp(logits: Float[Array, "*batch c"]) -> Float[Array, "*batch"]:
    """As in `jax.nn`, but without its infinite derivatives where all are `-inf`."""
    highest = jnp.max(logits, axis=-1)
    empty = jnp.isneginf(highest)
    shift = jnp.where(empty, 0, highest)
    total = jnp.sum(jnp.exp(logits - shift[..., None]), axis=-1)
    return jnp.where(empty, -jnp.inf, shift + jnp.log(jnp.where(empty, 1, total)))
