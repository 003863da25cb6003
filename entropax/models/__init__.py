"""Networks in flax.linen, and linen modules as the pure functions that entropax takes.

- `ConvNet`: a small convolutional classifier with batch, group or layer normalisation.
- `CNN`: one without normalisation and without biases, in the NTK or the standard parameterisation.
- `ResNet`, `VisionTransformer`, `ConvNeXt`: for images of any size; `ARCHITECTURES`, those that
  were published, by name.
- `load_published`: one of them with its weights, from a file of torchvision, timm or Hugging Face;
  `InputFormat`, how its images are prepared; `normalised_inputs`, a network on images in [0, 1].
- `load_tensors`, `convert_tensors`, `cifar_resnet`: the steps of that, for other networks.
- `layer_features`: what the layers of any linen module pass on.
- `contrastive_loss`, `nt_xent`, `Projected`: training without labels (SimCLR), with the views of
  `models.augmentation`; `linear_probe`: how much of the labels features hold.
- `running_statistics`, `batch_statistics`: `module -> apply_fn(variables, x)`, with either kind of
  statistics in its BatchNorm layers; `moving_statistics`: running ones that follow the batches.
- `dropout_passes`: predictions under dropout of networks that have none.
- `convolution`: what `ConvNet` convolves with, fast to adapt on the CPU.
- `patch_convolution`: what `CNN` convolves with, fast to train in a loop, many networks at a time.
- `stax`: neural-tangents on current JAX (`from entropax.models import stax`).
- `fit_classifier`: plain supervised training, for a source network.
- `ensemble_trainer`: the training of many networks as pure functions; `evaluate_ensemble`.
"""

from entropax.convolution import convolution
from entropax.models.architectures import ARCHITECTURES
from entropax.models.cnn import CNN, patch_convolution
from entropax.models.contrastive import Projected, contrastive_loss, nt_xent
from entropax.models.convert import cifar_resnet, convert_tensors
from entropax.models.convnet import ConvNet
from entropax.models.convnext import ConvNeXt
from entropax.models.dropout import dropout_passes
from entropax.models.ensembles import EnsembleState, Trainer, ensemble_trainer, evaluate_ensemble
from entropax.models.inputs import InputFormat, normalised_inputs
from entropax.models.intermediates import layer_features
from entropax.models.probe import linear_probe
from entropax.models.published import Published, load_published
from entropax.models.resnet import ResNet
from entropax.models.statistics import batch_statistics, moving_statistics, running_statistics
from entropax.models.tensors import load_tensors
from entropax.models.training import fit_classifier
from entropax.models.transformer import VisionTransformer

__all__ = [
    "ARCHITECTURES",
    "CNN",
    "ConvNeXt",
    "ConvNet",
    "EnsembleState",
    "InputFormat",
    "Projected",
    "Published",
    "ResNet",
    "Trainer",
    "VisionTransformer",
    "batch_statistics",
    "cifar_resnet",
    "contrastive_loss",
    "convert_tensors",
    "convolution",
    "dropout_passes",
    "ensemble_trainer",
    "evaluate_ensemble",
    "fit_classifier",
    "layer_features",
    "linear_probe",
    "load_published",
    "load_tensors",
    "moving_statistics",
    "normalised_inputs",
    "nt_xent",
    "patch_convolution",
    "running_statistics",
]
