"""One device, several, and several processes compute the same."""

import subprocess
import sys

import numpy as np
import pytest
from distributed import computations
from distributed.on_meshes import COMPUTATIONS, file_of
from distributed.processes import TESTS, environment, needs_loopback, run_job

from entropax import kernels

SCRIPT = str(TESTS / "distributed" / "on_meshes.py")
IN_FOUR = ("rdumb adaptation", "pool kernel")
# Sums of up to a few thousand float32 numbers in another order, then a few steps of SGD; of
# standard errors, differences of such sums, four digits. Kernels have entries up to 100.
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
@pytest.mark.parametrize("name", COMPUTATIONS)
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


def test_padding_leaves_no_trace(one_process):
    """The kernel of 45 examples and three that fill up is that of 45 on one device."""
    params, x, where = computations.pool()
    expected = kernels.gram(kernels.ntk(computations.network), params, x[where])
    found = parts(one_process, "pool kernel", "8")
    for name in ("structured", "contraction"):
        kernel = found[name]
        np.testing.assert_allclose(kernel[where][:, where], expected, rtol=1e-5, atol=1e-5)
        assert not kernel[~where].any()
        assert not kernel[:, ~where].any()
    pairs = found["full"]
    np.testing.assert_allclose(np.trace(pairs, axis1=2, axis2=3) / 3, kernel, atol=1e-5)
    np.testing.assert_array_equal(pairs, pairs.transpose(1, 0, 3, 2))


def test_entropies_are_of_the_kernel(one_process):
    params, x, where = computations.pool()
    kernel = kernels.gram(kernels.ntk(computations.network), params, x[where]).astype(np.float64)
    eigvals = np.linalg.eigvalsh(kernel) / np.trace(kernel)
    eigvals = eigvals[eigvals > 1e-12]
    exact = -np.sum(eigvals * np.log(eigvals))
    found = parts(one_process, "tangent entropy", "8")
    for name in ("stored", "matrix free"):
        assert found[f"{name} lower"] < exact < found[f"{name} upper"]
        assert found[f"{name} trace"] == pytest.approx(np.trace(kernel), rel=1e-5)
        assert abs(found[f"{name} value"] - exact) < 0.05
