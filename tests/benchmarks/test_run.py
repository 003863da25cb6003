"""The command that runs all benchmarks, without running them."""

import pytest
from benchmarks.programs import FOLDER, claims, harness, run


def test_every_program_is_there_and_every_result_has_one():
    for name, program in run.PROGRAMS.items():
        assert (FOLDER / program.file).is_file()
        assert claims.known(name)
    # A large number of points is a run of its own.
    names = {path.stem for path in harness.RESULTS.glob("*.json") if claims.known(path.stem)}
    assert names - {"diffusion_large"} == set(run.PROGRAMS)


def test_what_is_missing_is_said():
    program = run.PROGRAMS["tta_table"]
    assert run.command(program, {}, {}, quick=False) == "it needs --peer torch=PATH"
    assert run.command(program, {"torch": "p"}, {}, quick=False) == "it needs --data-dir"
    words = run.command(program, {"torch": "p"}, {"--data-dir": "d"}, quick=False)
    assert words[1:] == [str(FOLDER / "tta_table.py"), "--peer-python", "p", "--data-dir", "d"]


def test_quick_has_options_of_its_own():
    program = run.PROGRAMS["selection"]
    assert run.command(program, {}, {}, quick=True)[2:] == ["--repeats=1"]
    assert run.command(program, {}, {}, quick=False)[2:] == ["--repeats=3"]


def test_an_unknown_name(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["run.py", "sorting"])
    with pytest.raises(SystemExit):
        run.main()
    assert "There is no benchmark ['sorting']" in capsys.readouterr().err
