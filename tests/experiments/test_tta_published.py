"""A published network on folders of images: against the library alone, and what it refuses."""

import csv
import dataclasses
import json
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from models.resnet_tensors import random_tensors
from PIL import Image

from entropax import tta
from entropax.data.image_folder import index_folder
from entropax.data.streams import shuffled_stream
from entropax.estimation import fit_flip_curve, published_accuracy
from entropax.experiments import tta_published
from entropax.experiments.published_networks import folder_checksum, image_split
from entropax.experiments.tta.config import Tent
from entropax.experiments.tta_published import Config, program
from entropax.experiments.tta_published.report import estimated, read_curve
from entropax.models import (
    batch_statistics,
    load_published,
    normalised_inputs,
    running_statistics,
)
from entropax.types import Batch

CLASSES = ("ant", "bee", "cat", "dog", "elk")


def write_images(root, *, classes=CLASSES, each=8, seed=0):
    """Images of 32 pixels, which the network takes as they are; PNG loses nothing."""
    rng = np.random.default_rng(seed)
    n = len(classes) * each
    # A colour each, or the network would take them all for the same.
    colours = rng.integers(40, 215, size=(n, 1, 1, 3))
    images = np.uint8(colours + rng.integers(-40, 40, size=(n, 32, 32, 3)))
    for i, image in enumerate(images):
        place = root / classes[i // each]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{i:03}.png")
    return images


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("published")
    write_images(place / "val")
    np.savez(place / "resnet.npz", **random_tensors())
    return place


@pytest.fixture(scope="module")
def small(place):
    return Config(
        weights=place / "resnet.npz",
        path=place / "val",
        run_dir=place / "run",
        method=Tent(),
        learning_rate=0.3,
        steps=7,
        batch_size=10,
        held=24,
        curve="unweighted_linear",
    )


@pytest.fixture(scope="module")
def rows(small):
    return tta_published.run(small)


@pytest.fixture(scope="module")
def fitted(small, place):
    config = dataclasses.replace(
        small, fit=True, run_dir=place / "fit", calibration=("gaussian_blur",), severities=(1, 3, 5)
    )
    return config, tta_published.run(config)


def test_numbers_are_those_of_the_library_alone(small, rows):
    """The same stream in memory, through the public functions."""
    images = write_images(small.run_dir / "again")
    x, labels = images / np.float32(255), np.repeat(np.arange(5), 8)
    module, variables, inputs, _ = load_published(small.weights)

    def prepared(apply_fn):
        return normalised_inputs(apply_fn, mean=inputs.mean, std=inputs.std)

    adapter = tta.tent(prepared(batch_statistics(module)), optax.sgd(0.3, momentum=0.9))
    held = np.random.default_rng(2).permutation(40)[:24]
    padded = np.resize(held, 30)

    def predict(apply_fn):
        parts = [
            apply_fn(jnp.asarray(x[padded[i : i + 10]]), jnp.arange(i, i + 10) < 24)
            for i in (0, 10, 20)
        ]
        return np.concatenate(parts)[:24]

    state = adapter.init(variables)
    source_fn = prepared(running_statistics(module))
    source = predict(lambda x, where: source_fn(variables, x))
    before = predict(lambda x, where: adapter.predict(state, Batch(x, where)))
    stream = shuffled_stream(40, batch_size=10, steps=7, seed=1)
    right = []
    for visited, where in zip(np.asarray(stream.x), stream.where, strict=True):
        state, info = adapter.step(state, Batch(jnp.asarray(x[visited]), where))
        right.append(np.argmax(info.logits, axis=-1) == labels[visited])
    after = predict(lambda x, where: adapter.predict(state, Batch(x, where)))

    (row,) = rows
    for name, logits in (("source", source), ("batch_statistics", before), ("adapted", after)):
        assert row[name] == np.mean(np.argmax(logits, axis=-1) == labels[held])
    assert row["online"] == np.mean(right)
    flipped = np.mean(np.argmax(before, axis=-1) != np.argmax(after, axis=-1))
    assert row["unweighted_flips"] == pytest.approx(flipped)
    assert flipped > 0
    assert row["selected"] > 0
    assert row["estimate"] == published_accuracy(row["unweighted_flips"], "unweighted_linear")
    assert "lower" not in row


def test_a_finished_run_is_only_reported_again(small, rows, monkeypatch):
    def fail(*_):
        raise AssertionError("measured again")

    monkeypatch.setattr(program, "measure", fail)
    again = tta_published.run(dataclasses.replace(small, curve="weighted_quadratic"))
    assert again[0]["adapted"] == rows[0]["adapted"]
    assert again[0]["curve"] == "weighted_quadratic"
    with (small.run_dir / "results.csv").open() as file:
        assert next(csv.DictReader(file))["curve"] == "weighted_quadratic"
    with pytest.raises(ValueError, match=r"steps was 7 and is now 8"):
        tta_published.run(dataclasses.replace(small, steps=8))


def test_a_fit_is_used_for_what_was_measured_alike(small, fitted, place):
    config, rows = fitted
    assert [(row["name"], row["severity"]) for row in rows] == [
        ("clean", 0),
        *(("gaussian_blur", severity) for severity in (1, 3, 5)),
    ]
    curve = fit_flip_curve(
        [row["weighted_flips"] for row in rows],
        [row["batch_statistics"] for row in rows],
        target="batch_statistics",
    )
    using = dataclasses.replace(small, curve=str(place / "fit"), run_dir=place / "using")
    (row,) = tta_published.run(using)
    assert row["estimate"] == curve.estimate(row["weighted_flips"]).value
    assert row["lower"] <= row["estimate"] <= row["upper"]
    assert (config.run_dir / "curve.png").stat().st_size > 10_000
    assert not list(config.run_dir.glob(".partial*"))

    other = dataclasses.replace(using, learning_rate=0.1, run_dir=place / "other")
    with pytest.raises(ValueError, match=r"learning_rate was 0.3 and is now 0.1"):
        tta_published.run(other)
    with (
        pytest.warns(UserWarning, match="`resize` is 40"),
        pytest.raises(ValueError, match="inputs"),
    ):
        tta_published.run(dataclasses.replace(using, resize=40, run_dir=place / "resized"))
    np.savez(place / "other.npz", **random_tensors(seed=1))
    with pytest.raises(ValueError, match="the weights are others"):
        tta_published.run(dataclasses.replace(using, weights=place / "other.npz"))


def test_an_image_is_corrupted_alike_on_every_visit(fitted):
    """Clean and corrupted images share the folder; a resumed fit gives the same numbers."""
    config, rows = fitted
    metrics = config.run_dir / "metrics.jsonl"
    whole = metrics.read_text()
    metrics.write_text("".join(whole.splitlines(keepends=True)[:-2]) + '{"cut sh')
    assert tta_published.run(config) == rows
    assert metrics.read_text() == whole


def test_each_corruption_of_a_folder_is_a_shift_of_its_own(small, tmp_path):
    for severity in ("1", "2"):
        write_images(tmp_path / "c" / "noise" / "gaussian_noise" / severity, each=2)
        write_images(tmp_path / "c" / "extra" / "saturate" / severity, each=2)
    config = dataclasses.replace(small, path=tmp_path / "c", run_dir=tmp_path / "run", steps=2)
    found = [(row["name"], row["severity"]) for row in tta_published.run(config)]
    names = ("gaussian_noise", "saturate")
    assert found == [(name, severity) for name in names for severity in (1, 2)]
    config = dataclasses.replace(config, fit=True, run_dir=tmp_path / "fit")
    assert len(tta_published.run(config)) == 4
    assert json.loads((tmp_path / "fit" / "curve.json").read_text())["target"] == "batch_statistics"


def test_accuracy_is_among_the_classes_that_are_there(small, tmp_path):
    """Labels are the network's numbers, and no prediction is a class that has no folder."""
    write_images(tmp_path / "few", classes=("bee", "elk"), each=12)
    (tmp_path / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    config = dataclasses.replace(
        small,
        path=tmp_path / "few",
        classes=tmp_path / "classes.txt",
        run_dir=tmp_path / "run",
        steps=2,
    )
    (row,) = tta_published.run(config)
    images = write_images(tmp_path / "again", classes=("bee", "elk"), each=12)
    module, variables, inputs, _ = load_published(config.weights)
    source_fn = normalised_inputs(running_statistics(module), mean=inputs.mean, std=inputs.std)
    logits = np.asarray(source_fn(variables, images / np.float32(255)))
    predicted = np.where(logits[:, 1] > logits[:, 4], 0, 1)
    assert row["source"] == np.mean(predicted == np.repeat([0, 1], 12))
    with pytest.raises(ValueError, match="2 class folders and resnet 5 classes"):
        tta_published.run(dataclasses.replace(config, classes=None))
    (tmp_path / "classes.txt").write_text("bee\nelk\n")
    with pytest.raises(ValueError, match="must name 5 different classes"):
        tta_published.run(config)


def test_unreadable_images_stop_the_run_or_are_left_out(small, tmp_path):
    write_images(tmp_path / "val", each=5)
    (tmp_path / "val" / "cat" / "012.png").write_bytes(b"")
    config = dataclasses.replace(small, path=tmp_path / "val", run_dir=tmp_path / "run", steps=3)
    with pytest.raises(ValueError, match=r"012\.png"):
        tta_published.run(config)
    config = dataclasses.replace(config, on_error="skip", run_dir=tmp_path / "skipped", held=25)
    with pytest.warns(UserWarning, match=r"012\.png"):
        (row,) = tta_published.run(config)
    assert row["held"] == 24


def test_a_folder_without_a_readable_image_is_an_error(small, tmp_path):
    write_images(tmp_path / "val", each=2)
    for file in (tmp_path / "val").glob("*/*.png"):
        file.write_bytes(b"")
    config = dataclasses.replace(
        small, path=tmp_path / "val", run_dir=tmp_path / "run", on_error="skip"
    )
    with (
        pytest.warns(UserWarning, match="cannot be read"),
        pytest.raises(ValueError, match="none of the 10 held images"),
    ):
        tta_published.run(config)


def test_other_images_under_the_same_names_are_another_run(small, rows, tmp_path):
    """As ImageNet-C has them: only the bytes differ."""
    write_images(tmp_path / "val", seed=1)
    with pytest.raises(ValueError, match="folders was"):
        tta_published.run(dataclasses.replace(small, path=tmp_path / "val"))


def test_the_bytes_tell_folders_of_equal_sizes_apart(tmp_path):
    for place, level in (("a", 3), ("b", 4)):
        (tmp_path / place).mkdir()
        Image.fromarray(np.full((8, 8), level, np.uint8)).save(tmp_path / place / "0.bmp")
    sizes = {(tmp_path / place / "0.bmp").stat().st_size for place in "ab"}
    assert len(sizes) == 1
    first, second = (folder_checksum(index_folder(tmp_path / place)) for place in "ab")
    assert first == folder_checksum(index_folder(tmp_path / "a")) != second


def test_train_may_be_a_class(tmp_path):
    for name in ("train", "tree"):
        (tmp_path / name).mkdir()
    assert image_split(tmp_path) is None
    (tmp_path / "val").mkdir()
    assert image_split(tmp_path) == "test"


def test_a_network_without_normalisation_is_refused(small, tmp_path):
    shapes = {"0": (16, 1, 4, 4), "2": (32, 16, 4, 4), "5": (100, 1568), "7": (10, 100)}
    tensors = {f"{name}.weight": np.zeros(shape, "f4") for name, shape in shapes.items()}
    tensors |= {f"{name}.bias": np.zeros(shape[0], "f4") for name, shape in shapes.items()}
    np.savez(tmp_path / "mnist.npz", **tensors)
    with pytest.raises(ValueError, match=r"mnist\.npz: the network has no normalisation layers"):
        tta_published.run(dataclasses.replace(small, weights=tmp_path / "mnist.npz"))


def test_images_without_labels_get_an_estimate_and_no_fit(small, tmp_path):
    write_images(tmp_path, classes=("loose",), each=12)
    config = dataclasses.replace(small, path=tmp_path / "loose", run_dir=tmp_path / "run", steps=2)
    (row,) = tta_published.run(config)
    assert 0 <= row["estimate"] <= 1
    assert "source" not in row
    with pytest.raises(ValueError, match="fitted on labelled images"):
        tta_published.run(dataclasses.replace(config, fit=True))


def test_precision_and_other_inputs_than_the_weights_expect(small, rows, tmp_path):
    config = dataclasses.replace(
        small, precision="bfloat16", mean=(0.5, 0.456, 0.406), run_dir=tmp_path / "run", steps=1
    )
    with pytest.warns(UserWarning, match=r"`mean` is \(0.5, 0.456.*, they expect \(0.485"):
        (row,) = tta_published.run(config)
    name = "batch_statistics_confidence"  # which a shift of the mean does not change
    assert row[name] == pytest.approx(rows[0][name], abs=0.02)  # bfloat16 has 8 bits
    assert row[name] != rows[0][name]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": 0.0}, "`learning_rate` must be positive"),
        ({"held": 1}, "at least 2 images"),
        ({"momentum": 1.0}, r"`momentum` must be in \[0, 1\)"),
        ({"level": 1.0}, "between 0 and 1"),
        ({"severities": (6,)}, "among 1 to 5"),
        ({"calibration": ("rain",)}, "Unknown corruption rain"),
        ({"curve": "nowhere"}, "or the run folder of a --fit"),
        ({"crop": 0}, "`crop` must be at least 1"),
        ({"std": (0.2, 0.0, 0.2)}, "`std` must be positive for each channel"),
        ({"severities": (1, 1, 2, 3)}, "`severities` must be different ones"),
    ],
)
def test_wrong_options_are_refused(small, options, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(small, **options)


def test_the_command_of_tta_takes_weights(tmp_path):
    words = ["--data", "folder", "--path", str(tmp_path), "--weights", str(tmp_path / "resnet50")]
    command = [sys.executable, "-m", "entropax.experiments.tta", *words]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert ended.returncode == 2
    assert "resnet50-0676ba61.pth" in ended.stderr
    assert ended.stderr.startswith("error: ")


def test_where_nothing_could_flip_there_is_no_estimate(small, fitted, place):
    record = {
        "weighted_flips": 0.0,
        "weighted_flips_stderr": 0.0,
        "unweighted_flips": 0.0,
        "unweighted_flips_stderr": 0.0,
        "selected": 0.0,
    }
    inputs = load_published(small.weights).inputs
    published = read_curve(small, 0, inputs)
    assert np.isnan(estimated(small, published, record)["estimate"])
    using = dataclasses.replace(small, curve=str(place / "fit"))
    content = json.loads((place / "fit" / "curve.json").read_text())
    row = estimated(using, read_curve(using, content["weights"], inputs), record)
    assert (row["lower"], row["upper"], row["extrapolated"]) == (0, 1, True)
