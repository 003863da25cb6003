"""What a run found: a fitted curve, or accuracies read off one."""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.markup import escape
from rich.table import Table

from entropax.estimation import FlipCurve, fit_flip_curve, published_accuracy
from entropax.estimation.flip_curve import PUBLISHED_POLYNOMIALS
from entropax.experiments.figures import draw_estimates
from entropax.experiments.published_networks import network_name
from entropax.experiments.run_folder import RunFolder
from entropax.experiments.tables import csv_text
from entropax.experiments.tta_published.config import Config
from entropax.models import InputFormat


class Curve(NamedTuple):
    """Where accuracies are read off.

    Attributes:
      name: a published polynomial, or the folder of a fit.
      flips: `"weighted"` or `"unweighted"`.
      target: whose accuracy it gives.
      fitted: the curve; None for a published polynomial, which has no intervals.
    """

    name: str
    flips: str
    target: str
    fitted: FlipCurve | None


def fit_curve(config: Config, records: list[dict[str, Any]]) -> FlipCurve:
    """Fit the curve to what was measured.

    Raises:
      ValueError: fewer than four folders.
    """
    return fit_flip_curve(
        [record[f"{config.flips}_flips"] for record in records],
        [record[config.estimate] for record in records],
        target=config.estimate,
        form=config.form,
    )


def write_fit(
    folder: RunFolder,
    config: Config,
    records: list[dict[str, Any]],
    weights: int,
    inputs: InputFormat,
) -> FlipCurve:
    """Write curve.json, curve.png and results.csv.

    Args:
      folder: of the run.
      config: the options.
      records: of all folders.
      weights: checksum of the network.
      inputs: how images were prepared.
    """
    curve = fit_curve(config, records)
    rates = [record[f"{config.flips}_flips"] for record in records]
    accuracies = [record[config.estimate] for record in records]
    content = {
        "weights": weights,
        "adaptation": {**config.adaptation, "inputs": inputs},
        "flips": config.flips,
        "target": config.estimate,
        "form": config.form,
        "rates": rates,
        "accuracies": accuracies,
    }
    folder.write("curve.json", json.dumps(content, indent=2) + "\n")
    folder.write("results.csv", csv_text(records))
    name = network_name(config.weights)
    with folder.replacing("curve.png") as partial:
        draw_estimates(
            partial,
            curve=curve,
            calibration=np.array([rates, accuracies]),
            test=np.zeros((5, 0)),
            confidence=np.zeros(0),
            targets=np.zeros(0),
            level=config.level,
            title=f"{name}: accuracy ({_words(config.estimate)}) from label flips",
        )
    return curve


def read_curve(config: Config, weights: int, inputs: InputFormat) -> Curve:
    """The curve that `config` names.

    Args:
      config: the options.
      weights: checksum of the network.
      inputs: how images are prepared.

    Raises:
      ValueError: it was fitted for another network, another adaptation or images prepared in
        another way; the message names it.
    """
    if config.curve in PUBLISHED_POLYNOMIALS:
        return Curve(config.curve, config.curve.partition("_")[0], "source", None)
    file = Path(config.curve) / "curve.json"
    try:
        found = json.loads(file.read_text())
        now = json.loads(json.dumps({**config.adaptation, "inputs": inputs}))
        differing = [
            f"{name} was {found['adaptation'].get(name)!r} and is now {value!r}"
            for name, value in now.items()
            if value != found["adaptation"].get(name)
        ]
        if found["weights"] != weights:
            differing.insert(0, "the weights are others")
        target, flips = found["target"], found["flips"]
        fitted = fit_flip_curve(
            found["rates"], found["accuracies"], target=target, form=found["form"]
        )
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(f"{file} is not the curve of a fit: {error!r}.") from error
    if differing:
        raise ValueError(
            f"{file} was fitted in another way ({'; '.join(differing)}); flips are comparable only "
            "if they were counted alike. Fit a curve for these settings, or give those of the fit."
        )
    return Curve(str(config.curve), flips, target, fitted)


def estimated(config: Config, curve: Curve, record: dict[str, Any]) -> dict[str, Any]:
    """A record with the accuracy that its flips stand for; NaN where nothing could flip.

    Only a fitted curve gives an interval, which is then [0, 1].
    """
    rate, stderr = record[f"{curve.flips}_flips"], record[f"{curve.flips}_flips_stderr"]
    row = {**record, "curve": curve.name, "estimate_of": curve.target}
    # Where no prediction was certain enough to learn from, none could flip either.
    idle = record["selected"] == 0
    if curve.fitted is None:
        row["estimate"] = float("nan") if idle else float(published_accuracy(rate, curve.name))
    else:
        found = curve.fitted.estimate(rate, stderr=stderr, level=config.level)
        row |= {
            "estimate": float(found.value),
            "lower": 0.0 if idle else float(found.lower),
            "upper": 1.0 if idle else float(found.upper),
            "extrapolated": idle or bool(found.extrapolated),
        }
    return row


def results_table(config: Config, rows: list[dict[str, Any]]) -> Table:
    """One line a folder: accuracies, if there are labels, flips, and the estimate."""
    title = f"{network_name(config.weights)}: accuracy in percent"
    table = Table(title=escape(title), caption_justify="left")
    table.add_column("images")
    for heading in (
        "",
        "source",
        "batch\nstatistics",
        "adapted",
        "average\nconfidence",
        "flips\nweighted",
        "flips",
        *(() if config.fit else ("estimate",)),
    ):
        table.add_column(heading, justify="right")
    for row in rows:
        measured = [_percent(row.get(name)) for name in ("source", "batch_statistics", "adapted")]
        others = ("batch_statistics_confidence", "weighted_flips", "unweighted_flips")
        shown = [] if config.fit else [_estimate(row)]
        table.add_row(
            escape(row["name"]),
            str(row["severity"] or ""),
            *measured,
            *(_percent(row[name]) for name in others),
            *shown,
        )
    return table


def remarks(curve: Curve | None, rows: list[dict[str, Any]]) -> list[str]:
    """What a reader of the table has to know; of a fit, without a curve."""
    lines = []
    if curve is not None:
        lines.append(f"Estimates are of the column '{_words(curve.target)}'.")
    if curve is not None and curve.fitted is None:
        lines.append(
            f"The curve {curve.name} was published for torchvision's ResNet-50 on ImageNet, "
            "without intervals; for another network or other data fit your own with --fit."
        )
    idle = [row["name"] for row in rows if row["selected"] == 0]
    if idle:
        lines.append(
            f"No prediction was certain enough to learn from in {len(idle)} of {len(rows)} "
            f"({', '.join(dict.fromkeys(idle))}): none could flip, and no flip says nothing there."
        )
    if any(row.get("extrapolated") for row in rows):
        lines.append("*: more or fewer flips than in any folder of the fit.")
    return lines


def _estimate(row: dict[str, Any]) -> str:
    text = _percent(row["estimate"])
    if "lower" in row:
        text += f" \\[{_percent(row['lower'])}, {_percent(row['upper'])}]"
        text += "*" if row["extrapolated"] else " "
    return text


def _percent(rate: float | None) -> str:
    if rate is None:
        return ""
    return "-" if math.isnan(rate) else f"{100 * rate:.1f}"


def _words(name: str) -> str:
    return name.replace("_", " ")
