"""A plan on paper: what computations take on many chips, before there are any.

    python -m entropax.experiments.pod_plan

prints a table for 256 chips: operations, traffic, memory and bytes sent of each chip, and the
seconds that follow, for the tangent kernel of 60,000 images of MNIST and its entropy, the diffusion
entropy of 1,000,000 points, and a step of adaptation of ResNet-50. Nothing is computed but sizes;
it takes two seconds.

    python -m entropax.experiments.pod_plan --check

measures the rates of 1, 2 and 4 simulated devices on this machine, predicts small computations by
the same functions, and compares with the time that they take: one or two minutes. Simulated
devices share the cores of the machine, so that more of them are not faster.
"""

from entropax.experiments.pod_plan.config import Config
from entropax.experiments.pod_plan.program import Report, main, run

__all__ = ["Config", "Report", "main", "run"]
