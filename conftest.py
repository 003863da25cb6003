"""Compiled programs are forgotten between test files once there are many of them."""

from pathlib import Path

import jax

# Each compiled program takes a few mappings of memory. Linux gives a process 65,530 of them, and
# XLA ends with a segmentation fault when they are used up.
MAPPINGS = Path("/proc/self/maps")
MANY = 20_000

# Programs keep what they compile; tests leave nothing behind.
jax.config.update("jax_enable_compilation_cache", False)


def pytest_runtest_teardown(item, nextitem):
    last = nextitem is None or nextitem.path != item.path
    if last and MAPPINGS.exists() and MAPPINGS.read_bytes().count(b"\n") > MANY:
        jax.clear_caches()
