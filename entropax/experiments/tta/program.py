"""The program from top to bottom."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from rich.progress import Progress

import entropax
from entropax import distributed
from entropax.checkpoint import restore_variables, save_variables
from entropax.data import ImageSet
from entropax.experiments import tta
from entropax.experiments.command_line import run_command
from entropax.experiments.device_options import (
    DeviceOptions,
    check_divisible,
    end_if_preempted,
    open_devices,
    watched,
)
from entropax.experiments.run_folder import RunFolder, open_run
from entropax.experiments.shifted_images import (
    ImageSets,
    checksum,
    load_sets,
    planned_splits,
    shifted_images,
)
from entropax.experiments.tables import make_console, make_progress
from entropax.experiments.tta.config import Config
from entropax.experiments.tta.measure import build_adapter, build_observer, measure
from entropax.experiments.tta.report import (
    Report,
    make_report,
    summary_table,
    target_line,
    write_predictions,
    write_results,
)
from entropax.models import ConvNet, fit_classifier
from entropax.types import Variables

# Options that change neither network nor adaptation: a finished run can be reported anew with them.
_OF_THE_REPORT = ("run_dir", "target", "corruptions", "estimate", "flips", "form", "level")
_OF_THE_DEVICES = tuple(field.name for field in dataclasses.fields(DeviceOptions))
# Where the data are; what they are is told by their checksums.
_OF_THE_DATA = ("data_dir", "path", "size")


def run(config: Config) -> Report:
    """Train or load the source network, adapt to every split, fit the curve, report.

    Raises:
      FileNotFoundError: the data are not there; the message says where to put them.
      FloatingPointError: a step was not finite; finished splits are kept.
      ValueError: the data or the run folder do not fit the settings.
    """
    mesh = open_devices(config)
    check_divisible(config.batch_size, mesh)
    sets = load_sets(config)
    assert sets.train is not None
    splits = list(planned_splits(config, sets))
    path = config.run_dir or Path("runs") / f"tta-{config.data}-seed{config.seed}"
    folder = open_run(path, _settings(config, sets))
    console = make_console()
    with make_progress() as progress, watched(config) as sign:
        module, variables = _source_network(config, sets.train, folder, progress, mesh)
        adapter = build_adapter(config, module, variables, sets.validation)
        observe = build_observer(adapter, module, mesh)
        done = {tuple(record["split"]) for record in folder.records()}
        task = progress.add_task("Adapting", total=len(splits))
        for number, split in enumerate(splits):
            end_if_preempted(number)
            if tuple(split) not in done:
                progress.update(task, description=f"Adapting: {split}")
                images = shifted_images(config, sets, split, seed=config.seed)
                record, logits = measure(observe, variables, images, split, config)
                if split.family == "target":
                    write_predictions(folder, split, images, logits, sets.validation.class_names)
                folder.append(record)
            progress.advance(task)
            sign(f"{split.family} {split}")
        progress.update(task, description="Adapted")
    planned = {tuple(split) for split in splits}
    records = [
        record
        for record in folder.records()
        if tuple(record["split"]) in planned or record["split"][0] == "target"
    ]
    report = make_report(config, records)
    write_results(folder, report)
    if report.family("test"):
        console.print(summary_table(report))
    for split in splits:
        if split.family == "target":
            # The predictions in the file are the adapted network's: its accuracy is told as well.
            for estimate in dict.fromkeys((config.estimate, "adapted")):
                of_it = make_report(dataclasses.replace(config, estimate=estimate), records)
                console.print(target_line(of_it, split), highlight=False, soft_wrap=True)
            file = f"predictions-{split.name}.csv"
            console.print(f"adapted predictions: {path / file}", highlight=False, soft_wrap=True)
    console.print(f"{path}: results.csv, estimates.png, metrics.jsonl, config.json")
    return report


def _settings(config: Config, sets: ImageSets) -> dict[str, Any]:
    """All that the measurements depend on: options, and data by their content."""
    settings = dataclasses.asdict(config)
    for name in _OF_THE_REPORT + _OF_THE_DATA + _OF_THE_DEVICES:
        del settings[name]
    settings["method"] = {"name": type(config.method).__name__.lower(), **settings["method"]}
    settings["checksums"] = [checksum(images) for images in sets[:3] if images is not None]
    settings["entropax"] = entropax.__version__
    return settings


def _source_network(
    config: Config, train: ImageSet, folder: RunFolder, progress: Progress, mesh: Mesh | None
) -> tuple[ConvNet, Variables]:
    """The network of the run folder, trained first if it is not there yet; whole on each device."""
    assert train.labels is not None
    module = ConvNet(num_classes=len(train.class_names), features=config.features)
    key = jax.random.key(config.seed)
    checkpoint = folder.path / "source"
    if distributed.from_lead(checkpoint.exists()):
        example = jnp.zeros((1, *train.images.shape[1:]))
        like = jax.eval_shape(module.init, key, example)
        if mesh is not None:
            place = distributed.replicated_sharding(mesh)
            like = jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), like
            )
        return module, restore_variables(checkpoint, like)
    batch_size = min(128, len(train) // 10)
    epochs = config.epochs or max(4, -(-600 * batch_size // len(train)))
    task = progress.add_task("Training", total=epochs)
    variables = fit_classifier(
        key,
        module,
        train.images,
        train.labels,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=5e-3,
        shift=1,
        on_epoch=lambda epoch, loss: progress.update(
            task, completed=epoch, description=f"Training: loss {loss:.3f}"
        ),
    )
    if mesh is not None:
        # Devices of another kind round otherwise: what the first process has learnt is for all.
        variables = multihost_utils.broadcast_one_to_all(variables)
        variables = distributed.replicate(variables, mesh)
    save_variables(checkpoint, variables)
    return module, variables


def main(args: Sequence[str] | None = None) -> None:
    """Run from the command line; wrong input ends with one sentence and exit code 2."""
    run_command(run, Config, tta, args)
