"""What processes tell each other besides arrays: that one of them has failed, and why.

The only file that reaches into JAX's private names. The runtime keeps a store of keys and values
for the processes of a job, which answers also while they are busy, but offers no public way to it.
"""

import atexit
import contextlib
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
_SECONDS_BETWEEN_QUESTIONS = 0.2


def store() -> Any:
    """The runtime's store of keys and values; None in a process that is alone."""
    return importlib.import_module("jax._src.distributed").global_state.client


def end_with_the_others() -> None:
    """From now on, end this process as soon as another one says that it has failed."""
    client, own, over = store(), jax.process_index(), threading.Event()

    def listen() -> None:
        while not over.wait(_SECONDS_BETWEEN_QUESTIONS):
            # Not by a call that blocks: at the end of the interpreter it could not be left.
            try:
                said = client.key_value_try_get(_FAILURE)
            except jax.errors.JaxRuntimeError as error:
                if "NOT_FOUND" in str(error):
                    continue
                return  # the runtime is about to end this process itself
            who, _, reason = said.partition(" ")
            if int(who) != own:
                _end(f"process {who} has failed, and all end with it: {reason}")

    thread = threading.Thread(target=listen, name="entropax-failures", daemon=True)
    thread.start()

    def leave() -> None:
        # Waits for the others, of which one may still fail.
        jax.distributed.shutdown()
        over.set()
        thread.join()

    atexit.register(leave)


def fail(reason: str) -> None:
    """Tell all processes why this one cannot go on, and end it and them at once.

    It does not return. The interpreter is not shut down in order: that would wait for the other
    processes, which wait for this one. A process that is alone ends in the same way.

    Args:
      reason: a line, which the others print with the number of this process.
    """
    client = store()
    if client is not None:
        # Another one may have failed first, or nobody be left to be told.
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            client.key_value_set(_FAILURE, f"{jax.process_index()} {reason}")
            if jax.process_index() == 0:  # which has the store
                time.sleep(1.5 * _SECONDS_BETWEEN_QUESTIONS)
    _end(reason)


def _end(reason: str) -> None:
    print(f"[process {jax.process_index()} of {jax.process_count()}] {reason}", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(EXIT_CODE)
