"""Programs on several simulated devices, which take a process of their own."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def run_on_devices(code, count):
    """Run Python in `tests/` where JAX sees so many devices; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT / "tests",
        env={
            "JAX_NUM_CPU_DEVICES": str(count),
            "JAX_PLATFORMS": "cpu",
            # Devices compute on threads of a pool, which by default has one a core.
            "PJRT_NPROC": str(max(8, 2 * count)),
            "PYTHONPATH": str(ROOT),
        },
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_on_four_devices(code):
    """Run Python in `tests/` where JAX sees four devices; return what it printed."""
    return run_on_devices(code, 4)
