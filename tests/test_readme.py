"""The Python of the README and the docs runs as it stands, from top to bottom."""

import re
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def run_blocks(text):
    namespace = {}
    for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(compile(code, "README.md", "exec"), namespace)
    return namespace


def test_two_set_up_commands():
    block = re.search(r"<!-- setup -->\n```sh\n(.*?)```\n<!-- /setup -->", README, re.DOTALL)
    assert block is not None
    assert len(block[1].splitlines()) == 2


def test_examples(capsys):
    namespace = run_blocks(README)
    interval, *printed = capsys.readouterr().out.splitlines()
    entropies, measured, tracked, trusted, kept = (
        printed[i:j] for i, j in ((0, 3), (3, 5), (5, 7), (7, 10), (10, None))
    )
    assert re.fullmatch(r"[\d.]+%, 90 % interval [\d.]+% to [\d.]+%", interval)
    # Those that the text tells, but for the rounding of another machine.
    told = [float(number) for number in re.findall(r"0\.\d+", README.split("It prints")[1])[:3]]
    np.testing.assert_allclose([float(line) for line in entropies], told, atol=0.0021)
    told = re.findall(r"\d+\.\d+ nats, adjusted \d+\.\d+", README.split("It prints")[2])
    for line, expected in zip(measured, told, strict=True):
        numbers = [[float(x) for x in re.findall(r"\d+\.\d+", text)] for text in (line, expected)]
        # Training differs in its last digits from machine to machine.
        np.testing.assert_allclose(*numbers, atol=0.1)
    assert len(tracked) == 2
    assert "adjusted_labels" in tracked[0]
    for line, name in zip(trusted, ("AUROC", "ECE", "coverage at 99 % accuracy"), strict=True):
        value, lower, upper = map(
            float, re.fullmatch(rf"{name}: (\S+) \[(\S+), (\S+)\]", line).groups()
        )
        assert 0 <= lower <= value <= upper <= 1
    assert kept == ["saved", "saved"]
    estimate = namespace["estimate"]
    assert 0.5 < estimate.value < 1
    assert estimate.upper - estimate.lower < 0.9
    assert estimate.target == "batch_statistics"
    assert bool(namespace["infos"].stepped.all())
    assert namespace["infos"].logits.shape == (10, 48, 10)


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.stem)
def test_docs(page, capsys):
    run_blocks(page.read_text())
    assert "nan" not in capsys.readouterr().out
