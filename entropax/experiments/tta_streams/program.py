"""The program from top to bottom."""

import dataclasses
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

import entropax
from entropax.data import ImageSet, corruptions
from entropax.data.shifts import corrupted_bank
from entropax.experiments import tta_streams
from entropax.experiments.command_line import run_command
from entropax.experiments.run_folder import RunFolder, open_run
from entropax.experiments.shifted_images import ShiftOptions, checksum, load_sets
from entropax.experiments.tables import make_console, make_progress
from entropax.experiments.tta_benchmark.measure import fisher_information
from entropax.experiments.tta_benchmark.networks import Network, train_or_restore
from entropax.experiments.tta_streams.config import Config
from entropax.experiments.tta_streams.measure import Course, build_adapter, follow
from entropax.experiments.tta_streams.report import (
    Report,
    make_report,
    summary_table,
    write_results,
)
from entropax.experiments.tta_streams.streams import STREAMS, Plan

# Options that change no measurement of a network, a stream and an adapter.
_OMITTED = (
    *("run_dir", "data_dir", "path", "size", "seeds", "networks", "adapters", "streams", "level"),
)


def run(config: Config) -> Report:
    """Train or load the networks, follow every stream that is missing, report.

    Raises:
      FileNotFoundError: the data are not there; the message says where to put them.
      FloatingPointError: the training of a network failed.
      ValueError: the data or the run folder do not fit the settings.
    """
    sets = load_sets(
        ShiftOptions(
            data=config.data,
            path=config.path,
            data_dir=config.data_dir,
            size=config.size,
            max_images=config.max_images,
        )
    )
    assert sets.train is not None
    path = config.run_dir or Path("runs") / f"tta-streams-{config.data}"
    settings = {k: v for k, v in dataclasses.asdict(config).items() if k not in _OMITTED}
    settings["checksums"] = [checksum(each) for each in (sets.train, sets.validation, sets.test)]
    folder = open_run(path, settings | {"entropax": entropax.__version__})
    with make_progress() as progress:
        total = len(config.networks) * len(config.seeds)
        training = progress.add_task("Training", total=total)
        following = progress.add_task(
            "Following", total=total * len(config.adapters) * len(config.streams) * config.steps
        )
        # Networks of one architecture share their compiled programs.
        compiled: dict[tuple[str, str], tuple[Any, Any]] = {}
        for name in config.networks:
            for seed in config.seeds:
                progress.update(training, description=f"Training: {name}, seed {seed}")
                network = train_or_restore(
                    name,
                    seed,
                    sets.train,
                    folder.path,
                    epochs=config.epochs,
                    on_epoch=lambda epoch, epochs, loss: None,
                )
                progress.advance(training)
                _follow_all(
                    config,
                    folder,
                    network,
                    sets.validation,
                    sets.test,
                    compiled,
                    on_steps=lambda steps, what: progress.update(
                        following, advance=steps, description=f"Following: {what}"
                    ),
                )
    report = _report(config, folder)
    write_results(folder, report)
    console = make_console()
    console.print(summary_table(report))
    console.print(
        f"{path}: results.csv, summary.csv, streams.png, metrics.jsonl",
        highlight=False,
        soft_wrap=True,
    )
    return report


def _follow_all(
    config: Config,
    folder: RunFolder,
    network: Network,
    validation: ImageSet,
    test: ImageSet,
    compiled: dict[tuple[str, str], tuple[Any, Any]],
    *,
    on_steps: Callable[[int, str], None],
) -> None:
    assert test.labels is not None
    fisher = None
    done = {
        unit
        for record in folder.records()
        if (folder.path / _file(*(unit := _unit(record)))).exists()
    }
    names = config.corruptions or corruptions.families(test.images.shape[-1])[0]
    plan = Plan(test.labels, names, config.severity, config.steps, config.batch_size, network.seed)
    for stream in config.streams:
        prepared = None
        for adapter in config.adapters:
            what = f"{network.name}, seed {network.seed}: {adapter} on {stream}"
            if (network.name, network.seed, stream, adapter) in done:
                on_steps(config.steps, what)
                continue
            if fisher is None:
                fisher = fisher_information(network, validation)
            if prepared is None:  # the same for all adapters
                planned = STREAMS[stream](plan)
                bank = corrupted_bank(test.images, planned.domains, seed=network.seed)
                prepared = planned, jnp.asarray(bank)
            which = (network.name, adapter)
            if which not in compiled:
                compiled[which] = build_adapter(
                    network,
                    adapter,
                    image_shape=test.images.shape[1:],
                    learning_rate=config.learning_rate,
                    period=config.period,
                )
            before = 0

            def advance(steps: int, what: str = what) -> None:
                nonlocal before
                on_steps(steps - before, what)
                before = steps

            course = follow(
                *compiled[which], network, fisher, *prepared, test.labels, on_steps=advance
            )
            _keep(folder, network, stream, adapter, course)


def _keep(folder: RunFolder, network: Network, stream: str, adapter: str, course: Course) -> None:
    """Write the batches to a file of their own first: a record means that all is there."""
    name = _file(network.name, network.seed, stream, adapter)
    (folder.path / name).parent.mkdir(parents=True, exist_ok=True)
    with folder.replacing(name) as partial, partial.open("wb") as file:
        np.savez(file, **course._asdict())
    rang = np.flatnonzero(course.collapsed)
    folder.append(
        {
            "network": network.name,
            "seed": network.seed,
            "stream": stream,
            "adapter": adapter,
            "steps": len(course.accuracy),
            "accuracy": float(course.accuracy.mean()),
            "last_tenth": float(course.accuracy[-max(1, len(course.accuracy) // 10) :].mean()),
            "resets": int(course.reset.sum()),
            "first_alarm": int(rang[0]) if len(rang) else None,
            "alarm_steps": len(rang),
            "not_finite": int((~course.finite).sum()),
        }
    )


def _report(config: Config, folder: RunFolder) -> Report:
    wanted = {
        (network, seed, stream, adapter)
        for network in config.networks
        for seed in config.seeds
        for stream in config.streams
        for adapter in config.adapters
    }
    # Of a stream whose file was lost, and that was followed again, the last record counts.
    last = {_unit(record): record for record in folder.records()}
    records = [record for unit, record in last.items() if unit in wanted]
    curves: dict[tuple[str, str, str], list[np.ndarray]] = {}
    for seed in config.seeds:
        for network, _, stream, adapter in (unit for unit in wanted if unit[1] == seed):
            curve = _read_accuracy(folder.path / _file(network, seed, stream, adapter))
            curves.setdefault((network, stream, adapter), []).append(curve)
    ordered = {
        (network, stream, adapter): np.array(curves[network, stream, adapter])
        for network in config.networks
        for stream in config.streams
        for adapter in config.adapters
    }
    return make_report(config, records, ordered)


def _read_accuracy(path: Path) -> np.ndarray:
    try:
        # Opened here: NumPy leaves a file open that turns out to be no archive.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return np.asarray(arrays["accuracy"])
    except (ValueError, KeyError, zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"{path} is damaged, remove it: {error}") from error


def _unit(record: dict[str, Any]) -> tuple[str, int, str, str]:
    return record["network"], record["seed"], record["stream"], record["adapter"]


def _file(network: str, seed: int, stream: str, adapter: str) -> str:
    return f"streams/{network}-seed{seed}/{stream.replace(' ', '-')}-{adapter}.npz"


def main(args: Sequence[str] | None = None) -> None:
    """Run from the command line; wrong input ends with one sentence and exit code 2."""
    run_command(run, Config, tta_streams, args)
