"""Run sides of a comparison as processes of their own, and say what came out.

A side is a command that prints one JSON object; what it says under `seconds` are its timings. Sides
take turns, so that whatever else the machine does falls on all of them.
"""

import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def run(command: Sequence[str]) -> dict[str, Any]:
    """Run one command and read the JSON object in the last line that it prints.

    OpenMP's threads wait passively unless the environment says otherwise: on a machine with other
    work, threads that spin made torch more than a hundred times slower.

    Raises:
      RuntimeError: the command failed; with what it wrote to stderr.
    """
    environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def interleave(sides: Mapping[str, Sequence[str]], *, rounds: int) -> dict[str, list[dict]]:
    """Run every side once a round, in turn; return each side's objects, one a round."""
    outputs: dict[str, list[dict]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, command in sides.items():
            outputs[name].append(run(command))
    return outputs


def rates(outputs: Sequence[Mapping[str, Any]], *, count: int) -> dict[str, float]:
    """Median and quartiles of `count / seconds` over all timings of a side."""
    samples = [count / seconds for output in outputs for seconds in output["seconds"]]
    low, median, high = statistics.quantiles(samples, n=4, method="inclusive")
    return {"median": median, "quartile_1": low, "quartile_3": high, "samples": len(samples)}


def machine() -> dict[str, Any]:
    """The processor as the system names it, its cores, and how busy they have been."""
    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        named = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = named[0].split(":", 1)[1].strip() if named else model
    return {"cpu": model, "cores": os.cpu_count(), "load_1min": os.getloadavg()[0]}


def write(name: str, content: Mapping[str, Any]) -> Path:
    """Write `results/NAME.json`: the content, with the date, the command and the machine."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    # The interpreter's place says nothing to anybody else.
    command = ["python", *sys.argv]
    for i, word in enumerate(command):
        if word == "--peer-python":
            command[i + 1] = "PEER_PYTHON"
    header = {
        "date": datetime.date.today().isoformat(),
        "command": " ".join(command),
        "machine": machine(),
    }
    path.write_text(json.dumps({**header, **content}, indent=2) + "\n")
    return path
