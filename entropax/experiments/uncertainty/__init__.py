r"""Do networks know when they are right, and which of many knows it best?

    python -m entropax.experiments.uncertainty

trains twelve small networks (dense, convolutional, residual, transformers) on scikit-learn's
handwritten digits and compares them on the images that are left. It takes about two minutes on two
CPU cores. MNIST or Fashion-MNIST, prepared once by `entropax.experiments.prepare`:

    python -m entropax.experiments.uncertainty --data fashion_mnist

Models of your own, any number of them, one .npz file each with the arrays `logits` `[n, c]` and
`labels` `[n]`, the same labels in every file:

    python -m entropax.experiments.uncertainty --outputs FOLDER

Published residual networks for CIFAR-10 (akamaster/pytorch_resnet_cifar10), as files of tensors:

    python -m entropax.experiments.uncertainty --data cifar10 --weights resnet20.npz resnet56.th

Checkpoints of your own linen module, folders that `entropax.checkpoint.save_variables` wrote:

    python -m entropax.experiments.uncertainty --data cifar10 --module package.module:factory
        --checkpoints FOLDER FOLDER

One model is measured at a time. A run that was stopped goes on at the first unfinished model when
the same command is given again; files that were added since are measured, of the finished ones only
the best two are read again, to be compared. With `--on-error skip` a broken file, or one with NaN,
is left out and reported.

Each model is measured on the same examples before and after temperature scaling; the temperature is
fitted on others, the same share of every class (`--validation`). Metrics: accuracy; AUROC of
telling right from wrong predictions; the area under the risk-coverage curve (`aurc`), what of it a
perfect ranking would not have (`excess_aurc`), and the generalised one (`augrc`); the largest
coverage at given accuracies; expected calibration error, negative log-likelihood and Brier score.
All have bootstrap intervals, from the same resamples of the measured examples before and after
scaling; the temperature stays what it is, and one at a bound is not applied. Predictions are
ranked by their largest probability, or by another `--score`.

A run folder holds config.json, metrics.jsonl (one line a model), results.csv (a row for each
model), temperature_scaling.csv (what scaling changes, with intervals), correlations.csv (rank
correlations of the metrics over the models), risk_coverage.png and reliability.png, and the trained
networks. `--compat reference` adds published.csv, the table of the published code.

Expect convnet-group and convnet-layer first on the digits, with an AUROC of 0.98 and 98 % accuracy,
and the linear network last, with 0.89 and 90 %; its calibration error falls from 0.31 to 0.03 by a
temperature of 0.29.

I. Galil, M. Dabbah and R. El-Yaniv, "What can we learn from the selective prediction and
uncertainty estimation performance of 523 ImageNet classifiers?" (2023), do so for published
classifiers.
"""

from entropax.experiments.uncertainty.config import Config
from entropax.experiments.uncertainty.program import main, run
from entropax.experiments.uncertainty.report import Report

__all__ = ["Config", "Report", "main", "run"]
