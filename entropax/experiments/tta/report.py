"""What a run found: rows, a table, a figure, predictions."""

import csv
import io
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float
from rich.table import Table

from entropax.data import ImageSet
from entropax.estimation import FlipCurve, fit_flip_curve
from entropax.experiments.figures import draw_estimates
from entropax.experiments.run_folder import RunFolder
from entropax.experiments.shifted_images import Split
from entropax.experiments.tta.config import Config

_ESTIMATORS = {
    "label flips": "estimate",
    "average confidence": "confidence",
    "constant": "constant",
}


class Report(NamedTuple):
    """Estimates of every split but the calibration ones, and what they come from.

    Attributes:
      rows: one dictionary a split, the columns of results.csv. Rates are in [0, 1].
      curve: from flip rate to accuracy.
      config: of the run.
    """

    rows: list[dict[str, Any]]
    curve: FlipCurve
    config: Config

    def family(self, name: str) -> list[dict[str, Any]]:
        """The rows of one family: calibration, test or target."""
        return [row for row in self.rows if row["family"] == name]

    def errors(self) -> dict[str, Float[np.ndarray, " splits"]]:
        """Absolute error of each estimator on every test split."""
        test, truth = self.family("test"), self.config.estimate
        return {
            name: np.array([abs(row[column] - row[truth]) for row in test])
            for name, column in _ESTIMATORS.items()
        }

    def coverage(self) -> float:
        """Share of the test splits whose accuracy lies in its interval."""
        truth = self.config.estimate
        inside = [row["lower"] <= row[truth] <= row["upper"] for row in self.family("test")]
        return float(np.mean(inside))


def make_report(config: Config, records: list[dict[str, Any]]) -> Report:
    """Fit the curve on the calibration splits and estimate the accuracy of all others."""
    calibration = [record for record in records if record["split"][0] == "calibration"]
    flips = f"{config.flips}_flips"
    accuracies = np.array([record[config.estimate] for record in calibration])
    curve = fit_flip_curve(
        [record[flips] for record in calibration],
        accuracies,
        target=config.estimate,
        form=config.form,
    )
    rows = []
    for record in records:
        measured = {name: value for name, value in record.items() if name != "split"}
        row = {**Split(*record["split"])._asdict(), "seed": config.seed, **measured}
        row["confidence"] = record[f"{config.estimate}_confidence"]
        if row["family"] != "calibration":
            estimate = curve.estimate(
                record[flips], stderr=record[f"{flips}_stderr"], level=config.level
            )
            # Where no prediction was certain enough to learn from, none could flip either.
            idle = record["selected"] == 0
            row |= {
                "estimate_of": estimate.target,
                "estimate": float(estimate.value),
                "lower": 0.0 if idle else float(estimate.lower),
                "upper": 1.0 if idle else float(estimate.upper),
                "extrapolated": idle or bool(estimate.extrapolated),
                "level": config.level,
                "form": config.form,
                "flips": config.flips,
                "constant": float(accuracies.mean()),
            }
        rows.append(row)
    return Report(rows, curve, config)


def write_results(folder: RunFolder, report: Report) -> None:
    """Write results.csv and estimates.png."""
    names = list(dict.fromkeys(name for row in report.rows for name in row))
    out = io.StringIO()
    writer = csv.DictWriter(out, names, restval="", lineterminator="\n")
    writer.writeheader()
    for row in report.rows:
        writer.writerow({k: round(v, 6) if isinstance(v, float) else v for k, v in row.items()})
    folder.write("results.csv", out.getvalue())

    config, flips = report.config, f"{report.config.flips}_flips"

    def columns(family: str, *names: str) -> Float[np.ndarray, "columns splits"]:
        rows = [[row[name] for name in names] for row in report.family(family)]
        return np.array(rows, float).reshape(-1, len(names)).T

    with folder.replacing("estimates.png") as partial:
        draw_estimates(
            partial,
            curve=report.curve,
            calibration=columns("calibration", flips, config.estimate),
            test=columns("test", flips, config.estimate, "estimate", "lower", "upper"),
            confidence=columns("test", "confidence")[0],
            targets=columns("target", flips)[0],
            level=config.level,
            title=f"{config.data}, seed {config.seed}: accuracy of the network "
            f"({_words(config.estimate)}) from label flips",
        )


