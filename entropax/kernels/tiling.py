"""Kernels of many examples: tile by tile, in bounded memory, onto the host."""

import math
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Float, PyTree

from entropax.distributed import data_axis, gather, mesh_of, row_sharding
from entropax.kernels.base import FeatureKernel, KernelFn, check_alike, num_examples
from entropax.types import Array, Params


def gram(
    kernel_fn: FeatureKernel | KernelFn,
    params: Params,
    x1: PyTree[Any],
    x2: PyTree[Any] | None = None,
    *,
    tile_size: int = 100,
    memory: int = 2**30,
    mesh: Mesh | None = None,
    on_tile: Callable[[int, int], None] | None = None,
) -> Float[np.ndarray, "n m *outputs"]:
    r"""The kernel matrix of many examples, on the host.

    The examples are cut into tiles. Features of as many tiles as the memory allows are kept, those
    of the others pass by one tile after the other, and every pair is contracted. Of a symmetric
    kernel only the pairs $i \le j$ are. Everything is compiled once, for whole tiles.

    Args:
      kernel_fn: a kernel; one without features is called for every pair of tiles.
      params: its parameters.
      x1: `[n, ...]` examples, on the host or a device.
      x2: `[m, ...]`; by default `x1`, and the kernel is symmetric.
      tile_size: examples in a tile.
      memory: bytes of features that are kept on the device, besides one tile that passes by. What
        it takes to compute the features of a tile comes on top: a smaller tile takes less.
      mesh: devices among which the examples of each tile are split, along the mesh's first axis;
        its size has to divide `tile_size`. By default those that the examples lie on, for which
        `tile_size` is rounded up. `pool_kernel` leaves examples and kernel where they are.
      on_tile: called with the number of pairs of tiles that are done, and that there are.

    Returns:
      `[n, m]`, or `[n, m, c, c]` of a kernel of every pair of outputs.

    Raises:
      FloatingPointError: an entry is not finite; the message names the examples.
      ValueError: a size that is not positive, or examples without a common leading axis.

    >>> from entropax.kernels.ntk import ntk
    >>> x = np.arange(6.0).reshape(6, 1)
    >>> gram(ntk(lambda params, x: x @ params), jnp.ones((1, 2)), x, tile_size=4)[2].tolist()
    [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]
    """
    for name, size in {"tile_size": tile_size, "memory": memory}.items():
        if size < 1:
            raise ValueError(f"`{name}` must be positive, got {size}.")
    if mesh is None and (found := mesh_of(x1, x2)) is not None:
        assert isinstance(found, Mesh)
        mesh = found
        devices = mesh.shape[data_axis(mesh)]
        tile_size = math.ceil(tile_size / devices) * devices
    if mesh is not None and tile_size % mesh.shape[data_axis(mesh)]:
        raise ValueError(
            f"`tile_size` {tile_size} cannot be split among {mesh.shape[data_axis(mesh)]} "
            "devices; take a multiple."
        )
    n = num_examples(x1)
    m = n if x2 is None else num_examples(x2)
    check_alike(x1, x2)
    tile_size = tile_size if mesh is not None else min(tile_size, max(n, m))
    put = partial(_placed, mesh=mesh)
    if isinstance(kernel_fn, FeatureKernel):
        features, inner = kernel_fn
    else:
        features, inner = _without_features(kernel_fn, params)

    def tile(x: PyTree[Any], number: int, partners: int) -> PyTree[Any]:
        start = number * tile_size
        rows = jax.tree.map(lambda leaf: _filled(leaf[start : start + tile_size], tile_size), x)
        return features(params, put(rows), partners)

    rows, columns = math.ceil(n / tile_size), math.ceil(m / tile_size)
    # Both sides have to be told the same number: what features are made depends on it.
    partners = max(n, m)
    first = jax.eval_shape(lambda: tile(x1, 0, partners))
    tile_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(first))
    panel = max(1, memory // max(1, tile_bytes))
    total = rows * (rows + 1) // 2 if x2 is None else rows * columns
    kernel: np.ndarray | None = None
    done = 0
    for start in range(0, rows, panel):
        kept = {i: tile(x1, i, partners) for i in range(start, min(start + panel, rows))}
        for j in range(start if x2 is None else 0, columns):
            passing = (
                kept[j] if x2 is None and j in kept else tile(x1 if x2 is None else x2, j, partners)
            )
            wanted = [i for i in kept if x2 is not None or i <= j]
            for i, made in zip(wanted, [inner(kept[i], passing) for i in wanted], strict=True):
                block = gather(made)
                if kernel is None:
                    kernel = np.empty((n, m, *block.shape[2:]), block.dtype)
                _write(kernel, block, i * tile_size, j * tile_size, mirror=x2 is None)
                done += 1
                if on_tile is not None:
                    on_tile(done, total)
    assert kernel is not None
    return kernel


def _write(kernel: np.ndarray, block: np.ndarray, row: int, column: int, *, mirror: bool) -> None:
    into = kernel[row : row + len(block), column : column + block.shape[1]]
    block = block[: into.shape[0], : into.shape[1]]
    if not np.isfinite(block).all():
        i, j = np.argwhere(~np.isfinite(block))[0][:2]
        raise FloatingPointError(
            f"The kernel of examples {row + i} and {column + j} is not finite; look for NaN, or "
            "values that overflow, in the parameters and in these examples."
        )
    into[:] = block
    if mirror:
        swapped = block.swapaxes(0, 1)
        kernel[column : column + into.shape[1], row : row + into.shape[0]] = (
            swapped.swapaxes(2, 3) if block.ndim == 4 else swapped
        )


def _filled(rows: Any, size: int) -> np.ndarray | Array:
    """Rows filled up to a whole tile by copies of the last one."""
    missing = size - len(rows)
    xp = jnp if isinstance(rows, jax.Array) else np
    return rows if missing == 0 else xp.concatenate([rows, xp.repeat(rows[-1:], missing, axis=0)])


def _placed(rows: PyTree[Any], *, mesh: Mesh | None) -> PyTree[Any]:
    if mesh is None:
        return rows
    return _identity(row_sharding(mesh))(rows)


@cache
def _identity(sharding: NamedSharding) -> Callable[[PyTree[Any]], PyTree[Any]]:
    # Compiled, since what several processes hold cannot be put elsewhere by one of them.
    return jax.jit(lambda rows: rows, out_shardings=sharding)


def _without_features(
    kernel_fn: KernelFn, params: Params
) -> tuple[Callable[..., PyTree[Any]], Callable[..., Array]]:
    """Examples as their own features."""
    return (lambda params, x, partners: x), jax.jit(lambda x1, x2: kernel_fn(params, x1, x2))
