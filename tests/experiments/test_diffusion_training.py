"""The real program, small: it has to run, resume, refuse, and give the same numbers every time."""

import csv
import dataclasses
import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import stats

from entropax.diffusion.entropy import dse
from entropax.experiments import diffusion_training
from entropax.experiments.diffusion_training import Config, program
from entropax.experiments.diffusion_training.measure import (
    Unit,
    build_measure,
    planned_units,
    record_epochs,
    trained_labels,
)
from entropax.experiments.diffusion_training.report import make_report, summary_table
from entropax.experiments.diffusion_training.training import build_trainer
from entropax.experiments.labelled_images import load_parts

SMALL = Config(
    networks=("convnet",),
    seeds=(0, 1),
    max_train=60,
    probe=40,
    epochs=3,
    records=2,
    batch_size=20,
    layers="all",
)
FIGURES = {"training-convnet.png", "layers-convnet.png"}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return dataclasses.replace(SMALL, run_dir=tmp_path_factory.mktemp("training") / "run")


class Builder:
    """`build_measure` that compiles once, counts its records, and can be stopped."""

    def __init__(self):
        self.measure = None
        self.epochs = []
        self.stop_after = None

    def __call__(self, *args):
        self.measure = self.measure or build_measure(*args)
        return self.count

    def count(self, unit, skipped):
        for record in self.measure(unit, skipped):
            if len(self.epochs) == self.stop_after:
                raise KeyboardInterrupt
            self.epochs.append((unit, record["epoch"]))
            yield record


@pytest.fixture(scope="module")
def builder():
    return Builder()


