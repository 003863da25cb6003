"""Adapters on changing streams, small."""

import csv
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from entropax import tta
from entropax.checkpoint import restore_variables
from entropax.data import load_digits
from entropax.data.corruptions import corrupt
from entropax.experiments import tta_streams
from entropax.experiments.run_folder import RunFolder
from entropax.experiments.tta_benchmark.methods import METHODS
from entropax.experiments.tta_benchmark.networks import Mlp, Network
from entropax.experiments.tta_streams import Config
from entropax.experiments.tta_streams.measure import Course, build_adapter, follow
from entropax.experiments.tta_streams.program import _keep
from entropax.experiments.tta_streams.streams import STREAMS, Plan
from entropax.models import batch_statistics

SMALL = Config(
    networks=("mlp",),
    seeds=(0, 1),
    epochs=25,
    steps=12,
    batch_size=32,
    max_images=120,
    corruptions=("impulse_noise", "fog"),
    adapters=("norm", "tent"),
    streams=("continual", "class by class"),
    learning_rate=0.05,
)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return dataclasses.replace(SMALL, run_dir=tmp_path_factory.mktemp("streams") / "run")


@pytest.fixture(scope="module")
def report(config):
    return tta_streams.run(config)


def test_a_row_for_each_network_stream_and_adapter(config, report):
    assert len(report.rows) == 2 * 2 * 2
    for row in report.rows:
        assert 0 <= row["accuracy"] <= 1
        assert row["not_finite"] == 0
        curve = report.curves["mlp", row["stream"], row["adapter"]][row["seed"]]
        assert row["accuracy"] == pytest.approx(curve.mean())
        assert row["last_tenth"] == pytest.approx(curve[-1:].mean())
    found = report.of("mlp", "continual", "norm")
    means = [
        r["accuracy"] for r in report.rows if (r["stream"], r["adapter"]) == ("continual", "norm")
    ]
    assert found["accuracy"] == pytest.approx(np.mean(means))
    assert found["accuracy_lower"] <= found["accuracy"] <= found["accuracy_upper"]
    with (config.run_dir / "summary.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 4
    assert (config.run_dir / "streams.png").read_bytes().startswith(b"\x89PNG")


def test_accuracies_are_those_of_the_library(config, report):
    """The continual stream once more, batch by batch, from the saved network."""
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits))
    chosen = np.sort(order[797 + 120 : 797 + 240])
    labels = digits.labels[chosen]
    plan = Plan(labels, SMALL.corruptions, 5, 12, 32, 1)
    stream = STREAMS["continual"](plan)
    assert stream.domains == ((("impulse_noise", 5),), (("fog", 5),))
    np.testing.assert_array_equal(stream.domain[:, 0], [0] * 6 + [1] * 6)
    bank = [corrupt(digits.images[chosen], name, 5, seed=1) for name in SMALL.corruptions]
    module = Mlp(10)
    like = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    variables = restore_variables(config.run_dir / "mlp-seed1", like)
    apply_fn = jax.jit(batch_statistics(module))
    curve = report.curves["mlp", "continual", "norm"][1]
    for t in (0, 7):
        rows = np.asarray(stream.image[t])
        x = bank[int(stream.domain[t, 0])][rows] / np.float32(255)
        right = np.argmax(apply_fn(variables, x), -1) == labels[rows]
        assert curve[t] == pytest.approx(right.mean())


def test_alarms_resets_and_failures_are_counted(tmp_path):
    folder = RunFolder(tmp_path)
    course = Course(
        accuracy=np.linspace(0, 1, 20),
        reset=np.arange(20) % 10 == 9,
        collapsed=np.arange(20) >= 13,
        finite=np.arange(20) != 4,
    )
    _keep(folder, Network("mlp", 3, Mlp(10), {}), "class by class", "tent", course)
    (record,) = folder.records()
    assert record["first_alarm"] == 13
    assert record["alarm_steps"] == 7
    assert record["resets"] == 2
    assert record["not_finite"] == 1
    assert record["last_tenth"] == pytest.approx(course.accuracy[-2:].mean())
    kept = np.load(tmp_path / "streams/mlp-seed3/class-by-class-tent.npz")
    np.testing.assert_array_equal(kept["collapsed"], course.collapsed)


def test_streams_and_adapters_are_added_to_a_finished_run(config, report):
    records = (config.run_dir / "metrics.jsonl").read_text()
    more = dataclasses.replace(config, streams=("continual", "mixed"), adapters=("norm",))
    again = tta_streams.run(more)
    assert (config.run_dir / "metrics.jsonl").read_text().startswith(records)
    assert again.of("mlp", "continual", "norm") == report.of("mlp", "continual", "norm")
    assert len(again.rows) == 4


def test_a_lost_file_is_measured_again_and_a_damaged_one_is_named(config, report):
    file = config.run_dir / "streams/mlp-seed1/continual-norm.npz"
    only = dataclasses.replace(config, streams=("continual",), adapters=("norm",))
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(ValueError, match=r"continual-norm.npz is damaged, remove it"):
        tta_streams.run(only)
    file.unlink()
    again = tta_streams.run(only)
    assert len(again.rows) == 2
    expected = report.curves["mlp", "continual", "norm"]
    np.testing.assert_array_equal(again.curves["mlp", "continual", "norm"], expected)


def test_compiled_adapters_draw_by_the_seed_of_the_network(monkeypatch):
    """Whichever network of an architecture came first, as when a run is taken up again."""

    def by_chance(setting):
        return tta.norm(lambda variables, x: jax.random.normal(setting.key, (len(x), 10)))

    monkeypatch.setitem(METHODS, "source", by_chance)
    images = np.zeros((40, 8, 8, 1), np.uint8)
    labels = np.arange(40) % 10
    stream = STREAMS["single"](Plan(labels, ("fog",), 5, 4, 20, 0))
    networks = [Network("mlp", seed, Mlp(10), {"params": {}}) for seed in (0, 1)]

    def accuracy(compiled_for, network):
        compiled = build_adapter(
            compiled_for, "source", image_shape=(8, 8, 1), learning_rate=0.1, period=5
        )
        bank = jnp.asarray(images)[None]
        return follow(
            *compiled, network, {}, stream, bank, labels, on_steps=lambda steps: None
        ).accuracy.tolist()

    first, second = networks
    assert accuracy(first, second) == accuracy(second, second) != accuracy(first, first)


@pytest.mark.parametrize("name", STREAMS)
def test_every_stream_is_full_and_valid(name):
    labels = np.arange(50) % 5
    stream = STREAMS[name](Plan(labels, ("fog", "contrast"), 3, 20, 8, 0))
    assert stream.image.shape == stream.domain.shape == (20, 8)
    assert bool(stream.where.all())
    assert 0 <= int(stream.image.min()) <= int(stream.image.max()) < 50
    assert 0 <= int(stream.domain.min()) <= int(stream.domain.max()) < len(stream.domains)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"streams": ("nonsense",)}, "`streams` must be different ones of single, continual"),
        ({"adapters": ()}, "`adapters` must be different ones"),
        ({"severity": 6}, "`severity` must be 1 to 5, got 6"),
        ({"corruptions": ("rain",)}, "Unknown corruption rain"),
        ({"corruptions": ("fog",), "streams": ("smooth",)}, "two `corruptions` or more"),
        (
            {"corruptions": ("fog", "snow", "fog"), "streams": ("smooth",)},
            "none next to itself, got",
        ),
        ({"level": 1.0}, "`level` must be between 0 and 1"),
        ({"steps": 0}, "`steps` must be positive"),
    ],
)
def test_bad_settings(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **change)
