"""Networks in flax.linen, and linen modules as the pure functions that entropax takes.

- `ConvNet`: a small convolutional classifier with batch, group or layer normalisation.
- `running_statistics`, `batch_statistics`: `module -> apply_fn(variables, x)`, with either kind of
  statistics in its BatchNorm layers.
- `convolution`: what `ConvNet` convolves with, fast to adapt on the CPU.
- `fit_classifier`: plain supervised training, for a source network.
"""

from entropax.models.convnet import ConvNet
from entropax.models.convolution import convolution
from entropax.models.statistics import batch_statistics, running_statistics
from entropax.models.training import fit_classifier

__all__ = [
    "ConvNet",
    "batch_statistics",
    "convolution",
    "fit_classifier",
    "running_statistics",
]
