"""Joining the processes of a job, and ending them together."""

import os
import sys
import time
import traceback
from types import TracebackType
from typing import Any, NamedTuple

import jax

from entropax.distributed.coordination import end_with_the_others, fail, runtime_state

_VARIABLES = ("ENTROPAX_COORDINATOR", "ENTROPAX_NUM_PROCESSES", "ENTROPAX_PROCESS_ID")
# How the runtime's errors begin that may come of the loss of another process.
_LOSSES = ("UNKNOWN:", "UNAVAILABLE:", "INTERNAL:", "ABORTED:", "CANCELLED:", "DEADLINE_EXCEEDED:")


def initialize(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    startup_timeout: int = 600,
    heartbeat_timeout: int | None = None,
    shutdown_timeout: int = 60,
) -> None:
    """Join the processes of a job; every one of them calls this before anything else of JAX.

    Without arguments the environment variables `ENTROPAX_COORDINATOR`, `ENTROPAX_NUM_PROCESSES` and
    `ENTROPAX_PROCESS_ID` say who is who; where they are not set, JAX finds out on Cloud TPUs, under
    Slurm, Open MPI and Kubernetes. A job of one process is left as it is.

    From then on the processes end together. After an exception that nobody catches, all have ended
    within half a second, with exit code 13, and each prints which process failed and why; without
    this, JAX would wait 300 seconds. A process that is killed is noticed by the runtime: if it held
    the coordinator (process 0) at once, otherwise after `heartbeat_timeout`; the others then abort
    with a message that has its number. What the runtime itself raises may come of that: such an
    error waits as long for the message, and then ends all like any other. A process that neither
    works nor fails needs a `Watchdog`.

    SIGTERM announces a preemption, and is left to `stop_requested`.

    Args:
      coordinator: address and port of process 0, such as `"10.0.0.1:8476"`.
      num_processes: of the job.
      process_id: of this one, from 0.
      startup_timeout: seconds to wait for the other processes.
      heartbeat_timeout: seconds without a sign of life until a process counts as lost; by default
        the environment variable `ENTROPAX_HEARTBEAT_TIMEOUT`, or 60.
      shutdown_timeout: seconds that a process which is done waits for the others.

    Raises:
      RuntimeError: JAX has been used before, or the job has been joined already.
      ValueError: some of the three are given and others not, or do not fit; nothing is given, and
        this is no system that JAX knows.
    """
    place = _place(coordinator, num_processes, process_id)
    if place is not None and place.num_processes == 1:
        return
    if jax.distributed.is_initialized():
        raise RuntimeError("The job has been joined already; call `initialize` once.")
    if heartbeat_timeout is None:
        word = os.environ.get("ENTROPAX_HEARTBEAT_TIMEOUT", "60")
        if not word.isdecimal():
            raise ValueError(f"ENTROPAX_HEARTBEAT_TIMEOUT must be whole seconds, got {word!r}.")
        heartbeat_timeout = int(word)
    for name, seconds in (
        ("startup_timeout", startup_timeout),
        ("heartbeat_timeout", heartbeat_timeout),
        ("shutdown_timeout", shutdown_timeout),
    ):
        if seconds < 1:
            raise ValueError(f"`{name}` must be at least 1 second, got {seconds}.")
    timeouts: dict[str, Any] = {
        "initialization_timeout": startup_timeout,
        "heartbeat_timeout_seconds": heartbeat_timeout,
        "shutdown_timeout_seconds": shutdown_timeout,
    }
    if place is None:
        try:
            jax.distributed.initialize(**timeouts)
        except ValueError as error:
            raise ValueError(
                "JAX does not recognise this system as one of several processes "
                f"({error}). Set {', '.join(_VARIABLES)} in each process, or leave out the request "
                "for several."
            ) from error
    else:
        jax.distributed.initialize(*place, cluster_detection_method="deactivate", **timeouts)
    _end_all_by(heartbeat_timeout)
    end_with_the_others()


def is_lead() -> bool:
    """Whether this is the process that writes files and logs, the first one.

    >>> is_lead()
    True
    """
    # Of a process that is alone it is known without a look at the devices.
    return not jax.distributed.is_initialized() or jax.process_index() == 0


def is_loss(error: BaseException) -> bool:
    """Whether an exception may come of the loss of another process.

    A collective that fails at once raises a ValueError, one that fails later a JaxRuntimeError.

    >>> is_loss(ValueError("`epochs` must be positive, got 0."))
    False
    """
    return jax.distributed.is_initialized() and str(error).startswith(_LOSSES)


class _Place(NamedTuple):
    coordinator: str
    num_processes: int
    process_id: int


def _place(
    coordinator: str | None, num_processes: int | None, process_id: int | None
) -> _Place | None:
    """The arguments, or the environment where none is given; None if that is silent as well."""
    given: tuple[str | int | None, ...] = (coordinator, num_processes, process_id)
    names = _Place._fields
    if all(value is None for value in given):
        given, names = tuple(os.environ.get(name) or None for name in _VARIABLES), _VARIABLES
    missing = [name for name, value in zip(names, given, strict=True) if value is None]
    if len(missing) == 3:
        return None
    if missing:
        raise ValueError(f"{', '.join(names)} go together; {', '.join(missing)} is missing.")
    try:
        place = _Place(str(given[0]), int(str(given[1])), int(str(given[2])))
    except ValueError:
        raise ValueError(
            f"{names[1]} and {names[2]} must be whole numbers, got {given[1]!r} and {given[2]!r}."
        ) from None
    host, _, port = place.coordinator.rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError(
            f"{names[0]} must be an address and a port, such as 10.0.0.1:8476, got "
            f"{place.coordinator!r}."
        )
    if not 0 <= place.process_id < place.num_processes:
        raise ValueError(
            f"{names[2]} must be in [0, {place.num_processes}), got {place.process_id}."
        )
    return place


def _end_all_by(heartbeat_timeout: int) -> None:
    """Let an exception that nobody catches end every process."""

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        traceback.print_exception(kind, error, trace)
        lines = str(error).splitlines() or [""]
        reason = f"{kind.__name__}: {lines[0]}"
        if is_loss(error):
            # One that failed has told the others before it closed its connections; of one that was
            # killed only the runtime knows, and ends this process when it says so.
            state = runtime_state()
            print(
                f"[process {state.process_id} of {state.num_processes}] has lost another process, "
                f"which the runtime names within {heartbeat_timeout} s, or has failed itself, and "
                "ends then.",
                file=sys.__stderr__,
                flush=True,
            )
            time.sleep(heartbeat_timeout + 10)
        fail(reason)

    sys.excepthook = hook
