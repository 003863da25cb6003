"""The program from top to bottom."""

import dataclasses
import itertools
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.progress import Progress

import entropax
from entropax.experiments import tta_benchmark
from entropax.experiments.command_line import run_command
from entropax.experiments.run_folder import RunFolder, open_run
from entropax.experiments.shifted_images import (
    ImageSets,
    checksum,
    load_sets,
    planned_splits,
    target_split,
)
from entropax.experiments.tables import make_console, make_progress
from entropax.experiments.tta_benchmark.config import Config
from entropax.experiments.tta_benchmark.networks import Network, load_published, train_or_restore
from entropax.experiments.tta_benchmark.observations import Observations
from entropax.experiments.tta_benchmark.report import (
    Report,
    adapter_table,
    estimator_table,
    make_report,
    target_table,
    write_results,
)

# Options that change no measurement of a network, an adapter and a split: more of these may be
# added to a finished run, and it can be reported anew.
_OMITTED = (
    *("run_dir", "data_dir", "path", "size", "target", "seeds", "networks", "weights", "adapters"),
    *("corruptions", "calibration", "severities", "estimate", "form", "temperature", "level"),
)


def run(config: Config) -> Report:
    """Train or load the networks, measure what is missing in the run folder, report.

    Raises:
      FileNotFoundError: data or weights are not there; the message says which, and of data where to
        put them.
      FloatingPointError: the training of a network failed.
      ValueError: the data, the weights or the run folder do not fit the settings.
    """
    observations, networks = measured(config)
    console = make_console()
    with make_progress() as progress:
        task = progress.add_task("Estimating", total=len(networks) * len(config.adapters))

        done = itertools.count()
        report = make_report(
            config,
            observations,
            networks,
            on_part=lambda what: progress.update(
                task, completed=next(done), description=f"Estimating: {what}"
            ),
        )
        progress.update(task, completed=next(done), description="Estimated")
    write_results(observations.folder, report)
    if any(row.family == "test" for row in report.estimates):
        console.print(estimator_table(report))
        console.print(adapter_table(report))
    if observations.sets.target is not None:
        console.print(target_table(report))
    files = "estimators.csv, adapters.csv, estimates.csv, accuracies.csv, three figures"
    console.print(f"{observations.folder.path}: {files}", highlight=False, soft_wrap=True)
    return report


def measured(config: Config) -> tuple[Observations, list[Network]]:
    """The observations of all that `config` names, made first where they are missing."""
    observations, networks = prepared(config)
    with make_progress() as progress:
        calls = len(networks) * observations.groups() * (1 + len(config.adapters))
        task = progress.add_task("Measuring", total=calls)

        done = itertools.count()  # what comes next is not done yet
        observations.measure(
            networks,
            on_part=lambda what: progress.update(
                task, completed=next(done), description=f"Measuring: {what}"
            ),
        )
        progress.update(task, completed=calls, description="Measured")
    return observations, networks


def prepared(config: Config) -> tuple[Observations, list[Network]]:
    """The run folder, with nothing measured yet that is not in it, and the trained networks."""
    for weights in config.weights:
        if not weights.is_file():
            raise FileNotFoundError(
                f"There is no file {weights}; expected the weights of a ResNet for CIFAR."
            )
    sets = load_sets(config, training=not config.weights)
    splits = list(planned_splits(config, sets._replace(target=None)))
    if sets.target is not None:
        splits.append(target_split(config, sets.target))
    path = config.run_dir or Path("runs") / f"tta-benchmark-{config.data}"
    folder = open_run(path, _settings(config, sets))
    with make_progress() as progress:
        networks = _networks(config, sets, folder, progress)
    return Observations(folder, config, sets, splits), networks


def _settings(config: Config, sets: ImageSets) -> dict[str, Any]:
    settings = dataclasses.asdict(config)
    for name in _OMITTED:
        del settings[name]
    known = (sets.train, sets.validation, sets.test)
    settings["checksums"] = [checksum(images) for images in known if images is not None]
    settings["weights"] = {path.stem: zlib.crc32(path.read_bytes()) for path in config.weights}
    settings["entropax"] = entropax.__version__
    return settings


def _networks(
    config: Config, sets: ImageSets, folder: RunFolder, progress: Progress
) -> list[Network]:
    if config.weights:
        return [
            network
            for path in config.weights
            for network in load_published(path, config.seeds, sets.validation)
        ]
    assert sets.train is not None
    networks = []
    task = progress.add_task("Training", total=len(config.networks) * len(config.seeds))
    for name in config.networks:
        for seed in config.seeds:

            def on_epoch(
                epoch: int, epochs: int, loss: float, name: str = name, seed: int = seed
            ) -> None:
                what = f"{name}, seed {seed}, epoch {epoch} of {epochs}: loss {loss:.3f}"
                progress.update(task, description=f"Training: {what}")

            networks.append(
                train_or_restore(
                    name, seed, sets.train, folder.path, epochs=config.epochs, on_epoch=on_epoch
                )
            )
            progress.advance(task)
    return networks


def main(args: Sequence[str] | None = None) -> None:
    """Run from the command line; wrong input ends with one sentence and exit code 2."""
    run_command(run, Config, tta_benchmark, args)
