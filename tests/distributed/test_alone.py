"""One process: arrays of one device, and what is refused before any process is met."""

import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from distributed.processes import environment

from entropax import distributed

NAMES = ("ENTROPAX_COORDINATOR", "ENTROPAX_NUM_PROCESSES", "ENTROPAX_PROCESS_ID")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (("127.0.0.1:1", "2", None), "go together; ENTROPAX_PROCESS_ID is missing"),
        (("", "2", "0"), "go together; ENTROPAX_COORDINATOR is missing"),
        (("localhost", "2", "0"), "ENTROPAX_COORDINATOR must be an address and a port, .* got 'lo"),
        ((None, "2", "0"), "go together; ENTROPAX_COORDINATOR is missing"),
        (("127.0.0.1:1", "two", "0"), "must be whole numbers, got 'two' and '0'"),
        (("127.0.0.1:1", "2", "2"), r"ENTROPAX_PROCESS_ID must be in \[0, 2\), got 2"),
    ],
)
def test_the_environment_is_checked(monkeypatch, values, message):
    for name, value in zip(NAMES, values, strict=True):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message):
        distributed.initialize()


def test_a_program_alone_is_told_what_is_missing():
    done = subprocess.run(
        [sys.executable, "-m", "entropax.experiments.tta", "--multihost"],
        env=environment(1),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: JAX does not recognise this system")
    assert f"Set {', '.join(NAMES)} in each process" in done.stderr


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="go together; num_processes, process_id is missing"):
        distributed.initialize("127.0.0.1:1")
    with pytest.raises(ValueError, match=r"process_id must be in \[0, 2\), got -1"):
        distributed.initialize("127.0.0.1:1", 2, -1)
    with pytest.raises(ValueError, match="`heartbeat_timeout` must be at least 1 second, got 0"):
        distributed.initialize("127.0.0.1:1", 2, 0, heartbeat_timeout=0)


def test_the_heartbeat_is_checked(monkeypatch):
    monkeypatch.setenv("ENTROPAX_HEARTBEAT_TIMEOUT", "1 min")
    with pytest.raises(ValueError, match="must be whole seconds, got '1 min'"):
        distributed.initialize("127.0.0.1:1", 2, 0)


def test_one_process_needs_no_others():
    distributed.initialize("127.0.0.1:1", 1, 0)
    assert not jax.distributed.is_initialized()
    assert distributed.is_lead()
    assert not distributed.stop_requested(3)
    distributed.check_same({"a": 1})
    assert distributed.from_lead({"a": [1, None]}) == {"a": [1, None]}


def test_the_mesh_of_arrays():
    mesh = distributed.make_mesh()
    assert mesh.axis_names == (distributed.AXIS,)
    assert distributed.mesh_of(np.ones(3), None, [jnp.ones(2)]) is None
    x = jax.device_put(np.ones(3), distributed.row_sharding(mesh))
    assert distributed.mesh_of(x) is None  # one device is no mesh to compute on
    with pytest.raises(ValueError, match="`devices` is empty"):
        distributed.make_mesh([])


def test_arrays_come_back():
    mesh = distributed.make_mesh()
    tree = {"x": np.arange(6.0).reshape(3, 2), "label": np.array([4, 5, 6])}
    for split in (distributed.shard_rows, distributed.join_rows):
        found, where = split(tree, mesh)
        assert where.tolist() == [True] * 3
        for back in (distributed.gather(found), distributed.local_rows(found)):
            jax.tree.map(np.testing.assert_array_equal, back, tree)
    found, where = distributed.join_rows(tree, mesh, rows=5)
    assert where.tolist() == [True] * 3 + [False] * 2
    assert found["label"].tolist() == [4, 5, 6, 6, 6]
    nothing, where = distributed.join_rows(np.zeros((0, 2)), mesh, rows=2)
    assert nothing.tolist() == [[0, 0], [0, 0]]
    assert not where.any()


def test_replicated_keys_are_the_same_keys():
    mesh = distributed.make_mesh()
    key = jax.random.key(7, impl="rbg")
    found = distributed.replicate({"key": key, "step": 3}, mesh)
    assert found["key"].dtype == key.dtype
    assert jax.random.key_data(found["key"]).tolist() == jax.random.key_data(key).tolist()
    assert int(found["step"]) == 3


def test_rows_are_checked():
    mesh = distributed.make_mesh()
    with pytest.raises(ValueError, match="There is no row"):
        distributed.shard_rows(np.zeros((0, 2)), mesh)
    with pytest.raises(ValueError, match=r"same number of rows, got \[2, 3\]"):
        distributed.shard_rows([np.zeros(2), np.zeros(3)], mesh)
    with pytest.raises(ValueError, match="at least the 3 rows it has, got 2"):
        distributed.join_rows(np.zeros(3), mesh, rows=2)


def test_a_folder_is_made(tmp_path):
    distributed.check_shared_folder(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_the_watchdog_ends_a_process_alone():
    code = (
        "import io, sys, time\n"
        "sys.stderr = io.StringIO()\n"  # as a progress bar or a notebook does
        "from entropax.distributed import Watchdog\n"
        "with Watchdog(0.2) as watchdog:\n"
        "    for step in range(4):\n"
        "        time.sleep(0.1)\n"
        "        watchdog.sign(f'step {step}')\n"
        "    time.sleep(30)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(1),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == distributed.EXIT_CODE
    assert "line 8" in done.stderr
    assert "[process 0 of 1] nothing for 0.2 s after step 3" in done.stderr


def test_the_watchdog_lets_go(monkeypatch):
    ended = []
    module = sys.modules["entropax.distributed.watchdog"]
    monkeypatch.setattr(module, "fail", lambda reason, *, stacks: ended.append(reason))
    with distributed.Watchdog(0.1):
        pass
    time.sleep(0.3)
    assert not ended
    with distributed.Watchdog(0.1):
        time.sleep(0.3)
    assert len(ended) == 1
    with pytest.raises(ValueError, match="`seconds` must be positive, got 0"):
        distributed.Watchdog(0)
