"""The comparison of adapters and estimators, small: numbers are checked against the library."""

import csv
import dataclasses
import json
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
import optax
import pytest
from models.resnet_tensors import WIDTHS, random_tensors

from entropax import estimation, tta
from entropax.checkpoint import restore_variables
from entropax.data import image_set, load_digits
from entropax.data.corruptions import corrupt
from entropax.data.streams import one_pass, shuffled_stream
from entropax.experiments import tta_benchmark
from entropax.experiments.shifted_images import Split
from entropax.experiments.tta_benchmark import Config
from entropax.experiments.tta_benchmark.estimates import Row, estimate_all, flip_counts
from entropax.experiments.tta_benchmark.measure import After, Before
from entropax.experiments.tta_benchmark.networks import (
    Mlp,
    Network,
    Normalised,
    is_dropout_site,
    load_published,
)
from entropax.experiments.tta_benchmark.observations import Observed
from entropax.experiments.tta_benchmark.program import prepared
from entropax.experiments.tta_benchmark.report import _estimator_summary
from entropax.models import ResNet, batch_statistics, running_statistics

SMALL = Config(
    networks=("mlp",),
    seeds=(0, 1),
    epochs=25,
    steps=6,
    every=3,
    batch_size=32,
    max_images=150,
    severities=(1, 5),
    corruptions=("brightness", "impulse_noise"),
    learning_rate=0.05,
)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return dataclasses.replace(SMALL, run_dir=tmp_path_factory.mktemp("benchmark") / "run")


@pytest.fixture(scope="module")
def report(config):
    return tta_benchmark.run(config)


def of(report, **wanted):
    return [row for row in report.estimates if all(getattr(row, k) == v for k, v in wanted.items())]


def test_every_estimator_says_something_of_every_split(report):
    estimators = {row.estimator for row in report.estimates}
    assert estimators >= {"AC", "DoC", "IM", "ATC-MC", "ATC-NE", "COT", "COTT", "nuclear norm"}
    assert estimators >= {"MaNo", "GDE", "AETTA", "flips, weighted", "flips, unweighted"}
    splits = {(row.family, row.corruption, row.severity) for row in report.estimates}
    assert len(splits) == 1 + 4 * 2 + 2 * 2
    for row in report.estimates:
        assert 0 <= row.value <= 1
        assert row.lower <= row.value + 1e-6
        assert row.value <= row.upper + 1e-6
    assert {row.target for row in report.estimates} == {"source", "batch_statistics", "adapted"}


def test_summary_is_that_of_the_rows(report):
    rows = of(report, estimator="AC", target="batch_statistics", family="test")
    errors = np.array([abs(row.value - row.accuracy) for row in rows])
    found = report.of("mlp", "eta", "batch_statistics", "AC")
    assert found["splits"] == len(rows) == 2 * 4
    assert found["mean_error"] == pytest.approx(errors.mean())
    assert found["median_error"] == pytest.approx(np.median(errors))
    assert found["worst_error"] == pytest.approx(errors.max())
    assert found["mean_error_lower"] <= found["mean_error"] <= found["mean_error_upper"]
    inside = [row.lower <= row.accuracy <= row.upper for row in rows]
    assert found["coverage"] == pytest.approx(np.mean(inside))
    wins = [r["wins"] for r in report.estimators if r["target"] == "source"]
    assert sum(wins) >= 1  # ties count for both, and every split has a winner


def test_numbers_are_those_of_the_saved_network(config, report):
    """Accuracies, flips and two estimates once more, with the library alone."""
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits))
    chosen = np.sort(order[797 + 150 : 797 + 300])
    labels = digits.labels[chosen]
    images = corrupt(digits.images[chosen], "impulse_noise", 5, seed=1).astype(np.float32) / 255
    module = Mlp(10)
    like = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    variables = restore_variables(config.run_dir / "mlp-seed1", like)

    source = running_statistics(module)(variables, images)
    (row,) = (
        r
        for r in report.accuracies
        if (r["seed"], r["corruption"], r["severity"]) == (1, "impulse_noise", 5)
    )
    assert row["source"] == pytest.approx(np.mean(np.argmax(source, -1) == labels))

    apply_fn = batch_statistics(module)
    adapter = tta.eta(apply_fn, optax.sgd(0.05, momentum=0.9), num_classes=10)
    adapter = tta.map_inputs(adapter, lambda rows: jnp.asarray(images)[rows])
    held = one_pass(150, batch_size=32, seed=3)
    stream = shuffled_stream(150, batch_size=32, steps=6, seed=2)
    _, flips = jax.jit(lambda v: tta.count_flips(adapter, adapter.init(v), stream, held))(variables)
    assert row["weighted_flips"] == pytest.approx(float(flips.weighted[0]), abs=1e-6)
    assert row["unweighted_flips"] == pytest.approx(float(flips.unweighted[0]), abs=1e-6)

    (found,) = of(
        report,
        seed=1,
        corruption="impulse_noise",
        severity=5,
        target="batch_statistics",
        estimator="flips, weighted",
    )
    calibration = [r for r in report.accuracies if r["seed"] == 1 and r["family"] == "calibration"]
    curve = estimation.fit_flip_curve(
        [r["weighted_flips"] for r in calibration],
        [r["batch_statistics"] for r in calibration],
        target="batch_statistics",
        form="quadratic",
    )
    assert found.value == pytest.approx(float(curve.estimate(row["weighted_flips"]).value))