@pytest.fixture(scope="module")
def report(config, builder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(program, "build_measure", builder)
        return diffusion_training.run(config)


def records_of(config):
    return [
        json.loads(line) for line in (config.run_dir / "metrics.jsonl").read_text().splitlines()
    ]


def test_every_epoch_layer_and_bandwidth_is_measured(config, report):
    assert len(report.rows) == 3 * 2 * 3 * 3 * 2  # objectives, seeds, epochs, layers, bandwidths
    assert report.layers == ["block0", "block1", "last"]
    for row in report.rows:
        assert 0 < row["dse"] <= math.log(40)
        assert row["saturation"] == pytest.approx(row["dse"] / math.log(40))
        assert 0 < row["binned_entropy"] <= math.log(40) + 1e-12
        assert row["adjusted_labels"] <= 1
        assert (row["bandwidth"] == 10) == (row["sigma"] == "10")
        assert (row["train_loss"] is None) == (row["epoch"] == 0)
        assert (row["train_accuracy"] is None) == (row["objective"] == "contrastive")
        if row["objective"] == "contrastive":
            assert row["test_accuracy"] == row["linear_accuracy"]


def test_networks_begin_the_same_whatever_they_are_trained_for(report):
    for seed in (0, 1):
        starts = [
            {k: v for k, v in row.items() if k not in ("objective", "train_accuracy")}
            for row in report.rows
            if (row["seed"], row["epoch"], row["layer"]) == (seed, 0, "last")
        ]
        for row in starts[2:]:
            same = starts[0] if row["sigma"] == "10" else starts[1]
            for name in ("dse", "dsmi_labels", "dsmi_inputs", "linear_accuracy"):
                assert row[name] == pytest.approx(same[name], abs=1e-5)
    start = report.curves("dse", network="convnet", objective="supervised", sigma="median")[:, 0]
    assert start[0] != start[1]


def test_learning_shows(report):
    place = {"network": "convnet", "sigma": "median"}
    losses = report.curves("train_loss", objective="supervised", **place)
    assert np.all(losses[:, -1] < losses[:, 1])
    accuracies = report.curves("test_accuracy", objective="supervised", **place)
    assert np.all(accuracies[:, -1] > 0.3)


def test_wrong_labels_are_permuted_once_for_each_seed(config, report):
    images = load_parts(config, train=60, probe=40, test=0)
    wrong = [trained_labels(Unit("convnet", "wrong_labels", seed), images) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(wrong[0], wrong[1])
    assert np.any(wrong[0] != wrong[2])
    np.testing.assert_array_equal(np.sort(wrong[0]), np.sort(images.train.labels))
    assert np.mean(wrong[0] == images.train.labels) < 0.4
    right = trained_labels(Unit("convnet", "contrastive", 0), images)
    np.testing.assert_array_equal(right, images.train.labels)


def test_summary(report):
    assert len(report.summary) == 3 * 3 * 2
    (row,) = (
        r
        for r in report.summary
        if (r["objective"], r["layer"], r["sigma"]) == ("supervised", "last", "median")
    )
    place = {"network": "convnet", "objective": "supervised", "sigma": "median"}
    curves, accuracy = (report.curves(name, **place) for name in ("dse", "test_accuracy"))
    change = curves[:, -1] - curves[:, 0]
    assert row["dse_change"] == pytest.approx(change.mean())
    assert row["dse_change_lower"] == change.min()
    assert row["dse_change_upper"] == change.max()
    assert row["dse_rose"] == np.sum(change > 0)
    expected = [stats.spearmanr(*pair).statistic for pair in zip(curves, accuracy, strict=True)]
    assert row["dse_spearman_test_accuracy"] == pytest.approx(np.mean(expected))
    cells = summary_table(report, "convnet").columns[0].cells
    assert list(cells) == [
        name for name in ("supervised", "contrastive", "wrong labels") for _ in range(2)
    ]


def test_run_folder(config, report):
    files = {path.name for path in config.run_dir.iterdir()}
    assert files == FIGURES | {"config.json", "metrics.jsonl", "results.csv", "summary.csv"}
    for name, rows in (("results", report.rows), ("summary", report.summary)):
        with (config.run_dir / f"{name}.csv").open() as file:
            table = list(csv.DictReader(file))
        assert len(table) == len(rows)
        value = "dse" if name == "results" else "dse_end"
        assert float(table[-1][value]) == pytest.approx(rows[-1][value], rel=1e-5)
    for name in FIGURES:
        with Image.open(config.run_dir / name) as image:
            assert image.format == "PNG"


def test_a_stopped_run_goes_on_and_gives_the_same(config, report, builder, tmp_path, monkeypatch):
    """Stopped in the middle of a network and of a line, with all further numbers the same."""
    config = dataclasses.replace(config, run_dir=tmp_path / "stopped", seeds=(1,))
    monkeypatch.setattr(builder, "epochs", [])
    monkeypatch.setattr(builder, "stop_after", 5)
    monkeypatch.setattr(program, "build_measure", builder)
    with pytest.raises(KeyboardInterrupt):
        diffusion_training.run(config)
    lines = (config.run_dir / "metrics.jsonl").read_text()
    assert len(lines.splitlines()) == 5
    (config.run_dir / "metrics.jsonl").write_text(lines[:-10])

    monkeypatch.setattr(builder, "stop_after", None)
    monkeypatch.setattr(builder, "epochs", [])
    resumed = diffusion_training.run(config)
    assert builder.epochs[:2] == [
        (Unit("convnet", "contrastive", 1), 1),
        (Unit("convnet", "contrastive", 1), 3),
    ]
    assert len(builder.epochs) == 9 - 4
    assert resumed.rows == [row for row in report.rows if row["seed"] == 1]  # to the last bit


def test_more_networks_join_a_finished_run(config, report, monkeypatch):
    """Seeds are no settings: those that are there are reported without training."""
    monkeypatch.setattr(program, "build_measure", None)
    again = diffusion_training.run(dataclasses.replace(config, seeds=(0,)))
    assert again.rows == [row for row in report.rows if row["seed"] == 0]
    assert make_report(config, records_of(config)).rows == report.rows
    assert [str(unit) for unit in planned_units(config)][3:5] == [
        "convnet, supervised, seed 1",
        "convnet, contrastive, seed 1",
    ]


def test_other_settings_need_another_folder(config, report):
    with pytest.raises(ValueError, match="epochs was 3 and is now 4"):
        diffusion_training.run(dataclasses.replace(config, epochs=4))


def test_numbers_are_those_of_the_library(config, report):
    """The untrained network's last layer, by hand."""
    images = load_parts(config, train=60, probe=40, test=0)
    trainer = build_trainer(config, "convnet", contrastive=False, images=images)
    state = trainer.init(jax.random.split(jax.random.key(0))[0])
    features = trainer.features_fn(state.variables, jnp.asarray(images.probe.x))
    z = np.asarray(features["last"])
    head = state.variables["params"]["head"]
    np.testing.assert_allclose(z @ head["kernel"] + head["bias"], features["output"], atol=1e-5)
    row = next(r for r in report.rows if (r["layer"], r["sigma"]) == ("last", "median"))
    assert row["dse"] == pytest.approx(float(dse(z, sigma="median")), abs=2e-5)
    assert row["width"] == z.shape[1]


@pytest.mark.parametrize("contrastive", [False, True])
def test_transformer(contrastive):
    """Shapes only: it is compiled in a real run."""
    config = dataclasses.replace(SMALL, networks=("transformer",))
    images = load_parts(config, train=60, probe=40, test=0)
    trainer = build_trainer(config, "transformer", contrastive=contrastive, images=images)
    key = jax.random.key(0)
    state = jax.eval_shape(trainer.init, key)
    x, labels = images.train.x[:20], images.train.labels[:20]
    after, loss = jax.eval_shape(trainer.step, state, key, x, labels)
    assert loss.shape == ()
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, state)
    features = jax.eval_shape(trainer.features_fn, state.variables, x)
    assert {name: z.shape for name, z in features.items()} == {
        "block0": (20, 16, 64),
        "block1": (20, 16, 64),
        "last": (20, 64),
        "output": (20, 64 if contrastive else 10),
    }


def test_divergence_stops_and_says_what_to_do(config, report, builder, monkeypatch):
    images = load_parts(config, train=60, probe=40, test=0)
    labels = np.full(60, 10**6)  # no class: its logit is read as NaN
    monkeypatch.setattr(
        "entropax.experiments.diffusion_training.measure.trained_labels", lambda *_: labels
    )
    assert len(images.train.x) == 60
    records = builder.measure(Unit("convnet", "supervised", 0), ())
    next(records)
    with pytest.raises(FloatingPointError, match=r"is nan in epoch 1; lower --learning-rate"):
        next(records)


def test_epochs_of_the_records():
    assert record_epochs(Config(epochs=20, records=6)) == [0, 1, 2, 3, 6, 11, 20]
    assert record_epochs(Config(epochs=1)) == [0, 1]


def test_defaults_depend_on_the_data():
    assert Config().amounts.max_train == 1000
    mnist = Config(data="mnist", probe=300).amounts
    assert (mnist.max_train, mnist.probe, mnist.epochs) == (2000, 300, 40)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": -0.1}, "`learning_rate` must be positive, got -0.1"),
        ({"epochs": 0}, "`epochs` must be at least 1, got 0"),
        ({"probe": 5}, "`probe` must be at least 20, got 5"),
        ({"seeds": ()}, r"`seeds` must be one or more, each once, got \(\)"),
        ({"seeds": (1, 1)}, r"`seeds` must be one or more, each once, got \(1, 1\)"),
        ({"seeds": (-1,)}, "`seeds` must not be negative"),
        ({"sigma": (0.0,)}, "`sigma` must be positive, got 0.0"),
        ({"t": math.inf}, "`t` must be positive, got inf"),
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
        (["--data", "idx", "--path", "nowhere"], "nowhere"),
        (["--max-train", "50"], "50 training images do not fill one batch of 100"),
        (["--probe", "3"], "`probe` must be at least 20"),
    ],
)
def test_wrong_input_is_one_sentence_and_exit_code_2(args, message, tmp_path, capsys):
    places = ["--run-dir", str(tmp_path / "run")]
    if "mnits" in args:
        places += ["--data-dir", str(tmp_path)]
    with pytest.raises(SystemExit) as stop:
        diffusion_training.main([*args, *places])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_one_class_is_no_study(tmp_path):
    images = np.random.default_rng(0).integers(0, 255, (30, 8, 8, 1), np.uint8)
    arrays = {"x_train": images, "y_train": np.zeros(30, int)}
    np.savez(tmp_path / "mine.npz", **arrays, x_test=images, y_test=np.arange(30) % 3)
    config = Config(data="npz", path=tmp_path / "mine.npz", batch_size=10, probe=20)
    with pytest.raises(ValueError, match="two classes or more; every label of 'npz' is 0"):
        diffusion_training.run(config)


def test_notebook(config, report, monkeypatch, capsys):
    """Its code cells, with the finished run above in the place of the one they ask for."""
    notebook = Path(__file__).parents[2] / "notebooks" / "diffusion_training.ipynb"
    cells = json.loads(notebook.read_text())["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    own = 'config = Config(run_dir="../runs/diffusion-digits", networks=("convnet",))'
    assert sources[0].count(own) == 1
    monkeypatch.setattr(program, "build_measure", lambda *args: None)
    names = {"own_config": config}
    for source in sources:
        exec(compile(source.replace(own, "config = own_config"), notebook.name, "exec"), names)
    assert names["report"].rows == report.rows
    assert "median [" in capsys.readouterr().out
