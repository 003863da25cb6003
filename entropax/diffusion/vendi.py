"""The Vendi score: how many distinct points a kernel sees among its examples."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Num

from entropax import entropy, spectra
from entropax.diffusion.adjacency import adjacency_entropy
from entropax.diffusion.rank import counted, gram_spectrum
from entropax.types import Array


def vendi_score(
    x: Array | np.ndarray,
    *,
    sigma: float | str | Array,
    neighbours: int = 10,
    order: float = 1.0,
    where: Bool[Array, " n"] | None = None,
) -> Float[Array, ""]:
    r"""Vendi score of points by a Gaussian kernel.

    $$\exp H_q(\lambda / n), \qquad \lambda = \operatorname{eig}(K), \qquad
      K_{ij} = e^{-\|x_i - x_j\|^2 / 2 \sigma^2}.$$

    It is the exponential of `adjacency_entropy`.

    Args:
      x: `[n, d]` points.
      sigma: width of the Gaussian, a positive number or a rule: see `kernels.bandwidth`.
      neighbours: which neighbour counts, for sigma="knn" and "adaptive".
      order: order `q` of the Renyi entropy, from 0 to `math.inf`; 1 for Shannon. Lower orders give
        more weight to what is rare.
      where: `[n]` points that count.

    Returns:
      A number from 1, for points that are all alike, to `n`, for points far apart; differentiable,
      equal points included.

    Raises:
      ValueError: if `sigma` or `order` is out of its range.

    Reference: D. Friedman and A. B. Dieng, "The Vendi score: a diversity evaluation metric for
    machine learning" (2023), definition 3.1; for the order, A. Pasarkar and A. B. Dieng, "Cousins
    of the Vendi score" (2024), equation 2.

    >>> round(float(vendi_score(jnp.array([[0.0], [0.0], [100.0], [100.0]]), sigma=1.0)), 5)
    2.0
    """
    return jnp.exp(
        adjacency_entropy(x, sigma=sigma, neighbours=neighbours, order=order, where=where)
    )


def vendi_score_of_kernel(
    kernel: Float[Array, "n n"],
    *,
    order: float = 1.0,
    where: Bool[Array, " n"] | None = None,
) -> Float[Array, ""]:
    r"""Vendi score of examples whose similarities are known.

    $$\exp H_q(\operatorname{eig}(K) / n), \qquad K_{ii} = 1.$$

    Args:
      kernel: `[n, n]` symmetric positive semi-definite similarities, those of an example with
        itself 1; `kernels.cosine` makes them so.
      order: order `q` of the Renyi entropy, from 0 to `math.inf`; 1 for Shannon.
      where: `[n]` examples that count.

    Returns:
      A number from 1 to `n`. NaN where an eigenvalue is more negative than rounding explains, or
      NaN. Under `jit` a diagonal other than 1 goes unnoticed, and the trace takes the place of `n`.

    Raises:
      ValueError: if `order` is out of its range, or the diagonal is not 1.

    Reference: D. Friedman and A. B. Dieng, "The Vendi score: a diversity evaluation metric for
    machine learning" (2023), definition 3.1.

    >>> round(float(vendi_score_of_kernel(jnp.eye(5))), 5)
    5.0
    """
    if where is not None:
        kernel = jnp.where(where[:, None] & where, kernel, 0)
    diagonal = jnp.diagonal(kernel)
    if not isinstance(kernel, jax.core.Tracer):
        wrong = jnp.abs(diagonal - 1) > 1e-3
        wrong = wrong if where is None else wrong & where
        if jnp.any(wrong):
            raise ValueError(
                "`kernel` must have 1 on its diagonal, got "
                f"{float(diagonal[jnp.argmax(wrong)])}; `kernels.cosine` makes it so."
            )
    return _score(spectra.eigvals(kernel), order)


def cosine_vendi_score(
    x: Num[Array, "n d"] | Num[np.ndarray, "n d"],
    *,
    order: float = 1.0,
    where: Bool[Array, " n"] | None = None,
) -> Float[Array, ""]:
    r"""Vendi score of features by the cosine of their angles.

    $$\exp H_q(\operatorname{eig}(K) / n), \qquad
      K_{ij} = \frac{\langle x_i, x_j \rangle}{\|x_i\| \|x_j\|}.$$

    From the `[n, n]` or the `[d, d]` matrix, whichever is smaller.

    Args:
      x: `[n, d]` features.
      order: order `q` of the Renyi entropy, from 0 to `math.inf`; 1 for Shannon.
      where: `[n]` examples that count. Neither does one whose features are all 0.

    Returns:
      A number from 1 to `min(n, d)`; 0 if no example counts. NaN if a feature that counts is.

    Raises:
      ValueError: if `order` is out of its range.

    Reference: D. Friedman and A. B. Dieng, "The Vendi score: a diversity evaluation metric for
    machine learning" (2023), definition 3.1 and section 3.2 on features.

    >>> x = jnp.array([[1.0, 0.0], [3.0, 0.0], [0.0, 2.0], [0.0, 1.0]])
    >>> round(float(cosine_vendi_score(x)), 5)
    2.0
    """
    x = counted(x, where)
    largest = jnp.max(jnp.abs(x), axis=1, keepdims=True)
    x = x / jnp.where(largest == 0, 1, jax.lax.stop_gradient(largest))
    squares = jnp.sum(jnp.square(x), axis=1, keepdims=True)
    return _score(gram_spectrum(x * jax.lax.rsqrt(jnp.where(squares == 0, 1, squares))), order)


def _score(eigvals: Float[Array, " n"], order: float) -> Float[Array, ""]:
    probs = entropy.probabilities(eigvals)
    return jnp.where(jnp.max(probs) == 0, 0, jnp.exp(entropy.renyi(probs, order=order)))
