"""Run sides of a comparison as processes of their own, and say what came out.

A side is a command that prints one JSON object; what it says under `seconds` are its timings. Sides
take turns, so that whatever else the machine does falls on all of them.
"""

import argparse
import contextlib
import datetime
import functools
import json
import math
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import claims
import floors

RESULTS = Path(__file__).parent / "results"


def arguments(
    doc: str, *, repeats: int, rounds: int | None = None, peer: str | None = None
) -> argparse.ArgumentParser:
    """What the command lines of the benchmarks have in common.

    Args:
      doc: the module's docstring; its first line becomes the description.
      repeats: default number of timed calls of a side, in every round if there are rounds.
      rounds: default number of rounds; None where there is only one.
      peer: what the environment of `--peer-python` has installed; None without a peer.
    """
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    if peer is not None:
        parser.add_argument("--peer-python", help=f"interpreter of an environment with {peer}")
    if rounds is not None:
        parser.add_argument("--rounds", type=int, default=rounds)
    per = "timed runs" if rounds is None else "timed runs in every round"
    parser.add_argument("--repeats", type=int, default=repeats, help=per)
    return parser


def one_core(command: Sequence[str]) -> list[str]:
    """The same command, bound to one core of this process, where the system can do that.

    Libraries count the cores that they may use, so that none starts a second thread for its
    arithmetic: no time is spent waiting for one.
    """
    if shutil.which("taskset") is None:
        return list(command)
    return ["taskset", "--cpu-list", str(max(os.sched_getaffinity(0))), *command]


def run(command: Sequence[str], *, limited: bool = False) -> dict[str, Any]:
    """Run one command and read the JSON object in the last line that it prints.

    OpenMP's threads wait passively unless the environment says otherwise: on a machine with other
    work, threads that spin made torch more than a hundred times slower.

    Args:
      command: the words of the command.
      limited: whether it may run out of memory or time, and returns `{"failed": reason}` then.

    Raises:
      RuntimeError: the command failed; with what it wrote to stderr.
    """
    environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    if limited:
        if done.returncode == -signal.SIGALRM:
            return {"failed": "out of time"}
        words = ("RESOURCE_EXHAUSTED", "Out of memory", "bad_alloc", "MemoryError", "allocate mem")
        # Refused memory, jax 0.4.25 ends with a segmentation fault and says nothing.
        died = done.returncode in (-signal.SIGKILL, -signal.SIGSEGV)
        if died or any(word in done.stderr for word in words):
            return {"failed": "out of memory"}
    raise RuntimeError(f"{' '.join(command)} failed ({done.returncode}):\n{done.stderr}")


def interleave(
    sides: Mapping[str, Sequence[str]], *, rounds: int, slow: float = math.inf
) -> dict[str, list[dict]]:
    """Run every side once a round, in turn; return each side's objects, one a round.

    A side whose first call took more than `slow` seconds runs in the first round only.
    """
    outputs: dict[str, list[dict]] = {name: [] for name in sides}
    for i in range(rounds):
        for name, command in sides.items():
            if i == 0 or outputs[name][0]["seconds"][0] <= slow:
                outputs[name].append(run(command))
    return outputs


def rates(outputs: Sequence[Mapping[str, Any]], *, count: int) -> dict[str, float]:
    """Median and quartiles of `count / seconds` over all timings of a side."""
    return quartiles([count / seconds for output in outputs for seconds in output["seconds"]])


def quartiles(samples: Sequence[float]) -> dict[str, float]:
    """Median and quartiles; of a single sample, three times that sample."""
    if len(samples) == 1:
        low = median = high = samples[0]
    else:
        low, median, high = statistics.quantiles(samples, n=4, method="inclusive")
    return {"median": median, "quartile_1": low, "quartile_3": high, "samples": len(samples)}


def timings(outputs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What is kept of the objects of `measure.calls` that a side gave, one a round."""
    kept: dict[str, Any] = {
        key: quartiles([value for output in outputs for value in output[key]])
        for key in ("seconds", "cpu_seconds")
    }
    for clock in ("seconds", "cpu_seconds"):
        first = statistics.median(output[f"first_{clock}"] for output in outputs)
        kept[f"compile_{clock}"] = max(first - kept[clock]["median"], 0)
    with contextlib.suppress(TypeError):  # None where the system does not tell
        kept["peak_bytes"] = max(output["peak_bytes"] for output in outputs)
    return kept


def markdown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; cells that a row lacks at its end stay empty."""
    lines = [columns, ["-"] * len(columns)]
    lines += [[*row, *[""] * (len(columns) - len(row))] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def machine() -> dict[str, Any]:
    """The processor as the system names it, its cores, and how busy they have been."""
    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        named = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = named[0].split(":", 1)[1].strip() if named else model
    return {"cpu": model, "cores": os.cpu_count(), "load_1min": os.getloadavg()[0]}


@functools.cache
def rates_here(folder: str | None = None) -> dict[str, Any]:
    """What one core of this machine does in a second, measured once, and when.

    Args:
      folder: of images whose decoding is measured, too.
    """
    command = [sys.executable, str(Path(__file__).parent / "rates.py")]
    command += [] if folder is None else ["--folder", folder]
    date = datetime.date.today().isoformat()
    return {"date": date, "cores": os.cpu_count(), "one_core": run(one_core(command))}


def with_claims(name: str, content: Mapping[str, Any], measured: Mapping[str, Any]) -> dict:
    """The content of `results/NAME.json` with rates, and with what it claims by these rates.

    CPU seconds are those of one core. By the clock all cores could do as much at once, which other
    work on the machine keeps from being measured.
    """
    one = floors.Rates(**measured["one_core"])
    all_cores = floors.Rates(*(measured["cores"] * rate for rate in one))
    found = claims.of(name, content, {"cpu": one, "wall": all_cores})
    return {**content, "rates": dict(measured), "claims": found}


def write(name: str, content: Mapping[str, Any], *, folder: str | None = None) -> Path:
    """Write `results/NAME.json`: the content, with the date, the command and the machine.

    What the project claims by these results comes with them, and the rates of this machine, in the
    same run, by which floors are told.

    Args:
      name: of the file.
      content: what was found.
      folder: of images, where the claims are about these.
    """
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    # Places on this machine say nothing to anybody else.
    command = ["python", *sys.argv]
    for i, word in enumerate(command):
        if word in ("--peer-python", "--data-dir", "--folder"):
            command[i + 1] = word[2:].upper().replace("-", "_")
    command[1] = str(Path("benchmarks") / Path(command[1]).name)
    written = {
        "date": datetime.date.today().isoformat(),
        "command": " ".join(command),
        "machine": machine(),
        **content,
    }
    if claims.known(name):
        written = with_claims(name, written, rates_here(folder))
    path.write_text(json.dumps(written, indent=2) + "\n")
    return path
