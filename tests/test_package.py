"""The package is light to import, and imports run downwards only."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import entropax

ROOT = Path(entropax.__file__).parent
LAYERS = [
    {"types"},
    {"parameters", "entropy", "convolution", "distributed"},
    {"spectra"},
    {"kernels"},
    {"diffusion", "selection", "tta", "uncertainty"},
    {"estimation"},
    {"checkpoint", "models", "data"},
    {"experiments"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def imported_parts(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "entropax":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("entropax."):
            yield node.module.split(".")[1]


@pytest.mark.parametrize("file", sorted(ROOT.rglob("*.py")), ids=lambda f: str(f.relative_to(ROOT)))
def test_imports_run_downwards(file):
    own = file.relative_to(ROOT).parts[0].removesuffix(".py")
    if own == "__init__":
        assert not list(imported_parts(file))
        return
    for part in imported_parts(file):
        assert part == own or LEVEL[part] < LEVEL[own], f"{own} imports {part}"


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import entropax", "jax flax tensorflow torch matplotlib orbax"),
        ("from entropax import tta, estimation, entropy", "flax tensorflow torch matplotlib orbax"),
        ("from entropax import uncertainty", "flax tensorflow torch matplotlib orbax sklearn"),
        ("from entropax.checkpoint import entropy_accumulator", "orbax flax tensorflow"),
        ("from entropax import diffusion, kernels", "flax tensorflow torch matplotlib sklearn"),
        ("import entropax.data", "tensorflow torch matplotlib sklearn tensorflow_datasets PIL"),
        ("import entropax.experiments.tta", "tensorflow torch"),
    ],
)
def test_light_imports(statement, absent):
    code = f"{statement}\nimport sys\nprint([m for m in {absent.split()!r} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_private_jax_names_in_one_place():
    found = [file for file in ROOT.rglob("*.py") if "jax._src" in file.read_text()]
    assert [str(file.relative_to(ROOT)) for file in found] == ["distributed/coordination.py"]
