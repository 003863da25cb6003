"""How images are prepared for published weights, by what lies beside them."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from entropax.models.inputs import InputFormat
from entropax.models.tensors import weights_file

# Pixels of the shorter side by the file that torchvision 0.29 publishes. All are cropped to 224,
# bilinear, with ImageNet's mean and deviation.
TORCHVISION_FILES: Mapping[str, int] = {
    "resnet18-f37072fd.pth": 256,
    "resnet34-b627a593.pth": 256,
    "resnet50-0676ba61.pth": 256,
    "resnet50-11ad3fa6.pth": 232,
    "resnet101-63fe2227.pth": 256,
    "resnet101-cd907fc2.pth": 232,
    "resnet152-394f9c45.pth": 256,
    "resnet152-f82ba261.pth": 232,
    "resnext50_32x4d-7cdf4587.pth": 256,
    "resnext50_32x4d-1a0047aa.pth": 232,
    "resnext101_32x8d-8ba56ff5.pth": 256,
    "resnext101_32x8d-110c445d.pth": 232,
    "resnext101_64x4d-173b62eb.pth": 232,
    "wide_resnet50_2-95faca4d.pth": 256,
    "wide_resnet50_2-9ba9bcbe.pth": 232,
    "wide_resnet101_2-32ee1156.pth": 256,
    "wide_resnet101_2-d733dc28.pth": 232,
    "vit_b_16-c867db91.pth": 256,
    "vit_l_16-852ce7e3.pth": 242,
    "convnext_tiny-983f1562.pth": 236,
    "convnext_small-0c510722.pth": 230,
    "convnext_base-6075fbad.pth": 232,
    "convnext_large-ea097f82.pth": 232,
}
# Of Hugging Face and of timm, beside the weights.
PREPARATION_FILES = ("preprocessor_config.json", "config.json")
# Of Pillow, which Hugging Face writes.
_RESAMPLING = {0: "nearest", 2: "bilinear", 3: "bicubic"}
# Hugging Face's ConvNextImageProcessor crops below this size and squashes from it on.
_CROPPED_BELOW = 384
# Of the resized side, where neither says otherwise.
_CROPPED_SHARE = 0.875


def published_inputs(path: str | Path, default: InputFormat) -> InputFormat:
    """The preparation of images that the publisher of a file of weights names.

    Looked for in this order: the name of a file of torchvision, which ends with a checksum;
    `preprocessor_config.json` beside the file, as Hugging Face has it; `config.json` with a
    `pretrained_cfg`, as timm has it.

    Args:
      path: the file, or a folder with a file in it.
      default: what is returned without any of these.

    Raises:
      ValueError: such a file is damaged, or asks for what `InputFormat` cannot say.
    """
    file = weights_file(path)
    if file.name in TORCHVISION_FILES:
        return InputFormat(TORCHVISION_FILES[file.name], 224, "bilinear")
    for name, reader in zip(PREPARATION_FILES, (_hugging_face, _timm), strict=True):
        beside = file.parent / name
        if not beside.is_file():
            continue
        try:
            found = reader(json.loads(beside.read_text(encoding="utf-8")), default)
        except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
            raise ValueError(
                f"{beside} does not say how images are prepared ({error!r}); pass `inputs`."
            ) from error
        if found is not None:
            return found
    return default


def _timm(config: Mapping[str, Any], default: InputFormat) -> InputFormat | None:
    config = config.get("pretrained_cfg")  # type: ignore[assignment]
    if config is None:
        return None
    channels, height, width = config["input_size"]
    if height != width or len(config["mean"]) != channels:
        raise ValueError(f"input_size {config['input_size']} is no square of the mean's channels")
    mode = config.get("crop_mode") or "center"
    if mode not in ("center", "squash"):
        raise ValueError(f"crop_mode {mode!r}")
    return InputFormat(
        resize=math.floor(height / (config.get("crop_pct") or _CROPPED_SHARE)),
        crop=height,
        interpolation=_known(config.get("interpolation") or "bicubic"),
        mean=_numbers(config["mean"]),
        std=_numbers(config["std"]),
        squash=mode == "squash",
    )


def _hugging_face(config: Mapping[str, Any], default: InputFormat) -> InputFormat:
    kind = str(config.get("image_processor_type", config.get("feature_extractor_type", "")))
    by_share = "crop_pct" in config or kind.startswith("ConvNext")
    if not config.get("do_resize", True) or not config.get("do_rescale", True):
        raise ValueError("images are not resized, or are not in [0, 1]")
    if abs(255 * config.get("rescale_factor", 1 / 255) - 1) > 1e-3:
        raise ValueError(f"rescale_factor {config['rescale_factor']}")
    size = config["size"]
    if isinstance(size, int):
        # Written by old versions; what it meant depends on the processor.
        size = {"shortest_edge": size} if by_share else {"height": size, "width": size}
    squash = "shortest_edge" not in size
    edge = int(size["height"] if squash else size["shortest_edge"])
    if squash and size["width"] != edge:
        raise ValueError(f"size {size} is no square")
    resize = crop = edge
    if by_share:
        squash = edge >= _CROPPED_BELOW
        resize = edge if squash else int(edge / (config.get("crop_pct") or _CROPPED_SHARE))
    elif config.get("do_center_crop"):
        size = config["crop_size"]
        crop = size if isinstance(size, int) else size["height"]
    elif not squash:
        raise ValueError("images are not cut to squares")
    mean, std = (0.0,) * len(default.mean), (1.0,) * len(default.mean)
    if config.get("do_normalize", True):
        mean, std = _numbers(config["image_mean"]), _numbers(config["image_std"])
    interpolation = default.interpolation
    if "resample" in config:
        interpolation = _known(_RESAMPLING.get(config["resample"], config["resample"]))
    return InputFormat(resize, crop, interpolation, mean, std, squash)


def _known(interpolation: object) -> str:
    if interpolation not in _RESAMPLING.values():
        raise ValueError(f"interpolation {interpolation!r}")
    return str(interpolation)


def _numbers(values: list[float] | tuple[float, ...]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
