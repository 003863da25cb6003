import types
from dataclasses import dataclass

from entropax.experiments.command_line import run_command
from entropax.experiments.run_folder import open_run


@dataclass(frozen=True)
class Config:
    seed: int = 0


def test_a_program_tells_when_its_first_result_was_there(tmp_path, capsys):
    module = types.ModuleType("program", "A program.")

    def run(config):
        folder = open_run(tmp_path, {})
        folder.append({"a": 1})
        folder.append({"a": 2})

    run_command(run, Config, module, [])
    first, _, everything = capsys.readouterr().err.strip().partition(", ")
    assert first.startswith("first result after ")
    assert first.endswith(" s")
    assert everything.startswith("all after ")
    assert float(first.split()[3]) <= float(everything.split()[2])


def test_a_program_without_records_tells_its_time(capsys):
    run_command(lambda config: None, Config, types.ModuleType("program", "One."), [])
    assert capsys.readouterr().err.startswith("all after ")
