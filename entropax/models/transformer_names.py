r"""Vision transformers as torchvision, timm and Hugging Face publish them.

All three have a class token, learned positions, LayerNorm before attention and before the network
of a block, and exact GELU. They differ in names, and in how they keep attention: torchvision and
timm have queries, keys and values in one matrix.
"""

import math
from typing import NamedTuple

import numpy as np

from entropax.models.inputs import InputFormat
from entropax.models.publisher_names import as_path, count, renamed
from entropax.models.recognition import Recognised
from entropax.models.tensors import Tensors
from entropax.models.transformer import VisionTransformer

_TORCHVISION_BLOCK = r"encoder\.layers\.encoder_layer_(\d+)\."
_TIMM_BLOCK = r"blocks\.(\d+)\."
_HUGGING_FACE_BLOCK = r"vit\.encoder\.layer\.(\d+)\."


class _Publisher(NamedTuple):
    """How one of them names tensors, the one that gives it away first."""

    mark: str
    rules: dict[str, str]
    epsilon: float


# The files of torchvision call the two layers of a block's network linear_1 and linear_2, networks
# saved from memory call them 0 and 3.
_PUBLISHERS = {
    "torchvision": _Publisher(
        "conv_proj.weight",
        {
            r"encoder\.pos_embedding": "positions",
            r"conv_proj\.(\w+)": r"embedding.\1",
            _TORCHVISION_BLOCK + r"ln_1\.(\w+)": r"block\1.norm0.\2",
            _TORCHVISION_BLOCK + r"ln_2\.(\w+)": r"block\1.norm1.\2",
            _TORCHVISION_BLOCK + r"self_attention\.in_proj_(\w+)": r"block\1.attention.qkv.\2",
            _TORCHVISION_BLOCK + r"self_attention\.out_proj\.(\w+)": r"block\1.attention.out.\2",
            _TORCHVISION_BLOCK + r"mlp\.(?:0|linear_1)\.(\w+)": r"block\1.mlp0.\2",
            _TORCHVISION_BLOCK + r"mlp\.(?:3|linear_2)\.(\w+)": r"block\1.mlp1.\2",
            r"encoder\.ln\.(\w+)": r"norm.\1",
            r"heads\.head\.(\w+)": r"head.\1",
        },
        1e-6,
    ),
    "timm": _Publisher(
        "blocks.0.attn.qkv.weight",
        {
            "cls_token": "class_token",
            "pos_embed": "positions",
            r"patch_embed\.proj\.(\w+)": r"embedding.\1",
            _TIMM_BLOCK + r"norm1\.(\w+)": r"block\1.norm0.\2",
            _TIMM_BLOCK + r"norm2\.(\w+)": r"block\1.norm1.\2",
            _TIMM_BLOCK + r"attn\.qkv\.(\w+)": r"block\1.attention.qkv.\2",
            _TIMM_BLOCK + r"attn\.proj\.(\w+)": r"block\1.attention.out.\2",
            _TIMM_BLOCK + r"mlp\.fc1\.(\w+)": r"block\1.mlp0.\2",
            _TIMM_BLOCK + r"mlp\.fc2\.(\w+)": r"block\1.mlp1.\2",
        },
        1e-6,
    ),
    "Hugging Face": _Publisher(
        "vit.embeddings.patch_embeddings.projection.weight",
        {
            r"vit\.embeddings\.cls_token": "class_token",
            r"vit\.embeddings\.position_embeddings": "positions",
            r"vit\.embeddings\.patch_embeddings\.projection\.(\w+)": r"embedding.\1",
            _HUGGING_FACE_BLOCK + r"layernorm_before\.(\w+)": r"block\1.norm0.\2",
            _HUGGING_FACE_BLOCK + r"layernorm_after\.(\w+)": r"block\1.norm1.\2",
            _HUGGING_FACE_BLOCK
            + r"attention\.attention\.(query|key|value)\.(\w+)": r"block\1.attention.\2.\3",
            _HUGGING_FACE_BLOCK + r"attention\.output\.dense\.(\w+)": r"block\1.attention.out.\2",
            _HUGGING_FACE_BLOCK + r"intermediate\.dense\.(\w+)": r"block\1.mlp0.\2",
            _HUGGING_FACE_BLOCK + r"output\.dense\.(\w+)": r"block\1.mlp1.\2",
            r"vit\.layernorm\.(\w+)": r"norm.\1",
            r"classifier\.(\w+)": r"head.\1",
        },
        1e-12,
    ),
}

# By the width of a token, for Ti, S, B, L and H: no tensor tells the number of heads.
_HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16}


