"""Kernels, their entropies and selections on devices: memory, what is sent, and what is refused.

That they compute the same as on one device is seen in `test_meshes.py`.
"""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from devices import run_on_devices
from distributed import computations
from distributed.collectives import collectives

from entropax import diffusion, distributed, kernels, selection, spectra

M = 1024  # examples of the programs that are compiled
DEVICES = 8


def programs(mesh):
    """What is compiled: a function and the shapes of its arguments, with their places."""

    def shaped(shape, sharding, dtype=jnp.float32):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    rows, whole = distributed.row_sharding(mesh), distributed.replicated_sharding(mesh)
    key = shaped((), whole, jax.random.key(0).dtype)
    params, _, _ = computations.pool()
    kernel, x, points = (shaped(shape, rows) for shape in ((M, M), (M, 6, 6, 1), (M, 5)))
    few = {"num_probes": 4, "num_deflated": 4, "num_steps": 8}
    kernel_fn = kernels.ntk(computations.network)

    def of_products(key, params, x):
        matvec = kernels.ntk_vector_product(computations.network, params, x, batch_size=16)
        return spectra.lanczos_entropy(key, matvec, M, **few)

    def of_points(key, points):
        products = kernels.diffusion_products(points, sigma=1.0, block_size=64)
        trace = products.trace
        return spectra.lanczos_entropy(key, products.matvec, M, trace=trace, **few)

    found = {
        "pool kernel": (partial(kernels.pool_kernel, kernel_fn), params, x),
        "kernel entropy": (partial(spectra.kernel_entropy, **few), key, kernel),
        "tangent entropy": (of_products, key, params, x),
        "diffusion entropy": (of_points, key, points),
        "bandwidths": (partial(kernels.bandwidth, sigma="adaptive"), points),
    }
    for name, (agent, on_kernel) in computations.AGENTS.items():
        if name != "class balanced":  # it has labels of another number of examples
            pool = kernel if on_kernel else x
            run = partial(lambda agent, key, pool: selection.run(key, agent, pool, 6)[0], agent)
            found[name] = (lambda key, pool, run=run: run(key, pool).indices, key, pool)
    return found


def compile_all():
    """In a process with eight devices: memory and collectives of every program."""
    mesh = distributed.make_mesh()
    for name, (function, *arguments) in programs(mesh).items():
        compiled = jax.jit(function).lower(*arguments).compile()
        memory = compiled.memory_analysis()
        sent = [
            (collective.kind, collective.bytes) for collective in collectives(compiled.as_text())
        ]
        row = {"temp": memory.temp_size_in_bytes, "out": memory.output_size_in_bytes, "sent": sent}
        print(json.dumps({"name": name, **row}))


@pytest.fixture(scope="module")
def compiled():
    code = "from distributed import test_kernels_on_devices as t; t.compile_all()"
    rows = [json.loads(line) for line in run_on_devices(code, DEVICES).splitlines()]
    return {row["name"]: row for row in rows}


WHOLE, SHARE = 4 * M * M, 4 * M * M // DEVICES
NAMES = ["pool kernel", "kernel entropy", "tangent entropy", "diffusion entropy", "bandwidths"]
NAMES += [name for name in computations.AGENTS if name != "class balanced"]


@pytest.mark.parametrize("name", NAMES)
def test_no_device_has_the_kernel(compiled, name):
    """Of `[n, n]` a device has its rows, twice at most; what is sent at once is far smaller."""
    row = compiled[name]
    assert row["temp"] + row["out"] < (4 if name == "bandwidths" else 2.5) * SHARE, row
    assert max([size for _, size in row["sent"]], default=0) <= SHARE / DEVICES, row
    assert all(kind != "reduce-scatter" for kind, _ in row["sent"])


def test_the_ring(compiled):
    """Features and blocks are passed on; all-gathers there are none, the rows stay."""
    row = compiled["pool kernel"]
    assert {kind for kind, _ in row["sent"]} == {"collective-permute"}
    assert row["out"] == SHARE


