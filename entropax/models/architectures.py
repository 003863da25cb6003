"""Networks by name, with the weights that they are given."""

from collections.abc import Callable, Mapping
from functools import partial

import flax.linen as nn

from entropax.models.convnext import ConvNeXt
from entropax.models.resnet import ResNet
from entropax.models.transformer import VisionTransformer

_CIFAR = partial(ResNet, shortcut="zeros", padding=1)
_BASIC = partial(ResNet, widths=(64, 128, 256, 512), padding=1, large_stem=True)
_BOTTLENECK = partial(
    ResNet,
    widths=(256, 512, 1024, 2048),
    padding=1,
    block="bottleneck",
    large_stem=True,
    stem_width=64,
)
_TRANSFORMER = partial(VisionTransformer, patch_size=16, expansion=4, pool="class", exact_gelu=True)

ARCHITECTURES: Mapping[str, Callable[[int], nn.Module]] = {
    "cifar-resnet20": partial(_CIFAR, blocks=3),
    "cifar-resnet32": partial(_CIFAR, blocks=5),
    "cifar-resnet44": partial(_CIFAR, blocks=7),
    "cifar-resnet56": partial(_CIFAR, blocks=9),
    "cifar-resnet110": partial(_CIFAR, blocks=18),
    "resnet18": partial(_BASIC, blocks=2),
    "resnet34": partial(_BASIC, blocks=(3, 4, 6, 3)),
    "resnet50": partial(_BOTTLENECK, blocks=(3, 4, 6, 3)),
    "resnet50-group": partial(_BOTTLENECK, blocks=(3, 4, 6, 3), norm="group"),
    "resnet101": partial(_BOTTLENECK, blocks=(3, 4, 23, 3)),
    "resnet101-group": partial(_BOTTLENECK, blocks=(3, 4, 23, 3), norm="group"),
    "resnext50-32x4d": partial(_BOTTLENECK, blocks=(3, 4, 6, 3), groups=32, group_width=4),
    "resnext101-32x8d": partial(_BOTTLENECK, blocks=(3, 4, 23, 3), groups=32, group_width=8),
    "resnext101-64x4d": partial(_BOTTLENECK, blocks=(3, 4, 23, 3), groups=64, group_width=4),
    "wide-resnet50": partial(_BOTTLENECK, blocks=(3, 4, 6, 3), group_width=128),
    "vit-s16": partial(_TRANSFORMER, width=384, num_blocks=12, num_heads=6),
    "vit-b16": partial(_TRANSFORMER, width=768, num_blocks=12, num_heads=12),
    "vit-l16": partial(_TRANSFORMER, width=1024, num_blocks=24, num_heads=16),
    "convnext-t": ConvNeXt,
    "convnext-s": partial(ConvNeXt, blocks=(3, 3, 27, 3)),
    "convnext-b": partial(ConvNeXt, widths=(128, 256, 512, 1024), blocks=(3, 3, 27, 3)),
    "convnext-l": partial(ConvNeXt, widths=(192, 384, 768, 1536), blocks=(3, 3, 27, 3)),
}
"""From the name of an architecture to a function of the number of classes.

>>> ARCHITECTURES["resnet50"](1000).num_classes
1000
"""
