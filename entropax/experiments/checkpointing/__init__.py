r"""Which checkpoint is worth keeping: by accuracy, by loss, or by predictive entropy?

    python -m entropax.experiments.checkpointing

trains networks on scikit-learn's handwritten digits with 0, 20 and 40 % wrong training labels,
until they have learnt the wrong ones by heart. Along the way it keeps checkpoints by each of these
criteria, restores them, and reports their accuracy on clean test images. It takes a few minutes on
two CPU cores. MNIST, prepared once by `entropax.experiments.prepare`:

    python -m entropax.experiments.checkpointing --data mnist

Criteria: the highest accuracy and the lowest loss on the validation images, which need labels; the
highest and the lowest mean entropy of the two largest probabilities (`top2`) and of all (`full`),
which need none, the highest ones also after a warm-up (`_late`); and the last network. The
published rule is `top2_max`. The labels of the validation images are as wrong as those of the
training images, since who has wrong labels has them everywhere; `--validation-labels clean` is the
other case. The best accuracy on the test images at any time (`oracle`) is no criterion but says
what was possible.

A run folder holds config.json, metrics.jsonl (one line a network), results.csv (a row for each
network and criterion), summary.csv and checkpointing.png. Intervals resample the seeds, the same
ones for all criteria. A run that was stopped goes on at the first unfinished network when the same
command is given again.

Expect the highest entropy at the first checkpoint there is, or the first after the warm-up. On the
digits the published rule keeps networks of 92.8, 90.4 and 88.2 %, validation accuracy 97.1, 93.7
and 91.8 %; the last networks have 97.1, 86.5 and 69.5 %.

The rule is that of the published class `EntropyCheckPoint` for PyTorch, which keeps a checkpoint
when the top-2 entropy is higher than ever before.
"""

from entropax.experiments.checkpointing.config import Config
from entropax.experiments.checkpointing.program import main, run
from entropax.experiments.checkpointing.report import Report

__all__ = ["Config", "Report", "main", "run"]
