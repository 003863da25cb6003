"""One device, several, and several processes compute the same."""

import subprocess
import sys

import numpy as np
import pytest
from distributed.on_meshes import COMPUTATIONS, file_of
from distributed.processes import TESTS, environment, needs_loopback, run_job

SCRIPT = str(TESTS / "distributed" / "on_meshes.py")
# Sums of a few hundred float32 numbers of size 1 to 10 in another order, then a few steps of SGD.
ABSOLUTE, RELATIVE = 5e-6, 5e-6


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


@pytest.fixture(scope="module", params=[(2, 2), (4, 1)], ids=["2 of 2", "4 of 1"])
def processes(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("several")
    count, devices = request.param
    run_job(folder, [SCRIPT, str(folder)], count=count, devices=devices, timeout=600)
    return folder


def parts(folder, name, mesh):
    with np.load(file_of(folder, name)) as found:
        return {key.partition("/")[2]: found[key] for key in found if key.partition("/")[0] == mesh}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert np.isfinite(value).all()
        if np.issubdtype(value.dtype, np.inexact):
            np.testing.assert_allclose(
                found[name], value, rtol=RELATIVE, atol=ABSOLUTE, err_msg=name
            )
        else:
            np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.mark.parametrize("devices", [2, 4, 8])
@pytest.mark.parametrize("name", COMPUTATIONS)
def test_devices(one_process, name, devices):
    assert_same(parts(one_process, name, str(devices)), parts(one_process, name, "1"))


@needs_loopback
@pytest.mark.parametrize("name", COMPUTATIONS)
def test_processes(one_process, processes, name):
    assert_same(parts(processes, name, "all"), parts(one_process, name, "1"))


def test_something_happens(one_process):
    """The streams that are compared select some images and not others, flip labels, and draw."""
    of = {name: parts(one_process, name, "1") for name in COMPUTATIONS if "adaptation" in name}
    assert of["rdumb adaptation"]["selected"][2] == 0
    assert 0 < of["rdumb adaptation"]["selected"][0] < 21
    for found in of.values():
        assert found["flips"] > 0
