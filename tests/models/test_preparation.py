"""What publishers write beside their weights becomes an InputFormat."""

import json

import pytest

from entropax.models.inputs import IMAGENET_MEAN, IMAGENET_STD, TORCHVISION_INPUTS, InputFormat
from entropax.models.preparation import published_inputs

HALF = [0.5, 0.5, 0.5]


def beside(folder, name, content, weights="model.safetensors"):
    (folder / weights).touch()
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def hugging_face(folder, **config):
    config = {"image_mean": HALF, "image_std": HALF, "resample": 2} | config
    return published_inputs(beside(folder, "preprocessor_config.json", config), TORCHVISION_INPUTS)


@pytest.mark.parametrize(
    ("config", "resize", "crop", "squash"),
    [
        # The files of google/vit-base-patch16-224, microsoft/resnet-50, facebook/convnext-*-384,
        # facebook/deit-*-224, and one that says everything.
        ({"size": {"height": 224, "width": 224}}, 224, 224, True),
        ({"size": 224, "crop_pct": 0.875}, 256, 224, False),
        ({"size": 384, "crop_pct": None}, 384, 384, True),
        ({"size": {"shortest_edge": 224}, "image_processor_type": "ConvNextImageProcessor"},
         256, 224, False),
        ({"size": 256, "do_center_crop": True, "crop_size": 224}, 256, 224, True),
        ({"size": {"shortest_edge": 240}, "do_center_crop": True,
          "crop_size": {"height": 224, "width": 224}}, 240, 224, False),
    ],
)  # fmt: skip
def test_hugging_face(tmp_path, config, resize, crop, squash):
    half = (0.5, 0.5, 0.5)
    expected = InputFormat(resize, crop, "bilinear", half, half, squash)
    assert hugging_face(tmp_path, **config) == expected


def test_hugging_face_without_normalisation(tmp_path):
    found = hugging_face(tmp_path, size=224, crop_pct=0.875, do_normalize=False, resample=3)
    assert found == InputFormat(256, 224, "bicubic", (0.0,) * 3, (1.0,) * 3)


@pytest.mark.parametrize(
    "config",
    [
        {"size": {"height": 224, "width": 192}},
        {"size": {"shortest_edge": 224}},
        {"size": 224, "resample": 1},
        {"size": 224, "do_rescale": False},
        {"size": 224, "rescale_factor": 1 / 127.5},
        {"size": 224, "do_resize": False},
        {"size": 224, "image_mean": None},
        {},
    ],
)
def test_what_hugging_face_can_say_and_we_cannot(tmp_path, config):
    with pytest.raises(ValueError, match="does not say how images are prepared"):
        hugging_face(tmp_path, **config)


def timm(folder, **config):
    config = {"input_size": [3, 224, 224], "mean": HALF, "std": list(IMAGENET_STD)} | config
    content = {"architecture": "resnet50", "pretrained_cfg": config}
    return published_inputs(beside(folder, "config.json", content), TORCHVISION_INPUTS)


def test_timm(tmp_path):
    half = tuple(HALF)
    found = timm(tmp_path, crop_pct=0.95, interpolation="bicubic", crop_mode="center")
    assert found == InputFormat(235, 224, "bicubic", half, IMAGENET_STD)
    found = timm(tmp_path, crop_pct=1.0, interpolation="bilinear", crop_mode="squash")
    assert found == InputFormat(224, 224, "bilinear", half, IMAGENET_STD, squash=True)
    # What timm takes where nothing is said.
    assert timm(tmp_path) == InputFormat(256, 224, "bicubic", half, IMAGENET_STD)


@pytest.mark.parametrize(
    "config",
    [
        {"input_size": [3, 224, 192]},
        {"input_size": [1, 224, 224]},
        {"crop_mode": "border"},
        {"interpolation": "random"},
        {"mean": None},
    ],
)
def test_what_timm_can_say_and_we_cannot(tmp_path, config):
    with pytest.raises(ValueError, match="does not say how images are prepared"):
        timm(tmp_path, **config)


def test_the_name_of_a_file_of_torchvision(tmp_path):
    for name, resize in (("resnet50-0676ba61.pth", 256), ("resnet50-11ad3fa6.pth", 232)):
        (tmp_path / name).touch()
        found = published_inputs(tmp_path / name, InputFormat(1, 1))
        assert found == InputFormat(resize, 224, "bilinear", IMAGENET_MEAN, IMAGENET_STD)


def test_the_name_of_a_file_of_torchvision_stands_above_what_lies_beside_it(tmp_path):
    """Its name has a checksum; what lies beside it may belong to another network."""
    content = {"size": 384, "crop_pct": 1.0, "image_mean": HALF, "image_std": HALF}
    beside(tmp_path, "preprocessor_config.json", content, weights="resnet50-0676ba61.pth")
    found = published_inputs(tmp_path / "resnet50-0676ba61.pth", InputFormat(99, 99))
    assert found == TORCHVISION_INPUTS


def test_nothing_that_speaks_of_it(tmp_path):
    default = InputFormat(9, 8)
    folder = beside(tmp_path, "config.json", {"model_type": "vit", "hidden_size": 8})
    assert published_inputs(folder, default) == default
    with pytest.raises(ValueError, match="does not say how"):
        published_inputs(beside(tmp_path, "config.json", "{"), default)
    with pytest.raises(FileNotFoundError):
        published_inputs(tmp_path / "none.pth", default)
