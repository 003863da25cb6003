"""ConvNeXt as its authors, torchvision, timm and Hugging Face publish it."""

from typing import NamedTuple

from entropax.models.convnext import ConvNeXt
from entropax.models.inputs import InputFormat
from entropax.models.publisher_names import as_path, count, renamed
from entropax.models.recognition import Recognised
from entropax.models.tensors import Tensors

_TIMM_BLOCK = r"stages\.(\d)\.blocks\.(\d+)\."
_HUGGING_FACE_STAGE = r"convnext\.encoder\.stages\.(\d)\."
_HUGGING_FACE_BLOCK = _HUGGING_FACE_STAGE + r"layers\.(\d+)\."
_AUTHORS_BLOCK = r"stages\.(\d)\.(\d+)\."


class _Publisher(NamedTuple):
    """How one of them names tensors, two that give it away first."""

    marks: tuple[str, str]
    rules: dict[str, str]


def _torchvision() -> dict[str, str]:
    """Its blocks and its reductions are numbered together."""
    rules = {r"features\.0\.0\.(\w+)": r"stem.\1", r"features\.0\.1\.(\w+)": r"stem_norm.\1"}
    for stage in range(4):
        block, to = rf"features\.{2 * stage + 1}\.(\d+)\.", rf"stage{stage}_block\1."
        rules |= {
            block + "layer_scale": to + "layer_scale",
            block + r"block\.0\.(\w+)": to + r"conv.\2",
            block + r"block\.2\.(\w+)": to + r"norm.\2",
            block + r"block\.3\.(\w+)": to + r"mlp0.\2",
            block + r"block\.5\.(\w+)": to + r"mlp1.\2",
        }
    for stage in range(1, 4):
        rules |= {
            rf"features\.{2 * stage}\.0\.(\w+)": rf"reduction{stage}_norm.\1",
            rf"features\.{2 * stage}\.1\.(\w+)": rf"reduction{stage}.\1",
        }
    return rules | {r"classifier\.0\.(\w+)": r"norm.\1", r"classifier\.2\.(\w+)": r"head.\1"}


_PUBLISHERS = {
    "torchvision": _Publisher(("features.0.0.weight", "features.1.0.layer_scale"), _torchvision()),
    "timm": _Publisher(
        ("stem.0.weight", "stages.0.blocks.0.conv_dw.weight"),
        {
            r"stem\.0\.(\w+)": r"stem.\1",
            r"stem\.1\.(\w+)": r"stem_norm.\1",
            r"stages\.(\d)\.downsample\.0\.(\w+)": r"reduction\1_norm.\2",
            r"stages\.(\d)\.downsample\.1\.(\w+)": r"reduction\1.\2",
            _TIMM_BLOCK + "gamma": r"stage\1_block\2.layer_scale",
            _TIMM_BLOCK + r"conv_dw\.(\w+)": r"stage\1_block\2.conv.\3",
            _TIMM_BLOCK + r"norm\.(\w+)": r"stage\1_block\2.norm.\3",
            _TIMM_BLOCK + r"mlp\.fc1\.(\w+)": r"stage\1_block\2.mlp0.\3",
            _TIMM_BLOCK + r"mlp\.fc2\.(\w+)": r"stage\1_block\2.mlp1.\3",
            r"head\.norm\.(\w+)": r"norm.\1",
            r"head\.fc\.(\w+)": r"head.\1",
        },
    ),
    "Hugging Face": _Publisher(
        (
            "convnext.embeddings.patch_embeddings.weight",
            "convnext.encoder.stages.0.layers.0.dwconv.weight",
        ),
        {
            r"convnext\.embeddings\.patch_embeddings\.(\w+)": r"stem.\1",
            r"convnext\.embeddings\.layernorm\.(\w+)": r"stem_norm.\1",
            _HUGGING_FACE_STAGE + r"downsampling_layer\.0\.(\w+)": r"reduction\1_norm.\2",
            _HUGGING_FACE_STAGE + r"downsampling_layer\.1\.(\w+)": r"reduction\1.\2",
            _HUGGING_FACE_BLOCK + "layer_scale_parameter": r"stage\1_block\2.layer_scale",
            _HUGGING_FACE_BLOCK + r"dwconv\.(\w+)": r"stage\1_block\2.conv.\3",
            _HUGGING_FACE_BLOCK + r"layernorm\.(\w+)": r"stage\1_block\2.norm.\3",
            _HUGGING_FACE_BLOCK + r"pwconv1\.(\w+)": r"stage\1_block\2.mlp0.\3",
            _HUGGING_FACE_BLOCK + r"pwconv2\.(\w+)": r"stage\1_block\2.mlp1.\3",
            r"convnext\.layernorm\.(\w+)": r"norm.\1",
            r"classifier\.(\w+)": r"head.\1",
        },
    ),
    "its authors": _Publisher(
        ("downsample_layers.0.0.weight", "stages.0.0.dwconv.weight"),
        {
            r"downsample_layers\.0\.0\.(\w+)": r"stem.\1",
            r"downsample_layers\.0\.1\.(\w+)": r"stem_norm.\1",
            r"downsample_layers\.(\d)\.0\.(\w+)": r"reduction\1_norm.\2",
            r"downsample_layers\.(\d)\.1\.(\w+)": r"reduction\1.\2",
            _AUTHORS_BLOCK + "gamma": r"stage\1_block\2.layer_scale",
            _AUTHORS_BLOCK + r"dwconv\.(\w+)": r"stage\1_block\2.conv.\3",
            _AUTHORS_BLOCK + r"norm\.(\w+)": r"stage\1_block\2.norm.\3",
            _AUTHORS_BLOCK + r"pwconv1\.(\w+)": r"stage\1_block\2.mlp0.\3",
            _AUTHORS_BLOCK + r"pwconv2\.(\w+)": r"stage\1_block\2.mlp1.\3",
        },
    ),
}

