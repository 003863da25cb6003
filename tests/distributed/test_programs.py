"""Programs and checkpoints in several processes: what one process gives, and what a kill leaves."""

import json
import os
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from distributed.processes import HEARTBEAT, TESTS, Job, environment, kill, needs_loopback, run_job
from experiments.test_tta_published import write_images
from models.resnet_tensors import random_tensors

from entropax.checkpoint import EntropyCheckpointer

pytestmark = needs_loopback
JOBS = str(TESTS / "distributed" / "jobs.py")
DIGITS = [
    *("-m", "entropax.experiments.tta", "--steps", "40", "--batch-size", "32", "--epochs", "3"),
    *("--severities", "3", "5", "--corruptions", "fog", "--features", "4", "8", "8"),
]


def run_alone(words, *, devices=1):
    done = subprocess.run(
        [sys.executable, *words],
        env=environment(devices),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def records(folder, key):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return {json.dumps(record.pop(key)): record for record in map(json.loads, lines)}


def assert_same_records(found, expected):
    """Labels that flip are the same ones, and confidences to rounding."""
    assert list(found) == list(expected)
    for split, record in expected.items():
        assert found[split].keys() == record.keys()
        for name, value in record.items():
            assert found[split][name] == pytest.approx(value, abs=2e-6), (split, name)


def test_adaptation_is_killed_and_taken_up(tmp_path):
    """Told to stop, then killed; the same command, on one process with four devices, goes on."""
    run_alone([*DIGITS, "--run-dir", str(tmp_path / "alone")])
    words = [*DIGITS, "--multihost", "--run-dir", str(tmp_path / "several")]
    metrics = tmp_path / "several" / "metrics.jsonl"

    def wait_for_lines(job, number):
        end = time.monotonic() + 200
        while not metrics.exists() or metrics.read_text().count("\n") < number:
            assert time.monotonic() < end, job.report("nothing is measured")
            time.sleep(0.02)

    with Job(tmp_path / "first", words, count=2, devices=2) as job:
        wait_for_lines(job, 1)
        job.signal(signal.SIGTERM, to=1)
        ended = job.ended()
    assert [process.code for process in ended] == [143, 143]
    assert "the same command goes on from here" in ended[0].err
    stopped = metrics.read_text().count("\n")
    with Job(tmp_path / "second", words, count=2, devices=2) as job:
        wait_for_lines(job, stopped + 1)
        kill(job, process=1)
        ended = job.ended()
    assert ended[0].code == -signal.SIGABRT
    assert ended[0].seconds < HEARTBEAT + 10
    assert "stopped sending heartbeats):\n1\n" in ended[0].err
    before = metrics.read_text()
    done = before[: before.rindex("\n") + 1].splitlines()
    assert 2 <= len(done) < 12

    run_alone([*DIGITS, "--mesh", "--run-dir", str(tmp_path / "several")], devices=4)
    assert metrics.read_text().splitlines()[: len(done)] == done
    assert_same_records(
        records(tmp_path / "several", "split"), records(tmp_path / "alone", "split")
    )
    assert not list((tmp_path / "several").glob(".partial*"))


def test_published_network(tmp_path):
    """Two processes read half of the images each."""
    write_images(tmp_path / "val")
    np.savez(tmp_path / "resnet.npz", **random_tensors())
    adapt = "--held 24 --curve unweighted_linear --steps 5 --batch-size 12 --learning-rate 0.3"
    for program, options, key in (
        ("tta", adapt, "name"),
        ("uncertainty", "--resamples 20 --validation 0.3", "model"),
    ):
        words = [
            *("-m", f"entropax.experiments.{program}", "--data", "folder"),
            *("--path", str(tmp_path / "val"), "--weights", str(tmp_path / "resnet.npz")),
            *options.split(),
        ]
        run_alone([*words, "--run-dir", str(tmp_path / program / "alone")])
        words += ["--multihost", "--run-dir", str(tmp_path / program / "several")]
        outs = run_job(tmp_path / f"logs-{program}", words, count=2, devices=2)
        assert outs[0]
        assert not outs[1]  # one process prints
        found, expected = (records(tmp_path / program / n, key) for n in ("several", "alone"))
        if program == "tta":
            assert_same_records(found, expected)
        for model, record in expected.items():
            for metric, values in record.get("values", {}).items():
                assert found[model]["values"][metric] == pytest.approx(values, abs=2e-5)


def test_a_program_with_wrong_options_ends_all(tmp_path):
    words = [*DIGITS, "--multihost", "--run-dir", str(tmp_path / "run")]
    with Job(tmp_path / "logs", [*words, "--batch-size", "33"], count=2) as job:
        ended = job.ended()
    assert [process.code for process in ended] == [13, 13]
    assert "`batch_size` 33 cannot be split among 2 devices" in "".join(e.err for e in ended)


@pytest.mark.parametrize("killed", [0, 1])
def test_a_kill_during_a_checkpoint(tmp_path, killed):
    """The best of before is whole, on any number of devices, and the next job goes on from it."""
    place = tmp_path / "checkpoints"
    with Job(tmp_path / "first", [JOBS, "checkpoints", str(place), "1000"], count=2) as job:
        job.wait_for("saved 2")
        end = time.monotonic() + 60
        while not list((place / "val").glob("*tmp*")):
            assert time.monotonic() < end, job.report("nothing is being written")
        kill(job, process=killed)
        ended = job.ended()
        assert ended[1 - killed].code == -signal.SIGABRT
        assert ended[1 - killed].seconds < HEARTBEAT + 10
    known = int(ended[0].out.splitlines()[-1].split()[1])

    with EntropyCheckpointer(place) as keeper:
        best = keeper.best.step
        assert best in (known, known + 1)
        like = jax.eval_shape(lambda: {"w": jax.numpy.zeros((2**22, 4)), "b": jax.numpy.zeros(3)})
        state = keeper.restore_best(like)
        np.testing.assert_array_equal(state["w"], np.float32(best))
        np.testing.assert_array_equal(state["b"], np.arange(3) + np.float32(best))
    words = [JOBS, "checkpoints", str(place), str(best + 2)]
    (out,) = run_job(tmp_path / "alone", words, count=1, devices=8)
    assert out.split() == ["restored", str(best), "saved", str(best + 1)]
    again = [JOBS, "checkpoints", str(place), str(best + 3)]
    for out in run_job(tmp_path / "second", again, count=2, devices=2):
        assert out.split() == ["restored", str(best + 1), "saved", str(best + 2)]
    assert os.listdir(place / "val") == [str(best + 2)]