def test_products_send_a_sum_of_parameters(compiled):
    """Products with the tangent kernel need no example of another device, nor its features."""
    numbers = sum(leaf.size for leaf in jax.tree.leaves(computations.pool()[0]))
    sent = compiled["tangent entropy"]["sent"]
    assert max(size for kind, size in sent if kind == "all-reduce") <= 4 * 8 * numbers
    gathered = [size for kind, size in sent if kind == "all-gather"]
    assert max(gathered, default=0) <= 4 * M * 4  # the directions, for their orthogonalisation


def say_what_is_wrong():
    """In a process with eight devices: errors about what is split, and solvers that end."""
    mesh = distributed.make_mesh()
    params, _, _ = computations.placed(mesh)
    kernel_fn = kernels.ntk(computations.network)
    for call in (
        lambda: kernels.pool_kernel(
            kernel_fn, params, np.ones((7, 6, 6, 1), np.float32), mesh=mesh
        ),
        lambda: kernels.ntk_vector_product(
            computations.network, params, np.ones((7, 6)), mesh=mesh
        ),
    ):
        with pytest.raises(ValueError, match="7 examples cannot be split equally among 8 devices"):
            call()

    def split(array):
        return distributed.shard_rows(np.asarray(array, np.float32), mesh)[0]

    agent, key = selection.greedy_entropy(), jax.random.key(0)
    asymmetric, negative, large, broken = (np.eye(16, dtype=np.float32) for _ in range(4))
    asymmetric[9, 3] = 0.5
    negative[4, 4] = -1
    large[2, 5] = large[5, 2] = 3
    broken[6, 1] = np.nan
    for kernel in (asymmetric, negative, large, broken, np.zeros((16, 16), np.float32)):
        errors = []
        for pool in (kernel, split(kernel)):
            with pytest.raises(ValueError) as error:  # noqa: PT011 - compared below
                selection.select(key, agent, pool, 3)
            errors.append(str(error.value))
        assert errors[0] == errors[1], errors
        print(errors[1])
    explicit = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Explicit,))
    on_explicit = jax.device_put(
        np.eye(16, dtype=np.float32), jax.NamedSharding(explicit, jax.P("data"))
    )
    for call in (
        lambda: selection.select(key, agent, on_explicit, 3),
        lambda: spectra.kernel_entropy(key, on_explicit),
        lambda: kernels.pool_kernel(kernel_fn, params, on_explicit),
        lambda: kernels.ntk_vector_product(computations.linear, params, on_explicit),
        lambda: diffusion.dse(on_explicit, sigma=1.0),
    ):
        with pytest.raises(ValueError, match="mesh with explicit axes"):
            call()

    points = np.ones((16, 2), np.float32)
    points[11] = np.nan
    with pytest.raises(ValueError, match="in 1 of 16 rows, the first of them row 11"):
        diffusion.dse(split(points), sigma=1.0)
    with pytest.raises(ValueError, match="`sigma` must be positive and finite, got 0"):
        diffusion.dse(split(np.eye(16)), sigma=split(np.arange(16)))

    stack = split(np.random.default_rng(0).normal(size=(8, 5, 20, 20)))
    product = jax.jit(lambda x: x @ x.swapaxes(2, 3))
    for solve in (spectra.density, jax.vmap(spectra.density)):
        solved = jax.jit(solve)
        expected = spectra.density(np.asarray(product(stack)))
        for _ in range(30):
            np.testing.assert_allclose(solved(product(stack)), expected, atol=2e-6)


def test_errors():
    """What is wrong with a pool that is split is said in the words for one that is not."""
    code = "from distributed import test_kernels_on_devices as t; t.say_what_is_wrong()"
    said = run_on_devices(code, DEVICES)
    assert "it is 0 at (3, 9) and 0.5 at (9, 3)" in said
    assert "example 4 has -1 on the diagonal" in said
    assert "it is 3 at (2, 5), where the diagonal allows 1 at most" in said
    assert "1 of 16 examples hold NaN or infinity; the first is example 6" in said
    assert "Every entry of the kernel is 0" in said
