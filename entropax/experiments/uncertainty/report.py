"""What the models amount to: rows, correlations, a ranking, figures."""

import itertools
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from rich.markup import escape
from rich.table import Table

from entropax.experiments import uncertainty_figures
from entropax.experiments.intervals import Bootstrap, Estimate
from entropax.experiments.run_folder import RunFolder
from entropax.experiments.tables import csv_text, with_interval
from entropax.experiments.uncertainty.config import HIGHER, Config

_PANELS = 8
_CURVES = 12


class Comparison(NamedTuple):
    """A column of the best model less that of the next, by the same examples.

    Attributes:
      first: the best model.
      second: the next.
      value: the difference.
      lower: lower end of its interval.
      upper: upper end.
      p_value: of the hypothesis that there is none.
    """

    first: str
    second: str
    value: float
    lower: float
    upper: float
    p_value: float


class Report(NamedTuple):
    """What was measured.

    Attributes:
      config: of the run.
      title: of the data.
      rows: one dictionary for each model, the columns of results.csv: each metric, `_ts` of it
        after temperature scaling, with the ends `_lower` and `_upper` of its interval. None for
        what does not exist, such as the AUROC of a model without errors.
      changes: one for each model and metric, the columns of temperature_scaling.csv.
      correlations: one for each pair of metrics, the columns of correlations.csv: Spearman's rank
        correlation over the models.
      curves: for each model, plain (`""`) and scaled (`"_ts"`), arrays by name: `coverage` and
        `risk`; `confidence`, `bin_accuracy` with its interval `bin_lower` to `bin_upper`, and
        `bin_count` of the reliability diagram.
      skipped: why models were left out, by name.
      comparison: the best model with the next; None if there is only one.
    """

    config: Config
    title: str
    rows: list[dict[str, Any]]
    changes: list[dict[str, Any]]
    correlations: list[dict[str, Any]]
    curves: dict[str, dict[str, dict[str, Float[np.ndarray, " k"]]]]
    skipped: dict[str, str]
    comparison: Comparison | None = None

    def column(self, name: str) -> Float[np.ndarray, " m"]:
        """A column of `rows`, NaN for what does not exist."""
        values = [row[name] for row in self.rows]
        return np.array([np.nan if value is None else value for value in values], float)

    def sorted_rows(self) -> list[dict[str, Any]]:
        """The rows from the best by `sort_by` to the worst, then those that have no value."""
        name = self.config.sort_by
        sign = -1 if name.startswith(HIGHER) else 1
        values = sign * self.column(name)
        return [self.rows[i] for i in np.argsort(values, kind="stable")]  # NaN comes last

    def correlation(self, first: str, second: str) -> Estimate:
        """Rank correlation of two columns over the models."""
        (row,) = (r for r in self.correlations if {r["first"], r["second"]} == {first, second})
        return Estimate(*(row[f"spearman{end}"] for end in ("", "_lower", "_upper")))


def make_report(
    config: Config, records: list[dict[str, Any]], skipped: dict[str, str], *, title: str
) -> Report:
    """Put the records of a finished run together."""
    rows, changes = [], []
    for record in records:
        names = ("classes", "fitted", "measured", "temperature", "temperature_status")
        row = {"model": record["model"], **record["about"]}
        row |= {name: record[name] for name in names}
        for name, suffix in itertools.product(config.metrics, ("", "_ts")):
            column = name + suffix
            for end, value in zip(("", "_lower", "_upper"), record["values"][column], strict=True):
                row[column + end] = value
        rows.append(row)
        for name in config.metrics:
            value, lower, upper = record["values"][f"{name}_change"]
            changes.append(
                {
                    "model": record["model"],
                    "metric": name,
                    "plain": row[name],
                    "scaled": row[f"{name}_ts"],
                    "change": value,
                    "change_lower": lower,
                    "change_upper": upper,
                }
            )
    curves = {
        record["model"]: {
            suffix: {name: np.array(values, float) for name, values in of.items()}
            for suffix, of in record["curves"].items()
        }
        for record in records
    }
    report = Report(config, title, rows, changes, [], curves, skipped)
    return report._replace(correlations=_correlations(report))


def _correlations(report: Report) -> list[dict[str, Any]]:
    """Of all pairs of metrics before scaling, over the models that have both."""
    config = report.config
    found = []
    for first, second in itertools.combinations(config.metrics, 2):
        x, y = report.column(first), report.column(second)
        known = np.isfinite(x) & np.isfinite(y)
        estimate = Estimate(np.nan, np.nan, np.nan)
        if known.sum() > 1:
            bootstrap = Bootstrap(
                {"models": int(known.sum())},
                1,
                resamples=config.resamples,
                level=config.level,
                seed=config.seed,
            )
            tables = ({"models": column[known][:, None]} for column in (x, y))
            _, estimate = bootstrap.correlations(*tables, of_means=False)
        found.append(
            {
                "first": first,
                "second": second,
                "models": int(known.sum()),
                **{
                    f"spearman{end}": value
                    for end, value in zip(("", "_lower", "_upper"), estimate, strict=True)
                },
            }
        )
    return found


