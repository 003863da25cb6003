"""What the study found: rows, a summary with intervals, a table, a figure."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from rich.table import Table

from entropax.experiments import checkpoint_figures
from entropax.experiments.checkpointing.config import Config
from entropax.experiments.checkpointing.measure import CRITERIA
from entropax.experiments.intervals import Bootstrap
from entropax.experiments.run_folder import RunFolder
from entropax.experiments.tables import csv_text, with_interval

BASELINE = "val_accuracy"
ORACLE = "oracle"


class Report(NamedTuple):
    """What was measured, and what it amounts to.

    Attributes:
      config: of the run.
      rows: one dictionary for each network and criterion, the columns of results.csv: the epoch of
        the checkpoint, the value it was kept by, and its accuracy on the test images. The criterion
        `oracle` is the best epoch by these very images.
      summary: one for each share of wrong labels and each criterion, the columns of summary.csv:
        means with intervals, and the difference from `val_accuracy` of the same networks.
      curves: for each share of wrong labels and each name, `[seeds, steps]`.
    """

    config: Config
    rows: list[dict[str, Any]]
    summary: list[dict[str, Any]]
    curves: dict[float, dict[str, np.ndarray]]

    def accuracy(self, noise: float, criterion: str) -> Float[np.ndarray, " seeds"]:
        """Test accuracy of the checkpoints of one criterion."""
        return self.column(noise, criterion, "test_accuracy")

    def column(self, noise: float, criterion: str, name: str) -> Float[np.ndarray, " seeds"]:
        """One column of `rows`, a number for each network."""
        wanted = (noise, criterion)
        found = [row[name] for row in self.rows if (row["noise"], row["criterion"]) == wanted]
        return np.array(found, float)

    def of(self, noise: float, criterion: str) -> dict[str, Any]:
        """One row of `summary`."""
        wanted = (noise, criterion)
        (found,) = (r for r in self.summary if (r["noise"], r["criterion"]) == wanted)
        return found


def make_report(config: Config, records: list[dict[str, Any]]) -> Report:
    """Put the records of a finished run together."""
    rows: list[dict[str, Any]] = []
    curves: dict[float, dict[str, np.ndarray]] = {}
    for record in records:
        measured = record["curves"]
        best = int(np.argmax(measured["test_accuracy"]))
        step, accuracy = measured["step"][best], measured["test_accuracy"][best]
        oracle = {"step": step, "value": accuracy, "test_accuracy": accuracy}
        rows += [
            {"noise": record["noise"], "seed": record["seed"], "criterion": name, **choice}
            for name, choice in {**record["chosen"], ORACLE: oracle}.items()
        ]
    for noise in config.noise:
        of_noise = [record["curves"] for record in records if record["noise"] == noise]
        curves[noise] = {
            name: np.array([each[name] for each in of_noise], float) for name in of_noise[0]
        }
    report = Report(config, rows, [], curves)
    bootstrap = Bootstrap(
        {"networks": 1},
        config.seeds,
        resamples=config.resamples,
        level=config.level,
        seed=config.seed,
    )
    for noise in config.noise:
        baseline = report.accuracy(noise, BASELINE)[None]
        for name in (*CRITERIA, ORACLE):
            accuracy = report.accuracy(noise, name)[None]
            mean = bootstrap.mean("networks", accuracy)
            gain = bootstrap.difference(("networks", "networks"), (accuracy, baseline))
            report.summary.append(
                {
                    "noise": noise,
                    "criterion": name,
                    "networks": accuracy.size,
                    "mean_step": float(report.column(noise, name, "step").mean()),
                    **dict(
                        zip(("accuracy", "accuracy_lower", "accuracy_upper"), mean, strict=True)
                    ),
                    **dict(zip(("gain", "gain_lower", "gain_upper"), gain, strict=True)),
                }
            )
    return report


def _estimate(row: dict[str, Any], name: str) -> tuple[float, float, float]:
    return row[name], row[f"{name}_lower"], row[f"{name}_upper"]


def write_results(folder: RunFolder, report: Report) -> None:
    """Write the tables and draw the figure."""
    folder.write("results.csv", csv_text(report.rows))
    folder.write("summary.csv", csv_text(report.summary))
    names = (*CRITERIA, ORACLE)
    with folder.replacing("checkpointing.png") as partial:
        checkpoint_figures.draw_checkpointing(
            partial,
            accuracy={
                noise: {name: report.accuracy(noise, name) for name in names}
                for noise in report.config.noise
            },
            means={
                noise: {name: _estimate(report.of(noise, name), "accuracy") for name in names}
                for noise in report.config.noise
            },
            curves={
                noise: {name: values[0] for name, values in curves.items()}
                for noise, curves in report.curves.items()
            },
            chosen={
                noise: {name: int(report.column(noise, name, "step")[0]) for name in CRITERIA}
                for noise in report.config.noise
            },
            level=report.config.level,
            title=_title(report.config),
        )


def _title(config: Config) -> str:
    return (
        f"{config.data}, seed {config.seed}: {config.seeds} networks for each share of wrong "
        f"labels, {config.validation_labels} validation labels"
    )


def summary_table(report: Report) -> Table:
    """Accuracy of every criterion, and how much it gains on the accuracy of validation."""
    table = Table(
        title=f"{_title(report.config)}\ntest accuracy in percent of the checkpoint kept by",
        caption=f"[{report.config.level:.0%} intervals] from resampling networks. gain: on "
        f"{BASELINE}, in points, network by network; oracle: the best by the test images.",
        caption_justify="left",
    )
    table.add_column("criterion", no_wrap=True)
    for noise in report.config.noise:
        for name in (f"{noise:.0%} wrong", "gain"):
            table.add_column(name, justify="right", no_wrap=True)
    for criterion in (*CRITERIA, ORACLE):
        cells = []
        for noise in report.config.noise:
            row = report.of(noise, criterion)
            gain = with_interval(_estimate(row, "gain"), scale=100, digits=1, sign="+")
            cells += [f"{100 * row['accuracy']:.1f}", "" if criterion == BASELINE else gain]
        table.add_row(criterion, *cells)
    return table
