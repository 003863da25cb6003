"""The program from top to bottom."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import entropax
from entropax.experiments import diffusion_models
from entropax.experiments.command_line import run_command
from entropax.experiments.diffusion_models.config import Config
from entropax.experiments.diffusion_models.measure import measure
from entropax.experiments.diffusion_models.report import (
    Report,
    correlation_table,
    make_report,
    write_results,
)
from entropax.experiments.diffusion_models.sources import Files, Trained
from entropax.experiments.run_folder import open_run
from entropax.experiments.tables import make_console, make_progress

# Options that change no measurement: a finished run can be reported anew with them. What the data
# and the features are is told by their checksums.
_OMITTED = ("run_dir", "level", "resamples", "data_dir", "path", "size", "features")


def run(config: Config) -> Report:
    """Measure every model, report.

    Raises:
      FileNotFoundError: the data are not there; the message says where to put them.
      FloatingPointError: the features of a network are not finite.
      ValueError: the data, the features or the run folder do not fit the settings.
    """
    source = Files(config) if config.features is not None else Trained(config)
    settings = {k: v for k, v in dataclasses.asdict(config).items() if k not in _OMITTED}
    settings |= {"checksums": source.checksums, "entropax": entropax.__version__}
    of_what = config.features.name if config.features is not None else config.data
    path = config.run_dir or Path("runs") / f"models-{of_what}-seed{config.seed}"
    folder = open_run(path, settings)

    records = {(r["group"], r["model"]): r for r in folder.records()}
    left = [name for name in source.names if name not in records]
    with make_progress() as progress:
        task = progress.add_task("Models", total=len(source.names), completed=len(records))
        for (group, name), model in zip(left, source.models(left), strict=True):
            records[group, name] = {
                "group": group,
                "model": name,
                "about": model.about,
                "accuracy": model.accuracy,
                **measure(config, model.features, model.labels, model.inputs),
            }
            folder.append(records[group, name])
            progress.advance(task)

    report = make_report(config, [records[name] for name in source.names])
    write_results(folder, report)
    console = make_console()
    console.print(correlation_table(report))
    console.print(folder.listing(), soft_wrap=True, highlight=False)
    return report


def main(args: Sequence[str] | None = None) -> None:
    """Run from the command line; wrong input ends with one sentence and exit code 2."""
    run_command(run, Config, diffusion_models, args)
