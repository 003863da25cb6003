"""The real program, small: it has to run, resume, refuse, and give the numbers of the library."""

import csv
import dataclasses
import json
import math
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from models.resnet_tensors import random_tensors
from PIL import Image
from scipy import stats
from sklearn import metrics as sklearn_metrics

from entropax.checkpoint import save_variables
from entropax.experiments import uncertainty, uncertainty_figures
from entropax.experiments.uncertainty import (
    Config,
    classifiers,
    examples,
    program,
    published,
    sources,
)
from entropax.experiments.uncertainty.networks import NETWORKS
from entropax.models.convert import cifar_resnet

N, CLASSES = 150, 4
SMALL = Config(resamples=60, accuracies=(0.7, 0.9), bins=5, validation=0.2)
NAMES = ["fair", "poor", "sure"]


def make_logits(name):
    """Three models of rising noise; "sure" is the first one, four times too confident."""
    rng = np.random.default_rng(0)
    labels = rng.integers(CLASSES, size=N)
    noise = rng.normal(size=(N, CLASSES))
    scale, strength = {"fair": (1, 1.5), "poor": (1, 0.5), "sure": (4, 1.5)}[name]
    logits = scale * (noise + strength * np.eye(CLASSES)[labels])
    return logits.astype(np.float32), labels


def write_outputs(folder, names=NAMES):
    folder.mkdir(exist_ok=True)
    for name in names:
        logits, labels = make_logits(name)
        np.savez(folder / f"{name}.npz", logits=logits, labels=labels)
    return folder


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("uncertainty")
    return dataclasses.replace(
        SMALL, outputs=write_outputs(path / "outputs"), run_dir=path / "run", compat="reference"
    )


@pytest.fixture(scope="module")
def report(config):
    return uncertainty.run(config)


@pytest.fixture
def no_figures(report, monkeypatch):
    """Figures take longer than all else; those of `report` are the real ones."""
    for name in ("draw_risk_coverage", "draw_reliability"):
        monkeypatch.setattr(uncertainty_figures, name, lambda path, **_: path.write_bytes(b""))


@pytest.fixture
def loaded(monkeypatch):
    """Names of the files that are read."""
    names, load = [], sources.Files.load

    def counted(self, name):
        names.append(name)
        return load(self, name)

    monkeypatch.setattr(sources.Files, "load", counted)
    return names


def row_of(report, name):
    (row,) = (row for row in report.rows if row["model"] == name)
    return row


def measured_part(name, config):
    logits, labels = make_logits(name)
    kept = ~examples.split(labels, config.validation, config.seed)
    return logits[kept], labels[kept]


def expected_metrics(logits, labels, config):
    """By scikit-learn, and by loops over the definitions, in float64; there are no ties."""
    probs = scipy.special.softmax(np.float64(logits), axis=-1)
    confidence, correct = probs.max(-1), probs.argmax(-1) == labels
    order = np.argsort(-confidence)
    errors, ranks = np.cumsum(~correct[order]), np.arange(1, len(labels) + 1)
    best = np.cumsum(np.sort(~correct))
    found = {
        "accuracy": correct.mean(),
        "auroc": sklearn_metrics.roc_auc_score(correct, confidence),
        "aurc": np.mean(errors / ranks),
        "excess_aurc": np.mean(errors / ranks) - np.mean(best / ranks),
        "augrc": np.mean(errors / len(labels)),
        "nll": sklearn_metrics.log_loss(labels, probs),
        "brier": np.mean(np.sum((probs - np.eye(CLASSES)[labels]) ** 2, axis=-1)),
        "ece": 0,
    }
    for accuracy in config.accuracies:
        met = ranks[errors <= (1 - accuracy) * ranks + 1e-9]
        found[f"coverage_at_{accuracy:g}"] = max(met, default=0) / len(labels)
    for i in range(config.bins):
        inside = (confidence > i / config.bins) & (confidence <= (i + 1) / config.bins)
        found["ece"] += abs(np.sum(correct[inside]) - np.sum(confidence[inside])) / len(labels)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_metrics_before_and_after_scaling(name, config, report):
    row = row_of(report, name)
    logits, labels = measured_part(name, config)
    for suffix, temperature in (("", 1), ("_ts", row["temperature"])):
        expected = expected_metrics(logits / temperature, labels, config)
        assert set(expected) == set(config.metrics)
        for metric, value in expected.items():
            # float32: means of 120 terms below 10
            assert row[metric + suffix] == pytest.approx(value, abs=4e-6), metric + suffix
    assert (row["fitted"], row["measured"]) == (N - len(labels), len(labels))


