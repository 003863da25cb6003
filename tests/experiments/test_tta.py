"""The real program, small: it has to run, resume, refuse, and give the same numbers every time."""

import csv
import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image

from entropax.checkpoint import restore_variables
from entropax.data import load_digits
from entropax.data.corruptions import corrupt
from entropax.data.streams import one_pass, shuffled_stream
from entropax.experiments import tta
from entropax.experiments.tta import Config, program
from entropax.models import ConvNet, batch_statistics, running_statistics
from entropax.tta import count_flips, map_inputs, rdumb

SMALL = Config(
    features=(8,),
    epochs=25,
    steps=6,
    batch_size=32,
    held=100,
    max_images=150,
    severities=(1, 5),
    corruptions=("brightness", "impulse_noise"),
    learning_rate=0.05,
)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return dataclasses.replace(SMALL, run_dir=tmp_path_factory.mktemp("tta") / "run")


@pytest.fixture(scope="module")
def report(config):
    return tta.run(config)


def test_every_split_is_measured_and_estimated(config, report):
    assert len(report.family("calibration")) == 1 + 4 * 2
    test = report.family("test")
    assert [(row["name"], row["severity"]) for row in test] == [
        ("brightness", 1),
        ("brightness", 5),
        ("impulse_noise", 1),
        ("impulse_noise", 5),
    ]
    for row in test:
        rates = ("source", "batch_statistics", "adapted", "online", "estimate", "confidence")
        assert all(0 <= row[name] <= 1 for name in rates)
        assert row["lower"] <= row["estimate"] <= row["upper"]
        assert row["estimate_of"] == "batch_statistics"
    assert set(report.errors()) == {"label flips", "average confidence", "constant"}
    assert 0 <= report.coverage() <= 1


def test_errors_are_those_of_the_rows(report):
    row = report.family("test")[1]
    errors = report.errors()
    assert errors["label flips"][1] == abs(row["estimate"] - row["batch_statistics"])
    assert errors["average confidence"][1] == abs(row["confidence"] - row["batch_statistics"])
    fitted = np.mean([r["batch_statistics"] for r in report.family("calibration")])
    assert errors["constant"][1] == pytest.approx(abs(fitted - row["batch_statistics"]))


def test_numbers_are_those_of_the_saved_network(config, report):
    """Accuracies and flips once more, from the checkpoint, with the library alone."""
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits))
    chosen = np.sort(order[797 + 150 : 797 + 300])
    labels = digits.labels[chosen]
    shifted = corrupt(digits.images[chosen], "impulse_noise", 5, seed=0)
    module = ConvNet(num_classes=10, features=config.features)
    like = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    variables = restore_variables(config.run_dir / "source", like)

    row = report.family("test")[-1]
    assert (row["name"], row["severity"]) == ("impulse_noise", 5)
    logits = running_statistics(module)(variables, shifted / 255.0)
    right = np.asarray(logits).argmax(-1) == labels
    assert row["source"] == pytest.approx(np.mean(right), abs=1e-6)
    clean = running_statistics(module)(variables, digits.images[chosen] / 255.0)
    assert np.mean(np.asarray(clean).argmax(-1) == labels) > 0.75

    tx = optax.sgd(config.learning_rate, momentum=0.9)
    adapter = rdumb(batch_statistics(module), tx, num_classes=10)
    on_images = map_inputs(adapter, lambda rows: jnp.asarray(shifted)[rows] / 255.0)
    stream = shuffled_stream(150, batch_size=32, steps=6, seed=1)
    whole = one_pass(150, batch_size=32, seed=2)
    count = jax.jit(lambda s, b: count_flips(on_images, on_images.init(variables), s, b))
    _, flips = count(stream, whole)
    rows = np.asarray(whole.x).ravel()[:150]
    initial = np.asarray(flips.labels0)[:150]
    assert row["batch_statistics"] == pytest.approx(np.mean(initial == labels[rows]), abs=1e-6)
    held = flips._replace(where=jnp.arange(len(flips.where)) < config.held)
    assert row["weighted_flips"] == pytest.approx(float(held.weighted[0]), abs=1e-6)
    assert row["weighted_flips_stderr"] == pytest.approx(float(held.weighted_stderr[0]), abs=1e-6)
    assert row["weighted_flips"] != pytest.approx(float(flips.weighted[0]), abs=1e-6)
    widened = report.curve.estimate(row["weighted_flips"], stderr=row["weighted_flips_stderr"])
    assert (row["lower"], row["upper"]) == (widened.lower, widened.upper)


