"""The small residual network of MLPerf Tiny for CIFAR-10, as Keras numbers its layers."""

import re

from entropax.models.inputs import InputFormat
from entropax.models.recognition import Recognised
from entropax.models.resnet import ResNet
from entropax.models.tensors import Tensors

# In the order in which Keras makes them: a shortcut comes after the convolutions round which it
# leads, and has no normalisation.
_CONVOLUTIONS = (
    "stem",
    "residual_0/first",
    "residual_0/second",
    "residual_1/first",
    "residual_1/second",
    "residual_1/shortcut",
    "residual_2/first",
    "residual_2/second",
    "residual_2/shortcut",
)
_NORMALISED = tuple(place for place in _CONVOLUTIONS if not place.endswith("shortcut"))
_LEAVES = {
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
# Keras's own; torch's and linen's is 1e-5.
_EPSILON = 1e-3


def recognise(tensors: Tensors) -> Recognised | None:
    """Find the ResNet-8 of MLPerf Tiny: three blocks of 16, 32 and 64 channels.

    Its tensors are `conv2d.kernel` to `conv2d_8.kernel`, laid out as in linen,
    `batch_normalization.gamma` to `batch_normalization_6.moving_variance`, and `dense.kernel`.
    Convolutions have biases, shortcuts no BatchNorm, and images are in 0..255: the deviation by
    which those in [0, 1] are divided is 1/255.

    Returns:
      None: these are tensors of another network, also one with more layers.

    Reference: C. Banbury et al., "MLPerf Tiny benchmark" (2021), section 4.2.
    """
    kernels = {f"{_keras_name('conv2d', i)}.kernel" for i in range(len(_CONVOLUTIONS))}
    found = {name for name in tensors if re.fullmatch(r"conv2d(_\d+)?\.kernel", name)}
    if found != kernels or "dense.kernel" not in tensors:
        return None
    module = ResNet(
        num_classes=tensors["dense.kernel"].shape[-1],
        widths=tuple(tensors[f"conv2d{i}.kernel"].shape[-1] for i in ("", "_3", "_6")),
        blocks=1,
        shortcut="convolution",
        epsilon=_EPSILON,
        use_bias=True,
    )
    paths = {_keras_name("conv2d", i): f"{place}/conv" for i, place in enumerate(_CONVOLUTIONS)}
    paths |= {
        _keras_name("batch_normalization", i): f"{place}/norm"
        for i, place in enumerate(_NORMALISED)
    }
    paths["dense"] = "head"
    inputs = InputFormat(resize=32, crop=32, mean=(0.0,) * 3, std=(1 / 255,) * 3)
    return Recognised(module, _with_leaves_of_torch(tensors), paths.get, inputs)


def _keras_name(layer: str, i: int) -> str:
    return f"{layer}_{i}" if i else layer


def _with_leaves_of_torch(tensors: Tensors) -> Tensors:
    renamed = {}
    for name, value in tensors.items():
        layer, _, leaf = name.rpartition(".")
        renamed[f"{layer}.{_LEAVES.get(leaf, leaf)}"] = value
    return renamed
