"""Adapters on streams whose shift changes: who keeps learning, who forgets, who collapses.

    python -m entropax.experiments.tta_streams

trains small networks on scikit-learn's handwritten digits and lets every adapter run over streams
of one corruption, one after another, growing and fading ones, mixtures, smooth transitions, labels
that come in runs, other label frequencies, and class by class, which makes entropy minimisation
collapse. It prints the accuracy of the predictions, made before each update, and writes accuracies
batch by batch, resets and alarms. A long run on MNIST:

    python -m entropax.experiments.tta_streams --data mnist --streams continual --steps 100000

A run folder holds config.json, the networks, metrics.jsonl (one line a network, stream and
adapter), streams/ (every batch), results.csv, summary.csv and streams.png. A run that was stopped
goes on where it was; adapters, streams, networks and seeds may be added to a finished one.
"""

from entropax.experiments.tta_streams.config import Config
from entropax.experiments.tta_streams.program import main, run
from entropax.experiments.tta_streams.report import Report

__all__ = ["Config", "Report", "main", "run"]
