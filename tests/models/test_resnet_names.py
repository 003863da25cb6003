"""Residual networks of the publishers' own code, and ours with the same weights.

The recorded logits (torch 2.13, torchvision 0.29, timm 1.0.31, transformers 5.23, all float32) are
those of weights from `seeded_tensors`, which the file names, and of normal images. Where a network
would take long, it is the publisher's class with fewer blocks.
"""

import jax
import numpy as np
import pytest
from models.resnet_tensors import random_tensors
from models.seeded_tensors import seeded_tensors
from oracles import golden

from entropax.models import batch_statistics, running_statistics
from entropax.models.architectures import ARCHITECTURES
from entropax.models.convert import convert_recognised
from entropax.models.inputs import IMAGENET_MEAN
from entropax.models.resnet_names import recognise


def recorded(name):
    record = golden(f"models/resnet_{name}.json")
    tensors = seeded_tensors(record["shapes"])
    shape = (4, record["size"], record["size"], 3)
    images = np.random.default_rng(record["seed"]).normal(size=shape).astype(np.float32)
    return record, tensors, images


@pytest.mark.parametrize(
    ("name", "architecture"),
    [
        ("torchvision_resnet18", "resnet18"),
        ("torchvision_resnet50", "resnet50"),
        ("torchvision_resnext", None),
        ("timm_group", None),
        ("hugging_face_basic", None),
        ("hugging_face_bottleneck", None),
    ],
)
def test_logits_are_those_of_the_publisher(name, architecture):
    """To 1e-4 of the largest logit: statistics of 16 numbers in dozens of layers amplify rounding,
    by 4e-5 in ResNet-50; with running statistics the difference is below 3e-6."""
    record, tensors, images = recorded(name)
    found = recognise(tensors)
    variables, unused = convert_recognised(found)
    assert all(name.endswith("num_batches_tracked") for name in unused)
    for apply_fn, mode in ((running_statistics, "running"), (batch_statistics, "batch")):
        expected = np.asarray(record[mode])
        logits = jax.jit(apply_fn(found.module))(variables, images)
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    if architecture is not None:
        assert found.module == ARCHITECTURES[architecture](10)


def test_features_are_what_the_last_layer_sees():
    record, tensors, images = recorded("hugging_face_bottleneck")
    found = recognise(tensors)
    variables, _ = convert_recognised(found)
    features = running_statistics(found.module, method="features")(variables, images)
    logits = features @ tensors["classifier.1.weight"].T + tensors["classifier.1.bias"]
    np.testing.assert_allclose(logits, record["running"], atol=1e-4)


def outline(*, stem=7, blocks=(3, 4, 23, 3), inside=256, group=8, width=256, head="fc"):
    """The tensors by which a network with bottlenecks is told, without memory of their own."""
    shapes = {"conv1.weight": (64, 3, stem, stem), f"{head}.weight": (7, width << 3)}
    for stage, number in enumerate(blocks):
        name, scale = f"layer{stage + 1}", 1 << stage
        shapes |= {f"{name}.{i}.conv1.weight": (inside * scale, 64, 1, 1) for i in range(number)}
        shapes[f"{name}.0.conv2.weight"] = (inside * scale, group * scale, 3, 3)
        shapes[f"{name}.0.conv3.weight"] = (width * scale, inside * scale, 1, 1)
    shapes["bn1.running_mean"] = (64,)
    return {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet101", {"inside": 64, "group": 64}),
        ("resnext50-32x4d", {"blocks": (3, 4, 6, 3), "inside": 128, "group": 4}),
        ("resnext101-32x8d", {}),
        ("resnext101-64x4d", {"group": 4}),
        ("wide-resnet50", {"blocks": (3, 4, 6, 3), "inside": 128, "group": 128}),
    ],
)
def test_deep_networks_are_told_by_their_shapes(name, options):
    assert recognise(outline(**options)).module == ARCHITECTURES[name](7)


def test_networks_for_cifar():
    without = recognise(random_tensors(blocks=2))
    assert (without.module.shortcut, without.inputs[:2]) == ("zeros", (32, 32))
    assert without.inputs.mean == IMAGENET_MEAN
    projected = outline(stem=3, head="linear")
    projected["layer1.0.shortcut.0.weight"] = np.zeros((256, 64, 1, 1))
    found = recognise(projected)
    assert (found.module.shortcut, found.module.large_stem) == ("projection", False)
    assert found.inputs.mean == (0.4914, 0.4822, 0.4465)
    assert found.rename("layer1.0.shortcut.1") == "residual_0/shortcut/norm"


def test_layers_that_the_network_lacks_have_no_place():
    rename = recognise(outline()).rename
    assert rename("layer4.2.conv3") == "residual_32/third/conv"
    for layer in ("layer4.3.conv1", "layer5.0.conv1", "layer0.0.conv1", "layer1.0.se.fc1", "fc2"):
        assert rename(layer) is None


def test_other_families_are_left_to_others():
    assert recognise({"blocks.0.attn.qkv.weight": np.zeros((3, 1))}) is None
    assert recognise({}) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conv1.weight": None}, "one convolution, `conv1`"),
        ({"conv1.weight": np.zeros((64, 1, 7, 7))}, "three channels"),
        ({"fc.weight": None}, "no last layer"),
        ({"layer2.0.conv3.weight": None}, r"layer2\.0\.conv3\.weight .* none of that name"),
        ({"layer1.0.conv2.weight": np.zeros((8, 0, 3, 3))}, "four axes"),
    ],
)
def test_residual_networks_that_are_not_ours(change, message):
    tensors = {name: value for name, value in (outline() | change).items() if value is not None}
    with pytest.raises(ValueError, match=message):
        recognise(tensors)


def test_batch_normalisation_without_its_statistics_is_refused():
    record = golden("models/resnet_hugging_face_basic.json")
    tensors = seeded_tensors(record["shapes"])
    del tensors["resnet.embedder.embedder.normalization.running_mean"]
    with pytest.raises(ValueError, match="batch_stats/stem/norm/mean is not there"):
        convert_recognised(recognise(tensors))
