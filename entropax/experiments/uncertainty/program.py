"""The program from top to bottom."""

import contextlib
import dataclasses
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from rich.console import Console

import entropax
from entropax.experiments import uncertainty
from entropax.experiments.command_line import run_command
from entropax.experiments.device_options import (
    DeviceOptions,
    end_if_preempted,
    open_devices,
    watched,
)
from entropax.experiments.published_networks import InputOptions
from entropax.experiments.run_folder import RunFolder, open_run
from entropax.experiments.tables import make_console, make_progress
from entropax.experiments.uncertainty.classifiers import Checkpoints, Trained, Weights
from entropax.experiments.uncertainty.config import Config
from entropax.experiments.uncertainty.measure import difference, measure
from entropax.experiments.uncertainty.published import published_csv, published_row
from entropax.experiments.uncertainty.report import (
    Comparison,
    Report,
    make_report,
    ranking_table,
    summary,
    write_results,
)
from entropax.experiments.uncertainty.sources import Files, Outputs, Source

# Options that change no measurement: a finished run can be reported anew with them, or with more
# models. Which models there are, their files and the networks to train, is kept in each record.
_OMITTED = (
    *(field.name for field in dataclasses.fields(InputOptions)),
    *(field.name for field in dataclasses.fields(DeviceOptions)),
    *("run_dir", "data_dir", "path", "size", "outputs", "weights", "module", "checkpoints"),
    *("on_error", "networks", "sort_by"),
)


def run(config: Config, *, source: Source | None = None) -> Report:
    """Measure every model, report.

    Args:
      config: the options.
      source: models from elsewhere, in place of those that `config` names.

    Raises:
      FileNotFoundError: the data are not there; the message says where to put them.
      FloatingPointError: the training of a network failed.
      ValueError: the data, a file or the run folder do not fit the settings; with
        `on_error="skip"`, only if no model is left.
    """
    mesh = open_devices(config)
    path = config.run_dir or Path("runs") / f"uncertainty-{_of_what(config)}-seed{config.seed}"
    path = path.expanduser()
    with watched(config) as sign:
        source = source or _source(config, path, mesh, sign)
        return _report(config, source, path, sign)


def _source(config: Config, path: Path, mesh: Mesh | None, sign: Callable[[str], None]) -> Source:
    """The models that the options name."""
    if config.outputs is not None:
        return Files(config.outputs)
    if config.weights:
        return Weights(config, mesh=mesh, on_batch=sign)
    if config.checkpoints:
        return Checkpoints(config)
    return Trained(config, path / "networks")


def _report(config: Config, source: Source, path: Path, sign: Callable[[str], None]) -> Report:
    """Measure what has not been measured yet, write and print."""
    settings = {k: v for k, v in dataclasses.asdict(config).items() if k not in _OMITTED}
    if not isinstance(source, Trained):
        settings = {k: v for k, v in settings.items() if k not in ("data", "max_train", "epochs")}
    settings |= {**source.settings, "entropax": entropax.__version__}
    folder = open_run(path, settings)
    records, skipped = _measure_all(config, source, folder, sign)
    if not records:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(skipped.items())[:3])
        raise ValueError(f"None of the {len(source.names)} models could be measured. {reasons}")
    report = make_report(config, records, skipped, title=source.title)
    if len(report.rows) > 1:
        report = report._replace(comparison=_compare(config, source, report))
    write_results(folder, report)
    if config.compat == "reference":
        folder.write("published.csv", published_csv(records))
    _show(report, folder)
    return report


def _of_what(config: Config) -> str:
    if config.outputs is not None:
        return config.outputs.resolve().name
    if config.checkpoints:
        return f"{config.data}-checkpoints"
    if config.weights and config.path is not None and config.data == "folder":
        return f"{config.path.resolve().name}-weights"
    return f"{config.data}-weights" if config.weights else config.data


def _measure_all(
    config: Config, source: Source, folder: RunFolder, sign: Callable[[str], None]
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Records of all models in the order of the source, and why some have none."""
    known = {record["model"]: record for record in folder.records()}
    first = _first_standing(source, known)
    records, skipped = [], {}
    with make_progress() as progress:
        for number, name in enumerate(progress.track(source.names, description="Models")):
            end_if_preempted(number)
            sign(f"the models before {name}")
            try:
                identity = source.identity(name)
                record = known.get(name)
                if record is None or record["identity"] != identity:
                    outputs = source.load(name)
                    labels = _checksum(outputs)
                    first = first or (name, labels)
                    _require_same_labels(name, labels, *first)
                    record = {
                        "model": name,
                        "identity": identity,
                        "labels": labels,
                        "about": outputs.about,
                        **measure(config, outputs),
                    }
                    if config.compat == "reference":
                        record["published"] = published_row(config, name, outputs)
                    folder.append(record)
            except ValueError as error:
                # One of several processes may be alone with it, and cannot go on by itself.
                if config.on_error == "stop" or jax.distributed.is_initialized():
                    raise
                skipped[name] = str(error)
            else:
                records.append(record)
    return records, skipped


def _first_standing(
    source: Source, known: dict[str, dict[str, Any]]
) -> tuple[str, list[int]] | None:
    """The first model whose measurement stands, and its labels; of a changed one nothing counts."""
    for name in source.names:
        # What cannot be read is met again, and reported, when its turn comes.
        with contextlib.suppress(ValueError, OSError):
            if name in known and known[name]["identity"] == source.identity(name):
                return name, known[name]["labels"]
    return None


def _checksum(outputs: Outputs) -> list[int]:
    """Number and checksum of the labels."""
    return [len(outputs.labels), zlib.crc32(outputs.labels.astype("<i4").tobytes())]


def _require_same_labels(name: str, labels: list[int], first: str, expected: list[int]) -> None:
    if labels != expected:
        raise ValueError(
            f"{name}: the labels of its {labels[0]} examples are not those on which {first} was "
            f"measured ({expected[0]} examples). Models are compared on the same examples in the "
            "same order. If you have corrected labels, correct them for every model; where the "
            "measurements before cannot tell, give another --run-dir."
        )


def _compare(config: Config, source: Source, report: Report) -> Comparison | None:
    """The best model with the next, example by example; None if one of them has no value."""
    best = report.sorted_rows()[:2]
    if any(row[config.sort_by] is None for row in best):
        return None
    first, second = (row["model"] for row in best)
    found = difference(config, config.sort_by, source.load(first), source.load(second))
    numbers = (found.value, found.lower, found.upper, found.p_value)
    return Comparison(first, second, *map(float, numbers))


def _show(report: Report, folder: RunFolder) -> None:
    console: Console = make_console()
    console.print(ranking_table(report))
    for line in summary(report):
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    console.print(folder.listing(), soft_wrap=True, highlight=False, markup=False)


def main(args: Sequence[str] | None = None) -> None:
    """Run from the command line; wrong input ends with one sentence and exit code 2."""
    run_command(run, Config, uncertainty, args)
