"""Time and memory of a function's calls in this process, within limits that end the process."""

import argparse
import ctypes
import gc
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def add_limits(parser: argparse.ArgumentParser) -> None:
    """Add the options of a process that is measured: when to stop, or to be stopped."""
    parser.add_argument("--seconds", type=float, default=5, help="no further call after so many")
    parser.add_argument("--time-limit", type=int, default=300, help="seconds for a process")
    parser.add_argument("--memory-limit", type=float, default=16, help="GiB for a process")


def limit(options: argparse.Namespace) -> None:
    """From now on the system ends this process in time, and refuses it too much memory.

    What counts is the data that the process may write to (RLIMIT_DATA), not what it maps.
    """
    signal.alarm(options.time_limit)
    data = int(options.memory_limit * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (data, data))


def calls(
    function: Callable[[], Any],
    *,
    repeats: int,
    seconds: float,
    first: Callable[[], Any] | None = None,
) -> tuple[dict[str, Any], Any]:
    """Call once to compile; then again and again, `repeats` times or until `seconds` are over.

    Args:
      function: what is measured.
      repeats: calls at most, not counting the one that compiles.
      seconds: no further call after so many.
      first: called in place of the call that compiles: where nothing compiles, something smaller.

    Returns:
      A dictionary, and what the last call returned. In the dictionary: `first_seconds` and
      `first_cpu_seconds` of the first call; lists `seconds` and `cpu_seconds` (of all threads) of
      the others, at least one; `peak_bytes`, by how much the resident memory grew during the others
      at most (None where the system does not tell). Before they start, the results of the first
      call are dropped and the allocator gives back what it holds free.
    """
    start, start_cpu = time.perf_counter(), time.process_time()
    (first or function)()
    found: dict[str, Any] = {
        "first_seconds": time.perf_counter() - start,
        "first_cpu_seconds": time.process_time() - start_cpu,
    }
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
    before = resident("VmRSS", reset=True)
    wall: list[float] = []
    cpu: list[float] = []
    while not wall or (len(wall) < repeats and sum(wall) < seconds):
        start, start_cpu = time.perf_counter(), time.process_time()
        result = function()
        wall.append(time.perf_counter() - start)
        cpu.append(time.process_time() - start_cpu)
    peak = None if before is None else resident("VmHWM") - before
    return {**found, "seconds": wall, "cpu_seconds": cpu, "peak_bytes": peak}, result


def resident(name: str, *, reset: bool = False) -> int | None:
    """Resident memory now (VmRSS) or at its highest (VmHWM) since the last reset, in bytes."""
    if sys.platform != "linux":
        return None
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024
