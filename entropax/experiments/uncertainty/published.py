"""The table of the published code: its columns, its metrics, its bytes."""

import csv
import io
from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from entropax.experiments.uncertainty.config import Config
from entropax.experiments.uncertainty.examples import split
from entropax.experiments.uncertainty.sources import Outputs
from entropax.uncertainty import compat
from entropax.uncertainty.scores import max_softmax
from entropax.uncertainty.temperature import fit_temperature

_METRICS = ("AUROC", "ECE_15", "Coverage_for_Accuracy_99", "AURC")
HEADERS = (
    "Architecture",
    "Accuracy",
    *(name + suffix for name in _METRICS for suffix in ("", "_TS")),
)
_START = 200


def published_row(config: Config, name: str, outputs: Outputs) -> dict[str, Any]:
    """A row as the published program makes it, but for the split and the temperature.

    Its plain metrics are of all examples, those after scaling of the ones that the temperature was
    not fitted on. Its split is another one for every model, and its optimiser stops up to 1 % away
    from the optimum. The coverage is None where there are not more than 200 examples, for which its
    function raises an error.
    """
    logits, labels = outputs.logits, outputs.labels
    fitted = split(labels, config.validation, config.seed)
    found = fit_temperature(
        jnp.asarray(logits[fitted], jnp.float32), jnp.asarray(labels[fitted], jnp.int32)
    )
    plain = _metrics(logits, labels)
    scaled = _metrics(logits[~fitted] * float(found.inverse_temperature), labels[~fitted])
    correct = logits.argmax(-1) == labels
    row = {"Architecture": name, "Accuracy": compat.accuracy_percent(correct)}
    for metric in _METRICS:
        row[metric], row[f"{metric}_TS"] = plain[metric], scaled[metric]
    return row


def _metrics(logits: np.ndarray, labels: np.ndarray) -> dict[str, float | None]:
    confidence = np.asarray(max_softmax(jnp.asarray(logits, jnp.float32)))
    correct = (logits.argmax(-1) == labels).astype(np.uint8)
    order = np.argsort(-confidence, kind="stable")
    coverage = None
    if len(labels) > _START:
        coverage = compat.coverage_for_desired_accuracy(
            confidence, correct, accuracy=0.99, start_index=_START, order=order
        )
    found = {
        "AUROC": compat.auroc(confidence, correct, order=order),
        "ECE_15": compat.calibration_errors(confidence, correct, num_bins=15)[0],
        "Coverage_for_Accuracy_99": coverage,
        "AURC": compat.aurc(confidence, correct, order=order),
    }
    return {key: None if value != value else value for key, value in found.items()}


def published_csv(records: Iterable[Mapping[str, Any]]) -> str:
    """The file, with a line for each model; every number has 5 decimals.

    A name with a comma or a quotation mark is quoted, which the published code leaves undone.
    """
    lines = [",".join(HEADERS)]
    for record in records:
        row = record["published"]
        name = io.StringIO()
        csv.writer(name, lineterminator="").writerow([row["Architecture"]])
        lines.append(compat.csv_line(HEADERS, {**row, "Architecture": name.getvalue()}))
    return "".join(line + "\n" for line in lines)
