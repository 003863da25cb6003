"""Bandwidths of the Gaussian kernel: a number, or a rule that finds it from the points."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, Num

from entropax.kernels.gaussian import check_sigma, squared_distances
from entropax.kernels.neighbours import neighbour_distances
from entropax.types import Array

RULES = ("median", "sqrt_d", "knn", "adaptive")
# Rows that the rules for one bandwidth look at: all pairs of them, or the neighbours of each.
_PAIRED, _QUERIED = 2048, 4096


def bandwidth(
    x: Num[Array, "n d"] | Num[np.ndarray, "n d"],
    sigma: float | str | Float[Array, ""] | Float[Array, " n"],
    *,
    neighbours: int = 10,
    where: Bool[Array, " n"] | None = None,
) -> Float[Array, ""] | Float[Array, " n"]:
    r"""The bandwidth of the Gaussian kernel $\exp(-d_{ij}^2 / 2 \sigma^2)$.

    - a number: itself. The entropy then depends on the scale of the features; the published studies
      take 10, and in a comparison of networks the square root of the width.
    - `"median"`: the median distance of two points over the square root of 2, so that the median of
      $d^2 / 2 \sigma^2$ is 1; independent of the scale. Of more than 2,048 points, that many at
      even steps; for an even number of pairs, the root of the mean of the two middle squares.
    - `"sqrt_d"`: the square root of the number of features.
    - `"knn"`: the median over the points of the distance to the nearest other point but
      `neighbours - 1`. Of more than 4,096 points, that many at even steps look for neighbours
      among all.
    - `"adaptive"`: that distance for each point, $s_i$; the kernel is
      $\exp(-d_{ij}^2 / 2 s_i s_j)$.

    Distances of 0 (equal points) do not count: medians are over the others, and a point with
    `neighbours` copies of itself takes the least $s_i$ of the others. If all points are equal, the
    bandwidth is 1; the kernel is 1 then whatever it is.

    It runs under `jit`, outside of which "knn" and "adaptive" are compiled at each call. Its
    gradient is that of the distances it is made of.

    Args:
      x: `[n, d]` points.
      sigma: the number or the name of a rule.
      neighbours: for `"knn"` and `"adaptive"`: which neighbour, from 1 to `n - 1`. Where fewer
        points are real, the farthest of them.
      where: `[n]` False in rows that only fill up the shape.

    Returns:
      A positive number in the units of `x`, or `[n]` of them.

    Raises:
      ValueError: if `sigma` is neither positive nor a rule, or there are not that many neighbours.

    >>> x = jnp.array([[0.0], [1.0], [3.0]])  # the distances are 1, 2 and 3
    >>> round(float(bandwidth(x, "median")), 4), bandwidth(x, "adaptive", neighbours=1).tolist()
    (1.4142, [1.0, 1.0, 2.0])
    """
    x = jnp.asarray(x)
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    real = jnp.ones(len(x), bool) if where is None else jnp.asarray(where)
    if not isinstance(sigma, str):
        check_sigma(sigma, where, n=len(x))
        return jnp.asarray(sigma, x.dtype)
    if sigma not in RULES:
        raise ValueError(f"`sigma` must be a positive number or one of {RULES}, got {sigma!r}.")
    if sigma == "sqrt_d":
        return jnp.sqrt(jnp.asarray(x.shape[1], x.dtype))
    if sigma == "median":
        rows = _even_steps(len(x), _PAIRED)
        squares = squared_distances(x[rows], where=real[rows])
        # Each pair comes twice, which leaves the median alone.
        squares = jnp.where(real[rows][:, None] & real[rows], squares, 0)
        return jnp.sqrt(_median_positive(squares / 2))
    if sigma == "knn":
        rows = _even_steps(len(x), _QUERIED)
        return _median_positive(neighbour_distances(x, neighbours, where=where, rows=rows))
    distances = neighbour_distances(x, neighbours, where=where)
    least = jnp.min(jnp.where(distances > 0, distances, jnp.inf))
    least = jnp.where(jnp.isfinite(least), least, 1)
    return jnp.where(real & (distances == 0), least, jnp.where(real, distances, 1))


def _even_steps(n: int, most: int) -> np.ndarray:
    return np.arange(n) if n <= most else np.arange(most) * n // most


def _median_positive(values: Float[Array, "*shape"]) -> Float[Array, ""]:
    """Median of the numbers that are not 0, or 1 if all are; NaN if one is NaN."""
    count = jnp.sum(values > 0)
    rank = values.size - count + (count - 1) // 2
    lower = _smallest(values, rank)
    upper = jnp.min(jnp.where(values > lower, values, jnp.inf))
    in_one = (count % 2 == 1) | (jnp.sum(values <= lower) > rank + 1)
    median = jnp.where(in_one, lower, (lower + upper) / 2)
    median = jnp.where(count > 0, median, 1)
    return jnp.where(jnp.any(jnp.isnan(values)), jnp.nan, median)


@jax.jit
def _smallest(values: Float[Array, "*shape"], rank: Int[Array, ""]) -> Float[Array, ""]:
    """The number of a rank, from 0, among numbers of at least 0.

    By bisection of their bits, which are in the order of the numbers: on a CPU several times faster
    than to sort millions. The gradient is shared by all that are equal to it.
    """
    bits = jnp.finfo(values.dtype).bits
    integers = jax.lax.bitcast_convert_type(values, jnp.dtype(f"int{bits}"))

    def halve(_: Array, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = low + (high - low) // 2
        enough = jnp.sum(integers <= middle) > rank
        return jnp.where(enough, low, middle + 1), jnp.where(enough, middle, high)

    ends = (jnp.zeros((), integers.dtype), jnp.array(jnp.iinfo(integers.dtype).max))
    found, _ = jax.lax.fori_loop(0, bits - 1, halve, ends)
    equal = integers == found
    return jnp.sum(jnp.where(equal, values, 0)) / jnp.maximum(jnp.sum(equal), 1)
