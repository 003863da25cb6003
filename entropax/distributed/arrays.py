"""From the arrays of one process to those of all, and back."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Bool, PyTree

from entropax.distributed.agreement import all_processes, check_same_arrays
from entropax.distributed.mesh import data_axis, replicated_sharding, row_sharding
from entropax.types import Array


def replicate(tree: PyTree[Any], mesh: Mesh) -> PyTree[Any]:
    """Arrays whole on every device of a mesh.

    Args:
      tree: arrays, typed keys and numbers, the same in all processes.
      mesh: from `make_mesh`.

    Raises:
      ValueError: an array differs between processes; the message names it.

    >>> from entropax.distributed.mesh import make_mesh
    >>> replicate({"w": np.ones(2)}, make_mesh())["w"].tolist()
    [1.0, 1.0]
    """
    leaves, treedef = jax.tree.flatten(tree)
    keys = [isinstance(leaf, jax.Array) and _is_key(leaf) for leaf in leaves]
    # Through the host: one process's array cannot be put on the devices of another as it is.
    raw = [
        np.asarray(jax.random.key_data(leaf) if key else leaf)
        for leaf, key in zip(leaves, keys, strict=True)
    ]
    if jax.process_count() > 1:
        check_same_arrays(jax.tree.unflatten(treedef, raw))
    sharding = replicated_sharding(mesh)

    def put(array: np.ndarray, leaf: Any, key: bool) -> Array:
        made = _from_callback(array, sharding)
        if not key:
            return made
        return jax.jit(
            lambda data: jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf)),
            out_shardings=sharding,
        )(made)

    return jax.tree.unflatten(
        treedef, [put(*of_leaf) for of_leaf in zip(raw, leaves, keys, strict=True)]
    )


def shard_rows(tree: PyTree[Any], mesh: Mesh) -> tuple[PyTree[Array], Bool[Array, " m"]]:
    """Rows that every process has, split among the devices.

    Args:
      tree: arrays `[n, ...]` on the host, the same in all processes.
      mesh: from `make_mesh`.

    Returns:
      The arrays `[m, ...]` with the leading axis split, n rounded up to a multiple of the devices
      by copies of the last row, and `where` `[m]`, False for the copies.

    Raises:
      ValueError: there is no row, or the arrays have different numbers of them.

    >>> from entropax.distributed.mesh import make_mesh
    >>> x, where = shard_rows(np.arange(3), make_mesh())
    >>> x[where].tolist()
    [0, 1, 2]
    """
    n = _num_rows(tree)
    if n == 0:
        raise ValueError("There is no row to split among the devices.")
    total = math.ceil(n / mesh.size) * mesh.size
    sharding = row_sharding(mesh)
    split = jax.tree.map(lambda leaf: _from_callback(_filled(leaf, total), sharding), tree)
    return split, _from_callback(np.arange(total) < n, sharding)


def join_rows(
    tree: PyTree[Any], mesh: Mesh, *, rows: int | None = None
) -> tuple[PyTree[Array], Bool[Array, " m"]]:
    """Rows of which every process has some, as one array over the devices of all.

    Args:
      tree: arrays `[n, ...]` on the host, of this process; n may be 0.
      mesh: from `make_mesh`, with as many devices of every process.
      rows: of each process after filling up, a multiple of its devices. By default the most that
        any process has, rounded up, for which they have to ask each other: in a loop give a number.

    Returns:
      The arrays `[processes * rows, ...]`, filled up with copies, or with zeros where a process has
      nothing; and `where`, False for what was filled up. The rows lie in the order of the mesh's
      devices; `local_rows` gives a process those that are its own, in the order it gave them.

    Raises:
      ValueError: the rows do not fit into `rows`, or `rows` cannot be split among the devices.

    >>> from entropax.distributed.mesh import make_mesh
    >>> x, where = join_rows(np.arange(3), make_mesh())
    >>> x[where].tolist()
    [0, 1, 2]
    """
    n = _num_rows(tree)
    own = len(mesh.local_devices)
    if rows is None:
        rows = math.ceil(max(1, int(all_processes(np.array(n)).max())) / own) * own
    if rows < n or rows % own:
        raise ValueError(
            f"`rows` must be a multiple of the {own} devices of this process, and at least the {n} "
            f"rows it has, got {rows}."
        )
    sharding = row_sharding(mesh)
    # A device's place in the mesh is the place of its rows; a process has the devices in between.
    order = [device for device in mesh.devices.flat if device in set(mesh.local_devices)]

    def joined(leaf: Any) -> Array:
        blocks = np.split(_filled(leaf, rows), own)
        shape = (rows // own * mesh.size, *blocks[0].shape[1:])
        put = [jax.device_put(b, device) for b, device in zip(blocks, order, strict=True)]
        return jax.make_array_from_single_device_arrays(shape, sharding, put)

    return jax.tree.map(joined, tree), joined(np.arange(rows) < n)


def local_rows(tree: PyTree[jax.Array]) -> PyTree[np.ndarray]:
    """The rows on the devices of this process, in the order in which `join_rows` took them."""

    def local(x: jax.Array) -> np.ndarray:
        shards = sorted(x.addressable_shards, key=lambda shard: shard.index[0].start or 0)
        return np.concatenate([np.asarray(shard.data) for shard in shards])

    return jax.tree.map(local, tree)


def gather(tree: PyTree[Any]) -> PyTree[Any]:
    """Whole arrays on the host, in every process.

    >>> gather({"x": jnp.arange(3)})
    {'x': array([0, 1, 2], dtype=int32)}
    """

    def whole(x: Any) -> np.ndarray:
        if not isinstance(x, jax.Array) or x.is_fully_addressable or x.is_fully_replicated:
            return np.asarray(x)
        return np.asarray(multihost_utils.process_allgather(x, tiled=True))

    return jax.tree.map(whole, tree)


def split_rows(x: jax.Array, mesh: Mesh, *, axis: int = 0) -> jax.Array:
    """Under `jit`: an axis of an array split along the mesh's first axis."""
    spec = PartitionSpec(*[None] * axis, data_axis(mesh))
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))


def _is_key(leaf: jax.Array) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _from_callback(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def _num_rows(tree: PyTree[Any]) -> int:
    numbers = {len(leaf) for leaf in jax.tree.leaves(tree)}
    if len(numbers) != 1:
        raise ValueError(f"The arrays must have the same number of rows, got {sorted(numbers)}.")
    return numbers.pop()


def _filled(leaf: Any, rows: int) -> np.ndarray:
    """Copies of the last row up to a number; zeros where there is none."""
    leaf = np.asarray(leaf)
    missing = rows - len(leaf)
    if missing == 0:
        return leaf
    last = leaf[-1:] if len(leaf) else np.zeros((1, *leaf.shape[1:]), leaf.dtype)
    return np.concatenate([leaf, np.repeat(last, missing, axis=0)])