def test_run_folder(config, report):
    files = {path.name for path in config.run_dir.iterdir()}
    assert files == {"config.json", "metrics.jsonl", "results.csv", "estimates.png", "source"}
    with (config.run_dir / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(report.rows)
    assert float(rows[-1]["estimate"]) == pytest.approx(report.rows[-1]["estimate"], abs=1e-6)
    settings = json.loads((config.run_dir / "config.json").read_text())
    assert settings["method"] == {"name": "rdumb", "period": 1000}
    with Image.open(config.run_dir / "estimates.png") as image:
        assert image.format == "PNG"


def test_a_stopped_run_goes_on_at_the_first_unfinished_split(config, report, tmp_path, monkeypatch):
    config = dataclasses.replace(config, run_dir=tmp_path / "stopped")
    measured = []

    def stop_at_the_fifth(observe, variables, images, split, config):
        if len(measured) == 4:
            raise KeyboardInterrupt
        measured.append(split)
        return measure(observe, variables, images, split, config)

    measure = program.measure
    monkeypatch.setattr(program, "measure", stop_at_the_fifth)
    with pytest.raises(KeyboardInterrupt):
        tta.run(config)
    lines = (config.run_dir / "metrics.jsonl").read_text()
    (config.run_dir / "metrics.jsonl").write_text(lines[:-10])  # killed in the middle of a line

    def go_on(observe, variables, images, split, config):
        measured.append(split)
        return measure(observe, variables, images, split, config)

    monkeypatch.setattr(program, "measure", go_on)
    resumed = tta.run(config)
    assert resumed.rows == report.rows  # to the last bit: training, corruptions and streams agree
    assert measured[3] == measured[4]
    assert len(measured) == 1 + len(report.rows)


def test_a_finished_run_is_reported_anew_without_measuring(config, report, monkeypatch, capsys):
    monkeypatch.setattr(program, "measure", None)
    again = tta.run(dataclasses.replace(config, form="isotonic", estimate="adapted", level=0.5))
    assert again.family("test")[0]["estimate_of"] == "adapted"
    printed = capsys.readouterr().out
    assert "50% intervals hold" in printed
    last = [line.strip() for line in printed.splitlines() if line.strip()][-4:-1]
    assert [line.split(":")[0] for line in last] == [
        "label flips",
        "average confidence",
        "constant",
    ]
    assert all("median" in line and "worst" in line for line in last)


def test_other_settings_need_another_folder(config, report):
    with pytest.raises(ValueError, match="steps was 6 and is now 7"):
        tta.run(dataclasses.replace(config, steps=7))


def write_images(folder, images):
    folder.mkdir(parents=True)
    for i, image in enumerate(images):
        Image.fromarray(image[..., 0]).save(folder / f"{i:03}.png")


def test_unlabelled_target(config, report, tmp_path, capsys):
    digits = load_digits()
    write_images(tmp_path / "pile", digits.images[:70])
    with_target = dataclasses.replace(config, target=tmp_path / "pile", corruptions=())
    rows = tta.run(with_target).family("target")
    (row,) = (row for row in rows if row["name"].startswith("pile-"))
    assert "batch_statistics" not in row
    printed = capsys.readouterr().out
    assert "pile: accuracy (batch statistics) about" in printed
    assert "pile: accuracy (adapted) about" in printed
    with (config.run_dir / f"predictions-{row['name']}.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert lines[3]["image"] == "003.png"
    predictions = [int(line["class"]) for line in lines]
    assert np.mean(np.array(predictions) == digits.labels[:70]) > 0.3  # in the folder's order


def test_labelled_target_of_few_images_and_classes(config, report, tmp_path):
    """Fewer images than a batch, and class folders that are not all of the network's."""
    digits = load_digits()
    for name in ("3", "7"):
        chosen = digits.images[digits.labels == int(name)][:4]
        write_images(tmp_path / "few" / name, chosen)
    with_target = dataclasses.replace(config, target=tmp_path / "few", corruptions=())
    rows = tta.run(with_target).family("target")
    (row,) = (row for row in rows if row["name"].startswith("few-"))
    assert row["images"] == 8
    assert 0 <= row["batch_statistics"] <= 1


def test_target_that_does_not_fit(config, tmp_path):
    write_images(tmp_path / "large", np.zeros((3, 16, 16, 1), np.uint8))
    with pytest.raises(ValueError, match=r"have the shape \(16, 16, 1\)"):
        tta.run(dataclasses.replace(config, target=tmp_path / "large"))
    write_images(tmp_path / "pets" / "cat", np.zeros((3, 8, 8, 1), np.uint8))
    with pytest.raises(ValueError, match="classes that the network does not know: cat"):
        tta.run(dataclasses.replace(config, target=tmp_path / "pets"))
    write_images(tmp_path / "one", np.zeros((1, 8, 8, 1), np.uint8))
    with pytest.raises(ValueError, match="holds one image"):
        tta.run(dataclasses.replace(config, target=tmp_path / "one"))


@pytest.mark.parametrize(
    "method", [tta.Tent(), tta.Eta(), tta.Eata(fisher_images=64), tta.Rdumb(period=2)]
)
def test_methods(method, config, tmp_path):
    few = dataclasses.replace(
        config, method=method, severities=(5,), corruptions=("fog",), run_dir=tmp_path, level=0.8
    )
    report = tta.run(few)
    assert len(report.rows) == 1 + 4 + 1
    assert all(row["selected"] > 0 for row in report.rows)


def test_diverging_run_stops_with_the_step_and_keeps_what_it_has(config, tmp_path, capsys):
    wild = dataclasses.replace(config, learning_rate=1e38, run_dir=tmp_path)
    with pytest.raises(FloatingPointError, match=r"clean: step \d+ met values .* --learning-rate"):
        tta.run(wild)
    assert (tmp_path / "source").is_dir()


def test_a_corruption_cannot_be_fitted_and_tested(tmp_path):
    run_dir = tmp_path / "run"
    both = dataclasses.replace(SMALL, corruptions=("gaussian_blur",), run_dir=run_dir)
    with pytest.raises(ValueError, match="gaussian_blur: a corruption that the curve is fitted on"):
        tta.run(both)
    assert not run_dir.exists()  # before anything is trained or written


def test_an_npz_of_your_own(tmp_path):
    digits = load_digits()
    arrays = {
        "x_train": digits.images[:900],
        "y_train": digits.labels[:900],
        "x_test": digits.images[900:1000],
        "y_test": digits.labels[900:1000],
    }
    np.savez(tmp_path / "mine.npz", **arrays)
    config = dataclasses.replace(
        SMALL,
        data="npz",
        path=tmp_path / "mine.npz",
        run_dir=tmp_path / "run",
        corruptions=("contrast",),
    )
    assert len(tta.run(config).family("test")) == 2


def test_one_class_only(tmp_path):
    images = np.random.default_rng(0).integers(0, 255, (80, 8, 8, 1), np.uint8)
    labels = np.zeros(80, np.int32)
    arrays = {"x_train": images, "y_train": labels, "x_test": images, "y_test": labels}
    np.savez(tmp_path / "same.npz", **arrays)
    config = dataclasses.replace(
        SMALL, data="npz", path=tmp_path / "same.npz", run_dir=tmp_path / "run"
    )
    with pytest.raises(ValueError, match="two classes or more; every label of 'npz' is 0"):
        tta.run(config)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": -0.1}, "`learning_rate` must be positive, got -0.1"),
        ({"method": tta.Rdumb(period=0)}, "`period` must be at least 1 step, got 0"),
        ({"steps": 0}, "`steps` must be positive"),
        ({"batch_size": -1}, "`batch_size` must be positive"),
        ({"held": 1}, "`held` must be at least 2"),
        ({"momentum": 1.0}, r"`momentum` must be in \[0, 1\)"),
        ({"level": 90.0}, "`level` must be between 0 and 1"),
        ({"severities": (0, 6)}, "`severities` must be among 1 to 5"),
        ({"corruptions": ("rain",)}, "Unknown corruption rain; known: gaussian_noise"),
        ({"data": "folder"}, "'folder' needs --path"),
        ({"path": Path("somewhere")}, "'digits' takes no --path"),
    ],
)
def test_settings_are_checked_when_they_are_made(options, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **options)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--data", "mnits"], "mnits"),
        (["--data", "folder", "--path", "nowhere"], "nowhere"),
        (["--target", "nowhere"], "nowhere"),
    ],
)
def test_wrong_input_is_one_sentence_and_exit_code_2(args, message, tmp_path, capsys):
    places = ["--run-dir", str(tmp_path / "run")]
    if "--data" in args and "folder" not in args:
        places += ["--data-dir", str(tmp_path)]
    with pytest.raises(SystemExit) as stop:
        tta.main([*args, *places])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert "Traceback" not in error
