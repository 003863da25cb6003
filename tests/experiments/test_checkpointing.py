"""The real program, small: it has to run, resume, refuse, and keep what the criteria say."""

import base64
import csv
import dataclasses
import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from entropax.checkpoint import EntropyCheckpointer
from entropax.experiments import checkpoint_figures, checkpointing
from entropax.experiments.checkpointing import Config, measure, program
from entropax.experiments.checkpointing.measure import CRITERIA, evaluate, wrong_labels

# A PNG of one pixel.
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
)
SMALL = Config(
    seeds=2,
    noise=(0.4,),
    train=96,
    validation=40,
    max_test=60,
    width=16,
    epochs=6,
    every=2,
    learning_rate=1e-2,
    warm_up=0.5,
    keep_checkpoints=True,
    resamples=50,
)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return dataclasses.replace(SMALL, run_dir=tmp_path_factory.mktemp("checkpointing") / "run")


@pytest.fixture(scope="module")
def report(config):
    return checkpointing.run(config)


@pytest.fixture
def no_figure(report, monkeypatch):
    """Figures take longer than all else; that of `report` is the real one."""
    monkeypatch.setattr(
        checkpoint_figures, "draw_checkpointing", lambda path, **_: path.write_bytes(PIXEL)
    )


def records(config):
    lines = (config.run_dir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_criteria_choose_what_they_say(config, report):
    for record in records(config):
        curves = record["curves"]
        assert curves["step"] == [2, 4, 6]
        for name, criterion in CRITERIA.items():
            possible = [i for i, s in enumerate(curves["step"]) if s >= 3 or not criterion.late]
            values = np.array(curves[criterion.value])[possible]
            if criterion.select is None:
                expected = possible[-1]
            else:  # the first of equals
                pick = np.argmax if criterion.select == "max" else np.argmin
                expected = possible[pick(values)]
            chosen = record["chosen"][name]
            assert chosen["step"] == curves["step"][expected]
            assert chosen["value"] == pytest.approx(curves[criterion.value][expected], rel=1e-12)
            # The restored network is the one that was measured.
            assert chosen["test_accuracy"] == curves["test_accuracy"][expected]
    assert len(report.rows) == 2 * (len(CRITERIA) + 1)


def test_the_checkpoints_are_there(config, report):
    folder = config.run_dir / "checkpoints" / "noise0.4-seed1"
    assert {path.name for path in folder.iterdir()} == set(CRITERIA)
    with EntropyCheckpointer(folder, mode="full", select="min", phase="full_min") as keeper:
        row = next(
            r
            for r in report.rows
            if (r["noise"], r["seed"], r["criterion"]) == (0.4, 1, "full_min")
        )
        assert keeper.best == (row["step"], row["value"])
        assert keeper.history()[0].examples == 40


def test_what_is_measured_of_a_batch():
    rng = np.random.default_rng(0)
    params = [
        (jnp.asarray(rng.normal(size=s), jnp.float32), jnp.zeros(s[1])) for s in ((6, 4), (4, 3))
    ]
    x, labels = rng.normal(size=(10, 6)).astype(np.float32), rng.integers(3, size=10)
    found = evaluate(params, *measure._padded(x, labels))
    logits = np.maximum(x @ params[0][0], 0) @ params[1][0]
    log_probs = special.log_softmax(np.asarray(logits, np.float64), axis=-1)
    assert float(found["accuracy"]) == pytest.approx(np.mean(logits.argmax(-1) == labels))
    assert float(found["loss"]) == pytest.approx(-log_probs[range(10), labels].mean(), abs=1e-5)
    top = np.sort(log_probs, -1)[:, 1:]
    for mode, expected in (("full", log_probs), ("top2", top)):
        value = measure._ENTROPIES[mode].value(found[mode])
        assert float(value) == pytest.approx(
            -np.sum(np.exp(expected) * expected, -1).mean(), abs=1e-5
        )
        assert int(found[mode].examples) == 10


def test_wrong_labels():
    labels = np.arange(1000) % 10
    noisy = wrong_labels(np.random.default_rng(0), labels, 0.4, 10)
    assert np.sum(noisy != labels) == 400
    assert set((noisy - labels) % 10) == set(range(10))
    np.testing.assert_array_equal(wrong_labels(np.random.default_rng(0), labels, 0.0, 10), labels)


def test_validation_labels_are_an_option(config, report, tmp_path):
    """Noisy labels lower the accuracy that is measured; entropies do not see them."""
    parts = program.load_parts(SMALL, train=96, probe=40, test=60)
    clean = dataclasses.replace(SMALL, validation_labels="clean")
    found = measure.measure(clean, parts, 0.4, 0, tmp_path)
    noisy = records(config)[0]
    assert (noisy["noise"], noisy["seed"]) == (0.4, 0)
    assert found["curves"]["full"] == pytest.approx(noisy["curves"]["full"], rel=1e-5)
    assert found["curves"]["val_accuracy"] != noisy["curves"]["val_accuracy"]


def test_summary_is_paired(config, report):
    for noise in config.noise:
        for name in (*CRITERIA, "oracle"):
            row = report.of(noise, name)
            accuracy = report.accuracy(noise, name)
            assert row["accuracy"] == pytest.approx(accuracy.mean())
            gain = accuracy - report.accuracy(noise, "val_accuracy")
            assert row["gain"] == pytest.approx(gain.mean())
            # The only resamples of two networks: both, or one of them twice.
            assert {round(row["gain_lower"], 9), round(row["gain_upper"], 9)} <= {
                round(g, 9) for g in (*gain, gain.mean())
            }
        best = report.curves[noise]["test_accuracy"].max(1)
        np.testing.assert_array_equal(report.accuracy(noise, "oracle"), best)


def test_run_folder_and_resuming(config, report, no_figure, monkeypatch):
    def fail(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr(program, "measure", fail)
    files = {file.name for file in config.run_dir.iterdir()}
    tables = {"results.csv", "summary.csv"}
    assert files == {"config.json", "metrics.jsonl", "checkpointing.png", "checkpoints"} | tables
    with (config.run_dir / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["noise", "seed", "criterion", "step", "value", "test_accuracy"]
    assert len(rows) == len(report.rows)
    again = checkpointing.run(dataclasses.replace(config, level=0.5))
    assert again.rows == report.rows
    with pytest.raises(ValueError, match=r"epochs was 6 and is now 8.*--run-dir"):
        checkpointing.run(dataclasses.replace(config, epochs=8))


def test_a_stopped_run_goes_on_where_it_was(config, report, no_figure, tmp_path, monkeypatch):
    again = dataclasses.replace(config, run_dir=tmp_path / "run", keep_checkpoints=False)
    # Half a network and its checkpoints are on disk.
    half = again.run_dir / "checkpoints" / "noise0.4-seed1"
    half.mkdir(parents=True)
    lines = (config.run_dir / "metrics.jsonl").read_text().splitlines(keepends=True)
    (again.run_dir / "config.json").write_text((config.run_dir / "config.json").read_text())
    (again.run_dir / "metrics.jsonl").write_text(lines[0] + lines[1][:30])
    with EntropyCheckpointer(half, phase="val_accuracy") as keeper:
        keeper.step(1, {"w": jnp.ones(1)}, 1.0)
    trained = []

    def count(*args):
        trained.append(args[2:4])
        return measure.measure(*args)

    monkeypatch.setattr(program, "measure", count)
    assert checkpointing.run(again).rows == report.rows
    assert trained == [(0.4, 1)]
    assert not (again.run_dir / "checkpoints").exists()


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        checkpointing.main(
            f"--learning-rate 1e38 --train 96 --validation 40 --max-test 60 --width 16 --epochs 2 "
            f"--run-dir {tmp_path / 'run'}".split()
        )
    assert stopped.value.code == 1
    assert "lower --learning-rate, 1e+38" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise": (0.2, 0.2)}, r"each once, got \(0.2, 0.2\)"),
        ({"noise": (1.0,)}, r"`noise` must be in \[0, 1\), got 1.0"),
        ({"epochs": 4, "every": 3, "warm_up": 0.9}, r"No checkpoint is past a `warm_up` of 0\.9"),
        ({"warm_up": -0.1}, r"`warm_up` must be in \[0, 1\), got -0.1"),
        ({"validation_labels": "none"}, "`validation_labels` must be one of"),
        ({"train": 10}, "`train` must be at least a batch of 32, got 10"),
        ({"epochs": 1}, "`epochs` must be at least `every`, 2, got 1"),
        ({"seeds": 0}, "`seeds` must be positive, got 0"),
        ({"learning_rate": 0.0}, "`learning_rate` must be positive"),
        ({"level": 1.0}, "`level` must be between 0 and 1"),
    ],
)
def test_settings_are_checked_when_they_are_made(options, message):
    with pytest.raises(ValueError, match=message):
        Config(**options)


def test_too_few_images_are_one_sentence_and_exit_code_2(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        checkpointing.main(["--validation", "1797", "--run-dir", str(tmp_path / "run")])
    assert stopped.value.code == 2
    assert "error: 'digits' has 1797 images" in capsys.readouterr().err


def test_notebook(config, report, no_figure, monkeypatch, capsys):
    """Its code cells, with the finished run above in the place of the one they ask for."""
    notebook = Path(__file__).parents[2] / "notebooks" / "checkpointing.ipynb"
    cells = json.loads(notebook.read_text())["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    own = 'config = Config(run_dir="../runs/checkpointing-digits")'
    assert sources[0].count(own) == 1
    monkeypatch.setattr(program, "measure", lambda *_: None)
    names = {"own_config": config}
    for source in sources:
        exec(compile(source.replace(own, "config = own_config"), notebook.name, "exec"), names)
    assert names["report"].rows == report.rows
    assert "top2_max" in capsys.readouterr().out
