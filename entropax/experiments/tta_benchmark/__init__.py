"""Test-time adapters and accuracy estimators side by side, on the same shifted images.

    python -m entropax.experiments.tta_benchmark

trains two small networks with three seeds each on scikit-learn's handwritten digits, adapts them to
15 kinds of corruption at 5 severities, and compares every estimator of accuracy without labels on
them: errors with intervals, wins, and how often the estimators' own intervals hold the truth.
Other data, more adapters:

    python -m entropax.experiments.tta_benchmark --data mnist --adapters eta tent sar deyo

Published ResNets for CIFAR, without training anything, and a natural shift beside the corruptions:

    python -m entropax.experiments.tta_benchmark --data npz --path cifar10.npz \
        --weights resnet20.npz --target cifar10_jpeg.npz

A run folder holds config.json, the networks, observations/ (predictions of each network, adapter
and split), estimates.csv and accuracies.csv (every number), estimators.csv and adapters.csv (means
with intervals), flips.png, errors.png and online.png. A run that was stopped goes on where it was;
adapters, networks, seeds and corruptions may be added to a finished one.
"""

from entropax.experiments.tta_benchmark.config import Config
from entropax.experiments.tta_benchmark.program import main, run
from entropax.experiments.tta_benchmark.report import Report

__all__ = ["Config", "Report", "main", "run"]
