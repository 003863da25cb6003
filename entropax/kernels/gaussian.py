"""Distances between features, and the Gaussian kernel of them."""

from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Num, PyTree

from entropax.distributed import gather
from entropax.kernels.base import FeatureKernel
from entropax.types import ApplyFn, Array, Params

# The mean in two parts, one after the other to be subtracted.
_Centre: TypeAlias = tuple[Float[Array, " d"], Float[Array, " d"]]


def centred(
    x: Num[Array, "n d"] | Num[np.ndarray, "n d"], where: Bool[Array, " n"] | None = None
) -> tuple[Float[Array, "n d"], Float[Array, " d"]]:
    r"""The points about their mean, and the mean.

    $$y_i = x_i - \bar x.$$

    A mean in float32 of numbers far from 0 is not accurate, so what it leaves is centred once more.
    It is kept between the least and the greatest number of its column: a column of equal numbers
    becomes 0 exactly. Nothing that depends on differences alone depends on the mean, so gradients
    do not pass through it.

    Args:
      x: `[n, d]` points; half-precision numbers and integers become float32.
      where: `[n]` False in rows that only fill up the shape; they come back as 0, whatever is in
        them.

    Returns:
      `[n, d]` and `[d]`.

    >>> centred(jnp.array([[1.0], [3.0]]))[0].tolist()
    [[-1.0], [1.0]]
    """
    x = jnp.asarray(x)
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    rows = jnp.ones((len(x), 1), bool) if where is None else jnp.asarray(where)[:, None]
    first, second = _centre(x, rows)
    return jnp.where(rows, _about(x, (first, second)), 0), first + second


def _centre(x: Float[Array, "n d"], rows: Bool[Array, "n 1"]) -> _Centre:
    count = jnp.maximum(jnp.sum(rows), 1).astype(x.dtype)

    def middle(x: Array) -> Array:
        mean = jnp.sum(jnp.where(rows, x, 0), axis=0) / count
        least = jnp.min(jnp.where(rows, x, jnp.inf), axis=0)
        greatest = jnp.max(jnp.where(rows, x, -jnp.inf), axis=0)
        mean = jnp.minimum(jnp.maximum(mean, least), greatest)
        return jax.lax.stop_gradient(jnp.where(jnp.any(rows), mean, 0))

    first = middle(x)
    return first, middle(x - first)


def _about(x: Float[Array, "n d"], centre: _Centre) -> Float[Array, "n d"]:
    # One after the other: their sum, rounded, would shift all points by as much.
    first, second = centre
    return (x - first) - second


def squared_distances(
    x1: Num[Array, "n d"] | Num[np.ndarray, "n d"],
    x2: Num[Array, "m _"] | Num[np.ndarray, "m _"] | None = None,
    *,
    where: Bool[Array, " n"] | None = None,
) -> Float[Array, "n m"]:
    r"""Squared Euclidean distances between points.

    $$d_{ij}^2 = \|y_i\|^2 + \|y_j\|^2 - 2\, y_i^\top y_j, \qquad y_i = x_i - \bar x.$$

    One product of matrices on centred points, so that the error is about the precision of the
    numbers times $\|y_i\|^2 + \|y_j\|^2$ wherever the points lie: in float32, 1e-7 to 7e-7 times
    for 4 to 2,048 features. Within one set the lengths come from the diagonal of the product, which
    makes the distance of equal points exactly 0.

    Args:
      x1: `[n, d]` points, whose mean is the centre.
      x2: `[m, d]` other points; by default `x1`.
      where: `[n]` False in rows of `x1` that only fill up the shape.

    Returns:
      `[n, m]` numbers of at least 0; in rows (and, within one set, columns) of padding anything
      finite. The gradient is finite everywhere.

    Raises:
      ValueError: if the two sets have different numbers of features.

    >>> squared_distances(jnp.array([[0.0], [3.0]])).tolist()
    [[0.0, 9.0], [9.0, 0.0]]
    """
    if x2 is None:
        y1, _ = centred(x1, where)
        products = _products(y1, y1)
        lengths1 = lengths2 = jnp.diagonal(products)
    else:
        if jnp.shape(x1)[1] != jnp.shape(x2)[1]:
            raise ValueError(
                "`x1` and `x2` must have the same number of features, got "
                f"{jnp.shape(x1)[1]} and {jnp.shape(x2)[1]}."
            )
        x1, x2 = jnp.asarray(x1), jnp.asarray(x2)
        dtype = jnp.promote_types(jnp.result_type(x1, x2), jnp.float32)
        rows = jnp.ones((len(x1), 1), bool) if where is None else jnp.asarray(where)[:, None]
        x1 = jnp.where(rows, x1, 0).astype(dtype)
        centre = _centre(x1, rows)
        y1, y2 = _about(x1, centre), _about(x2.astype(dtype), centre)
        products = _products(y1, y2)
        lengths1, lengths2 = (jnp.sum(jnp.square(y), axis=1) for y in (y1, y2))
    # Not `maximum`, whose gradient at a distance of 0 is a half.
    squares = lengths1[:, None] + lengths2 - 2 * products
    squares = jnp.where(squares <= 0, 0, squares)
    if x2 is None:
        squares = jnp.where(jnp.eye(len(y1), dtype=bool), 0, squares)
    return squares