@pytest.mark.parametrize("name", NAMES)
def test_the_temperature_is_that_of_the_other_examples(name, config, report):
    logits, labels = make_logits(name)
    fitted = examples.split(labels, config.validation, config.seed)
    grid = np.geomspace(0.1, 30, 20_000)

    def loss(temperature):
        return sklearn_metrics.log_loss(
            labels[fitted], scipy.special.softmax(np.float64(logits[fitted]) / temperature, -1)
        )

    row = row_of(report, name)
    assert row["temperature_status"] == "converged"
    near = row["temperature"] * np.array([0.99, 1, 1.01])
    assert np.argmin([loss(t) for t in near]) == 1
    assert grid[0] < row["temperature"] < grid[-1]


def test_scaling_undoes_what_a_scale_has_done(report):
    fair, sure = row_of(report, "fair"), row_of(report, "sure")
    assert sure["temperature"] == pytest.approx(4 * fair["temperature"], rel=1e-4)
    for name in SMALL.metrics:
        assert sure[f"{name}_ts"] == pytest.approx(fair[f"{name}_ts"], abs=1e-5)
    assert sure["ece"] > 2 * sure["ece_ts"]
    assert sure["accuracy"] == fair["accuracy"]


def test_intervals(config, report):
    for row in report.rows:
        for name in config.metrics:
            for column in (name, f"{name}_ts"):
                lower, value, upper = (row[column + end] for end in ("_lower", "", "_upper"))
                assert lower <= upper, column
                if name != "ece":  # mirrored, and cut at 0
                    assert lower <= value <= upper, column
        n, rate = row["measured"], row["accuracy"]
        normal = 2 * 1.96 * math.sqrt(rate * (1 - rate) / n)
        # 60 resamples: the ends are known to about a fifth
        assert row["accuracy_upper"] - row["accuracy_lower"] == pytest.approx(normal, rel=0.45)
        assert row["ece_lower"] >= 0


def test_changes_are_paired(report):
    for change in report.changes:
        assert change["change"] == pytest.approx(change["scaled"] - change["plain"], abs=1e-6)
        assert change["change_lower"] <= change["change_upper"]
        if change["metric"] == "accuracy":  # a temperature moves no prediction
            assert (change["change_lower"], change["change_upper"]) == (0, 0)
    (nll,) = (c for c in report.changes if (c["model"], c["metric"]) == ("sure", "nll"))
    width = nll["change_upper"] - nll["change_lower"]
    row = row_of(report, "sure")
    assert width < row["nll_upper"] - row["nll_lower"] + row["nll_ts_upper"] - row["nll_ts_lower"]
    assert nll["change_upper"] < 0


def test_models_are_compared_on_the_same_examples(config, report):
    assert [row["model"] for row in report.sorted_rows()][-1] == "poor"
    found = report.comparison
    assert {found.first, found.second} == {"fair", "sure"}
    first, second = row_of(report, found.first), row_of(report, found.second)
    assert found.value == pytest.approx(first["auroc"] - second["auroc"], abs=1e-6)
    assert found.lower <= found.value <= found.upper
    # One is a scaled copy of the other: they differ by less than either is known.
    assert found.upper - found.lower < 0.5 * (first["auroc_upper"] - first["auroc_lower"])


def test_correlations_are_those_of_scipy(report):
    x, y = report.column("auroc"), report.column("ece")
    assert report.correlation("auroc", "ece").value == pytest.approx(
        stats.spearmanr(x, y).statistic
    )
    assert len(report.correlations) == math.comb(len(SMALL.metrics), 2)


def test_curves(config, report):
    logits, labels = measured_part("fair", config)
    probs = scipy.special.softmax(np.float64(logits), axis=-1)
    correct = probs.argmax(-1) == labels
    order = np.argsort(-probs.max(-1))
    curve = report.curves["fair"][""]
    # Fewer examples than points: every rank.
    np.testing.assert_allclose(curve["coverage"], np.arange(1, 121) / 120, rtol=1e-6)
    expected = np.cumsum(~correct[order]) / np.arange(1, 121)
    np.testing.assert_allclose(curve["risk"], expected, atol=1e-6)
    assert curve["bin_count"].sum() == 120
    gaps = np.abs(curve["bin_accuracy"] - curve["confidence"])
    error = np.nansum(curve["bin_count"] * gaps) / 120
    assert error == pytest.approx(row_of(report, "fair")["ece"], abs=1e-6)


