"""How much memory a program has taken so far."""

import sys

import jax


def peak_memory() -> str:
    """The most memory this process has held, and the accelerator if it tells, in words."""
    parts = []
    try:
        import resource
    except ImportError:  # Windows has none
        pass
    else:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        # Kilobytes on Linux, bytes on macOS.
        parts.append(f"{most * (1 if sys.platform == 'darwin' else 1024) / 2**30:.2f} GiB")
    statistics = jax.local_devices()[0].memory_stats()
    if statistics and "peak_bytes_in_use" in statistics:
        parts.append(f"{statistics['peak_bytes_in_use'] / 2**30:.2f} GiB on the device")
    return ", ".join(parts) or "unknown"