def _products(y1: Float[Array, "n d"], y2: Float[Array, "m d"]) -> Float[Array, "n m"]:
    return jnp.matmul(y1, y2.T, precision="highest")


def check_sigma(sigma: Any, where: Any = None, *, n: int | None = None) -> None:
    """Raise a ValueError unless every bandwidth is a positive number; a traced one passes.

    If the number of points is known, there must be one for all or one for each.
    """
    if n is not None and np.shape(sigma) not in ((), (n,)):
        raise ValueError(
            f"`sigma` must be one number or [{n}], one for each point, got {np.shape(sigma)}."
        )
    if any(isinstance(value, jax.core.Tracer) for value in (sigma, where)):
        return
    widths = gather(sigma)
    real = np.ones((), bool) if where is None or widths.ndim == 0 else gather(where)
    wrong = ~((widths > 0) & np.isfinite(widths)) & real
    if wrong.any():
        raise ValueError(
            f"`sigma` must be positive and finite, got {widths[wrong].ravel()[0]}; "
            "`kernels.bandwidth` finds one from the data."
        )


def gaussian(apply_fn: ApplyFn, *, sigma: float | Float[Array, ""]) -> FeatureKernel:
    r"""The Gaussian kernel of a network's outputs (its features, say).

    $$K_{ij} = \exp\!\Big(-\frac{\|\phi(x_i) - \phi(x_j)\|^2}{2 \sigma^2}\Big).$$

    Args:
      apply_fn: `(params, x [n, ...]) -> phi [n, ...]`; all axes but the first are flattened.
      sigma: the bandwidth, in the units of `phi`; `bandwidth` finds one from the data.

    Returns:
      `kernel_fn(params, x1, x2=None) -> [n, m]`.

    Raises:
      ValueError: if `sigma` is not positive.

    >>> kernel_fn = gaussian(lambda params, x: params * x, sigma=1.0)
    >>> kernel = kernel_fn(jnp.array(2.0), jnp.array([[0.0], [1.0]]))
    >>> round(float(kernel[0, 1]), 4)  # exp(-2)
    0.1353
    """
    check_sigma(sigma)

    def features(params: Params, x: PyTree[Any], partners: int) -> Float[Array, "n f"]:
        phi = jnp.asarray(apply_fn(params, x))
        return phi.reshape(len(phi), -1)

    def inner(features1: Float[Array, "n f"], features2: Float[Array, "m f"]) -> Array:
        return jnp.exp(squared_distances(features1, features2) / (-2 * jnp.square(sigma)))

    return FeatureKernel(jax.jit(features, static_argnums=2), jax.jit(inner))