def _estimate(row: dict[str, Any], name: str) -> tuple[float, float, float]:
    values = (row[name + end] for end in ("", "_lower", "_upper"))
    value, lower, upper = (np.nan if v is None else v for v in values)
    return value, lower, upper


def write_results(folder: RunFolder, report: Report) -> None:
    """Write the tables and draw the figures."""
    folder.write("results.csv", csv_text(report.rows))
    folder.write("temperature_scaling.csv", csv_text(report.changes))
    folder.write("correlations.csv", csv_text(report.correlations))
    names = [row["model"] for row in report.sorted_rows()]
    title = _title(report)
    with folder.replacing("risk_coverage.png") as partial:
        uncertainty_figures.draw_risk_coverage(
            partial,
            curves={
                name: (report.curves[name][""]["coverage"], report.curves[name][""]["risk"])
                for name in _spread(names, _CURVES)
            },
            accuracy=np.array([_estimate(row, "accuracy") for row in report.rows]),
            auroc=np.array([_estimate(row, "auroc") for row in report.rows]),
            names=[row["model"] for row in report.rows],
            level=report.config.level,
            title=title,
        )
    with folder.replacing("reliability.png") as partial:
        uncertainty_figures.draw_reliability(
            partial,
            models={name: report.curves[name] for name in _spread(names, _PANELS)},
            errors={
                row["model"]: (_estimate(row, "ece")[0], _estimate(row, "ece_ts")[0])
                for row in report.rows
            },
            level=report.config.level,
            title=title,
        )


def _spread(names: list[str], most: int) -> list[str]:
    """The best, the worst, and as many in between as there is room for."""
    places = np.linspace(0, len(names) - 1, min(most, len(names))).round().astype(int)
    return [names[i] for i in places]


def _title(report: Report) -> str:
    examples = report.rows[0]["measured"]
    return f"{report.title}: {len(report.rows)} models on {examples} examples"


def ranking_table(report: Report) -> Table:
    """The models from the best to the worst."""
    config = report.config
    coverage = f"coverage_at_{max(config.accuracies):g}" if config.accuracies else None
    columns = [
        ("accuracy", 100, 1),
        ("auroc", 100, 1),
        ("aurc", 1000, 1),
        *([(coverage, 100, 0)] if coverage else []),
        ("ece", 100, 1),
    ]
    shown = config.sort_by
    if shown not in [name for name, *_ in columns]:
        columns.append((shown, 1, 3))
    table = Table(
        title=f"{_title(report)}, by {shown.replace('_', ' ')}",
        caption=f"[{config.level:.0%} intervals] from resampling examples. Accuracy, AUROC, "
        "coverage and ECE in percent, AURC in thousandths. The last two columns are after "
        "temperature scaling.",
        caption_justify="left",
    )
    table.add_column("model", no_wrap=True)
    words = {1: "", 100: " %", 1000: " x1000"}
    for name, scale, _ in columns:
        table.add_column(name.replace("_", " ") + words[scale], justify="right")
    table.add_column("T", justify="right")
    table.add_column("ece ts %", justify="right")
    for row in report.sorted_rows():
        cells = [
            with_interval(_estimate(row, name), scale=scale, digits=digits, between="\n")
            for name, scale, digits in columns
        ]
        fit = "-" if row["temperature"] is None else f"{row['temperature']:.3g}"
        if row["temperature_status"] != "converged":
            fit += f"\n{row['temperature_status']}"
        scaled = with_interval(_estimate(row, "ece_ts"), scale=100, digits=1, between="\n")
        table.add_row(escape(row["model"]), *cells, fit, scaled)
    return table


def summary(report: Report) -> list[str]:
    """What the table does not show: correlations, the comparison, what was left out."""
    lines = []
    level = f"{report.config.level:.0%}"
    if len(report.rows) > 2:
        pairs = [("auroc", "accuracy"), ("auroc", "ece"), ("ece", "accuracy")]
        found = [(pair, report.correlation(*pair)) for pair in pairs]
        parts = [
            f"{first} and {second} {e.value:+.2f} [{e.lower:+.2f}, {e.upper:+.2f}]"
            for (first, second), e in found
            if np.isfinite(e.value)
        ]
        lines.append(f"Rank correlations over the models, {level}: {', '.join(parts) or 'none'}.")
    if (c := report.comparison) is not None:
        lines.append(
            f"{report.config.sort_by} of {c.first} less that of {c.second}, on the same examples: "
            f"{c.value:+.4f} [{c.lower:+.4f}, {c.upper:+.4f}], p = {c.p_value:.3g}."
        )
    lines += [f"skipped {name}: {why}" for name, why in report.skipped.items()]
    return lines
