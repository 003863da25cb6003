"""The real program, small: it has to run, resume, refuse, and give the same numbers every time."""

import csv
import dataclasses
import json
from pathlib import Path
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from experiments.builder import Builder
from jax import lax
from PIL import Image
from scipy import stats

from entropax import entropy, kernels, spectra
from entropax.data import load_digits
from entropax.experiments import mnist_entropy
from entropax.experiments.intervals import Bootstrap, pearson, spearman
from entropax.experiments.mnist_entropy import Config, program
from entropax.experiments.mnist_entropy.choose import (
    Choice,
    Selector,
    build_chooser,
    planned_choices,
)
from entropax.experiments.mnist_entropy.config import Method
from entropax.experiments.mnist_entropy.images import load_images
from entropax.experiments.mnist_entropy.measure import build_measure, record_epochs
from entropax.experiments.mnist_entropy.networks import Networks, build_networks
from entropax.experiments.mnist_entropy.report import make_report, method_table, write_results
from entropax.experiments.run_folder import RunFolder
from entropax.models import CNN, ensemble_trainer

SMALL = Config(
    methods=("random", "class_balanced", "greedy_renyi"),
    set_size=(12,),
    pool=40,
    sets=3,
    selectors=1,
    networks=2,
    epochs=4,
    max_test=60,
    records=3,
    kernel_records=2,
    resamples=200,
    workers=2,
)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return dataclasses.replace(SMALL, run_dir=tmp_path_factory.mktemp("entropy") / "run")


@pytest.fixture(scope="module")
def builder():
    return Builder(build_measure)


