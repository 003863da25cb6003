import jax
import numpy as np
import pytest
from models.published_logits import check_logits
from models.seeded_tensors import seeded_tensors
from oracles import golden

from entropax.models.convert import convert_recognised
from entropax.models.inputs import IMAGENET_MEAN, IMAGENET_STD, InputFormat
from entropax.models.transformer_names import recognise

# Two blocks of width 192 with 3 heads and images of 32 pixels, built by the publishers' own
# classes (torchvision 0.29, timm 1.0.31, transformers 5.23; torch 2.13) on `seeded_tensors` under
# the names that their files have, and the logits of `IMAGES`.
GOLDEN = golden("models/vit.json")
IMAGES = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
HALF = (0.5, 0.5, 0.5)


def tensors_of(publisher):
    return seeded_tensors(GOLDEN[publisher]["shapes"])


@pytest.mark.parametrize("publisher", GOLDEN)
def test_logits_are_those_of_the_publisher(publisher):
    module = check_logits(recognise, GOLDEN[publisher], IMAGES)
    assert (module.width, module.num_heads, module.expansion) == (192, 3, 2)


def test_names_of_torchvision_networks_saved_from_memory():
    tensors = tensors_of("torchvision")
    renamed = {
        name.replace("mlp.linear_1", "mlp.0").replace("mlp.linear_2", "mlp.3"): value
        for name, value in tensors.items()
    }
    assert renamed.keys() != tensors.keys()
    expected, found = (convert_recognised(recognise(each)).variables for each in (tensors, renamed))
    jax.tree.map(np.testing.assert_array_equal, expected, found)


def resized(publisher, side, width=192):
    """Tensors of images of `side` pixels and of another width, as far as they are looked at."""
    shapes = {
        name: tuple({192: width, 576: 3 * width}.get(each, each) for each in shape)
        for name, shape in GOLDEN[publisher]["shapes"].items()
    }
    (positions,) = (name for name in shapes if "pos" in name)
    shapes[positions] = (1, (side // 16) ** 2 + 1, width)
    return seeded_tensors(shapes)


@pytest.mark.parametrize(
    ("publisher", "side", "width", "expected"),
    [
        ("torchvision", 224, 768, InputFormat(256, 224, "bilinear", IMAGENET_MEAN, IMAGENET_STD)),
        ("torchvision", 224, 1024, InputFormat(242, 224, "bilinear", IMAGENET_MEAN, IMAGENET_STD)),
        ("torchvision", 384, 768, InputFormat(384, 384, "bicubic", IMAGENET_MEAN, IMAGENET_STD)),
        ("timm", 224, 384, InputFormat(248, 224, "bicubic", HALF, HALF)),
        ("timm", 384, 384, InputFormat(384, 384, "bicubic", HALF, HALF)),
        ("hugging-face", 224, 768, InputFormat(224, 224, "bilinear", HALF, HALF, squash=True)),
    ],
)
def test_inputs_of_the_publishers(publisher, side, width, expected):
    recognised = recognise(resized(publisher, side, width))
    assert recognised.inputs == expected
    assert recognised.module.num_heads == width // 64


def test_other_networks_are_not_recognised():
    assert recognise({"conv1.weight": np.ones((8, 3, 3, 3))}) is None


def without(tensors, part):
    return {name: value for name, value in tensors.items() if part not in name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: without(t, "head."), "timm without head.weight; it takes one with learned"),
        (lambda t: without(t, "pos_embed"), "timm without positions"),
        (
            lambda t: {**t, "patch_embed.proj.weight": np.ones((100, 3, 16, 16))},
            "widths of 192, 384, 768, 1024, 1280, got 100, for which the number of heads",
        ),
        (
            lambda t: {**t, "patch_embed.proj.weight": np.ones((192, 768))},
            r"must be \[width, channels, side, side\], .*, got \(192, 768\) and \(1, 5, 192\)",
        ),
        (
            lambda t: {**t, "pos_embed": np.ones((1, 4, 192))},
            "a square image and a class token, got 4 of them",
        ),
        (
            lambda t: {**t, "blocks.0.attn.qkv.weight": np.ones((577, 192))},
            r"block0\.attention\.qkv\.weight must be \(576, 192\), got \(577, 192\)",
        ),
    ],
)
def test_a_transformer_that_is_not_there(change, message):
    with pytest.raises(ValueError, match=message):
        recognise(change(tensors_of("timm")))


@pytest.mark.parametrize("name", ["reg_token", "blocks.0.ls1.gamma", "dist_token", "norm_pre.bias"])
def test_what_the_network_lacks_is_refused(name):
    recognised = recognise({**tensors_of("timm"), name: np.ones(192, np.float32)})
    with pytest.raises(ValueError, match=f"no place for {name}"):
        convert_recognised(recognised)


def test_a_missing_tensor_is_named():
    recognised = recognise(without(tensors_of("timm"), "blocks.1.mlp.fc1.bias"))
    with pytest.raises(ValueError, match="params/block1/mlp0/bias is not there"):
        convert_recognised(recognised)


def test_a_publisher_s_two_names_for_one_tensor_are_refused():
    tensors = tensors_of("torchvision")
    name = "encoder.layers.encoder_layer_0.mlp.linear_1.bias"
    with pytest.raises(ValueError, match=r"Two tensors belong to block0\.mlp0\.bias"):
        recognise({**tensors, name.replace("linear_1", "0"): tensors[name]})
