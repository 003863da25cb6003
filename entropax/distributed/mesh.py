"""The mesh of devices over which examples are split, and the placements on it."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import jax
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

AXIS = "data"
AnyMesh: TypeAlias = Mesh | AbstractMesh


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh with the one axis `"data"`, along which examples are split.

    Its axis is of the type Auto: functions are written for whole arrays, and the compiler finds
    what each device does.

    Args:
      devices: the devices in their order; by default all of all processes.

    Raises:
      ValueError: there is no device in the list.

    >>> make_mesh().axis_names
    ('data',)
    """
    devices = jax.devices() if devices is None else devices
    if len(devices) == 0:
        raise ValueError("`devices` is empty; name at least one, or pass None for all.")
    return jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)


def mesh_of(*trees: PyTree[Any]) -> AnyMesh | None:
    """The mesh on which the arrays of the trees lie, eagerly and under `jit`.

    Library functions ask this, so that their callers need not pass a mesh: of an array that was put
    on one, or computed from such an array, the mesh is part of its type.

    Returns:
      The first mesh of more than one device that is found, without its devices under `jit`; None
      where there is none.

    Raises:
      ValueError: the axes of the mesh are explicit, as `jax.make_mesh` makes them by default.

    >>> mesh_of({"x": jax.numpy.ones(3)}) is None
    True
    """
    for leaf in jax.tree.leaves(trees):
        if isinstance(leaf, jax.core.Tracer):
            mesh = jax.typeof(leaf).sharding.mesh
        elif isinstance(leaf, jax.Array) and isinstance(leaf.sharding, NamedSharding):
            mesh = leaf.sharding.mesh
        else:
            continue
        if mesh.size > 1:
            if AxisType.Explicit in mesh.axis_types:
                raise ValueError(
                    "An array lies on a mesh with explicit axes, on which every result would have "
                    "to be told where to lie; put it on one of `distributed.make_mesh()`, whose "
                    "axes are automatic."
                )
            return mesh
    return None


def data_axis(mesh: AnyMesh) -> str:
    """The name of the axis along which examples are split: the first one."""
    return mesh.axis_names[0]


def row_sharding(mesh: AnyMesh) -> NamedSharding:
    """The leading axis split along the mesh's first axis."""
    return NamedSharding(mesh, PartitionSpec(data_axis(mesh)))


def replicated_sharding(mesh: AnyMesh) -> NamedSharding:
    """Whole on every device."""
    return NamedSharding(mesh, PartitionSpec())