def test_files(config, report):
    with (config.run_dir / "estimates.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(report.estimates)
    for name in ("flips.png", "errors.png", "online.png"):
        assert (config.run_dir / name).read_bytes().startswith(b"\x89PNG")


def test_what_is_missing_is_measured(config, report, tmp_path):
    """A lost file; a network measured when it was alone; one more adapter; a target, unlabelled."""
    folder = config.run_dir / "observations"
    lost = folder / "mlp-seed0/eta/test-brightness-5.npz"
    kept = folder / "mlp-seed1/eta/test-brightness-5.npz"
    before = kept.stat().st_mtime_ns
    expected = np.load(lost)["adapted"]
    lost.unlink()
    alone = folder / "mlp-seed0/before/test-brightness-1.npz"
    arrays = dict(np.load(alone))
    own = {f"partner_{name}": arrays[name] for name in ("source", "batch_statistics")}
    np.savez(alone, **arrays | own)
    target = tmp_path / "unlabelled.npz"
    np.savez(target, x=255 - load_digits().images[:40])
    more = dataclasses.replace(config, adapters=("eta", "norm"), target=target)
    again = tta_benchmark.run(more)
    np.testing.assert_array_equal(np.load(lost)["adapted"], expected)
    assert kept.stat().st_mtime_ns == before
    np.testing.assert_array_equal(np.load(alone)["partner_source"], arrays["partner_source"])
    of_eta = [r for r in again.estimates if r.adapter == "eta" and r.family != "target"]
    assert str(of_eta) == str(report.estimates)  # NaN is not equal to itself
    norm = [row for row in again.adapters if row["adapter"] == "norm"]
    assert norm[0]["adapted"] == pytest.approx(norm[0]["batch_statistics"])
    of_target = of(again, family="target", seed=1, target="source")
    assert {row.estimator for row in of_target} >= {"AC", "GDE", "flips, weighted", "stack"}
    assert all(0 <= row.value <= 1 and np.isnan(row.accuracy) for row in of_target)


def test_teachers_have_no_dropout_passes(config, report):
    observations, networks = prepared(config)
    observed = [
        each._replace(after=each.after._replace(dropout=np.full(4, np.nan)))
        for each in observations.of(networks[0], "eta")
    ]
    options = {"form": "quadratic", "temperature": False, "level": 0.9}
    found = estimate_all(
        observed, "adapted", key=jax.random.key(0), source_labels=np.arange(10), **options
    )
    assert "AETTA" not in found
    assert {"AC", "stack"} <= set(found)


def test_an_estimate_that_is_nan_beats_none(config):
    row = Row("mlp", 0, "eta", "source", "test", "fog", 1, "good", 0.5, 0.6, 0.4, 0.8, False)
    rows = [row, row._replace(estimator="bad", value=0.9), row._replace(value=np.nan)]
    summary = _estimator_summary(config, [*rows[:2], rows[2]._replace(estimator="none")])
    assert [found["wins"] for found in summary] == [1, 0, 0]
    assert np.isnan(summary[0]["mean_error_lower"])  # of one split there is no interval


def test_held_images_are_not_the_first_ones():
    """Of images sorted by class those would be of one class."""
    n = 100
    logits = 5.0 * np.eye(2)[np.zeros(n, int)]
    flipped = (np.arange(n) < n // 2).astype(np.int16)[None]
    before = Before(*[logits] * 4, np.zeros(4))
    none = np.zeros((1, 1))
    after = After(logits, flipped, none, none, none, none, np.zeros(4))
    observed = Observed(Split("test", "fog", 1), None, before, after, none)
    assert flip_counts(observed)["unweighted"][0] == pytest.approx(0.5)
    assert 0.3 < flip_counts(observed, held=n // 2)["unweighted"][0] < 0.7


def test_a_damaged_file_is_named(config, report):
    file = config.run_dir / "observations/mlp-seed0/before/test-brightness-1.npz"
    whole = file.read_bytes()
    file.write_bytes(whole[:-50])  # the directory at the end of the archive
    with pytest.raises(ValueError, match=r"test-brightness-1.npz is damaged, remove it"):
        tta_benchmark.run(config)
    file.write_bytes(whole)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"adapters": ("tent", "nonsense")}, "`adapters` must be different ones of source, norm"),
        ({"networks": ()}, "`networks` must be different ones of convnet"),
        ({"every": 4}, "`every` must divide `steps`, got 4 for 6 steps"),
        ({"seeds": (0, 0)}, "`seeds` must be different whole numbers from 0"),
        ({"learning_rate": 0.0}, "`learning_rate` must be positive"),
        ({"severities": (1, 5, 5)}, r"`severities` must be different, got \(1, 5, 5\)"),
        ({"weights": (Path("a/x.npz"), Path("b/x.npz"))}, "`weights` must have different names"),
    ],
)
def test_bad_settings(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **change)


