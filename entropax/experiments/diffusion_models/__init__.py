r"""Do entropies of its features tell which of many models is the most accurate?

    python -m entropax.experiments.diffusion_models

trains two draws of 48 networks on scikit-learn's handwritten digits (of random width, depth,
activation, learning rate, training time and number of training images), measures the features that
they give to 600 test images in every way the package has, and correlates each quantity with the
accuracy on other test images. It takes a few minutes on two CPU cores. MNIST, prepared once by
`entropax.experiments.prepare`:

    python -m entropax.experiments.diffusion_models --data mnist

Models of your own, one .npz file each with the arrays `features` `[n, d]`, `labels` `[n]`,
`accuracy` (one number) and, for the information about the inputs, `inputs` `[n, ...]`:

    python -m entropax.experiments.diffusion_models --features FOLDER

A run folder holds config.json, metrics.jsonl (one line a model), results.csv (a row for each
model), correlations.csv and correlations.png. Intervals come from resampling the models. A run that
was stopped goes on at the first unfinished model when the same command is given again.

Quantities, in nats where they are entropies: diffusion spectral entropy (`dse`), diffusion spectral
mutual information with the labels (`dsmi_labels`), its share of the possible beyond chance
(`adjusted`), that with clusters of the inputs (`dsmi_inputs`), the Vendi score by the Gaussian
kernel (`vendi`), each at several bandwidths; by binned coordinates (`binned_entropy`,
`binned_information`); effective ranks (`rank_me`, `cosine_vendi`). Two baselines ought to be
beaten: the median distance of two features (`distance`) and the share of images whose nearest other
one has the same label (`neighbour_accuracy`).

The measured images, those that decide the accuracy and those that train are disjoint: a quantity
that uses labels has not seen those it is judged by.

Expect bandwidths that follow the scale of the features, and some information, to rank best: rank
correlations of 0.86 [0.75, 0.92] and 0.84 [0.76, 0.89] in the two draws for `adjusted_knn`, about
as much for `dsmi_inputs_median`, which sees no labels, and 0.72 and 0.80 for `dsmi_labels_10`. The
distance alone has 0.67 and 0.76, just as the entropy at a constant bandwidth; `rank_me` and
`neighbour_accuracy` have about 0.1 and 0.2, and binned coordinates nothing, every image having a
cell to itself.

D. Liao et al., "Assessing neural network representations during training using noise-resilient
diffusion spectral entropy" (2023), and the figures of its code, do so for hundreds of published
ImageNet models with the bandwidth `sqrt_d`: there the rank correlation of the information about the
labels with the accuracy is 0.144, that of the entropy -0.014. Small networks on small images differ
from that in nearly everything, so that the numbers here say how the quantities compare, not how
they do on ImageNet.
"""

from entropax.experiments.diffusion_models.config import Config
from entropax.experiments.diffusion_models.program import main, run
from entropax.experiments.diffusion_models.report import Report

__all__ = ["Config", "Report", "main", "run"]
