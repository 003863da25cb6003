"""What the processes of the jobs do: `python jobs.py NAME WORDS`."""

import sys
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from entropax import distributed
from entropax.checkpoint import EntropyCheckpointer


def arrays():
    """Every way from one process's arrays to those of all, and back."""
    mesh = distributed.make_mesh()
    i, n = jax.process_index(), jax.process_count()
    own = np.arange(i + 1) + 10.0 * i  # 1, 2, ... rows
    x, where = distributed.join_rows({"x": own, "y": own[:, None]}, mesh)
    total = jax.jit(lambda x, where: jnp.sum(jnp.where(where, x, 0)))(x["x"], where)
    assert float(total) == sum(sum(np.arange(k + 1) + 10.0 * k) for k in range(n))
    np.testing.assert_array_equal(
        distributed.local_rows(x["x"])[distributed.local_rows(where)], own
    )
    whole, real = distributed.gather((x["y"], where))
    assert sorted(whole[real, 0]) == [10 * k + row for k in range(n) for row in range(k + 1)]
    nothing = np.zeros((0 if i == 0 else 2, 3), np.float32)
    _, where = distributed.join_rows(nothing, mesh)
    assert distributed.gather(where).sum() == 2 * (n - 1)

    z, where = distributed.shard_rows(np.arange(13.0), mesh)
    assert float(jax.jit(jnp.sum)(jnp.where(where, z, 0))) == 78

    key = jax.random.key(3)
    tree = distributed.replicate({"w": np.eye(2), "key": key, "n": 3, "on": jnp.ones(2)}, mesh)
    drawn = jax.jit(
        lambda key: jax.random.normal(key, (64, 3)), out_shardings=distributed.row_sharding(mesh)
    )(tree["key"])
    np.testing.assert_array_equal(distributed.gather(drawn), jax.random.normal(key, (64, 3)))
    np.testing.assert_array_equal(distributed.gather(tree["w"]), np.eye(2))
    try:
        distributed.replicate({"same": np.ones(2), "other": np.full(2, i)}, mesh)
    except ValueError as error:
        print(error)
    assert distributed.is_lead() == (i == 0)
    assert not distributed.stop_requested(0)


def agreement(folder):
    """A configuration that is the same, one that is not, a folder that is shared or not."""
    i = jax.process_index()
    distributed.check_same({"seed": 1, "path": Path("a")})
    distributed.check_shared_folder(Path(folder) / "shared")
    for configuration in ({"seed": 1, "steps": 5 if i else 6, "rate": 0.1}, {f"name {i}": 1}):
        try:
            distributed.check_same(configuration)
        except ValueError as error:
            print(error)
    try:
        distributed.check_shared_folder(Path(folder) / f"own {i}", timeout=1)
    except OSError as error:
        print(error)
    assert not list((Path(folder) / "shared").iterdir())


def exception(where, *processes):
    """Some fail: the others wait in a collective, or are busy by themselves."""
    if str(jax.process_index()) in processes:
        time.sleep(1)
        raise ValueError("the data are of yesterday")
    if where == "collective":
        distributed.all_processes(np.zeros(1))
    time.sleep(100)


def failing_collective():
    """Sums over all processes until one of them is gone."""
    mesh = distributed.make_mesh()
    x, _ = distributed.join_rows(np.ones((2, 3), np.float32), mesh)
    total = jax.jit(jnp.sum)
    for step in range(10_000):
        total(x).block_until_ready()
        if step == 3:
            print("running", flush=True)
        time.sleep(0.01)


def stuck():
    """One process does not come to the second collective, and was the last to give a sign."""
    with distributed.Watchdog(3) as watchdog:
        distributed.all_processes(np.zeros(1))
        watchdog.sign("the first sum")
        if jax.process_index() == 1:
            time.sleep(0.5)
            watchdog.sign("a nap")
            hang()
        distributed.all_processes(np.zeros(1))


def hang():
    time.sleep(100)


def preempted():
    """Steps until the machine is to be taken away; then all processes end in order."""
    for step in range(10_000):
        distributed.all_processes(np.zeros(1))
        if step == 3:
            print("running", flush=True)
        if distributed.stop_requested(step):
            print(f"stopped at {step}")
            return
        time.sleep(0.01)


def checkpoints(folder, last):
    """Take up the best checkpoint, then save a better one after the other."""
    mesh = distributed.make_mesh()
    rows, whole = distributed.row_sharding(mesh), distributed.replicated_sharding(mesh)

    @partial(jax.jit, out_shardings={"w": rows, "b": whole})
    def state_of(step):
        return {"w": jnp.full((2**22, 4), step), "b": jnp.arange(3.0) + step}

    start = 0
    with EntropyCheckpointer(folder) as keeper:
        if keeper.best is not None:
            like = {
                "w": jax.ShapeDtypeStruct((2**22, 4), jnp.float32, sharding=rows),
                "b": jax.ShapeDtypeStruct((3,), jnp.float32, sharding=whole),
            }
            start = keeper.best.step
            equal = jax.jit(
                lambda found, expected: jax.tree.map(lambda x, y: jnp.all(x == y), found, expected),
                out_shardings=whole,
            )(keeper.restore_best(like), state_of(np.float32(start)))
            assert all(map(bool, jax.tree.leaves(equal)))
            print("restored", start, flush=True)
        for step in range(start + 1, int(last)):
            assert keeper.step(step, state_of(np.float32(step)), float(step)).saved
            print("saved", step, flush=True)


if __name__ == "__main__":
    distributed.initialize(startup_timeout=60, shutdown_timeout=20)
    globals()[sys.argv[1]](*sys.argv[2:])
