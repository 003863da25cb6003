"""From a file to a network, its weights and its inputs."""

import json

import jax
import numpy as np
import pytest
from models.resnet_tensors import random_tensors
from models.seeded_tensors import seeded_tensors
from oracles import GOLDEN, golden
from safetensors.numpy import save_file

from entropax.models import running_statistics
from entropax.models.convert import cifar_resnet
from entropax.models.inputs import InputFormat
from entropax.models.published import RECOGNISERS, load_published

X = np.random.default_rng(1).normal(size=(2, 8, 8, 3)).astype(np.float32)


def test_a_file(tmp_path):
    tensors = random_tensors()
    np.savez(tmp_path / "weights.npz", **tensors)
    found = load_published(tmp_path / "weights.npz")
    module, variables = cifar_resnet(tensors)
    assert found.module == module
    jax.tree.map(np.testing.assert_array_equal, found.variables, variables)
    assert found.inputs == InputFormat(32, 32)
    assert all(name.endswith("num_batches_tracked") for name in found.unused)
    logits = running_statistics(found.module)(found.variables, X)
    np.testing.assert_array_equal(logits, running_statistics(module)(variables, X))


def recorded_networks():
    for path in sorted((GOLDEN / "models").glob("*.json")):
        record = golden(f"models/{path.name}")
        for publisher, network in ({"": record} if "shapes" in record else record).items():
            yield pytest.param(network["shapes"], id=f"{path.stem} {publisher}".strip())


@pytest.mark.parametrize("shapes", list(recorded_networks()))
def test_a_network_belongs_to_one_family(shapes):
    tensors = seeded_tensors(shapes)
    found = [recognise(tensors) for recognise in RECOGNISERS]
    assert sum(recognised is not None for recognised in found) == 1


def test_a_folder_says_how_images_are_prepared_unless_the_caller_does(tmp_path):
    save_file(random_tensors(), tmp_path / "model.safetensors")
    half = (0.5, 0.5, 0.5)
    config = {"input_size": [3, 40, 40], "mean": half, "std": half, "crop_pct": 1.0}
    (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": config}))
    assert load_published(tmp_path).inputs == InputFormat(40, 40, "bicubic", half, half)
    own = InputFormat(48, 32, "bilinear", half, half)
    assert load_published(tmp_path, inputs=own).inputs == own


def test_a_file_that_is_not_there_is_named_with_those_that_are_published(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"resnet18-f37072fd\.pth.*model\.safetensors"):
        load_published(tmp_path / "none.pth")
    with pytest.raises(FileNotFoundError) as error:
        load_published("resnet50")
    assert "publishes resnet50-0676ba61.pth, resnet50-11ad3fa6.pth;" in str(error.value)
    with pytest.raises(FileNotFoundError, match="Nothing is downloaded"):
        load_published(tmp_path)


def test_weights_of_another_network(tmp_path):
    def published(**tensors):
        np.savez(tmp_path / "weights.npz", **tensors)
        return load_published(tmp_path / "weights.npz")

    with pytest.raises(ValueError, match=r"weights\.npz holds the weights of no network .* a, b"):
        published(a=np.ones(1), b=np.ones(1))
    with pytest.raises(ValueError, match="of no network"):
        published()
    tensors = random_tensors()
    for value in (np.float32(0), np.ones((10, 0), "f4")):
        with pytest.raises(ValueError, match=r"linear\.weight is no weight, its shape is"):
            published(**{**tensors, "linear.weight": value})
    with pytest.raises(ValueError, match=r"hold NaN or infinity: params/head/bias"):
        published(**{**tensors, "linear.bias": np.full_like(tensors["linear.bias"], np.nan)})
    with pytest.raises(ValueError, match=r"weights\.npz: The network has no place for se\.weight"):
        published(**tensors, **{"se.weight": np.ones(1)})
    del tensors["linear.bias"]
    with pytest.raises(ValueError, match=r"weights\.npz: .*params/head/bias is not there"):
        published(**tensors)
