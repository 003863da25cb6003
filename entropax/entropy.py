"""Entropies: from probabilities, logits or eigenvalues to nats.

Every function works on the last axis, takes any leading batch axes, and leaves `jit` to the caller.

The von Neumann entropy of a positive semi-definite matrix is the Shannon entropy of its eigenvalues
once they sum to 1. It counts the directions that the matrix fills, on a logarithmic scale: 0 for
one direction, ln n for n equal ones.
"""

import math
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from entropax.types import Array

ArrayT = TypeVar("ArrayT", jax.Array, np.ndarray)

# A negative eigenvalue down to this share of the largest is taken for rounding. A kernel in float32
# may have eigenvalues in float64, so the line does not move with their type.
ROUNDING = 1e-4


def shannon(
    probs: Float[Array, "*batch c"], *, where: Bool[Array, "*#batch #c"] | None = None
) -> Float[Array, "*batch"]:
    r"""Shannon entropy of a distribution, in nats.

    $$H(p) = -\sum_k p_k \ln p_k, \qquad 0 \ln 0 = 0.$$

    Args:
      probs: `[..., c]` probabilities.
      where: entries that count; the others contribute nothing.

    Returns:
      `[...]` entropies in `[0, ln c]`; NaN where a probability is negative or NaN. At `p_k = 0`
      the derivative, which is infinite, is taken to be 0, so that gradients stay finite.

    Reference: C. E. Shannon, "A mathematical theory of communication" (1948), section 6.

    >>> float(shannon(jnp.array([0.5, 0.5, 0.0])))  # ln 2
    0.6931471824645996
    """
    counts = probs != 0 if where is None else (probs != 0) & where
    safe = jnp.where(counts, probs, 1)
    return -jnp.sum(safe * jnp.log(safe), axis=-1)


def softmax_entropy(
    logits: Float[Array, "*batch c"], *, where: Bool[Array, "*#batch #c"] | None = None
) -> Float[Array, "*batch"]:
    r"""Entropy of the softmax of logits, in nats, without forming a logarithm of a probability.

    $$H(z) = -\sum_k p_k \ln p_k, \qquad p = \mathrm{softmax}(z).$$

    Args:
      logits: `[..., c]`; `-inf` is a class of probability 0.
      where: classes that count; the others get probability 0.

    Returns:
      `[...]` entropies in `[0, ln c]`; NaN where a logit is NaN or `+inf`, or no class counts.

    >>> float(softmax_entropy(jnp.array([7.0, 7.0, -jnp.inf])))  # ln 2
    0.6931471824645996
    """
    if where is not None:
        logits = jnp.where(where, logits, -jnp.inf)
    log_probs = jax.nn.log_softmax(logits, axis=-1)
    log_probs = jnp.where(jnp.isneginf(log_probs), 0, log_probs)
    probs = jax.nn.softmax(logits, axis=-1)
    return -jnp.sum(probs * log_probs, axis=-1)


