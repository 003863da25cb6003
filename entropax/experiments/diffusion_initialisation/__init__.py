r"""Does the diffusion entropy of an untrained network tell how well it will train?

    python -m entropax.experiments.diffusion_initialisation

draws the convolutions of a small residual network from N(0, std) for eight values of std, measures
the diffusion spectral entropy (DSE) of its features, and trains it for some epochs. The default,
scikit-learn's digits, takes one to two minutes on two CPU cores. That of MNIST, prepared once by
`entropax.experiments.prepare`:

    python -m entropax.experiments.diffusion_initialisation --data mnist --max-train 5000

A wide network like the published one, its entropies alone:

    python -m entropax.experiments.diffusion_initialisation --widths 64 128 256 512 --epochs 0 \
        --run-dir runs/initialisation-wide

The entropy is measured with the constant bandwidth of the published studies, 10, and with one that
follows the scale of the features, "median". Expect the first to follow nothing but that scale: with
fresh BatchNorm layers in evaluation mode, which do nothing, the distance of two features grows by
seven orders of magnitude from the smallest std to the largest, and the entropy with it. The second
hardly moves, and with statistics of the batch neither does, as there the network depends on std
through the epsilon of BatchNorm alone. What std does change is training, since the steps of Adam
are larger or smaller in units of it. So the entropy at a constant bandwidth correlates with the
accuracy just as the distance of two features does: 0.95 [0.80, 0.99] and 0.95 [0.79, 0.99] with
that after four epochs by running statistics, which lag behind where std is small, and 0.83 for both
by statistics of the test images.

A run folder holds config.json, metrics.jsonl (one line a network), results.csv,
correlations.csv (with bootstrap intervals) and initialisation.png. A run that was stopped goes on
at the first unfinished network when the same command is given again. Networks with the same number
begin with the same weights up to the factor std and see the same batches; intervals come from
resampling both the values of std and the networks.

The values of std, the scale 1 and shift 0 of BatchNorm and N(0, 1e-3) for the last layer are those
of D. Liao et al., "Assessing neural network representations during training using noise-resilient
diffusion spectral entropy" (2023), and of its code; the network there is a ResNet-50 on larger
images, trained to the end.
"""

from entropax.experiments.diffusion_initialisation.config import Config
from entropax.experiments.diffusion_initialisation.program import main, run
from entropax.experiments.diffusion_initialisation.report import Report

__all__ = ["Config", "Report", "main", "run"]
