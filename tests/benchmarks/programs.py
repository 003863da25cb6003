"""The modules of benchmarks/, which is a folder of programs and not a package."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
if not FOLDER.is_dir():
    pytest.skip("The source distribution has no benchmarks.", allow_module_level=True)


def load(name: str) -> ModuleType:
    """Import one of them, and what it needs of the others before."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[name]


floors, claims, harness, performance, compare, run = map(
    load, ("floors", "claims", "harness", "performance", "compare", "run")
)
