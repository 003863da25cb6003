"""The real program, small: it has to run, resume, refuse, and give the numbers of the library."""

import csv
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from entropax.data import load_digits
from entropax.experiments import diffusion_models, study_figures
from entropax.experiments.diffusion_models import Config, networks, sources
from entropax.experiments.diffusion_models.measure import measure, quantities
from entropax.experiments.diffusion_models.networks import (
    Design,
    draw_design,
    hidden,
    train_network,
)

SMALL = Config(
    models=3,
    draws=2,
    sigma=("2.5",),
    repetitions=1,
    clusters=2,
    probe=24,
    max_test=30,
    max_train=40,
    max_epochs=2,
    resamples=50,
)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return dataclasses.replace(SMALL, run_dir=tmp_path_factory.mktemp("models") / "run")


@pytest.fixture(scope="module")
def report(config):
    """One shape of network: each one compiles for itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(networks, "WIDTHS", (4,))
        patch.setattr(networks, "DEPTHS", (2,))
        return diffusion_models.run(config)


@pytest.fixture
def no_figure(report, monkeypatch):
    """Figures take longer than all else; that of `report` is the real one."""
    monkeypatch.setattr(study_figures, "draw_correlations", lambda path, **_: path.write_bytes(b""))


@pytest.fixture
def no_training(monkeypatch):
    def fail(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr(sources, "train_network", fail)


def test_every_model_has_every_quantity(config, report):
    assert [(row["group"], row["model"]) for row in report.rows] == [
        (f"draw {draw}", str(number)) for draw in range(2) for number in range(3)
    ]
    names = quantities(config.sigma)
    for row in report.rows:
        assert all(np.isfinite(row[name]) for name in names)
        assert 0 <= row["dse_2.5"] <= np.log(24)
        assert 1 <= row["vendi_2.5"] <= 24
        assert 1 <= row["rank_me"] <= 4.001
        assert row["adjusted_2.5"] <= 1
        assert (row["width"], row["depth"]) == (4, 2)
    # Two draws are other models, and no two of them are alike.
    assert len({row["dse_2.5"] for row in report.rows}) == 6


def test_quantities_of_features_without_a_secret(tmp_path):
    """Two classes far apart, in pairs of points."""
    rng = np.random.default_rng(0)
    labels = np.arange(24) % 2
    z = rng.normal(size=(24, 3)) + 50 * labels[:, None]
    files = _folder(tmp_path, z=z, labels=labels)
    model = next(sources.Files(files).models([("files", "model0")]))
    found = measure(files, model.features, model.labels, model.inputs)
    squares = np.square(z[:, None] - z[None]).sum(-1)
    kernel = np.exp(-squares / (2 * 2.5**2))
    scale = np.sqrt(kernel.sum(1))
    eigvals = np.abs(np.linalg.eigvalsh(kernel / scale / scale[:, None]))
    assert found["dse_2.5"] == pytest.approx(stats.entropy(eigvals), rel=1e-4)
    vendi = np.exp(stats.entropy(np.abs(np.linalg.eigvalsh(kernel))))
    assert found["vendi_2.5"] == pytest.approx(vendi, rel=1e-4)
    assert found["adjusted_2.5"] == pytest.approx(1, abs=0.02)
    assert found["neighbour_accuracy"] == 1
    assert found["distance"] == pytest.approx(
        np.median(np.sqrt(squares[np.triu_indices(24, 1)])), rel=0.02
    )
    singular = np.linalg.svd(z, compute_uv=False)
    assert found["rank_me"] == pytest.approx(np.exp(stats.entropy(singular)), rel=1e-4)
    assert found["binned_information"] == pytest.approx(np.log(2), rel=1e-6)
    assert found["dsmi_inputs_2.5"] is None


def test_correlations_are_those_of_scipy(config, report):
    for group in ("draw 0", "draw 1"):
        x, y = report.column(group, "distance"), report.column(group, "accuracy")
        row = report.correlation(group, "distance")
        assert row["pearson"] == pytest.approx(stats.pearsonr(x, y).statistic)
        assert row["spearman"] == pytest.approx(stats.spearmanr(x, y).statistic)
        assert row["models"] == 3


def test_run_folder_and_resuming(config, report, no_figure, no_training):
    files = {file.name for file in config.run_dir.iterdir()}
    tables = {"results.csv", "correlations.csv"}
    assert files == {"config.json", "metrics.jsonl", "correlations.png"} | tables
    with (config.run_dir / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:3] == ["group", "model", "accuracy"]
    assert float(rows[4]["rank_me"]) == pytest.approx(report.rows[4]["rank_me"], rel=1e-5)
    again = diffusion_models.run(dataclasses.replace(config, level=0.5))
    assert again.rows == report.rows
    with pytest.raises(ValueError, match=r"models was 3 and is now 4.*--run-dir"):
        diffusion_models.run(dataclasses.replace(config, models=4))


def test_a_stopped_run_goes_on_where_it_was(config, report, no_figure, tmp_path, monkeypatch):
    again = dataclasses.replace(config, run_dir=tmp_path / "run")
    again.run_dir.mkdir()
    lines = (config.run_dir / "metrics.jsonl").read_text().splitlines(keepends=True)
    (again.run_dir / "config.json").write_text((config.run_dir / "config.json").read_text())
    (again.run_dir / "metrics.jsonl").write_text("".join(lines[:5]) + lines[5][:30])
    monkeypatch.setattr(networks, "WIDTHS", (4,))
    monkeypatch.setattr(networks, "DEPTHS", (2,))
    trained = []

    def train(key, design, *args):
        trained.append(design)
        return train_network(key, design, *args)

    monkeypatch.setattr(sources, "train_network", train)
    assert diffusion_models.run(again).rows == report.rows
    assert len(trained) == 1


def test_networks_learn():
    digits = load_digits()
    x = jnp.asarray(digits.images[:600].reshape(600, -1) / 255, jnp.float32)
    design = Design(width=32, depth=1, activation=0, learning_rate=1e-2, train=500, steps=300)
    params = train_network(jax.random.key(0), design, x, jnp.asarray(digits.labels[:600]), 10)
    assert [tuple(part.shape for part in layer) for layer in params] == [
        ((64, 32), (32,)),
        ((32, 10), (10,)),
    ]
    features = hidden(params, 0, x)
    assert float(features.min()) == 0  # a ReLU
    right = jnp.argmax(features @ params[-1][0] + params[-1][1], -1) == digits.labels[:600]
    assert float(right.mean()) > 0.95
    # The seventh part of the images was never seen: fewer are right.
    few = design._replace(train=20)
    params = train_network(jax.random.key(0), few, x, jnp.asarray(digits.labels[:600]), 10)
    logits = hidden(params, 0, x) @ params[-1][0] + params[-1][1]
    assert float((jnp.argmax(logits, -1) == digits.labels[:600]).mean()) < 0.85


def test_designs_differ():
    designs = [draw_design(0, k, max_train=700, max_epochs=30) for k in range(200)]
    assert len(set(designs)) == 200
    assert {d.width for d in designs} == set(networks.WIDTHS)
    assert {d.depth for d in designs} == set(networks.DEPTHS)
    assert {d.activation for d in designs} == {0, 1, 2}
    assert min(d.train for d in designs) >= 20
    assert 500 < max(d.train for d in designs) <= 700
    assert all(1e-4 <= d.learning_rate <= 1e-2 for d in designs)
    assert draw_design(1, 0, max_train=700, max_epochs=30) != designs[0]


def _folder(tmp_path, z=None, labels=None, **options):
    """Three models of the same features, with more and more noise and less accuracy."""
    rng = np.random.default_rng(1)
    labels = np.arange(24) % 2 if labels is None else labels
    z = rng.normal(size=(24, 3)) + 20 * labels[:, None] if z is None else z
    folder = tmp_path / "features"
    folder.mkdir()
    for i in range(3):
        noisy = z + 30 * i * rng.normal(size=z.shape)
        np.savez(
            folder / f"model{i}.npz",
            features=noisy,
            labels=labels,
            accuracy=0.9 - i / 10,
            **options,
        )
    return dataclasses.replace(SMALL, features=folder, run_dir=tmp_path / "run")


def test_models_of_your_own(no_figure, tmp_path):
    inputs = np.random.default_rng(2).normal(size=(24, 2, 2))
    config = _folder(tmp_path, inputs=inputs)
    report = diffusion_models.run(config)
    assert report.groups() == ["files"]
    assert [row["model"] for row in report.rows] == ["model0", "model1", "model2"]
    # Noise moves the classes into each other, until nothing tells two of the models apart.
    assert np.argmax(report.column("files", "dsmi_labels_2.5")) == 0
    assert report.correlation("files", "adjusted_2.5")["spearman"] > 0.8
    adjusted = report.column("files", "adjusted_2.5")
    assert adjusted[0] > 0.9 > 0.5 > adjusted[1:].max()
    assert np.isfinite(report.column("files", "dsmi_inputs_2.5")).all()


def test_models_of_your_own_without_inputs(tmp_path):
    report = diffusion_models.run(_folder(tmp_path))
    assert np.isnan(report.column("files", "dsmi_inputs_2.5")).all()
    assert np.isnan(report.correlation("files", "dsmi_inputs_2.5")["spearman"])


Z, LABELS = np.zeros((24, 3)), np.zeros(24, int)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"features": Z, "labels": LABELS}, "accuracy missing; it holds features, labels"),
        (
            {"features": Z.astype(object), "labels": LABELS, "accuracy": 0.5},
            "this is no .npz archive of plain arrays",
        ),
        ({"features": Z[0], "labels": LABELS, "accuracy": 0.5}, "must be floating-point numbers"),
        ({"features": Z + np.nan, "labels": LABELS, "accuracy": 0.5}, "must be finite"),
        ({"features": Z, "labels": LABELS[1:], "accuracy": 0.5}, "24 rows of features, 23 of"),
        ({"features": Z, "labels": LABELS[:, None], "accuracy": 0.5}, "`labels` must be [n]"),
        ({"features": Z, "labels": LABELS, "accuracy": [1.0, 2.0]}, "must be one number"),
    ],
)
def test_files_are_checked(arrays, message, tmp_path, capsys):
    config = _folder(tmp_path)
    np.savez(config.features / "model0.npz", **arrays)
    with pytest.raises(SystemExit) as stopped:
        diffusion_models.main(
            ["--features", str(config.features), "--run-dir", str(tmp_path / "run")]
        )
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert "model0.npz" in error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sigma": ("mean",)}, r"positive numbers or \('sqrt_d', 'median', 'knn'\), got 'mean'"),
        ({"sigma": ("-1",)}, "`sigma` must be positive numbers"),
        ({"sigma": ("10", "10")}, "`sigma` must be one or more, each once"),
        ({"models": 2}, "`models` must be at least 3, got 2"),
        ({"level": 0.0}, "`level` must be between 0 and 1"),
    ],
)
def test_settings_are_checked_when_they_are_made(options, message):
    with pytest.raises(ValueError, match=message):
        Config(**options)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--features", "no/such/folder"], "error: There is no folder no/such/folder."),
        (["--probe", "1797"], "give a smaller --probe"),
    ],
)
def test_wrong_input_is_one_sentence_and_exit_code_2(args, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        diffusion_models.main([*args, "--run-dir", str(tmp_path / "run")])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
