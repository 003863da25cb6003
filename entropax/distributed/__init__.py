"""From one device to a pod, on JAX's own multi-controller runtime."""

from entropax.distributed.mesh import (
    AXIS,
    AnyMesh,
    data_axis,
    make_mesh,
    mesh_of,
    replicated_sharding,
    row_sharding,
)

__all__ = [
    "AXIS",
    "AnyMesh",
    "data_axis",
    "make_mesh",
    "mesh_of",
    "replicated_sharding",
    "row_sharding",
]
