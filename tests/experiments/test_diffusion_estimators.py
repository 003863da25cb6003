"""The real program, small; and the truth that it compares with."""

import csv
import dataclasses
import json

import numpy as np
import pytest
from scipy import integrate, stats

from entropax.experiments import diffusion_estimators, study_figures
from entropax.experiments.diffusion_estimators import Config, program
from entropax.experiments.diffusion_estimators.blobs import make_problem, mutual_information

SMALL = Config(
    n=32, classes=2, dims=(2, 3), corruption=(1.0, 0.0), seeds=2, bins=(2,), resamples=100
)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return dataclasses.replace(SMALL, run_dir=tmp_path_factory.mktemp("estimators") / "run")


@pytest.fixture(scope="module")
def report(config):
    return diffusion_estimators.run(config)


@pytest.fixture
def no_figure(report, monkeypatch):
    """Figures take longer than all else; that of `report` is the real one."""
    monkeypatch.setattr(study_figures, "draw_estimators", lambda path, **_: path.write_bytes(b""))


@pytest.fixture
def no_estimates(monkeypatch):
    def fail(*_):
        raise AssertionError("estimated again")

    monkeypatch.setattr(program, "_estimate", fail)


@pytest.mark.parametrize("corruption", [0.0, 0.3, 1.0])
def test_truth_of_separate_blobs_is_that_of_the_table_of_labels(corruption):
    joint = (1 - corruption) * np.eye(7) / 7 + corruption / 49
    expected = 2 * np.log(7) - stats.entropy(joint.ravel())
    assert mutual_information(np.eye(7)[np.arange(70) % 7], corruption) == pytest.approx(
        expected, abs=1e-12
    )


@pytest.mark.parametrize("corruption", [0.0, 0.4])
def test_truth_of_blobs_that_overlap_is_the_integral(corruption):
    """Two normal distributions on a line; the sample of 20,000 has an error of some thousandths."""
    problem = make_problem(3, 20_000, 1, num_classes=2, corruption=(corruption,), separation=2.0)
    centres = [problem.x[i::2, 0].mean(dtype=float) for i in range(2)]

    def integrand(x):
        density = np.array([stats.norm.pdf(x, centre) for centre in centres]) / 2
        density = (1 - corruption) * density + corruption * density.sum() / 2
        return density.sum() * stats.entropy(density)

    conditional, _ = integrate.quad(integrand, min(centres) - 8, max(centres) + 8)
    assert 0.02 < problem.truth[0] < np.log(2)
    assert problem.truth[0] == pytest.approx(np.log(2) - conditional, abs=0.01)


def test_problems_are_what_they_are_said_to_be():
    problem = make_problem(0, 4000, 5, num_classes=4, corruption=(0.0, 0.5, 1.0), separation=None)
    blobs = problem.labels[0]
    assert np.bincount(blobs).tolist() == [1000] * 4
    # Half of the labels are drawn from four: three eighths differ, within four deviations.
    share = np.mean(problem.labels[1] != blobs)
    assert share == pytest.approx(3 / 8, abs=4 * np.sqrt(0.375 * 0.625 / 4000))
    # A label that was drawn at 0.5 stays so at 1.
    moved = problem.labels[1] != blobs
    np.testing.assert_array_equal(problem.labels[2][moved], problem.labels[1][moved])
    for c in range(4):
        np.testing.assert_allclose(problem.x[blobs == c].std(0), 1, atol=0.1)
    assert np.abs(problem.x).max() < 16
    apart = make_problem(0, 400, 50, num_classes=200, corruption=(0.0,), separation=20.0)
    means = np.stack([apart.x[i::200].mean(0) for i in range(200)])
    # The noise of a mean of two points adds 1 to the square of each of the 50 coordinates.
    squares = np.square(means[:100] - means[100:]).sum(1) - 50
    assert np.sqrt(squares.mean()) == pytest.approx(20.0, rel=0.05)


def test_estimates_are_those_of_the_library(config, report):
    assert len(report.rows) == 2 * 2 * 2 * 3
    assert report.estimators() == ["dsmi", "holevo", "binned 2"]
    problem = make_problem(1, 32, 3, num_classes=2, corruption=(1.0, 0.0), separation=None)
    z, labels = problem.x.astype(float), problem.labels[1]
    squares = np.square(z[:, None] - z[None]).sum(-1)

    def entropy(rows):
        kernel = np.exp(-squares[np.ix_(rows, rows)] / 6)  # sigma is the root of 3
        scale = np.sqrt(kernel.sum(1))
        eigvals = np.abs(np.linalg.eigvalsh(kernel / scale / scale[:, None]))
        return stats.entropy(eigvals)

    of_classes = np.mean([entropy(np.flatnonzero(labels == c)) for c in range(2)])
    rng = np.random.default_rng(0)
    drawn = np.mean([entropy(rng.permutation(32)[:16]) for _ in range(400)])
    # Five random partitions of 32 points leave a deviation of some hundredths.
    (value,) = report.table("dsmi", 3, "estimate")[1, 1:]
    assert value == pytest.approx(drawn - of_classes, abs=0.1)
    assert value > 0.3
    cells = (z > (z.min(0) + z.max(0)) / 2) @ (4, 2, 1)
    table = np.array([np.bincount(cells[labels == c], minlength=8) for c in range(2)])
    expected = stats.entropy(table.sum(0)) + np.log(2) - stats.entropy(table.ravel())
    (value,) = report.table("binned 2", 3, "estimate")[1, 1:]
    assert value == pytest.approx(expected, abs=1e-6)