def test_other_settings_need_another_folder(config, report):
    with pytest.raises(ValueError, match=r"learning_rate was 0\.05 and is now 0\.01"):
        tta_benchmark.run(dataclasses.replace(config, learning_rate=0.01))


def test_weights_need_their_images(tmp_path):
    file = tmp_path / "resnet20.npz"
    with pytest.raises(FileNotFoundError, match=r"There is no file .*; expected the weights"):
        tta_benchmark.run(dataclasses.replace(SMALL, weights=(file,), run_dir=tmp_path / "run"))
    file.write_bytes(b"")
    config = dataclasses.replace(SMALL, weights=(file,), run_dir=tmp_path / "run")
    with pytest.raises(ValueError, match="needs the images it was trained for: pass --data"):
        tta_benchmark.run(config)


def test_a_published_network_and_a_natural_shift(tmp_path, capsys):
    """A ResNet for CIFAR of random weights, saved as torch names them, and a target with labels.

    Numbers of images and classes are those above, for which the estimators are compiled.
    """
    rng = np.random.default_rng(0)
    weights = tmp_path / "random.npz"
    head = rng.normal(size=(10, WIDTHS[-1])).astype(np.float32)
    tensors = random_tensors(seed=0) | {"linear.weight": head, "linear.bias": head[:, 0]}
    np.savez(weights, **tensors)
    images = rng.integers(0, 256, (300, 8, 8, 3), np.uint8)
    labels = np.arange(300) % 10
    np.savez(tmp_path / "data.npz", x_test=images, y_test=labels)
    np.savez(tmp_path / "target.npz", x=255 - images[:150], y=labels[:150])
    config = Config(
        data="npz",
        path=tmp_path / "data.npz",
        target=tmp_path / "target.npz",
        weights=(weights,),
        seeds=(0,),
        adapters=("norm",),
        corruptions=("brightness",),
        severities=(1, 5),
        steps=2,
        every=1,
        batch_size=50,
        run_dir=tmp_path / "run",
    )
    report = tta_benchmark.run(config)
    assert {row.network for row in report.estimates} == {"random"}
    assert "GDE" not in {row.estimator for row in report.estimates}  # nobody to disagree with
    (row,) = (
        r
        for r in report.estimates
        if (r.family, r.target, r.estimator) == ("target", "source", "AC")
    )
    (network,) = load_published(weights, (0,), image_set(images, labels, origin="the test"))
    x = (255 - images[:150]) / np.float32(255)
    logits = running_statistics(network.module)(network.variables, x)
    assert row.accuracy == pytest.approx(np.mean(np.argmax(logits, -1) == labels[:150]))
    assert "target.npz: accuracy in percent" in capsys.readouterr().out


def test_dropout_goes_behind_the_stages_of_a_resnet():
    resnet = ResNet(10, widths=(8, 16), blocks=2)
    sites = is_dropout_site(Network("resnet", 0, Normalised(resnet), {}))
    chosen = [
        path for path in ("stem", *(f"network/residual_{i}" for i in range(4))) if sites(path)
    ]
    assert chosen == ["network/residual_1", "network/residual_3"]
    assert is_dropout_site(Network("mlp", 0, Mlp(10), {})) is None


def test_notebook(config, report, capsys):
    """Its code cells, shortened, with the finished run above in the place of the one asked for."""
    notebook = Path(__file__).parents[2] / "notebooks" / "test_time_adaptation.ipynb"
    cells = json.loads(notebook.read_text())["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    start = code.index("config = Config(")
    end = code.index("report = run(config)")
    code = code[:start] + "config = own_config\n" + code[end:]
    for long, short in (
        ("EPOCHS, STEPS = 60, 600", "EPOCHS, STEPS = 5, 25"),
        ("steps=200, seed=1, delta=0)", "steps=20, seed=1, delta=0)"),
    ):
        assert code.count(long) == 1
        code = code.replace(long, short)
    with mpl.rc_context({"backend": "Agg"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "FigureCanvasAgg is non-interactive")
        names = {"own_config": config}
        exec(compile(code, notebook.name, "exec"), names)
    assert str(names["report"].estimators) == str(report.estimators)
    printed = capsys.readouterr().out
    assert "gaussian_noise  accuracy" in printed
    assert "Tent, reset accuracy" in printed
    assert "nuclear norm       mean error" in printed
