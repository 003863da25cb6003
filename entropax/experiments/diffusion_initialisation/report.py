"""What the study found: rows, correlations, tables, a figure."""

import math
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from rich.table import Table

from entropax.experiments import study_figures
from entropax.experiments.diffusion_initialisation.config import Config
from entropax.experiments.intervals import Bootstrap, Estimate
from entropax.experiments.run_folder import RunFolder
from entropax.experiments.tables import csv_text, with_interval

QUANTITIES = (
    "running_dse",
    "running_dse_median",
    "running_distance",
    "batch_dse",
    "batch_dse_median",
    "batch_distance",
)
OUTCOMES = ("first_accuracy", "final_accuracy", "first_batch_accuracy", "final_batch_accuracy")


class Report(NamedTuple):
    """What was measured, and what it amounts to.

    Attributes:
      config: of the run.
      rows: one dictionary for each network and epoch, the columns of results.csv; epoch 0 is before
        training. Entropies are in nats; `running` and `batch` say which statistics the BatchNorm
        layers used.
      correlations: one for each pair of a quantity before training and an accuracy after the first
        or the last epoch, the columns of correlations.csv; none without training.
    """

    config: Config
    rows: list[dict[str, Any]]
    correlations: list[dict[str, Any]]

    def table(self, name: str, epoch: int) -> Float[np.ndarray, "stds networks"]:
        """One column of `rows` after one epoch."""
        found = {(r["std"], r["network"]): r[name] for r in self.rows if r["epoch"] == epoch}
        return np.array(
            [[found[std, k] for k in range(self.config.networks)] for std in self.config.std]
        )


def make_report(config: Config, records: list[dict[str, Any]]) -> Report:
    """Put the records of a finished run together."""
    rows = [
        {"std": record["std"], "network": record["network"], "epoch": epoch, **values}
        for record in records
        for epoch, values in enumerate(record["epochs"])
    ]
    report = Report(config, rows, [])
    if config.epochs == 0:
        return report
    bootstrap = Bootstrap(
        {"std": len(config.std)},
        config.networks,
        resamples=config.resamples,
        level=config.level,
        seed=config.seed,
    )
    for quantity in QUANTITIES:
        for outcome in OUTCOMES:
            x, y = report.table(quantity, 0), _outcome(report, outcome)
            pearson, spearman = bootstrap.correlations({"std": x}, {"std": y}, of_means=False)
            report.correlations.append(
                {
                    "quantity": quantity,
                    "outcome": outcome,
                    **_columns("pearson", pearson),
                    **_columns("spearman", spearman),
                }
            )
    return report


def _outcome(report: Report, name: str) -> Float[np.ndarray, "stds networks"]:
    when, _, kind = name.removesuffix("_accuracy").partition("_")
    epoch = 1 if when == "first" else report.config.epochs
    return report.table(f"{kind or 'running'}_accuracy", epoch)


def _columns(name: str, estimate: Estimate) -> dict[str, float]:
    return {
        name: estimate.value,
        f"{name}_lower": estimate.lower,
        f"{name}_upper": estimate.upper,
    }


def write_results(folder: RunFolder, report: Report, probe: int) -> None:
    """Write the tables and draw the figure."""
    folder.write("results.csv", csv_text(report.rows))
    if report.correlations:
        folder.write("correlations.csv", csv_text(report.correlations))
    config = report.config
    with folder.replacing("initialisation.png") as partial:
        study_figures.draw_initialisation(
            partial,
            std=np.array(config.std),
            before={name: report.table(name, 0) for name in QUANTITIES},
            accuracy=_curves(report),
            largest=math.log(probe),
            sigma=config.sigma,
            title=f"{config.data}, seed {config.seed}: residual network "
            f"{'-'.join(map(str, config.widths))}, {config.networks} networks for each std",
        )


def _curves(report: Report) -> dict[str, dict[float, Float[np.ndarray, "epochs networks"]]]:
    """Accuracies after every epoch, by the statistics used and by std; none without training."""
    epochs = range(1, report.config.epochs + 1)
    curves = {}
    for words, name in (("running statistics", "running"), ("statistics of the batch", "batch")):
        if epochs:
            tables = np.array([report.table(f"{name}_accuracy", epoch) for epoch in epochs])
            curves[words] = {std: tables[:, i] for i, std in enumerate(report.config.std)}
    return curves


def initial_table(report: Report) -> Table:
    """Means over networks before training, and accuracies after it."""
    config = report.config
    table = Table(
        title=f"{config.data}, seed {config.seed}: before training, mean of {config.networks} "
        "networks",
        caption="DSE in nats. Evaluation: BatchNorm as it was made, doing nothing; batch: by the "
        "statistics of the images measured. Accuracies on other images, in percent, by running "
        "statistics | those of the batch.",
        caption_justify="left",
    )
    sigma = f"{config.sigma:g}"
    headings = ["median\ndistance", f"DSE\nsigma {sigma}", "DSE\nsigma median"]
    table.add_column("std")
    for kind in ("evaluation", "batch"):
        for heading in headings:
            table.add_column(f"{kind}\n{heading}", justify="right")
    if config.epochs:
        table.add_column("accuracy,\nepoch 1", justify="right")
        table.add_column(f"accuracy,\nepoch {config.epochs}", justify="right")
    means = {name: report.table(name, 0).mean(1) for name in QUANTITIES}
    for i, std in enumerate(config.std):
        cells = []
        for kind in ("running", "batch"):
            cells.append(f"{means[f'{kind}_distance'][i]:.2g}")
            cells += [f"{means[f'{kind}_{name}'][i]:.3g}" for name in ("dse", "dse_median")]
        if config.epochs:
            for when in ("first", "final"):
                pair = (
                    100 * _outcome(report, f"{when}_{kind}accuracy")[i].mean()
                    for kind in ("", "batch_")
                )
                cells.append(" | ".join(f"{value:.1f}" for value in pair))
        table.add_row(f"{std:g}", *cells)
    return table


def correlation_table(report: Report) -> Table:
    """Spearman's correlations of what was measured before training with the accuracy after it."""
    config = report.config
    table = Table(
        title=f"Rank correlation over {len(config.std) * config.networks} networks",
        caption=f"[{config.level:.0%} intervals] from resampling the values of std and the "
        "networks; Pearson's: correlations.csv",
        caption_justify="left",
    )
    table.add_column("before training")
    for outcome in OUTCOMES:
        table.add_column(outcome.replace("_", " "), justify="right")
    for quantity in QUANTITIES:
        cells = [
            with_interval(
                tuple(row[f"spearman{end}"] for end in ("", "_lower", "_upper")), sign="+"
            )
            for row in report.correlations
            if row["quantity"] == quantity
        ]
        table.add_row(quantity.replace("_", " "), *cells)
    return table