@pytest.fixture(scope="module")
def report(config, builder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(program, "build_measure", builder)
        return mnist_entropy.run(config)


def test_every_network_on_every_set_is_measured(config, report):
    assert len(report.rows) == (3 + 3 + 1) * 2
    for row in report.rows:
        assert 0 < row["final_entropy"] <= 1
        assert row["delta_entropy"] == row["start_entropy"] - row["final_entropy"]
        assert row["min_test_loss"] <= row["final_test_loss"]
        assert 0 <= row["accuracy"] <= 1
        assert row["best_epoch"] in (0, 1, 2, 4)
    assert report.table("random", 12, "accuracy").shape == (3, 2)
    for method, size, _ in report.chosen:
        rows = report.chosen[Choice(method, size, 0)]
        assert len(set(rows)) == size
        assert 0 <= min(rows) <= max(rows) < 40
    balanced = [row["classes"] for row in report.rows if row["method"] == "class_balanced"]
    assert set(balanced) == {10}


def test_numbers_are_those_of_the_library(config, report):
    """One network on one set once more, trained by a plain loop with XLA's convolution."""
    images = load_images(config)
    module = CNN(num_classes=10, padding="SAME", convolution=lax.conv_general_dilated)
    keys = jax.random.split(jax.random.key(config.seed), 2)
    choice = Choice("class_balanced", 12, 2)
    rows = np.array(report.chosen[choice])
    x, labels = images.pool.x[rows], images.pool.labels[rows]
    params = jax.jit(module.init)(keys[1], x[:1])
    (row,) = (r for r in report.rows if (*choice, 1) == tuple(r.values())[:4])

    kernel_fn = kernels.ntk(module.apply, method="contraction")

    def effective(params):
        return entropy.effective_von_neumann(spectra.density(kernel_fn(params, x)))

    assert row["start_entropy"] == pytest.approx(float(effective(params)), abs=1e-4)

    tx = optax.adam(config.amounts.learning_rate)
    opt_state = tx.init(params)

    @jax.jit
    def step(params, opt_state, x, y):
        def loss_fn(params):
            logits = module.apply(params, x)
            return optax.losses.softmax_cross_entropy_with_integer_labels(logits, y).mean()

        updates, opt_state = tx.update(jax.grad(loss_fn)(params), opt_state)
        return optax.apply_updates(params, updates), opt_state

    for epoch in range(config.epochs):
        order = np.asarray(jax.random.permutation(jax.random.fold_in(keys[1], epoch), 12))
        for batch in (order[:10], order[10:]):
            params, opt_state = step(params, opt_state, x[batch], labels[batch])
    logits = np.asarray(module.apply(params, jnp.asarray(images.test.x)))
    log_probs = np.asarray(jax.nn.log_softmax(logits))
    loss = -log_probs[np.arange(len(logits)), images.test.labels].mean()
    assert row["final_test_loss"] == pytest.approx(loss, rel=1e-3)
    right = np.mean(logits.argmax(-1) == images.test.labels)
    assert row["final_accuracy"] == pytest.approx(right, abs=0.02)  # one image may change sides
    assert row["final_entropy"] == pytest.approx(float(effective(params)), abs=1e-3)
    assert row["final_entropy"] != pytest.approx(row["start_entropy"], abs=1e-3)


def test_pool_and_test_images_are_disjoint(config):
    images = load_images(config)
    assert images.pool.x.shape == (40, 8, 8, 1)
    assert images.test.x.shape == (60, 8, 8, 1)
    everything = [tuple(image.ravel()) for image in load_digits().images / np.float32(255)]
    known = {image: i for i, image in enumerate(everything)}
    pool, test = (
        {known[tuple(image.ravel())] for image in part.x} for part in (images.pool, images.test)
    )
    assert not pool & test
    other = load_images(dataclasses.replace(config, seed=1))
    np.testing.assert_array_equal(other.test.x, images.test.x)
    assert not np.array_equal(other.pool.x, images.pool.x)


def test_summaries_are_those_of_the_rows(config, report):
    row = next(r for r in report.methods if (r["method"], r["size"]) == ("greedy_renyi", 12))
    tables = {m: report.table(m, 12, "accuracy") for m in config.methods}
    assert row["accuracy"] == pytest.approx(tables["greedy_renyi"].mean())
    assert row["accuracy_lower"] <= row["accuracy"] <= row["accuracy_upper"]
    difference = tables["greedy_renyi"].mean() - tables["random"].mean()
    assert row["accuracy_minus_random"] == pytest.approx(difference)

    wanted = {"size": 12, "entropy": "start_entropy", "outcome": "final_test_loss"}
    found = [r for r in report.correlations if wanted.items() <= r.items()]
    assert [(r["methods"], r["points"]) for r in found] == [
        ("random", "sets"),
        ("random", "networks"),
        ("all", "sets"),
        ("all", "networks"),
    ]
    x, y = (
        np.concatenate([report.table(m, 12, wanted[name]).ravel() for m in config.methods])
        for name in ("entropy", "outcome")
    )
    assert found[3]["pearson"] == pytest.approx(stats.pearsonr(x, y).statistic)
    assert found[3]["spearman"] == pytest.approx(stats.spearmanr(x, y).statistic)
    x, y = (report.table("random", 12, wanted[name]).mean(1) for name in ("entropy", "outcome"))
    assert found[0]["pearson"] == pytest.approx(stats.pearsonr(x, y).statistic)


def test_run_folder(config, report):
    files = {path.name for path in config.run_dir.iterdir()}
    figures = {f"{name}-n12.png" for name in ("entropy", "training", "chosen")}
    tables = {"results.csv", "methods.csv", "correlations.csv"}
    assert files == figures | tables | {"config.json", "metrics.jsonl", "kernel0.npy"}
    with (config.run_dir / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(report.rows)
    assert float(rows[-1]["accuracy"]) == pytest.approx(report.rows[-1]["accuracy"], abs=1e-5)
    settings = json.loads((config.run_dir / "config.json").read_text())
    assert settings["learning_rate"] == 1e-2
    for name in figures:
        with Image.open(config.run_dir / name) as image:
            assert image.format == "PNG"


def test_records(config, report):
    record = report.trained[Choice("random", 12, 0)]
    assert record["tested"] == [0, 1, 2, 4]
    assert record["measured"] == [0, 4]
    assert np.shape(record["test_loss"]) == (2, 4)
    assert np.shape(record["entropy"]) == (2, 2)
    assert np.shape(record["leading"]) == (2, 2, 10)
    assert np.shape(record["jacobian_norms"]) == (2, 2, 5)
    leading = np.array(record["leading"])
    assert np.all(np.diff(leading) <= 0)
    assert np.all(leading.sum(-1) <= 1 + 1e-6)
    # The trace is the sum of squared norms: between the number of images times the extremes.
    norms, trace = np.array(record["jacobian_norms"]), np.array(record["trace"])
    assert np.all(12 * norms[..., 0] ** 2 <= trace)
    assert np.all(trace <= 12 * norms[..., -1] ** 2)


def test_a_stopped_run_goes_on_at_the_first_unfinished_set(
    config, report, builder, tmp_path, monkeypatch
):
    config = dataclasses.replace(config, run_dir=tmp_path / "stopped", workers=1)
    config.run_dir.mkdir()
    copy_kernel(report.config.run_dir, config.run_dir)
    monkeypatch.setattr(builder, "measured", [])
    monkeypatch.setattr(builder, "stop_after", 5)
    monkeypatch.setattr(program, "build_measure", builder)
    with pytest.raises(KeyboardInterrupt):
        mnist_entropy.run(config)
    lines = (config.run_dir / "metrics.jsonl").read_text()
    assert len(lines.splitlines()) == 7 + 5
    (config.run_dir / "metrics.jsonl").write_text(lines[:-10])  # killed in the middle of a line

    monkeypatch.setattr(builder, "stop_after", None)
    monkeypatch.setattr(program, "build_chooser", lambda *args: None)
    resumed = mnist_entropy.run(config)
    assert rows_in_order(resumed) == rows_in_order(report)  # to the last bit
    assert len(builder.measured) == 5 + 3
    np.testing.assert_array_equal(builder.measured[4], builder.measured[5])


def copy_kernel(source, target):
    (target / "kernel0.npy").write_bytes((source / "kernel0.npy").read_bytes())


def rows_in_order(report):
    return sorted(tuple(row.values()) for row in report.rows)


def test_a_finished_run_is_reported_anew_without_training(config, report, monkeypatch, capsys):
    monkeypatch.setattr(program, "build_measure", lambda *args: None)
    monkeypatch.setattr(program, "build_chooser", lambda *args: None)
    again = mnist_entropy.run(dataclasses.replace(config, level=0.5, resamples=50, workers=1))
    assert again.rows == report.rows
    assert again.methods[0]["accuracy_lower"] >= report.methods[0]["accuracy_lower"]
    assert "[50% intervals]" in capsys.readouterr().out


def test_other_settings_need_another_folder(config, report):
    with pytest.raises(ValueError, match="epochs was 4 and is now 5"):
        mnist_entropy.run(dataclasses.replace(config, epochs=5))


@pytest.fixture(scope="module")
def choosing(config, report):
    images = load_images(config)
    networks = build_networks(config, images)
    params, predictor = (networks.init(jax.random.key(i)) for i in (1, 2))
    kernel = np.load(config.run_dir / "kernel0.npy")
    return build_chooser(config, networks, images), Selector(params, predictor, kernel)


@pytest.mark.parametrize("method", get_args(Method))
def test_methods_choose(method, choosing):
    choose, selector = choosing
    rows = choose(Choice(method, 6, 0), selector)
    assert rows.shape == (6,)
    assert len(set(rows.tolist())) == 6
    assert np.all((rows >= 0) & (rows < 40))
    np.testing.assert_array_equal(rows, choose(Choice(method, 6, 0), selector))


def test_chosen_sets_are_described(config, report):
    lines = (config.run_dir / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    record = next(r for r in records if r.get("chosen") == ["greedy_renyi", 12, 0])
    labels = load_images(config).pool.labels
    assert record["classes"] == np.bincount(labels[record["rows"]], minlength=10).tolist()
    kernel = np.load(config.run_dir / "kernel0.npy")[np.ix_(record["rows"], record["rows"])]
    eigvals = np.linalg.eigvalsh(kernel.astype(float))
    probs = eigvals / eigvals.sum()
    expected = -np.sum(probs * np.log(probs)) / np.log(12)
    assert record["selector_entropy"] == [pytest.approx(expected, abs=1e-5)]
    by_chance = [
        r["selector_entropy"][0] for r in records if r.get("chosen", [])[:2] == ["random", 12]
    ]
    assert len(by_chance) == 3
    assert expected > max(by_chance)


def test_diverging_training_stops_and_says_what_to_do(config):
    def linear(params, x):
        return x.reshape(len(x), -1) @ params

    networks = Networks(
        init=lambda key: jnp.zeros((64, 10)),
        apply_fn=linear,
        differentiable=linear,
        kernel_fn=kernels.ntk(linear),
        trainer=ensemble_trainer(linear, optax.sgd(1e38), batch_size=10),
    )
    measure = build_measure(config, networks, load_images(config))
    with pytest.raises(FloatingPointError, match=r"not finite after 1 epochs; lower --learning-ra"):
        measure(np.arange(5), lambda: None)


def test_plan_and_epochs():
    config = Config(data="mnist", set_size=(30, 1000), sets=2, selectors=1)
    assert list(planned_choices(config))[:3] == [
        Choice("random", 30, 0),
        Choice("class_balanced", 30, 0),
        Choice("approximate_entropy", 30, 0),
    ]
    assert len(list(planned_choices(config))) == 2 * (2 + 2 + 6)
    tested, measured = record_epochs(config, 30)
    assert tested[0] == 0
    assert tested[-1] == 500
    assert measured[0] == 0
    assert measured[-1] == 500
    assert set(measured) <= set(tested)
    assert record_epochs(config, 1000)[0][-1] == 100  # 10,000 steps of 10 images


def made_up_records(config, images):
    """What a run would have written, with an accuracy that rises with the size of the set."""
    rng = np.random.default_rng(0)
    for choice in planned_choices(config):
        rows = rng.permutation(40)[: choice.size]
        classes = np.bincount(images.pool.labels[rows], minlength=10)
        yield {
            "chosen": list(choice),
            "rows": rows.tolist(),
            "classes": classes.tolist(),
            "selector_entropy": [rng.uniform()],
        }
        curves = {
            name: rng.uniform(1, 2, size=(2, 3)).tolist()
            for name in ("test_loss", "train_loss", "entropy", "trace")
        }
        accuracy = np.full((2, 3), choice.size / 100).tolist()
        yield {
            "trained": list(choice),
            "tested": [0, 1, 2],
            "measured": [0, 1, 2],
            **curves,
            "test_accuracy": accuracy,
        }


def test_several_sizes(config, tmp_path):
    config = dataclasses.replace(config, set_size=(5, 12, 30), run_dir=tmp_path)
    images = load_images(config)
    report = make_report(config, list(made_up_records(config, images)))
    assert [row["size"] for row in report.methods] == [5] * 3 + [12] * 3 + [30] * 3
    for row in report.methods:
        assert row["accuracy"] == pytest.approx(row["size"] / 100)
        if row["method"] != "random":
            assert row["accuracy_minus_random"] == pytest.approx(0, abs=1e-12)
    assert all(np.isnan(r["pearson"]) for r in report.correlations if r["outcome"] == "accuracy")
    kernel = np.diag(np.arange(1.0, 41)).astype(np.float32)
    write_results(RunFolder(tmp_path), report, images, kernel)
    with Image.open(tmp_path / "sizes.png") as image:
        assert image.format == "PNG"
    with (tmp_path / "methods.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 9
    for size in config.set_size:
        assert "random" in list(method_table(report, size).columns[0].cells)


def test_bootstrap_against_its_definition():
    """Percentiles of replicates, each a resample of rows and columns, one at a time."""
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(5, 3)), rng.normal(size=(4, 3))
    bootstrap = Bootstrap({"a": 5, "b": 4}, 3, resamples=50, level=0.8, seed=7)
    draws = np.random.default_rng(7)
    columns = draws.integers(3, size=(50, 3))
    rows = draws.integers(5, size=(50, 5)), draws.integers(4, size=(50, 4))

    means, differences, correlations = [], [], []
    for i in range(50):
        a = first[rows[0][i]][:, columns[i]]
        b = second[rows[1][i]][:, columns[i]]
        means.append(a.mean())
        differences.append(a.mean() - b.mean())
        correlations.append(pearson(a.ravel(), a.ravel() ** 2))
    for estimate, value, replicates in (
        (bootstrap.mean("a", first), first.mean(), means),
        (
            bootstrap.difference(("a", "b"), (first, second)),
            first.mean() - second.mean(),
            differences,
        ),
        (
            bootstrap.correlations({"a": first}, {"a": first**2}, of_means=False)[0],
            float(pearson(first.ravel(), first.ravel() ** 2)),
            correlations,
        ),
    ):
        assert estimate == pytest.approx((value, *np.quantile(replicates, [0.1, 0.9])))


def test_intervals_cover():
    """Of tables with a row and a column effect, at least as often as they should."""
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(200):
        table = rng.normal(size=(30, 1)) + 0.5 * rng.normal(size=(1, 8))
        table = table + 0.3 * rng.normal(size=(30, 8))
        bootstrap = Bootstrap({"a": 30}, 8, resamples=200, level=0.9, seed=seed)
        estimate = bootstrap.mean("a", table)
        covered += estimate.lower <= 0 <= estimate.upper
    # 180 are expected, and percentile intervals of 30 rows are a little short: 3.5 deviations.
    assert covered >= 165


def test_correlations_of_too_little():
    assert np.isnan(pearson(np.ones(5), np.arange(5.0)))
    assert np.isnan(pearson(np.full(3, 0.1), np.arange(3.0)))
    assert np.isnan(spearman(np.ones(1), np.ones(1)))
    x = np.random.default_rng(0).normal(size=(2, 9)).round(1)
    expected = [stats.spearmanr(row, row**2).statistic for row in x]
    np.testing.assert_allclose(spearman(x, x**2), expected)
    one = Bootstrap({"a": 1}, 2, resamples=10, level=0.9, seed=0)
    table = {"a": np.array([[1.0, 2.0]])}
    assert np.all(np.isnan(one.correlations(table, table, of_means=True)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": -0.1}, "`learning_rate` must be positive, got -0.1"),
        ({"sets": 0}, "`sets` must be at least 1, got 0"),
        ({"kernel_records": 1}, "`kernel_records` must be at least 2, got 1"),
        ({"level": 1.0}, "`level` must be between 0 and 1, got 1.0"),
        ({"methods": ()}, "`methods` must be one or more, each once"),
        ({"set_size": (30, 30)}, r"`set_size` must be one or more, each once, got \(30, 30\)"),
        ({"set_size": (1,)}, "`set_size` must be at least 2"),
        ({"set_size": (100,)}, "`set_size` 100 exceeds the pool of 40 images"),
        ({"data": "folder"}, "'folder' needs --path"),
        ({"path": Path("somewhere")}, "'digits' takes no --path"),
    ],
)
def test_settings_are_checked_when_they_are_made(options, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **options)


def test_defaults_depend_on_the_data():
    assert (Config().amounts.networks, Config().amounts.epochs) == (3, 100)
    mnist = Config(data="mnist", networks=2).amounts
    assert (mnist.networks, mnist.sets, mnist.epochs, mnist.learning_rate) == (2, 30, 500, 1e-3)


def test_images_of_your_own(tmp_path):
    images = np.random.default_rng(0).integers(0, 255, (30, 8, 8, 1), np.uint8)
    labels = np.arange(30) % 3
    arrays = {"x_train": images, "y_train": labels, "x_test": images, "y_test": 0 * labels}
    np.savez(tmp_path / "mine.npz", **arrays)
    config = Config(data="npz", path=tmp_path / "mine.npz", pool=31, set_size=(4,))
    with pytest.raises(ValueError, match="30 training images of 'npz', fewer than the pool of 31"):
        mnist_entropy.run(config)
    loaded = load_images(dataclasses.replace(config, pool=30))
    assert jnp.shape(loaded.pool.x) == (30, 8, 8, 1)
    arrays["y_train"] = 0 * labels
    np.savez(tmp_path / "mine.npz", **arrays)
    with pytest.raises(ValueError, match="two classes or more; every label of 'npz' is 0"):
        mnist_entropy.run(config)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--data", "mnits"], "mnits"),
        (["--data", "idx", "--path", "nowhere"], "nowhere"),
        (["--set-size", "501"], "exceeds the pool"),
    ],
)
def test_wrong_input_is_one_sentence_and_exit_code_2(args, message, tmp_path, capsys):
    places = ["--run-dir", str(tmp_path / "run")]
    if "mnits" in args:
        places += ["--data-dir", str(tmp_path)]
    with pytest.raises(SystemExit) as stop:
        mnist_entropy.main([*args, *places])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_notebook(config, report, monkeypatch):
    """Its code cells, with the finished run above in the place of the one they ask for."""
    notebook = Path(__file__).parents[2] / "notebooks" / "mnist_entropy.ipynb"
    cells = json.loads(notebook.read_text())["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    own = 'config = Config(run_dir="../runs/entropy-digits")'
    assert sources[0].count(own) == 1
    monkeypatch.setattr(program, "build_measure", lambda *args: None)
    names = {"own_config": config}
    for source in sources:
        source = source.replace(own, "config = own_config").replace("-n30.png", "-n12.png")
        exec(compile(source, notebook.name, "exec"), names)
    assert names["report"].rows == report.rows
    assert len(names["best"]) == 5