def test_separate_blobs_are_told_apart(report):
    for dims in (2, 3):
        holevo = report.table("holevo", dims, "estimate")
        assert np.all(holevo[1] > 0.4)
        assert np.all(np.abs(holevo[0]) < 0.3)
        np.testing.assert_allclose(report.table("holevo", dims, "truth")[0], 0, atol=1e-9)


def test_summary_is_that_of_the_rows(config, report):
    (row,) = (r for r in report.summary if (r["dims"], r["estimator"]) == (2, "holevo"))
    estimate, truth = (report.table("holevo", 2, name) for name in ("estimate", "truth"))
    assert row["error"] == pytest.approx(np.abs(estimate - truth).mean())
    assert row["error_lower"] <= row["error"] <= row["error_upper"]
    assert row["least_corrupted"] == pytest.approx(estimate[1].mean())
    assert row["most_corrupted"] == pytest.approx(estimate[0].mean())
    assert row["seconds"] == np.median(report.table("holevo", 2, "seconds"))
    (dsmi,) = (r for r in report.summary if (r["dims"], r["estimator"]) == (2, "dsmi"))
    assert row["times_dsmi"] == pytest.approx(row["seconds"] / dsmi["seconds"])


def test_run_folder_and_resuming(config, report, no_figure, no_estimates):
    files = {file.name for file in config.run_dir.iterdir()}
    assert files == {
        *("config.json", "metrics.jsonl", "results.csv", "summary.csv", "estimators.png")
    }
    with (config.run_dir / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["estimator"] for row in rows[:4]] == ["dsmi", "dsmi", "holevo", "holevo"]
    assert diffusion_estimators.run(dataclasses.replace(config, level=0.5)).rows == report.rows
    with pytest.raises(ValueError, match=r"n was 32 and is now 34.*--run-dir"):
        diffusion_estimators.run(dataclasses.replace(config, n=34))


def test_a_stopped_run_goes_on_where_it_was(config, report, tmp_path, no_figure, monkeypatch):
    lines = (config.run_dir / "metrics.jsonl").read_text().splitlines(keepends=True)
    again = tmp_path / "run"
    again.mkdir()
    (again / "config.json").write_text((config.run_dir / "config.json").read_text())
    (again / "metrics.jsonl").write_text("".join(lines[:3]) + lines[3][:20])
    estimated = []

    def estimate(config, problem, on_labels):
        estimated.append(problem)
        return json.loads(lines[3])

    monkeypatch.setattr(program, "_estimate", estimate)
    resumed = diffusion_estimators.run(dataclasses.replace(config, run_dir=again))
    assert resumed.rows == report.rows
    (problem,) = estimated
    expected = make_problem(1, 32, 3, num_classes=2, corruption=(1.0, 0.0), separation=None)
    np.testing.assert_array_equal(problem.x, expected.x)


def test_peers_get_the_problems_and_are_reported(config, report, tmp_path, no_estimates):
    """A peer that knows the truth but for a tenth of a nat, and leaves three dimensions out."""
    problems = tmp_path / "problems"
    diffusion_estimators.run(dataclasses.replace(config, problems=problems))
    paths = sorted(problems.iterdir())
    assert [path.name for path in paths] == [
        f"blobs-d{dims}-seed{seed}.npz" for dims in (2, 3) for seed in (0, 1)
    ]
    found = []
    for path in paths[:2]:
        with np.load(path, allow_pickle=False) as file:
            problem = dict(file)
        assert problem["x"].shape == (32, 2)
        found += [
            {
                "estimator": "peer",
                "dims": int(problem["dims"]),
                "corruption": float(share),
                "seed": int(problem["seed"]),
                "truth": float(truth),
                "estimate": float(truth) + 0.1,
                "seconds": 1e3,
            }
            for share, truth in zip(problem["corruption"], problem["truth"], strict=True)
        ]
    peers = tmp_path / "peers.json"
    peers.write_text(json.dumps({"versions": {}, "estimates": found}))
    with_peer = diffusion_estimators.run(dataclasses.replace(config, peers=peers))
    assert with_peer.estimators() == ["dsmi", "holevo", "binned 2", "peer"]
    rows = {r["dims"]: r for r in with_peer.summary if r["estimator"] == "peer"}
    assert rows[2]["error"] == pytest.approx(0.1)
    assert rows[2]["times_dsmi"] > 1
    assert np.isnan(rows[3]["error"])
    assert np.isnan(rows[3]["seconds"])

    found[0]["truth"] += 0.01
    peers.write_text(json.dumps({"versions": {}, "estimates": found}))
    with pytest.raises(ValueError, match=r"of other problems: \(2, 1.0, 0\)"):
        diffusion_estimators.run(dataclasses.replace(config, peers=peers))
    peers.write_text("[]")
    with pytest.raises(ValueError, match="this is not what benchmarks/peers/mutual"):
        diffusion_estimators.run(dataclasses.replace(config, peers=peers))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 10}, "`n` must give each of 10 classes two points"),
        ({"dims": (0,)}, "`dims` must be one or more, each once, at least 1"),
        ({"corruption": (1.5,)}, r"`corruption` must be one or more, each once, in \[0, 1\]"),
        ({"bins": (5, 5)}, "each once"),
        ({"separation": 0.0}, r"`separation` must be positive, got 0\.0"),
        ({"repetitions": 0}, "`repetitions` must be at least 1, got 0"),
        ({"level": 2.0}, "`level` must be between 0 and 1"),
    ],
)
def test_settings_are_checked_when_they_are_made(options, message):
    with pytest.raises(ValueError, match=message):
        Config(**options)


def test_wrong_input_is_one_sentence_and_exit_code_2(config, report, capsys):
    with pytest.raises(SystemExit) as stopped:
        diffusion_estimators.main(["--n", "99", "--run-dir", str(config.run_dir)])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert "n was 32 and is now 99" in error
