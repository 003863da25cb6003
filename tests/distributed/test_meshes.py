"""One device, several, and several processes compute the same."""

import subprocess
import sys

import numpy as np
import pytest
from distributed import adaptation
from distributed.on_meshes import COMPUTATIONS, file_of
from distributed.processes import TESTS, environment, needs_loopback, run_job

SCRIPT = str(TESTS / "distributed" / "on_meshes.py")
IN_FOUR = ("rdumb adaptation", "pool kernel")
# Sums of a few hundred float32 numbers in another order, then a few steps of SGD; of standard
# errors, which are differences of sums, four digits.
ABSOLUTE, RELATIVE, OF_ERRORS = 1e-5, 5e-6, 1e-4


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    done = subprocess.run(
        [sys.executable, SCRIPT, str(folder)],
        env=environment(8),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    run_job(folder, [SCRIPT, str(folder)], count=2, devices=2, timeout=600)
    return folder


@pytest.fixture(scope="module")
def four_processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("four")
    run_job(folder, [SCRIPT, str(folder), *IN_FOUR], count=4, timeout=600)
    return folder


def parts(folder, name, mesh):
    with np.load(file_of(folder, name)) as found:
        return {key.partition("/")[2]: found[key] for key in found if key.partition("/")[0] == mesh}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    assert found
    for name, value in expected.items():
        assert np.isfinite(value).all()
        if np.issubdtype(value.dtype, np.inexact):
            relative = OF_ERRORS if name.endswith("stderr") else RELATIVE
            absolute = ABSOLUTE + relative * np.max(np.abs(value))
            np.testing.assert_allclose(found[name], value, rtol=0, atol=absolute, err_msg=name)
        else:
            np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.mark.parametrize("devices", [2, 4, 8])
@pytest.mark.parametrize("name", adaptation.COMPUTATIONS)
def test_devices(one_process, name, devices):
    assert_same(parts(one_process, name, str(devices)), parts(one_process, name, "1"))


@needs_loopback
@pytest.mark.parametrize("name", COMPUTATIONS)
def test_two_processes(one_process, two_processes, name):
    assert_same(parts(two_processes, name, "all"), parts(one_process, name, "1"))


@needs_loopback
@pytest.mark.parametrize("name", IN_FOUR)
def test_four_processes(one_process, four_processes, name):
    assert_same(parts(four_processes, name, "all"), parts(one_process, name, "1"))


def test_something_happens(one_process):
    """The streams that are compared select some images and not others, flip labels, and draw."""
    of = {name: parts(one_process, name, "1") for name in COMPUTATIONS if "adaptation" in name}
    assert of["rdumb adaptation"]["selected"][2] == 0
    assert 0 < of["rdumb adaptation"]["selected"][0] < 21
    for found in of.values():
        assert found["flips"] > 0
