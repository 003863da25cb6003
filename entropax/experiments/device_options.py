"""The options of a program that say on which devices it works."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import jax
from jax.sharding import Mesh

from entropax.distributed import Watchdog, initialize, make_mesh, stop_requested


@dataclass(frozen=True, kw_only=True)
class DeviceOptions:
    """On how many devices; part of a program's `Config`.

    They change numbers by no more than rounding, so that a run may be taken up on others.
    """

    mesh: bool = False
    """Split every batch of images among all devices."""
    multihost: bool = False
    """Run as one of the processes of a job, each started with this same command: on a TPU pod,
    under Slurm or Open MPI, or as ENTROPAX_COORDINATOR, ENTROPAX_NUM_PROCESSES and
    ENTROPAX_PROCESS_ID say. Batches are split among the devices of all."""
    watchdog: float = 3600
    """With --multihost: end all processes if one of them has got nowhere for so many seconds."""

    def __post_init__(self) -> None:
        if not self.watchdog > 0:
            raise ValueError(f"`watchdog` must be positive seconds, got {self.watchdog}.")


@contextlib.contextmanager
def watched(options: DeviceOptions) -> Iterator[Callable[[str], None]]:
    """A function to call with what has been done; with `--multihost`, a watchdog listens."""
    if not options.multihost:
        yield lambda what: None
        return
    with Watchdog(options.watchdog) as watchdog:
        yield watchdog.sign


class PreemptedError(Exception):
    """The machine is about to be taken away; every process gets it at the same step."""


def end_if_preempted(step: int) -> None:
    """Ask, at every step of a program that several processes run, whether it has to end.

    Raises:
      PreemptedError: it has.
    """
    if stop_requested(step):
        raise PreemptedError(f"preempted at step {step}")


def check_divisible(batch_size: int, mesh: Mesh | None) -> None:
    """Raise a ValueError unless a batch can be split among the devices."""
    if mesh is not None and batch_size % mesh.size:
        raise ValueError(
            f"`batch_size` {batch_size} cannot be split among {mesh.size} devices; give a multiple."
        )


def open_devices(options: DeviceOptions) -> Mesh | None:
    """Join the other processes, if there are to be any; the mesh, or None for one device.

    Before anything else of JAX is used.

    Raises:
      RuntimeError: JAX has been used before.
      ValueError: nothing says who the other processes are.
    """
    if options.multihost and not jax.distributed.is_initialized():
        initialize()
    return make_mesh() if options.mesh or options.multihost else None
