"""Adapt a published classifier to a folder of images, and say how accurate it is, without labels.

    python -m entropax.experiments.tta --data folder --path IMAGES --weights resnet50-0676ba61.pth

adapts the network (RDumb, 990 steps of 64 images) while the files are read, counts the labels that
flip on 1,000 images, and turns them into the accuracy by the published curve, which belongs to
torchvision's ResNet-50. For any other network fit a curve, on images whose labels are known:

    python -m entropax.experiments.tta --data folder --path VAL --weights FILE --fit --run-dir MINE
    python -m entropax.experiments.tta --data folder --path IMAGES --weights FILE --curve MINE

IMAGES is a folder CLASS/*.jpeg, one of images without labels, or one laid out as ImageNet-C,
CORRUPTION/SEVERITY/CLASS/*.jpeg, each of which is adapted to by itself. With --fit, clean images
are corrupted in the four ways that ImageNet-C holds out; a folder laid out as ImageNet-C is used as
it is. Images are read in the way that the weights expect.

A run folder holds config.json, metrics.jsonl (one line a folder), results.csv, and, with --fit,
curve.json and curve.png. A run that was stopped goes on at the first unfinished folder.

The method is that of O. Press et al., "The entropy enigma: success and failure of entropy
minimization" (2024).
"""

from entropax.experiments.tta_published.config import Config
from entropax.experiments.tta_published.program import main, run

__all__ = ["Config", "main", "run"]
