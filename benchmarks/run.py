"""Run the benchmarks, some or all, and write results and the tables of docs/performance.md.

    python benchmarks/run.py --peer torch=PATH --peer neural-tangents=PATH ...
    python benchmarks/run.py uncertainty --peer uncertainty=PATH --quick
    python benchmarks/run.py --page

PATH is the interpreter of an environment in which the peer is installed; benchmarks/README.md says
how to make them. What lacks its peer is left out, and says so. `--take-over` runs nothing: results
that are there keep their date and rates, and get claims and floors as these are told today; what
has no rates is told by those that are measured now.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import claims
import harness
import performance


class Program(NamedTuple):
    """How a benchmark is run.

    Attributes:
      file: the program.
      peer: name of the environment that it needs, None if it needs none.
      options: for the figures that are published.
      quick: for a first look, instead.
      needs: an option that names a folder, without which it cannot run.
    """

    file: str
    peer: str | None
    options: tuple[str, ...] = ()
    quick: tuple[str, ...] = ()
    needs: str | None = None


RESNET_QUICK = ("--rounds=1", "--repeats=1", "--seconds=5")
PROGRAMS = {
    "tta_stream": Program(
        "tta_stream.py", "torch", ("--rounds=3", "--repeats=2"), ("--rounds=1", "--repeats=1")
    ),
    "tta_table": Program("tta_table.py", "torch", needs="--data-dir"),
    "resnet50_step_16": Program(
        "resnet50_step.py",
        "torch",
        ("--batch-size=16", "--rounds=2", "--repeats=2", "--seconds=10"),
        ("--batch-size=16", *RESNET_QUICK),
    ),
    "resnet50_step_64": Program(
        "resnet50_step.py",
        "torch",
        ("--batch-size=64", "--rounds=1", "--seconds=15"),
        ("--batch-size=64", *RESNET_QUICK),
    ),
    "image_folder": Program(
        "image_folder.py", "torch", quick=("--rounds=1", "--workers", "1"), needs="--folder"
    ),
    "checkpoint_kill": Program("checkpoint_kill.py", "torch", quick=("--kills=5",)),
    "ntk": Program(
        "ntk.py",
        "neural-tangents",
        (
            *("--subjects", "residual-64", "cnn-100", "mlp-300", "cnn-300", "--rounds=1"),
            *("--seconds=3", "--slow=2", "--time-limit=60", "--memory-limit=6"),
        ),
        (
            *("--subjects", "residual-64", "cnn-100", "mlp-300", "--rounds=1", "--repeats=3"),
            *("--seconds=2", "--slow=2", "--time-limit=30", "--memory-limit=4"),
        ),
    ),
    "diffusion": Program(
        "diffusion.py", "dse-dsmi", quick=("--sizes", "500", "2000", "--rounds=1", "--repeats=2")
    ),
    "uncertainty": Program("uncertainty.py", "uncertainty", quick=("--rounds=1", "--seconds=2")),
    "selection": Program("selection.py", None, ("--repeats=3",), ("--repeats=1",)),
    "ensemble_training": Program(
        "ensemble_training.py",
        None,
        ("--rounds=1", "--repeats=3"),
        ("--rounds=1", "--repeats=1"),
    ),
    "entropy_memory": Program("entropy_memory.py", None, quick=("--images", "5000", "50000")),
}


def command(
    program: Program, peers: dict[str, str], folders: dict[str, str], *, quick: bool
) -> list[str] | str:
    """The words of the command, or why there are none."""
    words = [sys.executable, str(Path(__file__).parent / program.file)]
    words += program.quick if quick and program.quick else program.options
    if program.peer is not None:
        if program.peer not in peers:
            return f"it needs --peer {program.peer}=PATH"
        words += ["--peer-python", peers[program.peer]]
    if program.needs is not None:
        if program.needs not in folders:
            return f"it needs {program.needs}"
        words += [program.needs, folders[program.needs]]
    return words


def take_over(folder: str | None) -> None:
    """Tell the claims of the results that are there anew."""
    for path in sorted(harness.RESULTS.glob("*.json")):
        content = json.loads(path.read_text())
        if claims.known(path.stem):
            rates = content.get("rates") or harness.rates_here(folder)
            found = harness.with_claims(path.stem, content, rates)
            path.write_text(json.dumps(found, indent=2) + "\n")
            print(f"{path.stem}: the run of {content['date']}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(PROGRAMS))
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PATH")
    parser.add_argument("--folder", help="photographs in folders by class, for image_folder")
    parser.add_argument("--data-dir", help="where MNIST is prepared, for tta_table")
    parser.add_argument("--quick", action="store_true", help="fewer rounds and sizes")
    parser.add_argument("--take-over", action="store_true", help="claims of old results alone")
    parser.add_argument("--page", action="store_true", help="only write docs/performance.md")
    options = parser.parse_args()
    if unknown := set(options.names) - set(PROGRAMS):
        parser.error(f"There is no benchmark {sorted(unknown)}, but {', '.join(PROGRAMS)}.")
    peers = dict(pair.split("=", 1) for pair in options.peer)
    folders = {"--folder": options.folder, "--data-dir": options.data_dir}
    folders = {name: folder for name, folder in folders.items() if folder is not None}
    failed = []
    if options.take_over:
        take_over(options.folder)
    elif not options.page:
        for name in options.names or PROGRAMS:
            words = command(PROGRAMS[name], peers, folders, quick=options.quick)
            if isinstance(words, str):
                print(f"{name} is left out: {words}.", flush=True)
                continue
            print(f"{name}:", flush=True)
            if subprocess.run(words).returncode:
                failed.append(name)
    performance.write()
    print(f"Written to {performance.PAGE}")
    if failed:
        print(f"These have failed: {', '.join(failed)}.")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
