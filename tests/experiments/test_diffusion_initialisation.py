"""The real program, small: it has to run, resume, refuse, and give the numbers of the library."""

import csv
import dataclasses
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from experiments.builder import Builder
from scipy import stats

from entropax.experiments import diffusion_initialisation, study_figures
from entropax.experiments.diffusion_initialisation import Config, program
from entropax.experiments.diffusion_initialisation.measure import build_measure
from entropax.experiments.diffusion_initialisation.report import QUANTITIES, make_report
from entropax.experiments.labelled_images import load_parts
from entropax.models.resnet import ResNet

SMALL = Config(
    std=(0.1, 1.0),
    networks=2,
    widths=(4,),
    blocks=1,
    probe=24,
    epochs=2,
    max_train=16,
    max_test=30,
    batch_size=16,
    resamples=100,
)


@pytest.fixture(scope="module")
def builder():
    return Builder(build_measure)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return dataclasses.replace(SMALL, run_dir=tmp_path_factory.mktemp("initialisation") / "run")


@pytest.fixture(scope="module")
def report(config, builder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(program, "build_measure", builder)
        return diffusion_initialisation.run(config)


@pytest.fixture
def no_figure(report, monkeypatch):
    """Figures take longer than all else; that of `report` is the real one."""
    monkeypatch.setattr(
        study_figures, "draw_initialisation", lambda path, **_: path.write_bytes(b"")
    )


def entropy_by_numpy(z, sigma):
    squares = np.square(z[:, None] - z[None]).sum(-1)
    kernel = np.exp(-squares / (2 * sigma**2))
    scale = np.sqrt(kernel.sum(1))
    probs = np.abs(np.linalg.eigvalsh(kernel / scale / scale[:, None]))
    probs = probs[probs > 1e-14] / probs.sum()
    return -np.sum(probs * np.log(probs))


def test_numbers_are_those_of_the_library(config, report):
    """The second network, drawn from N(0, std) by the initialiser itself; entropies by NumPy."""
    parts = load_parts(config, train=16, probe=24, test=30)
    probe, train = jnp.asarray(parts.probe.x), jnp.asarray(parts.train.x)
    key, key_order = jax.random.split(jax.random.fold_in(jax.random.key(0), 1))
    module = ResNet(
        num_classes=10,
        widths=(4,),
        blocks=1,
        conv_init=nn.initializers.normal(1.0),
        dense_init=nn.initializers.normal(1e-3),
    )
    variables = jax.jit(module.init)(key, probe[:1])
    z = np.asarray(module.apply(variables, probe, method="features"), np.float64)
    (row,) = (r for r in report.rows if (r["std"], r["network"], r["epoch"]) == (1.0, 1, 0))
    distances = np.linalg.norm(z[:, None] - z[None], axis=-1)[np.triu_indices(24, 1)]
    # For an even number of pairs, the root of the mean of the middle squares or the mean of the
    # middle distances: not the same, but close.
    assert row["running_distance"] == pytest.approx(np.median(distances), rel=1e-2)
    assert row["running_dse"] == pytest.approx(entropy_by_numpy(z, 10.0), rel=1e-3)
    sigma = row["running_distance"] / np.sqrt(2)
    assert row["running_dse_median"] == pytest.approx(entropy_by_numpy(z, sigma), rel=1e-3)

    # One batch is all training images: the loss of the first epoch is that before the first step.
    order = np.asarray(jax.random.permutation(jax.random.fold_in(key_order, 1), 16))
    logits, _ = module.apply(variables, train[order], True, mutable=["batch_stats"])
    loss = optax.losses.softmax_cross_entropy_with_integer_labels(
        logits, parts.train.labels[order]
    ).mean()
    (row,) = (r for r in report.rows if (r["std"], r["network"], r["epoch"]) == (1.0, 1, 1))
    assert row["loss"] == pytest.approx(float(loss), rel=1e-4)


def test_every_network_is_measured_before_training_and_after_every_epoch(config, report):
    assert len(report.rows) == 2 * 2 * 3
    losses = report.table("loss", 1), report.table("loss", 2)
    assert np.all(losses[1] != losses[0])
    for epoch in (1, 2):
        for name in ("running_accuracy", "batch_accuracy"):
            share = 30 * report.table(name, epoch)
            np.testing.assert_allclose(share, share.round(), atol=1e-4)


def test_std_is_the_scale_of_the_features_and_nothing_else(report):
    """Three convolutions, one of them beside the other two: a factor between 10 and 10^3."""
    ratio = np.divide(*report.table("running_distance", 0)[::-1])
    assert np.all((ratio > 9) & (ratio < 1100))
    # The epsilon of BatchNorm is what differs.
    np.testing.assert_allclose(*report.table("batch_dse", 0), rtol=0.05)
    np.testing.assert_array_less(*report.table("running_dse", 0))


def test_correlations_are_those_of_scipy(config):
    rng = np.random.default_rng(0)
    names = (*QUANTITIES, "running_accuracy", "batch_accuracy")
    records = [
        {
            "std": std,
            "network": network,
            "epochs": [{name: float(rng.normal()) for name in names} for _ in range(3)],
        }
        for network in range(2)
        for std in config.std
    ]
    report = make_report(config, records)
    x, y = report.table("running_dse", 0), report.table("batch_accuracy", 2)
    assert x[1, 0] == records[1]["epochs"][0]["running_dse"]
    (row,) = (
        r
        for r in report.correlations
        if (r["quantity"], r["outcome"]) == ("running_dse", "final_batch_accuracy")
    )
    assert row["spearman"] == pytest.approx(stats.spearmanr(x.ravel(), y.ravel()).statistic)
    assert row["pearson"] == pytest.approx(stats.pearsonr(x.ravel(), y.ravel()).statistic)
    assert row["spearman_lower"] <= row["spearman"] <= row["spearman_upper"]
    y = report.table("running_accuracy", 1)
    (row,) = (
        r
        for r in report.correlations
        if (r["quantity"], r["outcome"]) == ("running_dse", "first_accuracy")
    )
    assert row["spearman"] == pytest.approx(stats.spearmanr(x.ravel(), y.ravel()).statistic)


def test_run_folder(config, report):
    files = {file.name for file in config.run_dir.iterdir()}
    tables = {"results.csv", "correlations.csv"}
    assert files == {"config.json", "metrics.jsonl", "initialisation.png"} | tables
    with (config.run_dir / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(report.rows)
    assert float(rows[0]["running_dse"]) == pytest.approx(report.rows[0]["running_dse"], rel=1e-5)
    assert json.loads((config.run_dir / "config.json").read_text())["std"] == [0.1, 1.0]


def test_a_stopped_run_goes_on_where_it_was(
    config, report, builder, no_figure, monkeypatch, tmp_path
):
    monkeypatch.setattr(program, "build_measure", builder)
    again = dataclasses.replace(config, run_dir=tmp_path / "run")
    builder.measured, builder.stop_after = [], 3
    with pytest.raises(KeyboardInterrupt):
        diffusion_initialisation.run(again)
    with (again.run_dir / "metrics.jsonl").open("a") as file:
        file.write('{"std": 1.0, "netw')  # cut short by a kill
    builder.measured, builder.stop_after = [], None
    resumed = diffusion_initialisation.run(again)
    assert builder.measured == [(1.0, 1)]
    assert resumed.rows == report.rows


def test_other_settings_need_another_folder(config, report):
    with pytest.raises(ValueError, match=r"epochs was 2 and is now 3.*--run-dir"):
        diffusion_initialisation.run(dataclasses.replace(config, epochs=3))


def test_without_training(config, builder, no_figure, monkeypatch, tmp_path):
    """The measurement of the other tests, cut: nothing is compiled again."""

    def measure(std, number, on_epoch):
        record = builder.measure(std, number, on_epoch)
        return {**record, "epochs": record["epochs"][:1]}

    monkeypatch.setattr(program, "build_measure", lambda *_: measure)
    config = dataclasses.replace(config, run_dir=tmp_path / "run", epochs=0)
    before = diffusion_initialisation.run(config)
    assert before.correlations == []
    assert len(before.rows) == 4
    assert not (tmp_path / "run" / "correlations.csv").exists()


def test_features_that_overflow_are_refused(config, report, builder):
    with pytest.raises(
        FloatingPointError, match="Features are not finite; lower the largest --std"
    ):
        builder.measure(1e30, 0, lambda: None)


def test_parts_are_disjoint(config):
    parts = load_parts(config, train=100, probe=24, test=30)
    images = [image.tobytes() for part in parts[:3] for image in part.x]
    # The digits hold no image twice among these.
    assert len(images) == len(set(images)) == 154
    with pytest.raises(ValueError, match="1797 images to test with, fewer than the 1901"):
        load_parts(config, train=100, probe=1000, test=900)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"std": (0.0,)}, "`std` must be one or more positive numbers"),
        ({"std": (0.1, 0.1)}, "each once"),
        ({"widths": (0,)}, "`widths` must be one or more positive numbers"),
        ({"sigma": -1.0}, r"`sigma` must be positive, got -1\.0"),
        ({"epochs": -1}, "`epochs` must be at least 0, got -1"),
        ({"level": 1.0}, "`level` must be between 0 and 1"),
    ],
)
def test_settings_are_checked_when_they_are_made(options, message):
    with pytest.raises(ValueError, match=message):
        Config(**options)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--probe", "1797"], "give a smaller --probe"),
        (["--data", "no_such_set"], "no_such_set"),
    ],
)
def test_wrong_input_is_one_sentence_and_exit_code_2(args, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        diffusion_initialisation.main([*args, "--run-dir", str(tmp_path / "run")])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_divergence_stops_and_says_what_to_do(config):
    """A label that no logit belongs to has a loss of NaN."""
    parts = load_parts(config, train=16, probe=24, test=30)
    nan = parts._replace(train=parts.train._replace(labels=np.full(16, 99, np.int32)))
    with pytest.raises(FloatingPointError, match=r"epoch 1 with std 1 is nan; lower --learning"):
        build_measure(config, nan)(1.0, 0, lambda: None)
