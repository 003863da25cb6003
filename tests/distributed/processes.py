"""Jobs of several real processes on this machine: started, watched, and never left behind."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest

TESTS = Path(__file__).parent.parent
# How long the runtime of these jobs waits for a sign of life.
HEARTBEAT = 10
# Variables by which these processes would take themselves for parts of another job.
_OF_A_JOB = ("JAX_", "XLA_", "ENTROPAX_", "SLURM_", "OMPI_", "TPU_", "KUBERNETES_")
_OF_GLOO = re.compile(
    r"(\[Gloo\] Rank |\d+| is connected to | peer ranks\. "
    r"|Expected number of connected peer ranks is : )*\s*"
)


class Ended(NamedTuple):
    """One process of a job that is over."""

    code: int
    out: str
    err: str
    seconds: float  # after the first one of the job had ended


def can_connect_to_itself():
    with socket.socket() as server:
        try:
            server.bind(("127.0.0.1", 0))
            server.listen()
            socket.create_connection(server.getsockname(), timeout=5).close()
        except OSError:
            return False
    return True


needs_loopback = pytest.mark.skipif(
    not can_connect_to_itself(), reason="this system allows no connections to 127.0.0.1"
)


def environment(devices):
    """For a process with so many simulated devices.

    XLA's pool has a thread a core; computations on several devices wait for each other in it.
    """
    return {
        **{k: v for k, v in os.environ.items() if not k.startswith(_OF_A_JOB)},
        "JAX_PLATFORMS": "cpu",
        "JAX_ENABLE_COMPILATION_CACHE": "false",
        "JAX_NUM_CPU_DEVICES": str(devices),
        "PJRT_NPROC": str(max(8, 2 * devices)),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)]),
        "PYTHONUNBUFFERED": "1",
    }


class Job:
    """`count` processes with `devices` each that run the same words after `python`."""

    def __init__(self, folder, words, *, count, devices=1, of_process=lambda i: {}):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{probe.getsockname()[1]}"
        folder.mkdir(parents=True, exist_ok=True)
        self.logs = [(folder / f"{i}.out", folder / f"{i}.err") for i in range(count)]
        self.processes = []
        for i, (out, err) in enumerate(self.logs):
            own = {
                "ENTROPAX_HEARTBEAT_TIMEOUT": str(HEARTBEAT),
                "ENTROPAX_COORDINATOR": address,
                "ENTROPAX_NUM_PROCESSES": str(count),
                "ENTROPAX_PROCESS_ID": str(i),
                **of_process(i),
            }
            with out.open("w") as stdout, err.open("w") as stderr:
                process = subprocess.Popen(
                    [sys.executable, *words],
                    env=environment(devices) | own,
                    stdout=stdout,
                    stderr=stderr,
                )
            self.processes.append(process)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.kill()
            process.wait()

    def wait_for(self, text, *, of=0, timeout=90):
        """Wait until a process has printed something."""
        end = time.monotonic() + timeout
        while text not in self.logs[of][0].read_text():
            assert time.monotonic() < end, self.report(f"{text!r} was not printed")
            assert self.processes[of].poll() is None, self.report(f"process {of} has ended")
            time.sleep(0.02)

    def signal(self, number, *, to):
        self.processes[to].send_signal(number)

    def ended(self, *, timeout=120):
        """Wait until all have ended."""
        end, first, after = time.monotonic() + timeout, None, {}
        while len(after) < len(self.processes):
            assert time.monotonic() < end, self.report("the job does not end")
            for i, process in enumerate(self.processes):
                if i not in after and process.poll() is not None:
                    first = first or time.monotonic()
                    after[i] = time.monotonic() - first
            time.sleep(0.02)
        return [
            Ended(process.returncode, _without_gloo(out.read_text()), err.read_text(), after[i])
            for i, (process, (out, err)) in enumerate(zip(self.processes, self.logs, strict=True))
        ]

    def report(self, what):
        logs = "\n".join(
            f"== {path.name}\n{path.read_text()}" for pair in self.logs for path in pair
        )
        return f"{what}\n{logs}"


def _without_gloo(text):
    """Without the lines of Gloo, whose threads write them in pieces, one between another's."""
    return "".join(line for line in text.splitlines(True) if not _OF_GLOO.fullmatch(line))


def run_job(folder, words, *, timeout=120, **options):
    """Run a job that ends well; return what its processes printed."""
    with Job(folder, words, **options) as job:
        ended = job.ended(timeout=timeout)
        assert all(process.code == 0 for process in ended), job.report("a process failed")
        return [process.out for process in ended]


def kill(job, *, process):
    job.signal(signal.SIGKILL, to=process)
