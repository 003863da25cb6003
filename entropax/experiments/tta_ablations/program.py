"""The program from top to bottom."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from entropax.experiments import tta_ablations
from entropax.experiments.command_line import run_command
from entropax.experiments.tables import make_console, make_progress
from entropax.experiments.tta_ablations.config import Config
from entropax.experiments.tta_ablations.phases import measure_phases
from entropax.experiments.tta_ablations.report import (
    Report,
    flip_report,
    phase_report,
    summary_table,
    write_results,
)
from entropax.experiments.tta_ablations.studies import STUDIES
from entropax.experiments.tta_benchmark.program import measured, prepared


def run(config: Config) -> Report:
    """Measure what the study needs and the run folder lacks, report.

    Raises:
      FileNotFoundError: data or weights are not there; the message says which, and of data where to
        put them.
      FloatingPointError: the training of a network failed.
      ValueError: the data, the weights or the run folder do not fit the settings.
    """
    path = config.run_dir or Path("runs") / f"tta-ablations-{config.data}"
    benchmark = dataclasses.replace(config.benchmark, run_dir=path)
    console = make_console()
    if config.ablation == "phases":
        observations, networks = prepared(benchmark)
        with make_progress() as progress:
            splits = [split for split in observations.splits if split.family == "test"]
            task = progress.add_task("Tracking", total=len(networks) * len(splits))
            records = measure_phases(
                config,
                observations,
                networks,
                on_split=lambda what: progress.update(
                    task, advance=1, description=f"Tracking: {what}"
                ),
            )
        report = phase_report(config, records)
    else:
        if config.ablation != "adapter":
            benchmark = dataclasses.replace(benchmark, adapters=config.adapters[:1])
        observations, networks = measured(benchmark)
        report = flip_report(config, STUDIES[config.ablation](config, observations, networks))
    write_results(observations.folder, report)
    console.print(summary_table(report))
    name = f"ablation-{config.ablation}"
    console.print(f"{path}: {name}.csv, {name}.png", highlight=False, soft_wrap=True)
    return report


def main(args: Sequence[str] | None = None) -> None:
    """Run from the command line; wrong input ends with one sentence and exit code 2."""
    run_command(run, Config, tta_ablations, args)