def test_run_folder(config, report):
    tables = {"results.csv", "temperature_scaling.csv", "correlations.csv", "published.csv"}
    figures = {"risk_coverage.png", "reliability.png"}
    files = {file.name for file in config.run_dir.iterdir()}
    assert files == {"config.json", "metrics.jsonl"} | tables | figures
    with (config.run_dir / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["model"] for row in rows] == NAMES
    assert float(rows[1]["aurc_ts"]) == pytest.approx(report.rows[1]["aurc_ts"], rel=1e-5)
    for figure in figures:
        assert (config.run_dir / figure).read_bytes().startswith(b"\x89PNG")


def test_a_finished_run_is_reported_anew(config, report, no_figures, monkeypatch):
    monkeypatch.setattr(program, "measure", None)
    again = uncertainty.run(dataclasses.replace(config, sort_by="auroc_ts"))
    assert again.rows == report.rows
    by_error = report._replace(config=dataclasses.replace(config, sort_by="ece"))
    assert by_error.sorted_rows()[-1]["model"] == "sure"  # the largest error is the worst
    with pytest.raises(ValueError, match=r"bins was 5 and is now 7.*--run-dir"):
        uncertainty.run(dataclasses.replace(config, bins=7))


def test_models_that_were_added_or_changed_are_measured(
    config, report, no_figures, loaded, tmp_path
):
    folder = write_outputs(tmp_path / "outputs", ["fair"])
    small = dataclasses.replace(config, outputs=folder, run_dir=tmp_path / "run")
    assert uncertainty.run(small).comparison is None
    assert loaded == ["fair"]
    write_outputs(folder)
    lines = (small.run_dir / "metrics.jsonl").read_text()
    (small.run_dir / "metrics.jsonl").write_text(lines + lines[:40])  # a kill cut it short
    assert uncertainty.run(small).rows == report.rows
    assert loaded[1:3] == ["poor", "sure"]
    assert len(loaded) == 5  # two more for the comparison
    del loaded[:]
    logits, labels = make_logits("poor")
    np.savez(folder / "poor.npz", logits=2 * logits, labels=labels)
    found = uncertainty.run(small)
    assert loaded.count("poor") == 1
    half = row_of(report, "poor")["temperature"]
    assert row_of(found, "poor")["temperature"] == pytest.approx(2 * half, rel=1e-4)


LOGITS, LABELS = make_logits("fair")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"logits": LOGITS}, "labels missing; it holds logits. Save np.savez"),
        (
            {"logits": LOGITS.astype(object), "labels": LABELS},
            "this is no .npz archive of plain arrays",
        ),
        ({"logits": LABELS, "labels": LABELS}, "must be floating-point numbers [n, c], got int64"),
        ({"logits": LOGITS, "labels": LABELS[1:]}, "`labels` must be 150 whole numbers"),
        ({"logits": LOGITS, "labels": LABELS * 1.0}, "`labels` must be 150 whole numbers"),
        ({"logits": LOGITS, "labels": LABELS + 1}, "must be classes from 0 to 3"),
        ({"logits": LOGITS, "labels": np.roll(LABELS, 1)}, "are not those on which fair was"),
        (
            {"logits": np.where(np.arange(N)[:, None] == 7, np.nan, LOGITS), "labels": LABELS},
            "NaN or infinity in 1 of 150 rows, first in row 7",
        ),
        (
            {"logits": scipy.special.softmax(LOGITS, axis=-1), "labels": LABELS},
            "`logits` look like probabilities",
        ),
        (
            {"logits": np.where(np.eye(CLASSES)[LABELS] == 1, -np.inf, LOGITS), "labels": LABELS},
            "the logit of the right class is -inf in row 0",
        ),
    ],
)
def test_files_are_checked(arrays, message, config, report, no_figures, tmp_path, capsys):
    folder = write_outputs(tmp_path / "outputs", ["fair"])
    np.savez(folder / "zz.npz", **arrays)
    args = ["--outputs", str(folder), "--run-dir", str(tmp_path / "run")]
    args += ["--resamples", "60", "--accuracies", "0.7", "0.9", "--bins", "5"]
    with pytest.raises(SystemExit) as stopped:
        uncertainty.main(args)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert "zz" in error
    found = uncertainty.run(
        dataclasses.replace(SMALL, outputs=folder, run_dir=tmp_path / "run", on_error="skip")
    )
    assert [row["model"] for row in found.rows] == ["fair"]
    assert message in found.skipped["zz"]
    assert "skipped zz" in capsys.readouterr().out


