"""Adapt a classifier to shifted images, and say how accurate it is on them, without labels.

    python -m entropax.experiments.tta

trains a small BatchNorm network on scikit-learn's handwritten digits, adapts it to 15 kinds of
corruption at 5 severities, and estimates each accuracy from the labels that flip meanwhile. The
curve from flips to accuracy is fitted on corruptions of another family. It takes about a minute on
two CPU cores. MNIST, prepared once by `entropax.experiments.prepare`, takes about ten:

    python -m entropax.experiments.tta --data mnist

Your own unlabelled images (a folder of files, or an .npz with an array `x`):

    python -m entropax.experiments.tta --data mnist --target photographs/

Then no test corruptions are made unless `--corruptions` names some, and the answer is one accuracy
with an interval. A run folder holds config.json, metrics.jsonl (one line a split), results.csv,
estimates.png, the source network (orbax), and the adapted predictions for the target. A run that
was stopped goes on at the first unfinished split when the same command is given again; with another
target it adapts to that alone.

A published network, for folders of images of any size (`entropax.experiments.tta_published`):

    python -m entropax.experiments.tta --data folder --path IMAGES --weights resnet50-0676ba61.pth

The method is that of O. Press et al., "The entropy enigma: success and failure of entropy
minimization" (2024).
"""

from entropax.experiments.tta.config import Config, Eata, Eta, Rdumb, Tent
from entropax.experiments.tta.program import main, run
from entropax.experiments.tta.report import Report

__all__ = ["Config", "Eata", "Eta", "Rdumb", "Report", "Tent", "main", "run"]
