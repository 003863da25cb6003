"""The nearest neighbours of every point, and the graph of them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, Num

from entropax.distributed import data_axis, mesh_of
from entropax.kernels.base import on_shares
from entropax.kernels.gaussian import centred
from entropax.types import Array

# Points whose distances are computed once more, exactly, besides the neighbours asked for.
_SPARE = 16
# Numbers that a block of rows holds.
_BLOCK = 2**24


class _Near(NamedTuple):
    """One point, its distances to all points, and the exact ones to the nearest.

    Attributes:
      row: which point.
      real: whether it is one.
      points: which of all rows are points.
      rough: squares of the distances to all points, in padding infinite.
      rounding: what the error of `rough` can amount to.
      others: the nearest points, the point itself not among them, in no order.
      squares: squares of the distances to them, exact, in padding infinite.
    """

    row: Int[Array, ""]
    real: Bool[Array, ""]
    points: Bool[Array, " n"]
    rough: Float[Array, " n"]
    rounding: Float[Array, " n"]
    others: Int[Array, " k"]
    squares: Float[Array, " k"]


def neighbour_distances(
    x: Num[Array, "n d"] | Num[np.ndarray, "n d"],
    neighbours: int,
    *,
    where: Bool[Array, " n"] | None = None,
    rows: Int[np.ndarray, " m"] | None = None,
) -> Float[Array, " m"]:
    r"""Distance of every point to one of its nearest others.

    $$s_i = d_{i j}, \qquad j \text{ the } k\text{-th nearest to } i \text{ among } j \neq i.$$

    Neighbours are found with one product of matrices, in blocks of rows and bounded memory. The
    distances to those found are differences of the points themselves, exact whatever the scale.
    Call it under `jit`; outside it is compiled at each call.

    Args:
      x: `[n, d]` points.
      neighbours: the number `k`, from 1 to `n - 1`. Where fewer points are real, the farthest.
      where: `[n]` False in rows that only fill up the shape, whatever is in them.
      rows: the points whose distances are wanted; by default all.

    Returns:
      `[n]`, or one for each of `rows`; 0 where the `k` nearest are copies of the point, in padding,
      and for a single point; NaN if a number in `x` is. The gradient is 0 at a distance of 0.

    Raises:
      ValueError: if there are not that many neighbours.

    >>> neighbour_distances(jnp.array([[0.0], [1.0], [3.0]]), 1).tolist()
    [1.0, 1.0, 2.0]
    """
    n = len(x)
    if not 1 <= neighbours < n:
        raise ValueError(
            f"`neighbours` must be from 1 to n - 1 = {n - 1} others, got {neighbours}."
        )
    real = jnp.ones(n, bool) if where is None else jnp.asarray(where)

    def distance(near: _Near) -> Float[Array, ""]:
        others = jnp.sum(near.points) - 1
        squares = jnp.sort(near.squares)[jnp.clip(others, 1, neighbours) - 1]
        positive = near.real & (others > 0) & (squares != 0)
        return jnp.where(positive, jnp.sqrt(jnp.where(positive, squares, 1)), 0)

    return _map_rows(distance, x, neighbours, real, np.arange(n) if rows is None else rows)


def neighbour_graph(
    x: Num[Array, "n d"] | Num[np.ndarray, "n d"],
    neighbours: int,
    *,
    symmetric: bool = True,
    where: Bool[Array, " n"] | None = None,
) -> Float[Array, "n n"]:
    r"""The graph in which every point is linked to its nearest points.

    $$A_{ij} = 1 \text{ if } d_{ij} \leq \text{the } k\text{-th least of } d_{i1}, \dots, d_{in},
      \text{ else } 0.$$

    A point is the first of its own neighbours, as in the published code of the diffusion entropy.
    All that are equally far are linked; when more than 16 of them are, those within rounding too.
    Call it under `jit`; outside it is compiled at each call.

    Args:
      x: `[n, d]` points.
      neighbours: the number `k`, from 1 to `n`, the point itself included.
      symmetric: link `i` and `j` if either is a neighbour of the other,
        $\max(A_{ij}, A_{ji})$; otherwise the links have a direction, as in the published code, and
        the eigenvalues may be complex.
      where: `[n]` False in rows that only fill up the shape; their rows and columns are 0.

    Returns:
      `[n, n]` zeros and ones in the precision of `x`; NaN if a number in `x` is.

    Raises:
      ValueError: if there are not that many neighbours.

    >>> neighbour_graph(jnp.array([[0.0], [1.0], [3.0]]), 2, symmetric=False).tolist()
    [[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 1.0, 1.0]]
    """
    n = len(x)
    if not 1 <= neighbours <= n:
        raise ValueError(
            f"`neighbours` must be from 1 to n = {n}, the point itself included, got {neighbours}."
        )
    real = jnp.ones(n, bool) if where is None else jnp.asarray(where)

    def links(near: _Near) -> Float[Array, " n"]:
        farthest = jnp.clip(jnp.sum(near.points), 1, neighbours) - 1
        least = jnp.sort(jnp.append(near.squares, 0))[farthest]
        row = (near.rough <= least + near.rounding).at[near.others].set(near.squares <= least)
        row = row.at[near.row].set(True) & near.real & near.points
        return jnp.where(jnp.isnan(least), jnp.nan, row)

    graph = _map_rows(links, x, neighbours, real, np.arange(n))
    return jnp.maximum(graph, graph.T) if symmetric else graph


def _map_rows(
    f: Callable[[_Near], Array],
    x: Any,
    neighbours: int,
    real: Bool[Array, " n"],
    rows: Int[np.ndarray, " m"],
) -> Array:
    """`f` of every point in `rows`, stacked; where the points are split, some on each device."""
    mesh = mesh_of(x)
    y = jax.lax.stop_gradient(centred(x, real)[0])
    x = jnp.where(real[:, None], jnp.asarray(x, y.dtype), 0)
    n, d = x.shape
    kept = min(neighbours + _SPARE, n - 1)

    def of_rows(
        whole: tuple[Float[Array, "n d"], Float[Array, "n d"], Bool[Array, " n"]],
        rows: Int[Array, " b"],
    ) -> Array:
        x, y, real = whole
        lengths = jnp.sum(jnp.square(y), axis=1)

        def of_row(row: Int[Array, ""]) -> Array:
            rough = lengths + lengths[row] - 2 * jnp.matmul(y, y[row], precision="highest")
            rough = jnp.where(real, rough, jnp.inf)
            others = jax.lax.top_k(-rough.at[row].set(jnp.inf), kept)[1]
            squares = jnp.sum(jnp.square(x[others] - x[row]), axis=1)
            # Among padding, all at infinity, may be the point itself.
            squares = jnp.where(real[others] & (others != row), squares, jnp.inf)
            # In the middle of NaN nothing is near.
            squares = jnp.where(jnp.isnan(lengths[row]), jnp.nan, squares)
            rounding = 16 * jnp.finfo(x.dtype).eps * (lengths + lengths[row])
            return f(_Near(row, real[row], real, rough, rounding, others, squares))

        size = max(1, min(len(rows), _BLOCK // (n + kept * d)))
        return jax.lax.map(of_row, rows, batch_size=size)

    devices = 1 if mesh is None else mesh.shape[data_axis(mesh)]
    filled = jnp.asarray(np.pad(rows, (0, -len(rows) % devices), mode="edge"))
    return on_shares(of_rows, mesh)((x, y, real), filled)[: len(rows)]
