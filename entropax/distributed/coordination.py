"""What processes tell each other besides arrays: that one of them has failed, and why.

The only file that reaches into JAX's private names. The runtime keeps a store of keys and values
for the processes of a job, which answers also while they are busy, but offers no public way to it.
"""

import atexit
import contextlib
import faulthandler
import importlib
import os
import sys
import threading
import time
from typing import Any

import jax

# What a shell is told of a process that ended because of a failure, its own or another's.
EXIT_CODE = 13
_FAILURE = "entropax/failure"
_SECONDS_BETWEEN_QUESTIONS = 0.15


def runtime_state() -> Any:
    """What the runtime knows without a look at the devices.

    The number of this process, how many there are, and the client of the store of keys and values,
    which is None in a process that is alone.
    """
    return importlib.import_module("jax._src.distributed").global_state


def end_with_the_others() -> None:
    """From now on, end this process as soon as another one says that it has failed."""
    state, over = runtime_state(), threading.Event()
    client, own = state.client, state.process_id

    def listen() -> None:
        while not over.wait(_SECONDS_BETWEEN_QUESTIONS):
            # Not by a call that blocks: at the end of the interpreter it could not be left.
            try:
                said = client.key_value_try_get(_FAILURE)
            except jax.errors.JaxRuntimeError as error:
                if "NOT_FOUND" in str(error):
                    continue
                return  # the runtime is about to end this process itself
            who, stacks, reason = said.split(" ", 2)
            if int(who) != own:
                reason = f"process {who} has failed, and all end with it: {reason}"
                _end(reason, stacks=bool(int(stacks)))

    thread = threading.Thread(target=listen, name="entropax-failures", daemon=True)
    thread.start()

    def leave() -> None:
        # Waits for the others, of which one may still fail.
        jax.distributed.shutdown()
        over.set()
        thread.join()

    atexit.register(leave)


def fail(reason: str, *, stacks: bool = False) -> None:
    """Tell all processes why this one cannot go on, and end it and them at once.

    It does not return. The interpreter is not shut down in order: that would wait for the other
    processes, which wait for this one. A process that is alone ends in the same way.

    Args:
      reason: a line, which the others print with the number of this process.
      stacks: every process prints first what its threads are doing.
    """
    state = runtime_state()
    if state.client is not None:
        # Another one may have failed first, or nobody be left to be told.
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            state.client.key_value_set(_FAILURE, f"{state.process_id} {int(stacks)} {reason}")
    _end(reason, stacks=stacks)


def _end(reason: str, *, stacks: bool) -> None:
    # Not `sys.stderr`: a progress bar or a notebook may have put something in its place.
    state, stderr = runtime_state(), sys.__stderr__
    try:
        if stacks and stderr is not None:
            faulthandler.dump_traceback(stderr, all_threads=True)
        place = f"[process {state.process_id} of {state.num_processes or 1}]"
        print(place, reason, file=stderr, flush=True)
        sys.stdout.flush()
        if state.client is not None and state.process_id == 0:
            # It has the store: the others have to ask once more.
            time.sleep(1.5 * _SECONDS_BETWEEN_QUESTIONS)
    finally:
        os._exit(EXIT_CODE)