def write_predictions(
    folder: RunFolder,
    split: Split,
    target: ImageSet,
    logits: Float[np.ndarray, "n c"],
    classes: tuple[str, ...],
) -> None:
    """Write the adapted network's prediction for every image of a target, by file if it has one."""
    probs = np.asarray(jax.nn.softmax(logits))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["image", "class", "probability"])
    for name, row in zip(target.names or range(len(target)), probs, strict=True):
        writer.writerow([name, classes[int(np.argmax(row))], f"{row.max():.4f}"])
    folder.write(f"predictions-{split.name}.csv", out.getvalue())


def summary_table(report: Report) -> Table:
    """One line a test split; below it mean, median and worst error of each estimator."""
    config, errors = report.config, report.errors()
    level = f"{config.level:.0%}"
    table = Table(
        title=f"{config.data}, seed {config.seed}: accuracy in percent. "
        f"Estimates are of the column '{_words(config.estimate)}'.",
        caption_justify="left",
    )
    table.add_column("corruption")
    for heading in (
        "",
        "source",
        "batch\nstatistics",
        "adapted",
        f"label flips,\n{level} interval",
        "error",
        "average\nconfidence",
        "error",
    ):
        table.add_column(heading, justify="right")
    rows = report.family("test")
    for i, row in enumerate(rows):
        table.add_row(
            row["name"],
            str(row["severity"] or ""),
            *(_percent(row[name]) for name in ("source", "batch_statistics", "adapted")),
            _with_interval(row),
            _percent(errors["label flips"][i]),
            _percent(row["confidence"]),
            _percent(errors["average confidence"][i]),
            end_section=i + 1 == len(rows) or rows[i + 1]["name"] != row["name"],
        )
    width = np.mean([row["upper"] - row["lower"] for row in rows])
    lines = [
        "* more or fewer flips than on any calibration split: the interval is open to one side",
        f"{level} intervals hold {report.coverage():.0%} of {len(rows)} accuracies; mean width "
        f"{_percent(width)} points",
        "absolute error in points:",
        *(
            f"  {name}: mean {100 * error.mean():.2f}, median {100 * np.median(error):.2f}, "
            f"worst {100 * error.max():.2f}"
            for name, error in errors.items()
        ),
    ]
    idle = [f"{row['name']} {row['severity']}" for row in rows if row["selected"] == 0]
    if idle:
        lines.insert(
            1,
            f"nothing was learnt from {len(idle)} splits, no prediction being certain "
            f"enough: {', '.join(idle[:5])}",
        )
    table.caption = "\n".join(lines)
    return table


def target_line(report: Report, split: Split) -> str:
    """The one number with an interval that the user came for."""
    config = report.config
    (row,) = (row for row in report.family("target") if row["name"] == split.name)
    line = (
        f"{config.target}: accuracy ({_words(config.estimate)}) about {row['estimate']:.1%}, "
        f"{config.level:.0%} interval {row['lower']:.1%} to {row['upper']:.1%}"
    )
    if row["selected"] == 0:
        line += (
            "; no prediction was certain enough to learn from, so that none could flip: the "
            "estimate means nothing"
        )
    elif row["extrapolated"]:
        more = row[f"{config.flips}_flips"] > report.curve.fitted_range[1]
        line += (
            f"; {'more' if more else 'fewer'} labels flipped than on any calibration split: the "
            f"accuracy is {'below' if more else 'above'} what was calibrated"
        )
    if config.estimate in row:
        line += f"; by its labels {row[config.estimate]:.1%}"
    return line


def _with_interval(row: dict[str, Any]) -> str:
    value, lower, upper = (_percent(row[name]) for name in ("estimate", "lower", "upper"))
    return f"{value} [{lower:>5}, {upper:>5}]" + ("*" if row["extrapolated"] else " ")


def _percent(rate: float) -> str:
    return f"{100 * rate:.1f}"


def _words(name: str) -> str:
    return name.replace("_", " ")
