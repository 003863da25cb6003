"""How well a linear classifier does on given features."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from entropax.types import Array


def linear_probe(
    x: Float[Array, "n d"] | Float[np.ndarray, "n d"],
    labels: Int[Array, " n"] | Int[np.ndarray, " n"],
    x_test: Float[Array, "m d"] | Float[np.ndarray, "m d"],
    *,
    num_classes: int,
    ridge: float = 3e-2,
) -> Float[Array, "m c"]:
    r"""Scores of the classes, by ridge regression on one-hot labels.

    Features are centred, and scaled as a whole to unit variance; with one-hot labels $Y$ and their
    mean $\bar y$,

    $$f(x) = \bar y + x^\top (X^\top X + \rho\, n I)^{-1} X^\top (Y - \bar y).$$

    One Cholesky factor of the smaller side, and nothing that must converge: the same features give
    the same accuracy, which a probe that is trained by steps does not promise.

    Args:
      x: `[n, d]` features of the examples that are fitted.
      labels: `[n]` their classes.
      x_test: `[m, d]` features to classify.
      num_classes: number of classes.
      ridge: $\rho$, in mean variances of a feature.

    Returns:
      `[m, num_classes]` scores; the largest is the class. Features that are all equal give every
      example the shares of the classes.

    Raises:
      ValueError: `ridge` is not positive.

    >>> x = jnp.array([[0.0], [1.0], [2.0], [10.0], [11.0], [12.0]])
    >>> labels = jnp.array([0, 0, 0, 1, 1, 1])
    >>> linear_probe(x, labels, jnp.array([[1.5], [9.0]]), num_classes=2).argmax(-1).tolist()
    [0, 1]
    """
    if not ridge > 0:
        raise ValueError(f"`ridge` must be positive, got {ridge}.")
    x, x_test = jnp.asarray(x), jnp.asarray(x_test)
    n, d = x.shape
    mean = jnp.mean(x, axis=0)
    x, x_test = x - mean, x_test - mean
    variance = jnp.mean(x * x)
    scale = jax.lax.rsqrt(jnp.where(variance > 0, variance, 1))
    x, x_test = x * scale, x_test * scale
    targets = jax.nn.one_hot(labels, num_classes, dtype=x.dtype)
    centre = jnp.mean(targets, axis=0)

    def solve(gram: Array, right: Array) -> Array:
        shifted = gram + ridge * n * jnp.eye(len(gram), dtype=x.dtype)
        return jax.scipy.linalg.solve(shifted, right, assume_a="pos")

    def product(a: Array, b: Array) -> Array:
        return jnp.matmul(a, b, precision="highest")

    if d <= n:
        weights = solve(product(x.T, x), product(x.T, targets - centre))
    else:  # the same matrix, by (X'X + c)^-1 X' = X' (XX' + c)^-1
        weights = product(x.T, solve(product(x, x.T), targets - centre))
    return centre + product(x_test, weights)
