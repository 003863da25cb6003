r"""Do diffusion entropy and mutual information tell learning from memorising?

    python -m entropax.experiments.diffusion_training

trains a small convolutional network and a small vision transformer on scikit-learn's handwritten
digits, each for the labels, for the contrastive loss of SimCLR, which sees no labels, and for
labels that were permuted once, which can only be learnt by heart. On the way it measures the last
layer Z of test images: their diffusion spectral entropy DSE(Z), the mutual information DSMI(Z; Y)
with the labels and DSMI(Z; X) with clusters of the inputs. It takes one to two minutes on two CPU
cores. The same on a data set prepared once by `entropax.experiments.prepare`, and with the layers
before the last one:

    python -m entropax.experiments.diffusion_training --data mnist --layers all --seeds 0 1 2

The published claim is that DSE(Z) rises during training, and that DSMI(Z; Y) rises with it only if
the network generalises (D. Liao et al., "Assessing neural network representations during training
using noise-resilient diffusion spectral entropy", 2023, arXiv 2312.04823; there with larger
networks, 200 epochs and the bandwidth 10). The bandwidth decides what is seen. With 10, a number of
the features' own units, the entropy follows their scale, and once all points are far apart
(saturation near 1) the information falls whatever the network has learnt. "median" knows no scale.
Both are measured by default. On the digits expect DSE(Z) to rise for all three at 10; by "median",
to fall for the labels and for SimCLR, and to rise for wrong labels in the convolutional network.
Expect DSMI(Z; Y) by "median" to rise for the first two (of the convolutional network from 0.6 nats
to 1.3 and 1.0), and not for wrong labels.

A run folder holds config.json, metrics.jsonl (one line for each network and epoch measured),
results.csv (a row for each network, epoch, layer and bandwidth), summary.csv (changes, and rank
correlations with the accuracy over the epochs), and figures. A run that was stopped goes on at the
first unfinished network when the same command is given again; seeds, networks and objectives may be
added to a finished one.

All networks see the same images. With the same seed they begin with the same weights up to the last
layer, whatever they are trained for, and random subsets are the same in all epochs.
"""

from entropax.experiments.diffusion_training.config import Config
from entropax.experiments.diffusion_training.program import main, run
from entropax.experiments.diffusion_training.report import Report

__all__ = ["Config", "Report", "main", "run"]
