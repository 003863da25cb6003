"""From one device to a pod, on JAX's own multi-controller runtime.

One axis of devices, `"data"`, along which examples are split:

    from entropax import distributed

    distributed.initialize()                 # where there are several processes: in each, first
    mesh = distributed.make_mesh()
    x, where = distributed.shard_rows(images, mesh)
    variables = distributed.replicate(variables, mesh)

Functions of the library find the mesh on the arrays that they get, and compute the same numbers as
on one device, to float tolerance. Random numbers that are drawn under `jit` do not depend on how
many devices there are.

- `mesh`: the devices, and where arrays lie on them.
- `arrays`: from the rows of one process to those of all, and back.
- `runtime`: joining the processes of a job, and ending them together.
- `agreement`: what has to be the same for all of them.
- `preemption`, `watchdog`: stopping in order, and not at all.
- `coordination`: what they tell each other besides.
"""

from entropax.distributed.agreement import (
    all_processes,
    check_same,
    check_same_arrays,
    check_shared_folder,
    from_lead,
)
from entropax.distributed.arrays import (
    gather,
    join_rows,
    local_rows,
    replicate,
    shard_rows,
    split_rows,
)
from entropax.distributed.coordination import EXIT_CODE, fail
from entropax.distributed.mesh import (
    AXIS,
    AnyMesh,
    data_axis,
    make_mesh,
    mesh_of,
    replicated_sharding,
    row_sharding,
)
from entropax.distributed.preemption import stop_requested
from entropax.distributed.runtime import initialize, is_lead, is_loss
from entropax.distributed.watchdog import Watchdog

__all__ = [
    "AXIS",
    "EXIT_CODE",
    "AnyMesh",
    "Watchdog",
    "all_processes",
    "check_same",
    "check_same_arrays",
    "check_shared_folder",
    "data_axis",
    "fail",
    "from_lead",
    "gather",
    "initialize",
    "is_lead",
    "is_loss",
    "join_rows",
    "local_rows",
    "make_mesh",
    "mesh_of",
    "replicate",
    "replicated_sharding",
    "row_sharding",
    "shard_rows",
    "split_rows",
    "stop_requested",
]
