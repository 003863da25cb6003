"""The program from top to bottom."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import entropax
from entropax.experiments import diffusion_initialisation
from entropax.experiments.command_line import run_command
from entropax.experiments.diffusion_initialisation.config import Config
from entropax.experiments.diffusion_initialisation.measure import build_measure
from entropax.experiments.diffusion_initialisation.report import (
    Report,
    correlation_table,
    initial_table,
    make_report,
    write_results,
)
from entropax.experiments.labelled_images import load_parts
from entropax.experiments.run_folder import open_run
from entropax.experiments.tables import make_console, make_progress

# Options that change no measurement: a finished run can be reported anew with them. Where the data
# are is told by their checksums.
_OMITTED = ("run_dir", "level", "resamples", "data_dir", "path", "size")


def run(config: Config) -> Report:
    """Measure every network, train it, report.

    Raises:
      FileNotFoundError: the data are not there; the message says where to put them.
      FloatingPointError: a network diverged; finished ones are kept.
      ValueError: the data or the run folder do not fit the settings.
    """
    parts = load_parts(config, train=config.max_train, probe=config.probe, test=config.max_test)
    settings = {k: v for k, v in dataclasses.asdict(config).items() if k not in _OMITTED}
    settings |= {"checksums": parts.checksums(), "entropax": entropax.__version__}
    path = config.run_dir or Path("runs") / f"initialisation-{config.data}-seed{config.seed}"
    folder = open_run(path, settings)

    records = {(r["std"], r["network"]): r for r in folder.records()}
    plan = [(std, number) for number in range(config.networks) for std in config.std]
    with make_progress() as progress:
        each = config.epochs + 1
        task = progress.add_task("", total=each * len(plan), completed=each * len(records))
        measure = build_measure(config, parts)
        for std, number in plan:
            if (std, number) not in records:
                progress.update(task, description=f"std {std:g}, network {number}")
                records[std, number] = measure(std, number, lambda: progress.advance(task))
                folder.append(records[std, number])
        progress.update(task, description="Measured")

    report = make_report(config, [records[choice] for choice in plan])
    write_results(folder, report, len(parts.probe.labels))
    console = make_console()
    console.print(initial_table(report))
    if report.correlations:
        console.print(correlation_table(report))
    console.print(folder.listing(), soft_wrap=True, highlight=False)
    return report


def main(args: Sequence[str] | None = None) -> None:
    """Run from the command line; wrong input ends with one sentence and exit code 2."""
    run_command(run, Config, diffusion_initialisation, args)
