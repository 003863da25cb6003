"""Stopping all processes at the same step when the machine is about to be taken away."""

import jax
from jax.experimental import multihost_utils


def stop_requested(step: int) -> bool:
    """Whether the job has been told to stop, and every process has come to this step.

    A machine that is taken back gets a SIGTERM, which the runtime keeps from ending a process that
    has called `initialize`. It agrees with the others on a step that all of them still have before
    them; there this is true in every process. Ask at every step, save, and end in order. In a
    process that has joined no job it is never true: there SIGTERM ends the program, which resumes
    from what it has written.

    Args:
      step: counts up by one with every call, alike in all processes.

    >>> stop_requested(0)
    False
    """
    # Not by the number of processes: the runtime keeps the signal from a job of one as well.
    joined = jax.distributed.is_initialized()
    return joined and multihost_utils.reached_preemption_sync_point(step)
