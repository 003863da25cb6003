"""Ranking and calibration metrics by other code, for `uncertainty.py`.

    python uncertainty_ranking.py published|scikit-learn|torchmetrics|torch-uncertainty|resample NPZ

NPZ holds float32 confidences `confidence` and 0 or 1 in `correct`. `published` are the loops of
Galil et al. (2023, benchmarking-uncertainty-estimation-performance) in our own words: an array of
two columns, sorted anew for AUROC and for AURC, and a Python loop over its rows. `resample` is a
bootstrap in NumPy that sorts in every replicate.
"""

import argparse
import itertools
import json
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import measure
import numpy as np

NUM_BINS, START = 15, 200
SAC_ACCURACIES = (0.99, 0.98, 0.97, 0.96, 0.95, 0.9, 0.85)


def published(confidence: np.ndarray, correct: np.ndarray) -> Callable[[], dict[str, float]]:
    """AUROC, AURC, SAC, ECE and MCE in the way of the published code."""
    import torch

    rows = torch.tensor(np.stack([confidence, correct], axis=1))

    def ordered() -> torch.Tensor:
        return rows[torch.argsort(rows[:, 0], descending=True)]

    def auroc() -> float:
        table = ordered()
        n = len(table)
        wrong_after = np.zeros(n)
        for i in range(n - 2, -1, -1):
            wrong_after[i] = wrong_after[i + 1] + (1 - int(table[i + 1][1]))
        total_wrong = wrong_after[0] + (1 - int(table[0][1]))
        total_correct = n - total_wrong
        agree = disagree = 0.0
        for i in range(n):
            wrong_before = total_wrong - wrong_after[i] - (1 - int(table[i][1]))
            if table[i][1]:
                agree += wrong_after[i]
                disagree += wrong_before
            else:
                agree += i - wrong_before
                disagree += total_correct - (i - wrong_before)
        return agree / (agree + disagree)

    def aurc() -> float:
        table = ordered()
        wrong, total = 0, 0.0
        for i in range(len(table)):
            wrong += 1 - int(table[i][1])
            total += wrong / (i + 1)
        return total / len(table)

    def coverage(running: np.ndarray, accuracy: float) -> float:
        index = int(np.argmax(running[START:] < accuracy)) + START
        index = index if index > START else int(np.argmax(running < accuracy))
        return index / (len(running) + 1)

    def calibration() -> tuple[float, float]:
        edges = torch.linspace(0, 1, NUM_BINS + 1)
        expected, worst = torch.zeros(()), torch.zeros(())
        for low, high in itertools.pairwise(edges):
            inside = rows[(rows[:, 0] > low) & (rows[:, 0] <= high)]
            if len(inside):
                gap = torch.abs(inside[:, 0].mean() - inside[:, 1].mean())
                expected += gap * len(inside) / len(rows)
                worst = torch.maximum(worst, gap)
        return float(expected), float(worst)

    def compute() -> dict[str, float]:
        hits = ordered()[:, 1].numpy()
        running = np.cumsum(hits) / np.arange(1, len(hits) + 1, dtype=np.float32)
        for accuracy in SAC_ACCURACIES:
            coverage(running, accuracy)  # by a rule of its own, not compared
        ece, mce = calibration()
        return {"auroc": auroc(), "aurc": aurc(), "ece": ece, "mce": mce}

    return compute


def scikit_learn(confidence: np.ndarray, correct: np.ndarray) -> Callable[[], dict[str, float]]:
    from sklearn.metrics import roc_auc_score

    return lambda: {"auroc": float(roc_auc_score(correct, confidence))}


def torchmetrics(confidence: np.ndarray, correct: np.ndarray) -> Callable[[], dict[str, float]]:
    import torch
    from torchmetrics.functional.classification import binary_auroc, binary_calibration_error

    scores, hits = torch.tensor(confidence), torch.tensor(correct, dtype=torch.int32)

    def compute() -> dict[str, float]:
        return {
            "auroc": float(binary_auroc(scores, hits)),
            "ece": float(binary_calibration_error(scores, hits, n_bins=NUM_BINS)),
            "mce": float(binary_calibration_error(scores, hits, n_bins=NUM_BINS, norm="max")),
        }

    return compute


def torch_uncertainty(
    confidence: np.ndarray, correct: np.ndarray
) -> Callable[[], dict[str, float]]:
    import torch
    from torch_uncertainty.metrics.classification import AUGRC, AURC

    probs, labels = torch.tensor(confidence), torch.tensor(correct, dtype=torch.int64)

    def compute() -> dict[str, float]:
        values = {}
        # The trapezoidal rule from the first rank on.
        for name, metric in (("aurc", AURC()), ("augrc", AUGRC())):
            metric.update(probs, labels)
            values[f"{name}_trapezoid"] = float(metric.compute())
        return values

    return compute


def resample(
    confidence: np.ndarray, correct: np.ndarray, *, num_replicates: int
) -> Callable[[], dict[str, float]]:
    """Draw rows, sort them, and compute AUROC and AURC without a loop; ties do not matter here."""

    def metrics(rows: np.ndarray) -> tuple[float, float]:
        wrong = 1 - correct[rows][np.argsort(-confidence[rows])]
        errors = np.cumsum(wrong, dtype=np.float64)
        n, total = len(rows), errors[-1]
        auroc = 1 - np.sum((1 - wrong) * errors) / (total * (n - total))
        return auroc, float(np.mean(errors / np.arange(1, n + 1)))

    def compute() -> dict[str, float]:
        rng, n = np.random.default_rng(0), len(confidence)
        found = [metrics(rng.integers(0, n, n)) for _ in range(num_replicates)]
        errors = np.std(found, axis=0, ddof=1)
        return {"auroc_stderr": float(errors[0]), "aurc_stderr": float(errors[1])}

    return compute


PACKAGES = {
    "published": ("torch", "numpy"),
    "scikit-learn": ("scikit-learn",),
    "torchmetrics": ("torchmetrics", "torch"),
    "torch-uncertainty": ("torch-uncertainty", "torch"),
    "resample": ("numpy",),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=PACKAGES)
    parser.add_argument("npz")
    parser.add_argument("--num-replicates", type=int, default=200, help="with resample")
    parser.add_argument("--repeats", type=int, default=5)
    measure.add_limits(parser)
    options = parser.parse_args()
    measure.limit(options)
    with np.load(options.npz, allow_pickle=False) as file:
        confidence, correct = file["confidence"], file["correct"].astype(np.float32)
    build = globals()[options.what.replace("-", "_")]
    settings = {"num_replicates": options.num_replicates} if options.what == "resample" else {}
    compute = build(confidence, correct, **settings)
    small = build(confidence[:1000], correct[:1000], **settings)
    # Nothing compiles: the first call has only to load and to wake what sleeps.
    found, values = measure.calls(
        compute, first=small, repeats=options.repeats, seconds=options.seconds
    )
    versions = {name: version(name) for name in PACKAGES[options.what]}
    print(json.dumps({**found, "values": values, "versions": versions}))


if __name__ == "__main__":
    main()