# Torchvision resizes each of its networks otherwise; by the first width and the blocks in the third
# stage, for T, S, B and L.
_TORCHVISION_RESIZE = {(96, 9): 236, (96, 27): 230, (128, 27): 232, (192, 27): 232}


def recognise(tensors: Tensors) -> Recognised | None:
    """The ConvNeXt whose published tensors these are; None if they are no such network's.

    Widths and numbers of blocks are read off the tensors. What the tensors do not tell is that of
    the publisher's own files, which a file of settings beside the weights may contradict: mean and
    deviation of ImageNet everywhere; torchvision takes 224 pixels out of 236 (T), 230 (S) or 232
    (B, L), bilinear; timm, Hugging Face and the authors out of 256, bicubic. Hugging Face adds
    1e-12 to the variances of its last LayerNorm, here it is 1e-6 as in all other layers.

    Raises:
      ValueError: a ConvNeXt without a classifier, or of the second version.
    """
    publisher = next(
        (p for p, (marks, _) in _PUBLISHERS.items() if all(mark in tensors for mark in marks)), None
    )
    if publisher is None:
        return None
    if any(".grn." in name for name in tensors):
        raise ValueError(
            "This is a ConvNeXt V2, whose blocks have a global response normalisation; only the "
            "first version is there."
        )
    found = renamed(tensors, _PUBLISHERS[publisher].rules)
    stages = 1 + count(found, r"reduction\d\.weight")
    first = ["stem.weight", *(f"reduction{stage}.weight" for stage in range(1, stages))]
    if lacking := [name for name in (*first, "head.weight") if name not in found]:
        raise ValueError(f"A ConvNeXt of {publisher} without {', '.join(lacking)}.")
    widths = [len(found[name]) for name in first]
    blocks = [count(found, rf"stage{stage}_block\d+\.conv\.weight") for stage in range(stages)]
    module = ConvNeXt(len(found["head.weight"]), tuple(widths), tuple(blocks))
    for name, value in found.items():
        if name.endswith("layer_scale"):
            found[name] = value.reshape(-1)
        elif ".mlp" in name and value.ndim == 4:  # some keep these layers as 1x1 convolutions
            found[name] = value.reshape(value.shape[:2])
    if publisher == "torchvision":
        resize = _TORCHVISION_RESIZE.get((widths[0], blocks[2] if stages > 2 else 0), 256)
        return Recognised(module, found, as_path, InputFormat(resize, 224))
    return Recognised(module, found, as_path, InputFormat(256, 224, "bicubic"))
