"""The program from top to bottom."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import entropax
from entropax.experiments import diffusion_training
from entropax.experiments.command_line import run_command
from entropax.experiments.diffusion_training.config import Config
from entropax.experiments.diffusion_training.measure import (
    Unit,
    build_measure,
    planned_units,
    record_epochs,
)
from entropax.experiments.diffusion_training.report import (
    Report,
    make_report,
    summary_table,
    write_results,
)
from entropax.experiments.labelled_images import Parts, load_parts
from entropax.experiments.run_folder import RunFolder, open_run
from entropax.experiments.tables import make_console, make_progress

# Where the data are; what they are is told by their checksums.
_NOT_SETTINGS = ("run_dir", "data_dir", "path", "size")
# More networks may be added to a finished run.
_UNITS = ("networks", "objectives", "seeds")


def run(config: Config) -> Report:
    """Train the networks, measure their layers, report.

    Raises:
      FileNotFoundError: the data are not there; the message says where to put them.
      FloatingPointError: a network diverged; finished records are kept.
      ValueError: the data or the run folder do not fit the settings.
    """
    amounts = config.amounts
    images = load_parts(config, train=amounts.max_train, probe=amounts.probe, test=0)
    _check(config, images)
    path = config.run_dir or Path("runs") / f"diffusion-training-{config.data}"
    folder = open_run(path, _settings(config, images))
    _train(config, images, folder)
    report = make_report(config, folder.records())
    write_results(folder, report)
    console = make_console()
    for network in config.networks:
        console.print(summary_table(report, network))
    console.print(folder.listing(), soft_wrap=True, highlight=False)
    return report


def _check(config: Config, images: Parts) -> None:
    for part in (images.train, images.probe):
        if len(np.unique(part.labels)) < 2:
            raise ValueError(
                f"A study needs two classes or more; every label of {config.data!r} is "
                f"{part.labels[0]}."
            )
    if len(images.train.x) < config.batch_size:
        raise ValueError(
            f"{len(images.train.x)} training images do not fill one batch of {config.batch_size}; "
            "give a smaller --batch-size."
        )


def _train(config: Config, images: Parts, folder: RunFolder) -> None:
    """Train every network that has no record of its last epoch, and append its records."""
    found: dict[Unit, set[int]] = {}
    for record in folder.records():
        found.setdefault(unit_of(record), set()).add(record["epoch"])
    epochs = record_epochs(config)
    units = planned_units(config)
    left = [unit for unit in units if epochs[-1] not in found.get(unit, ())]
    with make_progress() as progress:
        done = sum(len(found.get(unit, ())) for unit in units)
        task = progress.add_task("Training", total=len(units) * len(epochs), completed=done)
        measure = build_measure(config, images) if left else None
        for unit in left:
            assert measure is not None
            progress.update(task, description=f"Training: {unit}")
            # A network that was stopped half-way begins anew: it is the same again, so what was
            # measured need not be.
            for record in measure(unit, found.get(unit, ())):
                folder.append(record)
                progress.advance(task)
        progress.update(task, description="Trained")


def unit_of(record: dict[str, Any]) -> Unit:
    """The network that a record is about."""
    return Unit(record["network"], record["objective"], record["seed"])


def _settings(config: Config, images: Parts) -> dict[str, Any]:
    """All that a record depends on: options, and data by their content."""
    settings = {**dataclasses.asdict(config), **config.amounts._asdict()}
    for name in _NOT_SETTINGS + _UNITS:
        del settings[name]
    settings["checksums"] = images.checksums()
    settings["entropax"] = entropax.__version__
    return settings


def main(args: Sequence[str] | None = None) -> None:
    """Run from the command line; wrong input ends with one sentence and exit code 2."""
    run_command(run, Config, diffusion_training, args)
