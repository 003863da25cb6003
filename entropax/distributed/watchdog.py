"""An alarm for a process that neither works nor fails."""

import threading
import time
from types import TracebackType

from entropax.distributed.coordination import fail


class Watchdog:
    """Ends the job if a process gives no sign for too long, and shows where each one is stuck.

    The runtime notices processes that are lost. One that hangs, in a read from a dead file system
    or in a collective that others never enter, it would wait for without end.

        with Watchdog(600) as watchdog:
            for step, batch in enumerate(batches):
                state, info = adapt(state, batch)
                watchdog.sign(f"step {step}")

    What a program compiles counts as well: give it time. JAX returns before a computation is done:
    look at a result before each sign, or the signs run ahead.

    Args:
      seconds: without a sign, after which every process prints the stacks of its threads, since
        the one that waits for another may be the first to notice; all end with exit code 13.

    Raises:
      ValueError: `seconds` is not positive.
    """

    def __init__(self, seconds: float) -> None:
        if not seconds > 0:
            raise ValueError(f"`seconds` must be positive, got {seconds}.")
        self._seconds = seconds
        self._last = "the start"
        self._time = time.monotonic()
        self._done = threading.Event()

    def sign(self, what: str) -> None:
        """Say what has been done; the message names it if nothing follows."""
        self._last, self._time = what, time.monotonic()

    def __enter__(self) -> "Watchdog":
        self._time = time.monotonic()
        threading.Thread(target=self._watch, name="entropax-watchdog", daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()

    def _watch(self) -> None:
        while True:
            left = self._seconds - (time.monotonic() - self._time)
            if left <= 0:
                break
            if self._done.wait(left):
                return
        fail(
            f"nothing for {self._seconds:g} s after {self._last}, here or where this process waits "
            "for another; the threads are above.",
            stacks=True,
        )
