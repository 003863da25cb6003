"""The program from top to bottom."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flax.traverse_util import flatten_dict

import entropax
from entropax.distributed import replicate
from entropax.experiments import tta_published
from entropax.experiments.command_line import run_command
from entropax.experiments.device_options import (
    check_divisible,
    end_if_preempted,
    open_devices,
    watched,
)
from entropax.experiments.memory import peak_memory
from entropax.experiments.published_networks import (
    Network,
    corrupted_folders,
    folder_checksum,
    labelled_folder,
    load_network,
    network_name,
    weights_checksum,
)
from entropax.experiments.run_folder import open_run
from entropax.experiments.tables import csv_text, make_console, make_progress
from entropax.experiments.tta_published.config import Config
from entropax.experiments.tta_published.measure import Shift, batches, compile_adapter, measure
from entropax.experiments.tta_published.report import (
    estimated,
    read_curve,
    remarks,
    results_table,
    write_fit,
)
from entropax.parameters import is_norm_affine


def run(config: Config) -> list[dict[str, Any]]:
    """Load the network, adapt to every folder, fit the curve or read accuracies off it.

    Returns:
      One dictionary a folder, the columns of results.csv. Rates are in [0, 1].

    Raises:
      FileNotFoundError: weights or images are not there.
      FloatingPointError: a step was not finite; finished folders are kept.
      ValueError: weights, images, curve or run folder do not fit the settings.
    """
    mesh = open_devices(config)
    check_divisible(config.batch_size, mesh)
    network = load_network(config.weights, config)
    checksum = weights_checksum(network.variables)
    if not any(map(is_norm_affine, flatten_dict(network.variables, sep="/"))):
        raise ValueError(
            f"{config.weights.name}: the network has no normalisation layers, whose scales and "
            "shifts are what adapts."
        )
    curve = None if config.fit else read_curve(config, checksum, network.inputs)
    shifts = find_shifts(config, network)
    path = config.run_dir or default_run_dir(config)
    folder = open_run(path, _settings(config, network, checksum, shifts))
    if mesh is not None:
        network = network._replace(variables=replicate(network.variables, mesh))
    compiled = compile_adapter(network, config, mesh)
    done = {(record["name"], record["severity"]) for record in folder.records()}
    with make_progress() as progress, watched(config) as sign:
        total = sum(batches(len(shift.folder), config) for shift in shifts)
        task, number = progress.add_task("Batches", total=total), itertools.count()
        for shift in shifts:
            if (shift.name, shift.severity) in done:
                progress.advance(task, batches(len(shift.folder), config))
                continue

            def on_batch(what: str, shift: Shift = shift) -> None:
                end_if_preempted(next(number))
                progress.update(task, advance=1, description=f"{shift}: {what}")
                sign(f"a batch of {shift}, {what}")

            folder.append(measure(network, compiled, shift, config, mesh, on_batch))
    measured = {(record["name"], record["severity"]): record for record in folder.records()}
    rows = [measured[shift.name, shift.severity] for shift in shifts]
    if config.fit:
        write_fit(folder, config, rows, checksum, network.inputs)
        lines = [*remarks(None, rows), f"Use the curve with --curve {path}."]
    else:
        assert curve is not None
        rows = [estimated(config, curve, row) for row in rows]
        folder.write("results.csv", csv_text(rows))
        lines = remarks(curve, rows)
    console = make_console()
    console.print(results_table(config, rows))
    for line in (*lines, f"peak memory {peak_memory()}", folder.listing()):
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    return rows


def find_shifts(config: Config, network: Network) -> list[Shift]:
    """The folders to adapt to, in order.

    Raises:
      FileNotFoundError: there is no such folder.
      ValueError: it holds no images, or, for a fit, images without labels or too few folders.
    """
    found = corrupted_folders(config.path)
    if found is not None:
        shifts = [
            Shift(*key, labelled_folder(path, network, config), corrupt=False)
            for key, path in found.items()
        ]
    elif config.fit:
        folder = labelled_folder(config.path, network, config)
        shifts = [Shift("clean", 0, folder, corrupt=False)]
        shifts += [
            Shift(name, severity, folder, corrupt=True)
            for name in config.calibration
            for severity in config.severities
        ]
    else:
        folder = labelled_folder(config.path, network, config)
        shifts = [Shift(config.path.resolve().name, 0, folder, corrupt=False)]
    for shift in shifts:
        if len(shift.folder) < 2:
            raise ValueError(f"{shift.folder.root} holds one image; counting flips takes two.")
        if config.fit and shift.folder.labels is None:
            raise ValueError(
                f"{shift.folder.root} has no class folders; a curve is fitted on labelled images."
            )
    if config.fit and len(shifts) < 4:
        raise ValueError(
            f"A curve takes 4 folders or more, got {len(shifts)}; name more --severities or "
            "--calibration corruptions."
        )
    return shifts


def default_run_dir(config: Config) -> Path:
    """Where a run goes if it is not said."""
    name = f"tta-{network_name(config.weights)}-{config.path.resolve().name}"
    return Path("runs") / (f"{name}-fit" if config.fit else name)


def _settings(
    config: Config, network: Network, checksum: int, shifts: list[Shift]
) -> dict[str, Any]:
    """All that the measurements depend on; the curve and its form are not among it."""
    return {
        "weights": checksum,
        "inputs": list(network.inputs),
        **config.adaptation,
        "seed": config.seed,
        "on_error": config.on_error,
        "folders": {str(shift): folder_checksum(shift.folder) for shift in shifts},
        "entropax": entropax.__version__,
    }


def main(args: Sequence[str] | None = None) -> None:
    """Run from the command line; wrong input ends with one sentence and exit code 2."""
    run_command(run, Config, tta_published, args)