def renyi(
    probs: Float[Array, "*batch c"],
    *,
    order: float,
    where: Bool[Array, "*#batch #c"] | None = None,
) -> Float[Array, "*batch"]:
    r"""Renyi entropy of a distribution, in nats.

    $$H_\alpha(p) = \frac{1}{1 - \alpha} \ln \sum_k p_k^\alpha,$$

    with the limits $\ln \#\{k : p_k \ne 0\}$ for $\alpha = 0$ (Hartley), the Shannon entropy for
    $\alpha = 1$, and $-\ln \max_k p_k$ for $\alpha = \infty$ (min-entropy). Order 2 is the
    collision entropy. It never increases with the order.

    Args:
      probs: `[..., c]` probabilities.
      order: the order `alpha`, a number from 0 to `math.inf`, known when the function is traced.
      where: entries that count; the others contribute nothing.

    Returns:
      `[...]` entropies in `[0, ln c]`, 0 for an all-zero `probs`; NaN where a probability is
      negative or NaN. The derivative with respect to a probability of 0 is taken to be 0; order 0
      has derivative 0 everywhere. Order 0 counts every entry that is not exactly 0, rounding
      included.

    Raises:
      ValueError: if `order` is negative or NaN.

    Reference: A. Renyi, "On measures of entropy and information" (1961), equation 1.21.

    >>> float(renyi(jnp.array([0.5, 0.25, 0.25]), order=math.inf))  # ln 2
    0.6931471824645996
    """
    if not order >= 0:
        raise ValueError(f"`order` must be a number from 0 to infinity, got {order}.")
    if order == 1:
        return shannon(probs, where=where)
    counts = probs != 0 if where is None else (probs != 0) & where
    safe = jnp.where(counts, probs, 1)
    log_probs = jnp.log(safe)  # NaN where a probability is negative, and it stays
    highest = jnp.max(log_probs, axis=-1, where=counts, initial=-jnp.inf, keepdims=True)
    empty = jnp.isneginf(highest)
    highest = jnp.where(empty, 0, highest)
    if order == math.inf:
        entropy = -highest
    elif order == 0:
        number = jnp.sum(counts, axis=-1, keepdims=True)
        entropy = jnp.log(jnp.maximum(number, 1).astype(probs.dtype)) + 0 * highest
    elif abs(order - 1) < 0.5:
        # What differs from the Shannon entropy, so that dividing by 1 - order costs no digits.
        entropy = shannon(probs, where=where)[..., None]
        excess = jnp.expm1((order - 1) * (log_probs + entropy))
        excess = jnp.sum(safe * excess, axis=-1, keepdims=True, where=counts)
        entropy = entropy - jnp.log1p(excess) / (order - 1)
    else:
        powers = jnp.exp(order * (log_probs - highest))
        total = jnp.sum(powers, axis=-1, keepdims=True, where=counts)
        total = jnp.where(empty, 1, total)
        entropy = (order * highest + jnp.log(total)) / (1 - order)
    return entropy[..., 0]


def probabilities(
    eigvals: Float[ArrayT, "*batch n"], *, where: Bool[ArrayT, "*#batch #n"] | None = None
) -> Float[ArrayT, "*batch n"]:
    r"""Eigenvalues of a positive semi-definite matrix, of any scale, as a distribution.

    $$p_k = \max(\lambda_k, 0) \Big/ \sum_j \max(\lambda_j, 0).$$

    A negative eigenvalue down to 1e-4 of the largest is rounding and counts as 0.

    Args:
      eigvals: `[..., n]` eigenvalues. A NumPy array stays one, in its own precision.
      where: eigenvalues that count; the others get probability 0.

    Returns:
      `[..., n]` non-negative numbers that sum to 1, or all 0 if all eigenvalues are 0. All NaN
      where an eigenvalue is more negative than rounding explains (the matrix was not positive
      semi-definite), NaN or infinite. The derivative with respect to an eigenvalue that is not
      positive is taken to be 0.

    >>> probabilities(jnp.array([-1e-9, 1.0, 3.0])).round(5).tolist()
    [0.0, 0.25, 0.75]
    """
    xp = np if isinstance(eigvals, np.ndarray) else jnp
    if where is not None:
        eigvals = xp.where(where, eigvals, 0)
    finite = xp.all(xp.isfinite(eigvals), axis=-1, keepdims=True)
    eigvals = xp.where(finite, eigvals, 0)
    largest = xp.max(eigvals, axis=-1, keepdims=True, initial=0)
    smallest = xp.min(eigvals, axis=-1, keepdims=True, initial=0)
    # By the largest, lest the sum overflows. In two halves: the reciprocal of a number near the end
    # of the range would itself vanish.
    half = 1 / xp.sqrt(xp.where(largest > 0, largest, 1))
    positive = xp.where(eigvals > 0, eigvals, 0) * half * half
    total = xp.sum(positive, axis=-1, keepdims=True)
    probs = positive / xp.where(total > 0, total, 1)
    return xp.where(finite & (smallest >= -ROUNDING * largest), probs, xp.nan)