def recognise(tensors: Tensors) -> Recognised | None:
    """The vision transformer whose published tensors these are; None if they are no such network's.

    Number of blocks, width, size of patches and images are read off the tensors; the number of
    heads follows from the width as in ViT-Ti, S, B, L and H. What the tensors do not tell is that
    of the publisher's own files: Hugging Face adds 1e-12 to variances, the others 1e-6. So are the
    inputs, which a file of settings beside the weights may contradict:

    - torchvision: mean and deviation of ImageNet; 224 pixels out of 256 (ViT-L/16: 242), bilinear;
      larger images (SWAG) as they are, bicubic. Its linear probes of SWAG at 224 pixels do not cut
      (bicubic); their tensors look like the others.
    - timm (the weights with augmentation and regularisation of Steiner et al., 2021): 0.5 for mean
      and deviation, bicubic, 224 pixels out of 248, larger images as they are. DeiT has the same
      tensors, and mean and deviation of ImageNet.
    - Hugging Face (google/vit-...): 0.5 for mean and deviation, bilinear, both sides made to fit.

    Raises:
      ValueError: a transformer of this kind without a classifier, of another width, or whose
        positions are not those of a square image and a class token.
    """
    publisher = next((p for p, (mark, *_) in _PUBLISHERS.items() if mark in tensors), None)
    if publisher is None:
        return None
    found = renamed(tensors, _PUBLISHERS[publisher].rules)
    lacking = [
        name
        for name in ("embedding.weight", "positions", "head.weight", "block0.mlp0.weight")
        if name not in found
    ]
    if lacking:
        raise ValueError(
            f"A vision transformer of {publisher} without {', '.join(lacking)}; it takes one with "
            "learned positions and a classifier."
        )
    embedding, positions = found["embedding.weight"].shape, found["positions"].shape
    if len(embedding) != 4 or embedding[2] != embedding[3] or len(positions) != 3:
        raise ValueError(
            "The kernel of the patches must be [width, channels, side, side], the positions must "
            f"be [1, tokens, width], got {embedding} and {positions}."
        )
    width, _, patch_size, _ = embedding
    if width not in _HEADS:
        raise ValueError(
            f"Vision transformers have widths of {', '.join(map(str, _HEADS))}, got {width}, for "
            "which the number of heads is not known."
        )
    side = math.isqrt(max(positions[1] - 1, 0))
    if side**2 + 1 != positions[1]:
        raise ValueError(
            "Positions must be those of a square image and a class token, got "
            f"{positions[1]} of them."
        )
    for name, value in found.items():
        _check_attention(name, value, width)
    module = VisionTransformer(
        num_classes=len(found["head.weight"]),
        patch_size=patch_size,
        width=width,
        num_blocks=count(found, r"block\d+\.norm0\.weight"),
        num_heads=_HEADS[width],
        expansion=len(found["block0.mlp0.weight"]) // width,
        pool="class",
        exact_gelu=True,
        epsilon=_PUBLISHERS[publisher].epsilon,
    )
    inputs = _inputs(publisher, side * patch_size, width)
    return Recognised(module, _arranged(found, _HEADS[width]), as_path, inputs)


def _check_attention(name: str, value: np.ndarray, width: int) -> None:
    """Whether an attention's matrix or bias can be cut into heads."""
    *_, parent, layer, leaf = ("", "", *name.split("."))
    if parent == "attention":
        expected = (3 * width if layer == "qkv" else width, width)[: 2 if leaf == "weight" else 1]
        if value.shape != expected:
            raise ValueError(f"{name} must be {expected}, got {value.shape}.")


def _inputs(publisher: str, crop: int, width: int) -> InputFormat:
    if publisher == "torchvision":
        if crop > 224:
            return InputFormat(crop, crop, "bicubic")
        return InputFormat(242 if width == 1024 else 256, crop)
    half = (0.5, 0.5, 0.5)
    if publisher == "timm":
        return InputFormat(int(crop / 0.9) if crop <= 224 else crop, crop, "bicubic", half, half)
    return InputFormat(crop, crop, "bilinear", half, half, squash=True)


def _arranged(tensors: Tensors, heads: int) -> Tensors:
    """Tensors that fit once `convert_tensors` has reversed the axes of every `weight`."""
    found: Tensors = {}
    for name, value in tensors.items():
        layer, _, leaf = name.rpartition(".")
        if name == "embedding.weight":
            found[name] = value.transpose(0, 2, 3, 1).reshape(len(value), -1)
        elif layer.endswith(".qkv"):
            for part, each in zip(("query", "key", "value"), np.split(value, 3), strict=True):
                found[f"{layer.removesuffix('qkv')}{part}.{leaf}"] = _by_head(each, leaf, heads)
        elif layer.endswith((".query", ".key", ".value")):
            found[name] = _by_head(value, leaf, heads)
        elif layer.endswith(".attention.out") and leaf == "weight":
            found[name] = value.reshape(len(value), heads, -1).swapaxes(1, 2)
        else:
            found[name] = value
    return found


def _by_head(value: np.ndarray, leaf: str, heads: int) -> np.ndarray:
    """A matrix `[heads * e, d]` as `[e, heads, d]`, its bias as `[heads, e]`."""
    value = value.reshape(heads, -1, *value.shape[1:])
    return value.swapaxes(0, 1) if leaf == "weight" else value
