"""What the study found: rows, correlations, a table, a figure."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from rich.table import Table

from entropax.experiments import study_figures
from entropax.experiments.diffusion_models.config import Config
from entropax.experiments.diffusion_models.measure import quantities
from entropax.experiments.intervals import Bootstrap
from entropax.experiments.run_folder import RunFolder
from entropax.experiments.tables import csv_text, with_interval

_SHOWN = ("dsmi_labels", "adjusted", "dse")


class Report(NamedTuple):
    """What was measured, and what it amounts to.

    Attributes:
      config: of the run.
      rows: one dictionary for each model, the columns of results.csv. Entropies are in nats,
        accuracies in [0, 1].
      correlations: one for each group of models and each quantity, the columns of correlations.csv:
        Pearson's and Spearman's correlation with the accuracy, with intervals; NaN for a quantity
        that is the same for all models or unknown.
    """

    config: Config
    rows: list[dict[str, Any]]
    correlations: list[dict[str, Any]]

    def groups(self) -> list[str]:
        """The draws of models, or "files"."""
        return list(dict.fromkeys(row["group"] for row in self.rows))

    def column(self, group: str, name: str) -> Float[np.ndarray, " m"]:
        """One column of `rows`, of one group; NaN for what is unknown."""
        values = [row[name] for row in self.rows if row["group"] == group]
        return np.array([np.nan if value is None else value for value in values], float)

    def correlation(self, group: str, quantity: str) -> dict[str, Any]:
        """One of the correlations."""
        (found,) = (
            row for row in self.correlations if (row["group"], row["quantity"]) == (group, quantity)
        )
        return found


def make_report(config: Config, records: list[dict[str, Any]]) -> Report:
    """Put the records of a finished run together."""
    rows = [{**record.pop("about"), **record} for record in map(dict, records)]
    names = ("group", "model", "accuracy")
    rows = [{**{k: row[k] for k in names}, **row} for row in rows]
    report = Report(config, rows, [])
    for group in report.groups():
        accuracy = report.column(group, "accuracy")
        bootstrap = Bootstrap(
            {"models": len(accuracy)},
            1,
            resamples=config.resamples,
            level=config.level,
            seed=config.seed,
        )
        for quantity in quantities(config.sigma):
            values = report.column(group, quantity)
            known = np.isfinite(values).all()
            x = values if known else np.zeros_like(values)  # a constant has no correlation
            pearson, spearman = bootstrap.correlations(
                {"models": x[:, None]}, {"models": accuracy[:, None]}, of_means=False
            )
            report.correlations.append(
                {
                    "group": group,
                    "models": len(accuracy),
                    "quantity": quantity,
                    **{
                        f"{name}{end}": value
                        for name, estimate in (("pearson", pearson), ("spearman", spearman))
                        for end, value in zip(("", "_lower", "_upper"), estimate, strict=True)
                    },
                }
            )
    return report


def _estimate(row: dict[str, Any], name: str) -> tuple[float, float, float]:
    return row[name], row[f"{name}_lower"], row[f"{name}_upper"]


def write_results(folder: RunFolder, report: Report) -> None:
    """Write the tables and draw the figure."""
    folder.write("results.csv", csv_text(report.rows))
    folder.write("correlations.csv", csv_text(report.correlations))
    config, (first, *_) = report.config, report.groups()
    names = quantities(config.sigma)
    shown = [f"{name}_{config.sigma[0]}" for name in _SHOWN] + ["neighbour_accuracy"]
    accuracy = report.column(first, "accuracy")
    with folder.replacing("correlations.png") as partial:
        study_figures.draw_correlations(
            partial,
            groups={
                group: {
                    name.replace("_", " "): np.array(
                        _estimate(report.correlation(group, name), "spearman")
                    )
                    for name in names
                }
                for group in report.groups()
            },
            scatter={
                name.replace("_", " "): (report.column(first, name), accuracy) for name in shown
            },
            level=config.level,
            title=_title(report),
        )


def _title(report: Report) -> str:
    config = report.config
    if config.features is not None:
        return f"{len(report.rows)} models of {config.features.name}"
    return f"{config.data}, seed {config.seed}: {config.models} networks in each draw"


def correlation_table(report: Report) -> Table:
    """Correlations of every quantity with the accuracy, for each group of models."""
    groups = report.groups()
    table = Table(
        title=f"{_title(report)}: correlation with accuracy",
        caption=f"[{report.config.level:.0%} intervals] from resampling models. A dash: the same "
        "value for every model, or unknown.",
        caption_justify="left",
    )
    table.add_column("quantity")
    for group in groups:
        for name in ("Spearman", "Pearson"):
            table.add_column(f"{group}\n{name}", justify="right")
    for quantity in quantities(report.config.sigma):
        cells = [
            with_interval(_estimate(report.correlation(group, quantity), name), sign="+")
            for group in groups
            for name in ("spearman", "pearson")
        ]
        table.add_row(quantity.replace("_", " "), *cells)
    return table
