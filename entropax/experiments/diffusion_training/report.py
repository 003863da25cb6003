"""What a study found: rows, summaries, tables, figures."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from rich.table import Table

from entropax.experiments import diffusion_figures
from entropax.experiments.diffusion_figures import Curves
from entropax.experiments.diffusion_training.config import Config
from entropax.experiments.diffusion_training.measure import record_epochs, sigma_name
from entropax.experiments.intervals import spearman
from entropax.experiments.run_folder import RunFolder
from entropax.experiments.tables import csv_text

_INFORMATION = ("dse", "dsmi_labels", "adjusted_labels", "dsmi_inputs")
_ACCURACIES = ("test_accuracy", "linear_accuracy")
_SUMMARISED = (*_INFORMATION, "binned_entropy", *_ACCURACIES)
# A classifier's own accuracy; without labels in training there is only the linear classifier's.
_RUN = ("train_loss", "train_accuracy", *_ACCURACIES)


class Report(NamedTuple):
    """What was measured, and what it amounts to.

    Attributes:
      config: of the run.
      rows: a dictionary for each network, epoch, layer and bandwidth, the columns of results.csv.
        Entropies and losses are in nats, accuracies in [0, 1]. `test_accuracy` is the network's own
        or, trained without labels, that of a linear classifier,
        `linear_accuracy`.
      summary: one for each network, objective, layer and bandwidth, the columns of summary.csv:
        for each quantity the mean over seeds before (`_start`) and after training (`_end`), the
        change with its range over seeds (`_change`, `_change_lower`, `_change_upper`), the number
        of seeds in which it rose (`_rose`), and Spearman's correlation over the epochs with both
        accuracies, as mean and range over seeds.
    """

    config: Config
    rows: list[dict[str, Any]]
    summary: list[dict[str, Any]]

    def curves(
        self, name: str, *, network: str, objective: str, layer: str = "last", sigma: str
    ) -> Float[np.ndarray, "seeds epochs"]:
        """One column of `rows` over `record_epochs`, a line for each seed; NaN where empty."""
        wanted = (network, objective, layer, sigma)
        values = {
            (row["seed"], row["epoch"]): row[name]
            for row in self.rows
            if tuple(row[k] for k in ("network", "objective", "layer", "sigma")) == wanted
        }
        return np.array(
            [
                [values[seed, epoch] for epoch in record_epochs(self.config)]
                for seed in self.config.seeds
            ],
            float,
        )

    @property
    def layers(self) -> list[str]:
        """Names of the layers, the last one last."""
        return list(dict.fromkeys(row["layer"] for row in self.rows))


def make_report(config: Config, records: list[dict[str, Any]]) -> Report:
    """Put the records of a finished run together."""
    wanted = [
        record
        for record in records
        if record["network"] in config.networks
        and record["objective"] in config.objectives
        and record["seed"] in config.seeds
    ]
    report = Report(config, [row for record in wanted for row in _rows(record)], [])
    for network in config.networks:
        for objective in config.objectives:
            for layer in report.layers:
                for sigma in map(sigma_name, config.sigma):
                    place = {
                        "network": network,
                        "objective": objective,
                        "layer": layer,
                        "sigma": sigma,
                    }
                    report.summary.append({**place, **_summary(report, place)})
    return report


def _rows(record: dict[str, Any]) -> Iterable[dict[str, Any]]:
    unit = {name: record[name] for name in ("network", "objective", "seed", "epoch", *_RUN)}
    for layer, of_layer in record["layers"].items():
        for sigma, values in of_layer["sigma"].items():
            values = dict(values)
            yield {
                **{name: unit[name] for name in ("network", "objective", "seed", "epoch")},
                "layer": layer,
                "width": of_layer["width"],
                "sigma": sigma,
                "bandwidth": values.pop("sigma"),
                **values,
                "binned_entropy": of_layer["binned_entropy"],
                **{name: unit[name] for name in _RUN},
            }


def _summary(report: Report, place: dict[str, str]) -> dict[str, Any]:
    columns: dict[str, Any] = {"seeds": len(report.config.seeds)}
    accuracies = {name: report.curves(name, **place) for name in _ACCURACIES}
    for name in _SUMMARISED:
        curves = report.curves(name, **place)
        change = curves[:, -1] - curves[:, 0]
        columns[f"{name}_start"] = float(np.mean(curves[:, 0]))
        columns[f"{name}_end"] = float(np.mean(curves[:, -1]))
        columns |= _with_range(f"{name}_change", change)
        columns[f"{name}_rose"] = int(np.sum(change > 0))
        if name not in _ACCURACIES:
            for accuracy, values in accuracies.items():
                columns |= _with_range(f"{name}_spearman_{accuracy}", spearman(curves, values))
    return columns


def _with_range(name: str, values: Float[np.ndarray, " seeds"]) -> dict[str, float]:
    """Mean and range; NaN if one is, as the correlation of a constant."""
    return {
        name: float(np.mean(values)),
        f"{name}_lower": float(np.min(values)),
        f"{name}_upper": float(np.max(values)),
    }


def write_results(folder: RunFolder, report: Report) -> None:
    """Write the tables and draw the figures."""
    folder.write("results.csv", csv_text(report.rows))
    folder.write("summary.csv", csv_text(report.summary))
    config = report.config
    sigmas = [sigma_name(sigma) for sigma in config.sigma]
    for network in config.networks:
        title = f"{config.data}, {network}: the last layer during training"
        panels = [
            [(name, f"sigma {sigma}", _curves(report, name, network, sigma=sigma)) for name in row]
            for sigma in sigmas
            for row in [("dse", "dsmi_labels", "adjusted_labels", "dsmi_inputs")]
        ]
        others = ("train_accuracy", "test_accuracy", "linear_accuracy", "binned_entropy")
        panels.append([(name, "", _curves(report, name, network)) for name in others])
        with folder.replacing(f"training-{network}.png") as partial:
            diffusion_figures.draw_curves(partial, panels=panels, title=title)
        if len(report.layers) > 1:
            panels = [
                [
                    (name, f"{layer}, sigma {s}", _curves(report, name, network, layer, s))
                    for name in ("dse", "dsmi_labels")
                    for s in sigmas
                ]
                for layer in report.layers
            ]
            title = f"{config.data}, {network}: layer by layer"
            with folder.replacing(f"layers-{network}.png") as partial:
                diffusion_figures.draw_curves(partial, panels=panels, title=title)


def _curves(
    report: Report, name: str, network: str, layer: str = "last", sigma: str | None = None
) -> Curves:
    """For each objective the epochs and the values."""
    sigma = sigma_name(report.config.sigma[0]) if sigma is None else sigma
    epochs = np.array(record_epochs(report.config))
    return {
        objective: (
            epochs,
            report.curves(name, network=network, objective=objective, layer=layer, sigma=sigma),
        )
        for objective in report.config.objectives
    }


def summary_table(report: Report, network: str) -> Table:
    """What became of the last layer in training, and how it went with the test accuracy."""
    config = report.config
    seeds = len(config.seeds)
    table = Table(
        title=f"{config.data}, {network}: last layer, before and after {config.amounts.epochs} "
        f"epochs ({seeds} seeds)",
        caption="Nats; mean change \\[lowest, highest of the seeds]; rho: Spearman's correlation "
        "with the test accuracy over the recorded epochs, mean of the seeds. The test accuracy of "
        "contrastive training is that of a linear classifier on the last layer.",
        caption_justify="left",
        pad_edge=False,
    )
    for heading in ("trained for", "sigma"):
        table.add_column(heading)
    for heading in (
        "test\naccuracy",
        "DSE\nchange",
        "rho",
        "DSMI(Z;Y)\nchange",
        "rho",
        "adjusted\nDSMI(Z;Y)",
        "DSMI(Z;X)\nchange",
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    rows = [r for r in report.summary if (r["network"], r["layer"]) == (network, "last")]
    for row in rows:
        table.add_row(
            row["objective"].replace("_", " "),
            row["sigma"],
            f"{100 * row['test_accuracy_start']:.0f} -> {100 * row['test_accuracy_end']:.0f} %",
            _change(row, "dse"),
            _rho(row, "dse"),
            _change(row, "dsmi_labels"),
            _rho(row, "dsmi_labels"),
            f"{row['adjusted_labels_start']:.2f} -> {row['adjusted_labels_end']:.2f}",
            _change(row, "dsmi_inputs"),
            end_section=row["sigma"] == sigma_name(config.sigma[-1]),
        )
    return table


def _change(row: dict[str, Any], name: str) -> str:
    value, lower, upper = (row[f"{name}_change{end}"] for end in ("", "_lower", "_upper"))
    return f"{value:+.2f}\n\\[{lower:+.2f}, {upper:+.2f}]"


def _rho(row: dict[str, Any], name: str) -> str:
    value = row[f"{name}_spearman_test_accuracy"]
    return "-" if np.isnan(value) else f"{value:+.2f}"
