"""Programs on several simulated devices, which take a process of their own."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def run_on_four_devices(code):
    """Run Python in `tests/` where JAX sees four devices; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT / "tests",
        env={
            "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": str(ROOT),
        },
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
