"""Effective ranks of features: how many directions a representation fills, without a kernel width.

`rank_me` counts by singular values, `entropy.effective_rank(covariance_spectrum(x))` by variances:

    score = rank.rank_me(features)
    dimension = entropy.effective_rank(rank.covariance_spectrum(features))
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Num

from entropax import entropy, spectra
from entropax.types import Array

# Singular values up to this many units of rounding of the largest count as 0: of matrices of low
# rank, up to 20,000 x 256 and 512 x 2,048 in float32, those that should vanish reached 5.2 units.
_NOISE = 10


def rank_me(
    x: Num[Array, "n d"] | Num[np.ndarray, "n d"], *, where: Bool[Array, " n"] | None = None
) -> Float[Array, ""]:
    r"""RankMe: the effective rank of a matrix of features, from its singular values.

    $$\exp\Big(-\sum_k p_k \ln p_k\Big), \qquad p_k = \sigma_k \Big/ \sum_j \sigma_j.$$

    The features are not centred. The paper adds 1e-7 to every `p_k` (its text) to keep the
    logarithm finite, which lets the score exceed the rank; here 0 ln 0 = 0 instead, and singular
    values up to 10 units of rounding of the largest are 0. On float32 features whose singular
    values fall by a factor of e every 10 of 256, the error was 5e-7.

    Args:
      x: `[n, d]` features, one row for each example.
      where: `[n]` examples that count.

    Returns:
      A number from 1 to `min(n, d)`, never above the rank; 0 if all features are 0, NaN if one that
      counts is not finite. Gradients are finite at any rank: that of a singular value that counts
      as 0, which is infinite, is taken to be 0.

    Reference: Q. Garrido et al., "RankMe: assessing the downstream performance of pretrained
    self-supervised representations by their rank" (2023), equation 1. The effective rank is due to
    O. Roy and M. Vetterli (2007), definition 1.

    >>> round(float(rank_me(3.0 * jnp.eye(5)[:, :4])), 5)
    4.0
    """
    x = counted(x, where)
    finite = jnp.all(jnp.isfinite(x))
    singular = jnp.linalg.svd(jnp.where(finite, x, 0), compute_uv=False)
    noise = _NOISE * jnp.finfo(x.dtype).eps * singular[0]
    singular = jnp.where(singular > noise, singular, 0)
    return jnp.where(finite, entropy.effective_rank(singular), jnp.nan)


def covariance_spectrum(
    x: Num[Array, "n d"] | Num[np.ndarray, "n d"], *, where: Bool[Array, " n"] | None = None
) -> Float[Array, " k"]:
    r"""Eigenvalues of the covariance of features, by the smaller of two matrices.

    $$\lambda\Big(\tfrac1n X_c^\top X_c\Big) = \lambda\Big(\tfrac1n X_c X_c^\top\Big)
      \quad\text{but for zeros}, \qquad X_c = X - \bar x.$$

    Args:
      x: `[n, d]` features, one row for each example.
      where: `[n]` examples that count.

    Returns:
      `[k]` eigenvalues, ascending, with `k = min(n, d)`; those left out are 0. NaN if a feature
      that counts is not finite.

    >>> x = jnp.array([[3.0, 0.0, 1.0], [-3.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    >>> covariance_spectrum(x).round(5).tolist()
    [0.0, 0.0, 6.0]
    """
    x = counted(x, where)
    counts = jnp.ones(len(x), bool) if where is None else where
    number = jnp.maximum(jnp.sum(counts), 1).astype(x.dtype)
    centred = jnp.where(counts[:, None], x - jnp.sum(x, axis=0) / number, 0)
    return gram_spectrum(centred / jnp.sqrt(number))


def gram_spectrum(x: Float[Array, "n d"]) -> Float[Array, " k"]:
    r"""Eigenvalues of $X X^\top$ or $X^\top X$, whichever is smaller: the rest are 0.

    Args:
      x: `[n, d]` features.

    Returns:
      `[k]` ascending, with `k = min(n, d)`. Eigenvalues smaller than a few units of rounding of the
      largest are noise and may be negative.

    >>> gram_spectrum(jnp.array([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]])).tolist()
    [1.0, 4.0]
    """
    wide = x if x.shape[0] <= x.shape[1] else x.T
    return spectra.eigvals(jnp.matmul(wide, wide.T, precision="highest"))


def counted(
    x: Num[Array, "n d"] | Num[np.ndarray, "n d"], where: Bool[Array, " n"] | None
) -> Float[Array, "n d"]:
    """The features with zeros where they do not count, in float32 at least."""
    if np.ndim(x) != 2 or np.size(x) == 0:
        raise ValueError(f"`x` must hold features [n, d], got the shape {np.shape(x)}.")
    x = jnp.asarray(x)
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return x if where is None else jnp.where(jnp.asarray(where)[:, None], x, 0)
