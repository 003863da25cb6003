"""The README's Python runs as it stands, from top to bottom."""

import re
from pathlib import Path

import numpy as np

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_two_set_up_commands():
    block = re.search(r"<!-- setup -->\n```sh\n(.*?)```\n<!-- /setup -->", README, re.DOTALL)
    assert block is not None
    assert len(block[1].splitlines()) == 2


def test_examples(capsys):
    namespace = {}
    for code in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        exec(compile(code, "README.md", "exec"), namespace)
    printed = capsys.readouterr().out
    interval, *entropies = printed.splitlines()
    assert re.fullmatch(r"[\d.]+%, 90 % interval [\d.]+% to [\d.]+%", interval)
    # Those that the text tells, but for the rounding of another machine.
    told = [float(number) for number in re.findall(r"0\.\d+", README.split("It prints")[1])[:3]]
    np.testing.assert_allclose([float(line) for line in entropies], told, atol=0.0021)
    estimate = namespace["estimate"]
    assert 0.5 < estimate.value < 1
    assert estimate.upper - estimate.lower < 0.9
    assert estimate.target == "batch_statistics"
    assert bool(namespace["infos"].stepped.all())
    assert namespace["infos"].logits.shape == (10, 48, 10)
