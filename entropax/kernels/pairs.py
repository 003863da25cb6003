"""Sums over all pairs of points under a Gaussian kernel, in tiles that are never stored."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from jaxtyping import Float, Int, Num, PyTree

from entropax.distributed import AnyMesh, data_axis, replicated_sharding
from entropax.kernels.gaussian import centred, check_sigma
from entropax.types import Array


class Tiles(NamedTuple):
    """Points in tiles of equal size; the last one is filled up.

    Attributes:
      y: centred points, over the bandwidth if that is a number.
      lengths: their squared lengths.
      scales: 1 over the bandwidth of each point; None if it is a number.
      real: 1 for a point, 0 for what fills the last tile up.
    """

    y: Float[Array, "t b d"]
    lengths: Float[Array, "t b"]
    scales: Float[Array, "t b"] | None
    real: Float[Array, "t b"]


def tiles_of(
    x: Num[Array, "n d"] | Num[np.ndarray, "n d"],
    sigma: float | Float[Array, ""] | Float[Array, " n"],
    *,
    block_size: int,
    mesh: AnyMesh | None = None,
) -> Tiles:
    """Cut points into tiles of at most `block_size`, whole on every device of a mesh.

    Raises:
      ValueError: if `block_size` or `sigma` is not positive, or `sigma` does not fit.
    """
    check_sigma(sigma, n=len(x))
    if block_size < 1:
        raise ValueError(f"`block_size` must be positive, got {block_size}.")
    y = centred(x if mesh is None else _everywhere(x, mesh))[0]
    sigma = jnp.asarray(sigma, y.dtype)
    if sigma.ndim == 0:
        y = y / sigma
    number = -(-len(y) // block_size)
    size = -(-len(y) // number)

    def cut(x: Array) -> Array:
        return in_tiles(x, number, size)

    def lengths(tile: Float[Array, "b d"]) -> Float[Array, " b"]:
        # Summed as the products are: equal points in different tiles have distance 0 exactly.
        return jnp.diagonal(jnp.matmul(tile, tile.T, precision="highest"))

    tiles = cut(y)
    scales = cut(1 / sigma) if sigma.ndim else None
    return Tiles(tiles, jax.lax.map(lengths, tiles), scales, cut(jnp.ones(len(y), y.dtype)))


def _everywhere(x: Any, mesh: AnyMesh) -> Any:
    whole = replicated_sharding(mesh)
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(x)):
        return jax.device_put(x, whole)
    # Compiled, since what several processes hold cannot be put elsewhere by one of them.
    return jax.jit(lambda x: x, out_shardings=whole)(x)


def in_tiles(x: Float[Array, "n *rest"], number: int, size: int) -> Float[Array, "t b *rest"]:
    """Fill up with zeros and cut."""
    x = jnp.pad(x, [(0, number * size - len(x))] + [(0, 0)] * (x.ndim - 1))
    return x.reshape(number, size, *x.shape[1:])


def _excess(tiles: Tiles, i: Int[Array, ""], j: Int[Array, ""]) -> Float[Array, "b b"]:
    """The kernel of two tiles less 1."""
    y_i, y_j = tiles.y[i], tiles.y[j]
    products = jnp.matmul(y_i, y_j.T, precision="highest")
    squares = tiles.lengths[i][:, None] + tiles.lengths[j] - 2 * products
    same = (i == j) & jnp.eye(len(y_i), dtype=bool)
    squares = jnp.where((squares <= 0) | same, 0, squares)
    if tiles.scales is not None:
        squares = squares * tiles.scales[i][:, None] * tiles.scales[j]
    return jnp.expm1(squares / -2)


def sum_over_pairs(
    f: Callable[[Float[Array, "b b"], Any, Any], PyTree[Float[Array, " b"]]],
    tiles: Tiles,
    operands: PyTree[Float[Array, "t b"]],
    *,
    mesh: AnyMesh | None = None,
    on_pass: Callable[[], None] | None = None,
) -> PyTree[Float[Array, "t b"]]:
    r"""Sum over all tiles $j$ what they contribute to each tile $i$.

    $$s_i = \sum_j f(G_{ij} - 1, o_i, o_j).$$

    The kernel of two tiles is formed once for both, $G_{ji} = G_{ij}^\top$: on a CPU, with 32
    columns of operands, this takes as long as blocks of rows with 64 features, and 0.6 times as
    long with 512 or more. Under `vmap` over operands it is formed once for all of them. Sums over
    tiles are compensated, so that their error does not grow with the number of tiles.

    Args:
      f: `(excess [b, b], of_i, of_j) -> sums over the columns [b]`; what belongs to padding has to
        be 0 in the operands.
      tiles: the points.
      operands: numbers of each point.
      mesh: devices among which the pairs of tiles are split, along the mesh's first axis. Points
        and operands are on all of them.
      on_pass: called on the host after all pairs are done.

    Returns:
      The sums of each point, as `f` gives them.
    """
    number = len(tiles.y)
    devices = 1 if mesh is None else mesh.shape[data_axis(mesh)]
    first, second = np.triu_indices(number)
    share = -(-len(first) // devices)
    filler = (0, devices * share - len(first))
    # A pair counts for its first tile and for its second, a tile with itself once, filler never.
    weights = np.stack([np.ones(len(first)), first != second], axis=1)
    pairs = (
        jnp.asarray(np.pad(np.stack([first, second], axis=1), [filler, (0, 0)]), jnp.int32),
        jnp.asarray(np.pad(weights, [filler, (0, 0)]), tiles.y.dtype),
    )

    def total(tiles: Tiles, operands: Any, pairs: Any) -> tuple[Any, Array]:
        if mesh is not None:
            start = jax.lax.axis_index(data_axis(mesh)) * share
            pairs = jax.tree.map(
                lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, start, share), pairs
            )

        def step(carry: tuple[Any, Array], pair: tuple[Array, Array]) -> tuple[Any, None]:
            sums, done = carry
            (i, j), weight = pair
            of_i, of_j = (jax.tree.map(lambda leaf, k=k: leaf[k], operands) for k in (i, j))
            # Without the barriers XLA makes the exponentials anew in every sum over them.
            excess = jax.lax.optimization_barrier(_excess(tiles, i, j))
            transposed = jax.lax.optimization_barrier(excess.T)
            sums = _add(sums, i, f(excess, of_i, of_j), weight[0])
            sums = _add(sums, j, f(transposed, of_j, of_i), weight[1])
            return (sums, done + 1), None

        one = jax.tree.map(lambda leaf: leaf[0], operands)
        shapes = jax.eval_shape(f, _shape_of_excess(tiles), one, one)
        zeros = jax.tree.map(lambda s: (jnp.zeros((number, *s.shape), s.dtype),) * 2, shapes)
        (sums, done), _ = jax.lax.scan(step, (zeros, jnp.zeros((), jnp.int32)), pairs)
        if mesh is not None:
            sums = jax.lax.psum(sums, data_axis(mesh))
        return jax.tree.map(lambda _, s: s[0] + s[1], shapes, sums), done

    if mesh is not None:
        tiles, operands, pairs = _everywhere((tiles, operands, pairs), mesh)
        # The check would ask for casts in the loop; the sums are the same on all devices.
        total = jax.shard_map(
            total, mesh=mesh, in_specs=PartitionSpec(), out_specs=PartitionSpec(), check_vma=False
        )
    sums, done = total(tiles, operands, pairs)
    if on_pass is not None:
        jax.debug.callback(lambda _: on_pass(), done)
    return sums


def _shape_of_excess(tiles: Tiles) -> jax.ShapeDtypeStruct:
    size = tiles.y.shape[1]
    return jax.ShapeDtypeStruct((size, size), tiles.y.dtype)


def _add(sums: Any, i: Int[Array, ""], terms: Any, weight: Float[Array, ""]) -> Any:
    """Add to the sums of tile `i`, and keep what rounding drops."""

    def add(term: Array, total_and_lost: tuple[Array, Array]) -> tuple[Array, Array]:
        total, lost = total_and_lost
        before, term = total[i], term * weight
        after = before + term
        added = after - before
        dropped = (before - (after - added)) + (term - added)
        return total.at[i].set(after), lost.at[i].add(dropped)

    return jax.tree.map(add, terms, sums)
