"""How long a program takes: until its first result, most of it compilation, and in all."""

import time


class Stopwatch:
    """Seconds since `start`; until then there are none."""

    def __init__(self) -> None:
        self._start: float | None = None
        self._first: float | None = None

    def start(self) -> None:
        """Begin anew."""
        self._start, self._first = time.monotonic(), None

    def result(self) -> None:
        """A result is on disk."""
        if self._start is not None and self._first is None:
            self._first = time.monotonic() - self._start

    def words(self) -> str:
        """What it shows, for people."""
        if self._start is None:
            return "not started"
        total = f"all after {time.monotonic() - self._start:.1f} s"
        return total if self._first is None else f"first result after {self._first:.1f} s, {total}"


# Of the program that runs in this process.
stopwatch = Stopwatch()
