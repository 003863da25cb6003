import re

import jax
import numpy as np
import pytest
from models.published_logits import check_logits
from models.seeded_tensors import seeded_tensors
from oracles import golden

from entropax.models.convert import convert_recognised
from entropax.models.convnext_names import recognise
from entropax.models.inputs import InputFormat

# Four stages of 1, 1, 2, 1 blocks and widths of 8, 16, 24, 32, built by the publishers' own classes
# (torchvision 0.29, timm 1.0.31, transformers 5.23; torch 2.13) on `seeded_tensors` under the names
# that their files have, and the logits of `IMAGES`.
GOLDEN = golden("models/convnext.json")
IMAGES = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype(np.float32)


def tensors_of(publisher):
    return seeded_tensors(GOLDEN[publisher]["shapes"])


@pytest.mark.parametrize("publisher", GOLDEN)
def test_logits_are_those_of_the_publisher(publisher):
    module = check_logits(recognise, GOLDEN[publisher], IMAGES)
    assert (module.widths, module.blocks) == ((8, 16, 24, 32), (1, 1, 2, 1))


def authors_names(tensors):
    """Names of the first release for those of timm, which reads such files by the inverse."""
    rules = [
        (r"stem\.", "downsample_layers.0."),
        (r"stages\.(\d)\.downsample\.", r"downsample_layers.\1."),
        (r"stages\.(\d)\.blocks\.(\d)\.", r"stages.\1.\2."),
        (r"\.conv_dw\.", ".dwconv."),
        (r"\.mlp\.fc", ".pwconv"),
        (r"head\.fc\.", "head."),
        (r"head\.norm\.", "norm."),
    ]
    renamed = {}
    for name, value in tensors.items():
        for old, new in rules:
            name = re.sub(old, new, name)
        renamed[name] = value
    return renamed


def as_convolutions(tensors):
    """The two layers of each block as 1x1 convolutions, as some of timm's networks have them."""
    return {
        name: value[:, :, None, None] if name.endswith(("fc1.weight", "fc2.weight")) else value
        for name, value in tensors.items()
    }


@pytest.mark.parametrize("change", [authors_names, as_convolutions])
def test_other_forms_of_the_same_network(change):
    tensors = tensors_of("timm")
    expected, found = (
        convert_recognised(recognise(each)).variables for each in (tensors, change(tensors))
    )
    jax.tree.map(np.testing.assert_array_equal, expected, found)


@pytest.mark.parametrize(
    ("publisher", "expected"),
    [
        ("torchvision", InputFormat(256, 224)),
        ("timm", InputFormat(256, 224, "bicubic")),
        ("hugging-face", InputFormat(256, 224, "bicubic")),
    ],
)
def test_inputs_of_the_publishers(publisher, expected):
    assert recognise(tensors_of(publisher)).inputs == expected


@pytest.mark.parametrize(("blocks", "resize"), [(9, 236), (27, 230)])
def test_torchvision_resizes_small_and_tiny_otherwise(blocks, resize):
    tensors = tensors_of("torchvision")
    tensors["features.0.0.weight"] = np.ones((96, 3, 4, 4), np.float32)
    third = {name: value for name, value in tensors.items() if name.startswith("features.5.0.")}
    for block in range(2, blocks):
        tensors |= {name.replace("5.0.", f"5.{block}.", 1): value for name, value in third.items()}
    recognised = recognise(tensors)
    assert recognised.module.blocks[2] == blocks
    assert recognised.inputs == InputFormat(resize, 224)


def test_other_networks_are_not_recognised():
    assert recognise({"features.0.0.weight": np.ones((8, 3, 3, 3))}) is None  # MobileNet


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head.fc.weight": None}, "timm without head.weight"),
        ({"stages.2.downsample.1.weight": None}, "timm without reduction2.weight"),
        ({"stages.0.blocks.0.mlp.grn.weight": np.ones(32)}, "ConvNeXt V2"),
    ],
)
def test_a_convnext_that_is_not_there(change, message):
    tensors = {**tensors_of("timm"), **change}
    with pytest.raises(ValueError, match=message):
        recognise({name: value for name, value in tensors.items() if value is not None})


def test_what_the_network_lacks_is_refused():
    recognised = recognise({**tensors_of("timm"), "norm_pre.bias": np.ones(32, np.float32)})
    with pytest.raises(ValueError, match=r"no place for norm_pre\.bias"):
        convert_recognised(recognised)


def test_a_missing_tensor_is_named():
    tensors = tensors_of("timm")
    del tensors["stages.2.blocks.1.gamma"]
    with pytest.raises(ValueError, match="params/stage2_block1/layer_scale is not there"):
        convert_recognised(recognise(tensors))
