"""Residual networks in files of torchvision, timm, Hugging Face, and of networks for CIFAR."""

import re
from collections.abc import Callable, Mapping

from entropax.models.inputs import TORCHVISION_INPUTS, InputFormat
from entropax.models.recognition import Recognised
from entropax.models.resnet import ResNet
from entropax.models.tensors import Tensors

_PLACES = ("first", "second", "third")
_KINDS = {"conv": "conv", "bn": "norm", "0": "conv", "1": "norm"}
_HUGGING_FACE = (
    (r"(?:resnet\.)?embedder\.embedder\.convolution\b", r"conv1"),
    (r"(?:resnet\.)?embedder\.embedder\.normalization\b", r"bn1"),
    (r"(?:resnet\.)?encoder\.stages\.(\d+)\.layers\.(\d+)\.", r"layer\1+1.\2."),
    (r"\.shortcut\.convolution\b", r".downsample.0"),
    (r"\.shortcut\.normalization\b", r".downsample.1"),
    (r"\.layer\.(\d+)\.convolution\b", r".conv\1+1"),
    (r"\.layer\.(\d+)\.normalization\b", r".bn\1+1"),
    (r"^classifier\.1\b", r"fc"),
)
_CIFAR_INPUTS = InputFormat(resize=32, crop=32)
# Of the channels of CIFAR-10, as the networks of kuangliu/pytorch-cifar were trained with.
_CIFAR_PROJECTION_INPUTS = InputFormat(
    resize=32, crop=32, mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010)
)


def recognise(tensors: Tensors) -> Recognised | None:
    """Find a `ResNet` in tensors named as a publisher names them.

    - torchvision and timm: `conv1`, `bn1`, `layer1.0.conv1`, `layer1.0.downsample.0`, `fc`; ResNet,
      ResNeXt and wide ResNet, and timm's with GroupNorm, which have no running statistics.
    - Hugging Face: `resnet.embedder.embedder.convolution`, ..., `classifier.1`.
    - Networks for CIFAR: those of torchvision with a 3x3 convolution first and `linear` last; with
      `shortcut.0` in their blocks (kuangliu/pytorch-cifar) or without, then with zeros
      (akamaster/pytorch_resnet_cifar10).

    Widths, numbers of blocks, the kind of block, groups and classes are those of the shapes.
    Images are prepared as torchvision's first weights expect it, bicubically for Hugging Face; for
    CIFAR with 32 pixels, and the mean and deviation that the repository has.

    Returns:
      None: these are tensors of another family.

    Raises:
      ValueError: a residual network that `ResNet` cannot be, such as one without a last layer, with
        several convolutions before the first block, or for images without three channels.
    """
    published = any(name.startswith(("resnet.embedder.", "embedder.embedder.")) for name in tensors)
    translate = _from_hugging_face if published else _unchanged
    shapes = {translate(name): tuple(value.shape) for name, value in tensors.items()}
    if "layer1.0.conv1.weight" not in shapes:
        return None

    stem, head = shapes.get("conv1.weight", ()), "linear" if "linear.weight" in shapes else "fc"
    if len(stem) != 4 or stem[1:] not in ((3, 3, 3), (3, 7, 7)):
        raise ValueError(
            "A ResNet begins with one convolution, `conv1`, 3x3 or 7x7 on three channels; its "
            f"kernel in this file has the shape {stem or None}."
        )
    if f"{head}.weight" not in shapes:
        raise ValueError("The ResNet in this file has no last layer, `fc`, and so no logits.")

    blocks = _numbers_of_blocks(shapes)
    bottleneck = "layer1.0.conv3.weight" in shapes
    last = "conv3" if bottleneck else "conv2"
    widths = [_shape(shapes, f"layer{i + 1}.0.{last}.weight")[0] for i in range(len(blocks))]
    groups, group_width = 1, None  # as in every ResNet that is not a ResNeXt or wide
    if bottleneck:
        inside, group_width, *_ = _shape(shapes, "layer1.0.conv2.weight")
        groups = inside // group_width
        if groups == 1 and 4 * inside == widths[0]:
            group_width = None
    projected = head == "fc" or any(".shortcut." in name for name in shapes)
    module = ResNet(
        num_classes=shapes[f"{head}.weight"][0],
        widths=tuple(widths),
        blocks=blocks[0] if len(set(blocks)) == 1 else tuple(blocks),
        shortcut="projection" if projected else "zeros",
        padding=1,
        block="bottleneck" if bottleneck else "basic",
        large_stem=stem[-1] == 7,
        stem_width=None if stem[0] == widths[0] else stem[0],
        groups=groups,
        group_width=group_width,
        norm="batch" if any(name.endswith(".running_mean") for name in shapes) else "group",
    )
    if published:
        inputs = TORCHVISION_INPUTS._replace(interpolation="bicubic")
    elif module.large_stem:
        inputs = TORCHVISION_INPUTS
    else:
        inputs = _CIFAR_PROJECTION_INPUTS if projected else _CIFAR_INPUTS
    return Recognised(module, tensors, _renamer(blocks, head, translate), inputs)


def _unchanged(name: str) -> str:
    return name


def _from_hugging_face(name: str) -> str:
    """Torchvision's name of a tensor or a layer; its numbers begin with 1."""
    for pattern, replacement in _HUGGING_FACE:
        name = re.sub(pattern, replacement, name)
    return re.sub(r"(\d+)\+1", lambda number: str(int(number[1]) + 1), name)


def _numbers_of_blocks(shapes: Mapping[str, object]) -> list[int]:
    numbers: list[int] = []
    while (stage := f"layer{len(numbers) + 1}.") + "0.conv1.weight" in shapes:
        number = 1
        while f"{stage}{number}.conv1.weight" in shapes:
            number += 1
        numbers.append(number)
    return numbers


def _shape(shapes: Mapping[str, tuple[int, ...]], name: str) -> tuple[int, ...]:
    shape = shapes.get(name, ())
    if len(shape) != 4 or 0 in shape:
        raise ValueError(
            f"The kernel {name} of a ResNet has four axes, [out, in, h, w]; this file has "
            f"{list(shape) if name in shapes else 'none of that name'}."
        )
    return shape


def _renamer(
    blocks: list[int], head: str, translate: Callable[[str], str]
) -> Callable[[str], str | None]:
    outer = {"conv1": "stem/conv", "bn1": "stem/norm", head: "head"}
    within = re.compile(r"layer(\d+)\.(\d+)\.(?:(conv|bn)([123])|(?:downsample|shortcut)\.([01]))")

    def rename(layer: str) -> str | None:
        layer = translate(layer)
        found = within.fullmatch(layer)
        if found is None:
            return outer.get(layer)
        stage, index = int(found[1]) - 1, int(found[2])
        if not 0 <= stage < len(blocks) or index >= blocks[stage]:
            return None
        place = "shortcut" if found[5] else _PLACES[int(found[4]) - 1]
        return f"residual_{sum(blocks[:stage]) + index}/{place}/{_KINDS[found[5] or found[3]]}"

    return rename
