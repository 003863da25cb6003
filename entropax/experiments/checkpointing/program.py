"""The program from top to bottom."""

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path

import entropax
from entropax.experiments import checkpointing
from entropax.experiments.checkpointing.config import Config
from entropax.experiments.checkpointing.measure import measure
from entropax.experiments.checkpointing.report import (
    Report,
    make_report,
    summary_table,
    write_results,
)
from entropax.experiments.command_line import run_command
from entropax.experiments.labelled_images import load_parts
from entropax.experiments.run_folder import open_run
from entropax.experiments.tables import make_console, make_progress

# Options that change no measurement: a finished run can be reported anew with them. What the data
# are is told by their checksums.
_OMITTED = ("run_dir", "level", "resamples", "data_dir", "path", "size", "keep_checkpoints")


def run(config: Config) -> Report:
    """Train every network, measure its checkpoints, report.

    Raises:
      FileNotFoundError: the data are not there; the message says where to put them.
      FloatingPointError: the loss of a network is not finite.
      ValueError: the data or the run folder do not fit the settings.
    """
    max_test = min(config.max_test, 497) if config.data == "digits" else config.max_test
    parts = load_parts(config, train=config.train, probe=config.validation, test=max_test)
    settings = {k: v for k, v in dataclasses.asdict(config).items() if k not in _OMITTED}
    settings |= {"checksums": parts.checksums(), "entropax": entropax.__version__}
    path = config.run_dir or Path("runs") / f"checkpointing-{config.data}-seed{config.seed}"
    folder = open_run(path, settings)

    records = {(r["noise"], r["seed"]): r for r in folder.records()}
    networks = [(n, config.seed + i) for n in config.noise for i in range(config.seeds)]
    with make_progress() as progress:
        task = progress.add_task("Networks", total=len(networks), completed=len(records))
        for noise, seed in networks:
            if (noise, seed) in records:
                continue
            checkpoints = folder.path / "checkpoints" / f"noise{noise:g}-seed{seed}"
            shutil.rmtree(checkpoints, ignore_errors=True)  # of a run that was stopped
            found = measure(config, parts, noise, seed, checkpoints)
            records[noise, seed] = {"noise": noise, "seed": seed, **found}
            folder.append(records[noise, seed])
            if not config.keep_checkpoints:
                shutil.rmtree(checkpoints)
            progress.advance(task)

    if not config.keep_checkpoints:
        shutil.rmtree(folder.path / "checkpoints", ignore_errors=True)
    report = make_report(config, [records[network] for network in networks])
    write_results(folder, report)
    console = make_console()
    console.print(summary_table(report))
    console.print(folder.listing(), soft_wrap=True, highlight=False)
    return report


def main(args: Sequence[str] | None = None) -> None:
    """Run from the command line; wrong input ends with one sentence and exit code 2."""
    run_command(run, Config, checkpointing, args)
