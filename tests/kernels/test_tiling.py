"""Kernels in tiles are the kernels at once, up to the order of float32 sums."""

import jax.numpy as jnp
import numpy as np
import pytest
from devices import run_on_four_devices

from entropax import kernels

RNG = np.random.default_rng(0)
X, OTHERS, *PARAMS = (
    jnp.asarray(RNG.normal(size=shape), jnp.float32) for shape in ((23, 4), (9, 4), (4, 8), (8, 3))
)


def mlp(params, x):
    return jnp.tanh(x @ params[0]) @ params[1]


KERNEL_FN = kernels.ntk(mlp)
WHOLE = np.asarray(KERNEL_FN(PARAMS, X))


def close(one, other):
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * np.abs(other).max())


# A tile of 5 examples takes 5 * (4 + 24 + 8 + 9) * 4 = 900 bytes.
@pytest.mark.parametrize("memory", [1, 2000, 10**9], ids=["one tile", "two tiles", "all"])
@pytest.mark.parametrize("tile_size", [5, 23, 100])
def test_tiles(tile_size, memory):
    kernel = kernels.gram(KERNEL_FN, PARAMS, np.asarray(X), tile_size=tile_size, memory=memory)
    assert isinstance(kernel, np.ndarray)
    close(kernel, WHOLE)
    np.testing.assert_array_equal(kernel, kernel.T)


def test_two_sets_of_examples():
    close(
        kernels.gram(KERNEL_FN, PARAMS, X, OTHERS, tile_size=5, memory=2000),
        KERNEL_FN(PARAMS, X, OTHERS),
    )


@pytest.mark.parametrize(("n", "m"), [(20, 1), (1, 20)])
def test_few_meet_many(n, m):
    """What is kept of an example depends on how many it meets, and has to be the same for all."""
    w = np.random.default_rng(3).normal(size=(2, 8)).astype(np.float32)
    kernel_fn = kernels.ntk(lambda params, x: jnp.tanh(x.reshape(-1, 2, 2) @ params).sum(1))
    kernel = kernels.gram(kernel_fn, w, X[:n], X[:m], tile_size=20)
    close(kernel, kernel_fn(w, X[:n], X[:m]))


def test_full_kernels():
    full = kernels.ntk(mlp, outputs="full")
    kernel = kernels.gram(full, PARAMS, X, tile_size=10)
    assert kernel.shape == (23, 23, 3, 3)
    close(kernel, full(PARAMS, X))


def test_any_kernel_function():
    """A kernel without features, of examples that are a pytree."""

    def rbf(params, x1, x2=None):
        x1, x2 = x1["x"], (x1 if x2 is None else x2)["x"]
        return jnp.exp(-params * jnp.sum((x1[:, None] - x2) ** 2, -1))

    kernel = kernels.gram(rbf, 0.5, {"x": X}, tile_size=6)
    close(kernel, rbf(0.5, {"x": X}))


def test_progress():
    seen = []
    kernels.gram(KERNEL_FN, PARAMS, X, tile_size=5, on_tile=lambda *pair: seen.append(pair))
    assert seen == [(i, 15) for i in range(1, 16)]  # 5 tiles: 15 pairs with i <= j
    seen.clear()
    kernels.gram(KERNEL_FN, PARAMS, X, OTHERS, tile_size=5, on_tile=lambda *pair: seen.append(pair))
    assert seen[-1] == (10, 10)


def test_a_broken_example_is_named():
    broken = np.array(X)
    broken[17] = np.nan
    with pytest.raises(FloatingPointError, match="of examples 0 and 17 is not finite"):
        kernels.gram(KERNEL_FN, PARAMS, broken, tile_size=5)
    with pytest.raises(FloatingPointError, match="in the parameters"):
        kernels.gram(KERNEL_FN, [np.full_like(PARAMS[0], np.nan), PARAMS[1]], X, tile_size=5)


def test_wrong_sizes():
    with pytest.raises(ValueError, match="`tile_size` must be positive, got 0"):
        kernels.gram(KERNEL_FN, PARAMS, X, tile_size=0)
    with pytest.raises(ValueError, match="`memory` must be positive, got 0"):
        kernels.gram(KERNEL_FN, PARAMS, X, memory=0)
    with pytest.raises(ValueError, match="no examples"):
        kernels.gram(KERNEL_FN, PARAMS, X[:0])


ON_FOUR_DEVICES = """
import jax
import numpy as np
from jax.sharding import AxisType
from kernels import test_tiling as t
from entropax import kernels

mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
on_mesh = kernels.gram(t.KERNEL_FN, t.PARAMS, t.X, tile_size=8, memory=2000, mesh=mesh)
t.close(on_mesh, t.WHOLE)
rows = jax.device_put(t.X[:8], jax.NamedSharding(mesh, jax.P("data")))
features = t.KERNEL_FN.features(t.PARAMS, rows, 8)
for feature in features:  # the cotangents of the last layer are the same for every example
    assert not feature.activations.sharding.is_fully_replicated
try:
    kernels.gram(t.KERNEL_FN, t.PARAMS, t.X, tile_size=6, mesh=mesh)
except ValueError as error:
    print(error)
"""


def test_on_a_mesh():
    """Features stay on the device of their example; the kernel is that of one device."""
    printed = run_on_four_devices(ON_FOUR_DEVICES)
    assert "`tile_size` 6 cannot be split among 4 devices" in printed