def test_a_process_does_not_go_on_alone(config, report, no_figures, tmp_path, monkeypatch):
    """What one of several processes leaves out, the others may be in the middle of."""
    folder = write_outputs(tmp_path / "outputs", ["fair"])
    np.savez(folder / "zz.npz", logits=np.ones(3))
    program = sys.modules["entropax.experiments.uncertainty.program"]
    monkeypatch.setattr(program.jax.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(program, "end_if_preempted", lambda step: None)
    with pytest.raises(ValueError, match="zz"):
        uncertainty.run(
            dataclasses.replace(SMALL, outputs=folder, run_dir=tmp_path / "run", on_error="skip")
        )


def test_corrected_labels(report, no_figures, tmp_path):
    """A measurement that is out of date has no say in what the labels are."""
    folder = write_outputs(tmp_path / "outputs", ["fair", "poor"])
    config = dataclasses.replace(
        SMALL, outputs=folder, run_dir=tmp_path / "run", resamples=10, accuracies=(0.7,)
    )
    before = uncertainty.run(config)

    def correct(name):
        logits, labels = make_logits(name)
        labels[3] = (labels[3] + 1) % CLASSES
        np.savez(folder / f"{name}.npz", logits=logits, labels=labels)

    correct("fair")
    with pytest.raises(ValueError, match=r"^fair: .*those on which poor was.*correct them for ev"):
        uncertainty.run(config)
    correct("poor")
    after = uncertainty.run(config)
    assert [row["model"] for row in after.rows] == ["fair", "poor"]
    assert all(row_of(after, name)["nll"] != row_of(before, name)["nll"] for name in NAMES[:2])


def test_a_truncated_file(tmp_path):
    folder = write_outputs(tmp_path / "outputs", ["fair"])
    whole = (folder / "fair.npz").read_bytes()
    (folder / "fair.npz").write_bytes(whole[: len(whole) // 2])
    small = dataclasses.replace(SMALL, outputs=folder, run_dir=tmp_path / "run")
    with pytest.raises(ValueError, match=r"fair.npz: this is no .npz archive"):
        uncertainty.run(small)
    with pytest.raises(ValueError, match=r"None of the 1 models .*fair.npz: this is no"):
        uncertainty.run(dataclasses.replace(small, on_error="skip"))


def test_a_model_without_errors_has_no_auroc(config, report, no_figures, tmp_path):
    folder = write_outputs(tmp_path / "outputs", ["fair"])
    np.savez(folder / "all.npz", logits=9 * np.eye(CLASSES)[LABELS], labels=LABELS)
    small = dataclasses.replace(config, outputs=folder, run_dir=tmp_path / "run")
    found = uncertainty.run(small)
    row = row_of(found, "all")
    assert (row["accuracy"], row["auroc"], row["aurc"]) == (1, None, 0)
    assert row["temperature_status"] == "at_upper"
    assert row["coverage_at_0.9"] == 1
    assert [r["model"] for r in found.sorted_rows()] == ["fair", "all"]
    lines = (small.run_dir / "published.csv").read_text().splitlines()
    assert lines[1].startswith("all, 100.00000,None,None,")


def test_the_published_table(config, report):
    lines = (config.run_dir / "published.csv").read_text().splitlines()
    assert lines[0] == (
        "Architecture,Accuracy,AUROC,AUROC_TS,ECE_15,ECE_15_TS,Coverage_for_Accuracy_99,"
        "Coverage_for_Accuracy_99_TS,AURC,AURC_TS"
    )
    assert len(lines) == 4
    cells = dict(zip(lines[0].split(","), lines[1].split(","), strict=True))
    logits, labels = make_logits("fair")
    expected = expected_metrics(logits, labels, config)  # of all examples
    assert float(cells["Accuracy"]) == pytest.approx(100 * expected["accuracy"], abs=1e-5)
    for metric in ("AUROC", "AURC"):
        assert float(cells[metric]) == pytest.approx(expected[metric.lower()], abs=1e-5)
        after = row_of(report, "fair")[f"{metric.lower()}_ts"]
        assert float(cells[f"{metric}_TS"]) == pytest.approx(after, abs=1e-5)
    assert cells["Coverage_for_Accuracy_99"] == "None"  # not more than 200 examples


def test_names_with_commas_are_one_cell():
    row = {"Accuracy": 80.0}
    records = [
        {"published": {**row, "Architecture": name}} for name in ("net", "net,large", 'a"b', " c ")
    ]
    lines = published.published_csv(records).splitlines()
    assert lines[1].startswith("net, 80.00000,None,")
    cells = list(csv.reader(lines))
    assert [line[0] for line in cells[1:]] == ["net", "net,large", 'a"b', " c "]
    assert {len(line) for line in cells} == {len(published.HEADERS)}


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
def test_the_split_takes_its_share_of_every_class(share):
    labels = np.random.default_rng(1).choice(5, p=[0.5, 0.3, 0.1, 0.07, 0.03], size=400)
    fitted = examples.split(labels, share, 0)
    assert fitted.sum() == 400 * share
    for k in range(5):
        assert abs(np.sum(fitted[labels == k]) - share * np.sum(labels == k)) <= 1
    np.testing.assert_array_equal(examples.split(labels, share, 0), fitted)
    assert np.any(examples.split(labels, share, 1) != fitted)


@pytest.mark.parametrize("score", ["log_odds", "p_norm_max_logit", "max_logit"])
def test_other_scores_rank_otherwise(score):
    logits, labels = make_logits("fair")
    config = dataclasses.replace(SMALL, score=score, p=2)
    model = examples.prepare(config, sources.Outputs(logits, labels, {}))
    logits, _ = measured_part("fair", config)
    centred = logits - logits.mean(-1, keepdims=True)
    rest = np.sort(logits, axis=-1)[:, :-1]
    expected = {
        "log_odds": logits.max(-1) - scipy.special.logsumexp(rest, axis=-1),
        "p_norm_max_logit": centred.max(-1) / np.linalg.norm(centred, axis=-1),
        "max_logit": logits.max(-1),
    }[score]
    np.testing.assert_allclose(
        model.examples.scores[:, 0], np.sort(expected)[::-1], rtol=1e-5, atol=1e-6
    )
    np.testing.assert_array_equal(model.examples.by_score[:, 0], np.argsort(-expected))
    confidence = scipy.special.softmax(logits, axis=-1).max(-1)
    np.testing.assert_allclose(
        model.examples.confidences[:, 0], np.sort(confidence)[::-1], rtol=1e-5
    )


def test_blocks_change_nothing(monkeypatch):
    logits, labels = make_logits("fair")
    outputs = sources.Outputs(logits, labels, {})
    whole = examples.prepare(SMALL, outputs)
    monkeypatch.setattr(examples, "_BLOCK", 50 * CLASSES)  # 120 rows in blocks of 50
    for one, other in zip(whole.examples, examples.prepare(SMALL, outputs).examples, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_more_validation_than_there_is():
    logits, labels = make_logits("fair")
    outputs = sources.Outputs(logits[:4], labels[:4], {})
    with pytest.raises(ValueError, match=r"leaves none for the temperature"):
        examples.prepare(dataclasses.replace(SMALL, validation=0.1), outputs)
    with pytest.raises(ValueError, match=r"leaves none for the measurement"):
        examples.prepare(dataclasses.replace(SMALL, validation=0.9), outputs)


def test_networks_are_trained_once_and_kept(report, no_figures, tmp_path, monkeypatch):
    config = dataclasses.replace(
        SMALL, networks=("mlp-16",), run_dir=tmp_path / "run", max_test=N, epochs=3
    )
    found = uncertainty.run(config)
    (row,) = found.rows
    assert row["parameters"] == 64 * 16 + 16 + 16 * 10 + 10
    assert 0.3 < row["accuracy"] < 1
    assert (row["fitted"], row["measured"]) == (30, 120)
    assert [path.name for path in (config.run_dir / "networks").iterdir()] == ["mlp-16"]
    assert json.loads((config.run_dir / "metrics.jsonl").read_text())["identity"] is None
    monkeypatch.setattr(classifiers, "fit_classifier", None)
    (config.run_dir / "metrics.jsonl").unlink()
    assert uncertainty.run(config).rows == found.rows  # measured again, from its variables


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("side", [8, 28])
def test_networks_take_small_images(name, side):
    module = NETWORKS[name](10, side)
    x = jnp.zeros((2, side, side, 1))
    variables = jax.eval_shape(module.init, jax.random.key(0), x)
    assert jax.eval_shape(module.apply, variables, x).shape == (2, 10)


def test_sure_networks_keep_their_calibration(report, no_figures, tmp_path):
    """Products of large logits and a temperature below 1 round; no confidence exceeds 1."""
    rng = np.random.default_rng(3)
    labels = rng.integers(3, size=400)
    logits = rng.normal(size=(400, 3)) + 40
    logits[np.arange(400), labels] += np.where(rng.random(400) < 0.9, 40 * rng.random(400), -2)
    (tmp_path / "outputs").mkdir()
    np.savez(tmp_path / "outputs" / "a$b_^$.npz", logits=logits.astype(np.float32), labels=labels)
    config = dataclasses.replace(
        SMALL, outputs=tmp_path / "outputs", run_dir=tmp_path / "run", resamples=10
    )
    (row,) = uncertainty.run(config).rows
    assert row["ece_ts"] is not None
    assert row["nll_ts"] > 0


def test_a_temperature_at_its_bound_is_not_applied(report, no_figures, tmp_path):
    logits, labels = make_logits("fair")
    fitted = examples.split(labels, SMALL.validation, SMALL.seed)
    logits[fitted] = 5 * np.eye(CLASSES)[labels[fitted]]
    (tmp_path / "outputs").mkdir()
    np.savez(tmp_path / "outputs" / "perfect.npz", logits=logits, labels=labels)
    config = dataclasses.replace(SMALL, outputs=tmp_path / "outputs", run_dir=tmp_path / "run")
    (row,) = uncertainty.run(config).rows
    assert row["temperature_status"] == "at_upper"
    assert (row["nll_ts"], row["auroc_ts"]) == (row["nll"], row["auroc"])


def test_published_weights_on_images(report, no_figures, tmp_path):
    rng = np.random.default_rng(1)
    images = rng.integers(256, size=(60, 16, 16, 3), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", test_images=images, test_labels=rng.integers(5, size=60))
    for seed in (0, 1):
        np.savez(tmp_path / f"resnet{seed}.npz", **random_tensors(seed=seed))
    config = dataclasses.replace(
        SMALL,
        data="npz",
        path=tmp_path / "images.npz",
        weights=(tmp_path / "resnet0.npz", tmp_path / "resnet1.npz"),
        run_dir=tmp_path / "run",
        accuracies=(0.5,),
        resamples=20,
    )
    assert [row["model"] for row in uncertainty.run(config).rows] == ["resnet0", "resnet1"]

    source = classifiers.Weights(config)
    module, variables = cifar_resnet(random_tensors(seed=1))
    x = (source.test.x - np.float32([0.485, 0.456, 0.406])) / np.float32([0.229, 0.224, 0.225])
    expected = module.apply(variables, jnp.asarray(x))
    np.testing.assert_allclose(source.load("resnet1").logits, expected, rtol=1e-4, atol=1e-4)

    few = random_tensors()
    few["linear.weight"], few["linear.bias"] = few["linear.weight"][:2], few["linear.bias"][:2]
    np.savez(tmp_path / "few.npz", **few)
    np.savez(tmp_path / "more.npz", **random_tensors(), **{"extra.weight": np.zeros((2, 2))})
    for name, message in (("few", "2 classes"), ("more", "no place for extra.weight")):
        other = dataclasses.replace(config, weights=(tmp_path / f"{name}.npz",))
        with pytest.raises(ValueError, match=message):
            classifiers.Weights(other).load(name)
    with pytest.raises(FileNotFoundError, match="no file of weights"):
        uncertainty.run(dataclasses.replace(config, weights=(tmp_path / "none.npz",)))


def test_published_weights_on_a_folder(no_figures, tmp_path):
    """Logits are those of the library alone, among the classes that have a folder."""
    np.savez(tmp_path / "resnet.npz", **random_tensors())
    (tmp_path / "classes.txt").write_text("ant\nbee\ncat\ndog\nelk\n")
    rng = np.random.default_rng(0)
    images = rng.integers(256, size=(60, 32, 32, 3), dtype=np.uint8)
    for i, image in enumerate(images):
        place = tmp_path / "val" / ("bee", "cat", "elk")[i // 20]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{i:02}.png")
    (tmp_path / "val" / "elk" / "59.png").write_bytes(b"not an image")
    config = Config(
        data="folder",
        path=tmp_path,
        weights=(tmp_path / "resnet.npz",),
        classes=tmp_path / "classes.txt",
        run_dir=tmp_path / "run",
        on_error="skip",
        resamples=20,
    )
    source = classifiers.Weights(config)
    with pytest.warns(UserWarning, match=r"59\.png"):
        found = source.load("resnet")
    order = np.random.default_rng(0).permutation(60)
    order = order[order != 59]
    np.testing.assert_array_equal(found.labels, order // 20)
    module, variables = cifar_resnet(random_tensors())
    x = images[order] / np.float32(255)
    x = (x - np.float32([0.485, 0.456, 0.406])) / np.float32([0.229, 0.224, 0.225])
    expected = module.apply(variables, jnp.asarray(x))[:, [1, 2, 4]]
    np.testing.assert_allclose(found.logits, expected, rtol=1e-4, atol=1e-4)

    before = source.identity("resnet")
    assert before == json.loads(json.dumps(before))
    (tmp_path / "classes.txt").write_text("elk\ndog\ncat\nbee\nant\n")
    assert source.identity("resnet") != before
    with pytest.raises(ValueError, match="give no --size"):
        dataclasses.replace(config, size=32)
    with pytest.raises(ValueError, match=r"59\.png"):
        classifiers.Weights(dataclasses.replace(config, on_error="stop")).load("resnet")


OWN_MODULE = """
import flax.linen as nn

class Net(nn.Module):
    classes: int = 5

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.BatchNorm(use_running_average=not train)(x.reshape(len(x), -1))
        return nn.Dense(self.classes)(x)

class Wide(nn.Module):
    width: int

class Fussy(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return x

net = Net()
three_classes = lambda: Net(3)
spatial = nn.Conv(5, (3, 3))
number = 7
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A module of somebody's, two checkpoints of it, and images; nothing is written there again."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "nets_of_mine.py").write_text(OWN_MODULE)
    rng = np.random.default_rng(1)
    images = rng.integers(256, size=(60, 6, 6, 1), dtype=np.uint8)
    np.savez(folder / "images.npz", test_images=images, test_labels=rng.integers(5, size=60))
    variables = [
        {
            "params": {
                "BatchNorm_0": {"scale": rng.normal(size=36), "bias": rng.normal(size=36)},
                "Dense_0": {"kernel": rng.normal(size=(36, 5)), "bias": rng.normal(size=5)},
            },
            "batch_stats": {"BatchNorm_0": {"mean": rng.random(36), "var": rng.random(36)}},
        }
        for _ in range(2)
    ]
    variables = jax.tree.map(np.float32, variables)
    for i, tree in enumerate(variables):
        save_variables(folder / f"epoch{i}", tree)
    config = dataclasses.replace(
        SMALL,
        data="npz",
        path=folder / "images.npz",
        module="nets_of_mine:Net",
        checkpoints=(folder / "epoch0", folder / "epoch1"),
        accuracies=(0.5,),
        resamples=20,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield config, variables


def test_checkpoints_of_somebodys_module(own, report, no_figures, tmp_path):
    config, variables = own
    found = uncertainty.run(dataclasses.replace(config, run_dir=tmp_path / "run"))
    assert [row["model"] for row in found.rows] == ["epoch0", "epoch1"]
    assert found.rows[0]["parameters"] == 2 * 36 + 36 * 5 + 5

    source = classifiers.Checkpoints(config)
    params, stats = variables[1]["params"], variables[1]["batch_stats"]["BatchNorm_0"]
    x = (source.test.x.reshape(60, -1) - stats["mean"]) / np.sqrt(stats["var"] + 1e-5)
    x = x * params["BatchNorm_0"]["scale"] + params["BatchNorm_0"]["bias"]
    expected = x @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"]
    # float32 sums of 36 products below 1e3
    np.testing.assert_allclose(source.load("epoch1").logits, expected, rtol=1e-5, atol=1e-3)

    same = classifiers.Checkpoints(dataclasses.replace(config, module="nets_of_mine:net"))
    assert same.identity("epoch0") != source.identity("epoch0")
    assert source.identity("epoch1") != source.identity("epoch0")
    np.testing.assert_array_equal(same.load("epoch1").logits, source.load("epoch1").logits)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("nets_of_mine", "`module` must be PACKAGE.MODULE:NAME, got 'nets_of_mine'"),
        ("nets_of_yours:Net", "'nets_of_yours' cannot be imported: No module named"),
        ("nets_of_mine:Lenet", "'nets_of_mine' has no 'Lenet'"),
        ("nets_of_mine:Wide", "nets_of_mine:Wide has to make a module without arguments: .*width"),
        ("nets_of_mine:number", "has to be a linen module, .* it gives a int"),
        ("nets_of_mine:Fussy", "cannot be called with images of shape .1, 6, 6, 1.: .*train"),
        ("nets_of_mine:three_classes", r"another network; params/Dense_0/bias is float32\[5\], e"),
    ],
)
def test_modules_are_checked(own, module, message, tmp_path):
    config, _ = own
    with pytest.raises(ValueError, match=message):
        uncertainty.run(dataclasses.replace(config, module=module, run_dir=tmp_path / "run"))


def test_checkpoints_are_checked(own, tmp_path):
    config, variables = own
    save_variables(tmp_path / "nan", jax.tree.map(lambda a: np.nan * a, variables[0]))
    (tmp_path / "nothing").mkdir()
    (tmp_path / "epoch3").write_text("")
    other = {"params": {"kernel": np.ones((3, 3, 1, 5)), "bias": np.ones(5)}}
    save_variables(tmp_path / "spatial", jax.tree.map(np.float32, other))

    def run(*names, **options):
        options["checkpoints"] = tuple(tmp_path / name for name in names)
        return uncertainty.run(dataclasses.replace(config, run_dir=tmp_path / "run", **options))

    with pytest.raises(FileNotFoundError, match=r"no folder of a checkpoint at .*epoch2"):
        run("epoch2")
    with pytest.raises(FileNotFoundError, match=r"no folder of a checkpoint at .*epoch3"):
        run("epoch3")
    with pytest.raises(ValueError, match=r"nothing holds no variables"):
        run("nothing")
    with pytest.raises(ValueError, match=r"nan: the logits of the network hold NaN"):
        run("nan")
    with pytest.raises(ValueError, match=r"spatial: the network has to give logits .n, c., got"):
        run("spatial", module="nets_of_mine:spatial")
    with pytest.raises(ValueError, match=r"`checkpoints` must have different names"):
        run("nan", "nothing/../nan")
    with pytest.raises(ValueError, match=r"need the images they were trained for"):
        run("nan", data="digits", path=None)


class Published:
    """A source of another kind."""

    names: tuple = ("a", "b")
    settings: dict = {"weights": "of somebody"}  # noqa: RUF012
    title = "elsewhere"

    def identity(self, name):
        return name

    def load(self, name):
        logits, labels = make_logits({"a": "fair", "b": "poor"}[name])
        return sources.Outputs(logits, labels, {"year": 2015})


def test_models_from_elsewhere(report, no_figures, tmp_path):
    config = dataclasses.replace(SMALL, run_dir=tmp_path / "run")
    found = uncertainty.run(config, source=Published())
    assert [row["model"] for row in found.rows] == ["a", "b"]
    assert found.rows[0]["year"] == 2015
    assert found.rows[0]["auroc"] == row_of(report, "fair")["auroc"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation": 1.0}, "`validation` must be between 0 and 1, got 1.0"),
        ({"resamples": 1}, "`resamples` must be at least 2, got 1"),
        ({"accuracies": (0.9, 0.9)}, "`accuracies` must be different ones"),
        ({"accuracies": (99.0,)}, r"`accuracies` must be in \[0, 1\], got 99.0"),
        ({"sort_by": "rank"}, "`sort_by` must be one of .*'auroc', 'auroc_ts'.*, got 'rank'"),
        ({"p": 0}, "`p` must be positive, got 0"),
        ({"outputs": Path("x"), "networks": ("linear",)}, "one of --outputs, --weights"),
        ({"module": "a:b"}, "--module and --checkpoints go together"),
        ({"checkpoints": (Path("x"),)}, "--module and --checkpoints go together"),
    ],
)
def test_settings_are_checked_when_they_are_made(options, message):
    with pytest.raises(ValueError, match=message):
        Config(**options)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--outputs", "no/such/folder"], "error: There is no folder no/such/folder."),
        (["--networks", "lenet"], "`networks` must be among ['linear', "),
    ],
)
def test_wrong_input_is_one_sentence_and_exit_code_2(args, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        uncertainty.main([*args, "--run-dir", str(tmp_path / "run")])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_an_empty_folder(tmp_path):
    with pytest.raises(ValueError, match=r"There is no \.npz file in"):
        uncertainty.run(dataclasses.replace(SMALL, outputs=tmp_path, run_dir=tmp_path / "run"))


def test_notebook(config, report, capsys):
    """Its code cells, with the finished run above in the place of the one they ask for."""
    notebook = Path(__file__).parents[2] / "notebooks" / "uncertainty.ipynb"
    cells = json.loads(notebook.read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    own = 'config = Config(run_dir="../runs/uncertainty-digits")'
    assert code[0].count(own) == 1
    names = {"own_config": config}
    for source in code:
        source = source.replace(own, "config = own_config").replace('"linear"', '"sure"')
        exec(compile(source, notebook.name, "exec"), names)
    assert names["report"].rows == report.rows
    printed = capsys.readouterr().out
    assert "sure      ece" in printed
    assert "auroc accuracy " in printed
