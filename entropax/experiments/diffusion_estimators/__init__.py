r"""How much of the true mutual information do its estimators find, in how many dimensions?

    python -m entropax.experiments.diffusion_estimators

draws blobs, normal distributions of unit variance round random centres, as many of each class, and
replaces a share of the labels by random ones. The mutual information of points and labels is then
known,

$$I = \ln C - \mathbb{E}_x\, H\Big((1 - q)\, p(c \mid x) + \frac{q}{C}\Big),$$

with the share $q$ and the classes' probabilities $p(c \mid x)$ given the point, 0 or 1 for blobs
that do not overlap. It takes about two minutes on two CPU cores. The size of the published
study, in whose highest dimensions it is the binning that takes the time:

    python -m entropax.experiments.diffusion_estimators --n 5000 \
        --dims 20 50 100 200 500 1000 2000 5000 10000 20000

Blobs that overlap, as much in every dimension:

    python -m entropax.experiments.diffusion_estimators --separation 4

Estimators: the diffusion spectral mutual information (`dsmi`); its Holevo form, adjusted for
chance, times the entropy of the labels (`holevo`); that of binned coordinates (`binned 5`, ...).
Neither of the first two claims to estimate $I$: the question is which follows it, and what it
costs. Expect `holevo` to be within a tenth of a nat, `dsmi` to find less than half of it, not even
falling at first as labels are corrupted in 2,000 dimensions, and the binned estimators to find ln C
whatever the labels are.

Peers run in an environment of their own. Write the problems, have them solved, and report anew:

    python -m entropax.experiments.diffusion_estimators --problems problems
    python benchmarks/peers/mutual_information_peers.py problems > peers.json
    python -m entropax.experiments.diffusion_estimators --peers peers.json

A run folder holds config.json, metrics.jsonl (one line a data set), results.csv (a row for each
estimate), summary.csv (errors with bootstrap intervals over the seeds, and seconds) and
estimators.png. A run that was stopped goes on at the first unfinished data set when the same
command is given again. Seconds are those of one estimate as it comes, the median over labels and
seeds: that of the first call, with its compilation, does not count.

The blobs, the bandwidth `sqrt_d`, the corrupted labels and the bins are those of D. Liao et al.,
"Assessing neural network representations during training using noise-resilient diffusion spectral
entropy" (2023), and of its code, with 5,000 points.
"""

from entropax.experiments.diffusion_estimators.config import Config
from entropax.experiments.diffusion_estimators.program import main, run
from entropax.experiments.diffusion_estimators.report import Report

__all__ = ["Config", "Report", "main", "run"]