def von_neumann(
    eigvals: Float[ArrayT, "*batch n"], *, where: Bool[ArrayT, "*#batch #n"] | None = None
) -> Float[Array, "*batch"]:
    r"""Von Neumann entropy of a positive semi-definite matrix, from its eigenvalues, in nats.

    $$S = -\sum_k p_k \ln p_k, \qquad p_k = \lambda_k \Big/ \sum_j \lambda_j.$$

    The scale of the eigenvalues makes no difference.

    Args:
      eigvals: `[..., n]` eigenvalues, from `spectra.density` or any eigensolver.
      where: eigenvalues that count; the others contribute nothing.

    Returns:
      `[...]` entropies in `[0, ln n]`; 0 if all eigenvalues are 0. Negative eigenvalues down to
      1e-4 of the largest are rounding and count as 0; NaN where one is more negative than that
      (the matrix was not positive semi-definite), NaN or infinite. At `lambda_k = 0` the
      derivative, which is infinite, is taken to be 0, so that gradients stay finite.

    Reference: J. von Neumann, "Thermodynamik quantenmechanischer Gesamtheiten" (1927).

    >>> float(von_neumann(jnp.array([0.0, 7.0, 7.0])))  # ln 2
    0.6931471824645996
    """
    return shannon(jnp.asarray(probabilities(eigvals, where=where)))


def effective_von_neumann(
    eigvals: Float[ArrayT, "*batch n"], *, where: Bool[ArrayT, "*#batch #n"] | None = None
) -> Float[Array, "*batch"]:
    r"""Von Neumann entropy as a share of its maximum, which compares matrices of different sizes.

    $$S_\mathrm{eff} = S / \ln n.$$

    Args:
      eigvals: `[..., n]` eigenvalues, as for `von_neumann`.
      where: eigenvalues that count; `n` is their number.

    Returns:
      `[...]` shares in `[0, 1]`; 0 for `n = 1` (and `n = 0`), where the entropy is 0 as well. NaN
      and derivatives as for `von_neumann`.

    >>> float(effective_von_neumann(jnp.array([0.0, 0.0, 7.0, 7.0])))
    0.5
    """
    entropy = von_neumann(eigvals, where=where)
    counts = True if where is None else jnp.asarray(where)
    number = jnp.sum(jnp.broadcast_to(counts, eigvals.shape), axis=-1)
    return entropy / jnp.log(jnp.maximum(number, 2).astype(entropy.dtype))


def effective_rank(
    eigvals: Float[ArrayT, "*batch n"], *, where: Bool[ArrayT, "*#batch #n"] | None = None
) -> Float[Array, "*batch"]:
    r"""Effective rank of a positive semi-definite matrix: how many equal eigenvalues it amounts to.

    $$\mathrm{erank} = \exp S.$$

    Args:
      eigvals: `[..., n]` eigenvalues, as for `von_neumann`.
      where: eigenvalues that count; the others contribute nothing.

    Returns:
      `[...]` numbers from 1 to `n`, never above the rank; 0 if all eigenvalues are 0. NaN and
      derivatives as for `von_neumann`.

    Reference: O. Roy and M. Vetterli, "The effective rank: a measure of effective dimensionality"
    (2007), definition 1.

    >>> float(effective_rank(jnp.array([0.0, 5.0, 5.0, 5.0, 5.0])))
    4.0
    """
    probs = jnp.asarray(probabilities(eigvals, where=where))
    # The largest, since a comparison of all with 0 loses NaN once XLA compiles it for a CPU.
    return jnp.where(jnp.max(probs, axis=-1) == 0, 0, jnp.exp(shannon(probs)))
