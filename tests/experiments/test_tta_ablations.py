"""The studies of the flip estimate, small and in one run folder."""

import csv
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from entropax.experiments import tta_ablations, tta_benchmark
from entropax.experiments.run_folder import RunFolder
from entropax.experiments.tta_ablations import Config
from entropax.experiments.tta_ablations.phases import _without_nan, head_inputs
from entropax.experiments.tta_ablations.report import phase_report, summary_table, write_results
from entropax.experiments.tta_ablations.studies import Tempered
from entropax.experiments.tta_benchmark.networks import Mlp
from entropax.models import ConvNet, batch_statistics, running_statistics

SMALL = Config(
    networks=("mlp",),
    seeds=(0,),
    epochs=25,
    steps=6,
    every=3,
    batch_size=32,
    max_images=120,
    severities=(1, 5),
    corruptions=("brightness", "impulse_noise"),
    adapters=("eta", "tent"),
    held=(40, 120, 500),
    learning_rate=0.05,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ablations") / "run"
    return lambda name, **more: tta_ablations.run(
        dataclasses.replace(SMALL, ablation=name, run_dir=folder, **more)
    )


@pytest.fixture(scope="module")
def stop(run):
    return run("stop")


def test_stop_counts_after_more_and_more_steps(stop):
    assert [row["setting"] for row in stop.summary] == [3, 6]
    for row in stop.summary:
        assert row["splits"] == 4
        assert 0 <= row["median_error"] <= row["worst_error"] <= 1


def test_all_images_held_are_the_end_of_the_stream(run, stop):
    held = run("held")
    assert [row["setting"] for row in held.summary] == [40, 120]  # there are no 500
    assert held.of("mlp", 120)["mean_error"] == pytest.approx(stop.of("mlp", 6)["mean_error"])


def test_the_form_of_the_benchmark_is_one_of_them(run, stop):
    form = run("form")
    assert len(form.summary) == 5 * 2
    expected = stop.of("mlp", 6)["mean_error"]
    assert form.of("mlp", "quadratic, weighted")["mean_error"] == pytest.approx(expected)


def test_adapters_with_curves_of_their_own_and_of_the_first(run, stop):
    found = run("adapter")
    assert [row["setting"] for row in found.summary] == ["eta", "tent", "tent, curve of eta"]
    assert found.of("mlp", "eta")["mean_error"] == pytest.approx(stop.of("mlp", 6)["mean_error"])


def test_temperature_adapts_another_network(run, stop):
    found = run("temperature")
    assert found.of("mlp", "as trained")["mean_error"] == stop.of("mlp", 6)["mean_error"]
    assert 0 <= found.of("mlp", "tempered")["mean_error"] <= 1


def test_phases_begin_where_the_source_network_is(run, tmp_path):
    found = run("phases")
    assert [row["setting"] for row in found.summary] == [0, 3, 6]
    assert found.summary[0]["relative_shift"] == 0
    assert found.summary[1]["relative_shift"] < found.summary[2]["relative_shift"]
    assert -1 <= found.summary[2]["silhouette"] <= 1
    again = run("phases")
    assert str(again.summary) == str(found.summary)
    path = found.config.run_dir / "ablation-phases.csv"
    with path.open() as file:
        assert len(list(csv.DictReader(file))) == 3
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_phases_of_networks_that_collapse(tmp_path):
    """With one predicted class there is no silhouette; a table and a figure there are."""
    records = [
        {
            "network": "mlp",
            "seed": 0,
            "steps": [0, 3],
            "accuracy": [accuracy, 0.1],
            "silhouette": [0.1, *_without_nan(jnp.array([silhouette]))],
            "relative_shift": [0.0, 1 - accuracy],
        }
        for accuracy, silhouette in ((0.9, 0.1), (0.8, jnp.nan), (0.7, 0.3), (0.5, 0.25))
    ]
    assert records[1]["silhouette"][1] is None
    report = phase_report(dataclasses.replace(SMALL, ablation="phases"), records)
    first, last = report.summary
    assert np.isnan(first["relative_shift_correlation"])
    assert last["silhouette"] == pytest.approx(np.mean([0.1, 0.3, 0.25]))
    assert last["silhouette_correlation"] == pytest.approx(-0.5)
    assert last["relative_shift_correlation"] == pytest.approx(-1)
    assert list(summary_table(report).columns[4].cells) == ["-", "-0.50"]
    write_results(RunFolder(tmp_path), report)
    assert (tmp_path / "ablation-phases.png").read_bytes().startswith(b"\x89PNG")


def test_held_beyond_what_there_is(run):
    with pytest.raises(ValueError, match=r"`held` must have a number up to .* 120, got \(500,\)"):
        run("held", held=(500,))


def test_tempered_logits_are_scaled():
    module = Mlp(3, widths=(4,))
    x = jax.random.normal(jax.random.key(0), (5, 2, 2, 1))
    variables = module.init(jax.random.key(1), x)
    scaled = {name: {"network": tree} for name, tree in variables.items()}
    scaled["params"]["inverse_temperature"] = jnp.asarray(0.5)
    tempered = Tempered(module, 3)
    for statistics in (running_statistics, batch_statistics):
        np.testing.assert_allclose(
            statistics(tempered)(scaled, x), 0.5 * statistics(module)(variables, x), rtol=1e-6
        )


def test_head_inputs_give_the_logits():
    module = ConvNet(3, features=(4,))
    x = jax.random.normal(jax.random.key(0), (5, 4, 4, 1))
    variables = module.init(jax.random.key(1), x)
    apply_fn = batch_statistics(module)
    features = head_inputs(apply_fn)(variables, x)
    head = variables["params"]["head"]
    expected = apply_fn(variables, x)
    np.testing.assert_allclose(features @ head["kernel"] + head["bias"], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"held": (1,)}, "`held` must be numbers of at least 2 images"),
        ({"ablation": "adapter", "adapters": ("eta",)}, "compares several `adapters`"),
    ],
)
def test_bad_settings(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **change)


def test_what_is_measured_is_a_benchmark():
    assert isinstance(SMALL.benchmark, tta_benchmark.Config)
    assert type(SMALL.benchmark) is tta_benchmark.Config
