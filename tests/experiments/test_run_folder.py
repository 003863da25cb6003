import json
import sys
from pathlib import Path

import pytest

from entropax.experiments.run_folder import open_run


def test_records_come_back_in_order(tmp_path):
    folder = open_run(tmp_path / "a" / "run", {"seed": 0})
    assert folder.records() == []
    folder.append({"split": ["test", "fog", 1], "rate": 0.25})
    folder.append({"split": ["test", "fog", 2]})
    again = open_run(tmp_path / "a" / "run", {"seed": 0})
    assert [record["split"][2] for record in again.records()] == [1, 2]


def test_the_home_of_the_user_is_known(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    open_run(Path("~/run"), {}).append({"a": 1})
    assert (tmp_path / "run" / "metrics.jsonl").exists()
    assert open_run(Path("~/run"), {}).listing() == f"{tmp_path}/run: config.json, metrics.jsonl"


def test_one_of_several_processes_writes(tmp_path, monkeypatch):
    folder = open_run(tmp_path, {})
    monkeypatch.setattr(sys.modules["entropax.experiments.run_folder"], "is_lead", lambda: False)
    folder.append({"a": 1})
    folder.write("results.csv", "a")
    with folder.replacing("curve.png") as partial:
        partial.write_text("b")
        assert partial.suffix == ".png"
        assert tmp_path not in partial.parents
    assert not partial.parent.exists()
    assert [file.name for file in tmp_path.iterdir()] == ["config.json"]


def test_a_line_cut_short_is_forgotten_and_the_next_one_is_whole(tmp_path):
    folder = open_run(tmp_path, {})
    folder.append({"a": 1})
    with folder.metrics_file.open("a") as file:
        file.write('{"a": 2, "b"')
    assert folder.records() == [{"a": 1}]
    folder = open_run(tmp_path, {})
    folder.append({"a": 3})
    assert folder.records() == [{"a": 1}, {"a": 3}]
    assert folder.metrics_file.read_text().endswith("}\n")


def test_other_settings_are_refused_by_name(tmp_path):
    open_run(tmp_path, {"seed": 0, "steps": 5})
    with pytest.raises(ValueError, match=r"seed was 0 and is now 1\).*another --run-dir"):
        open_run(tmp_path, {"seed": 1, "steps": 5})


def test_settings_survive_json(tmp_path):
    settings = {"path": tmp_path, "severities": (1, 2), "method": {"name": "rdumb"}}
    open_run(tmp_path, settings)
    open_run(tmp_path, settings)
    assert json.loads((tmp_path / "config.json").read_text())["severities"] == [1, 2]


def test_nan_is_not_written(tmp_path):
    folder = open_run(tmp_path, {})
    with pytest.raises(ValueError, match="JSON"):
        folder.append({"rate": float("nan")})
    assert folder.records() == []


def test_an_interrupted_write_keeps_the_old_file(tmp_path):
    folder = open_run(tmp_path, {})
    folder.write("results.csv", "old")

    def interrupted():
        with folder.replacing("results.csv") as partial:
            partial.write_text("ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (tmp_path / "results.csv").read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "results.csv"]
