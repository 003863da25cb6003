"""All eigenvalues of a matrix."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from devices import run_on_four_devices
from hypothesis import given
from hypothesis import strategies as st
from spectra.matrices import float64_entropy, matrix, random_kernel, rotation

from entropax import entropy, spectra

seeds = st.integers(0, 2**31 - 1)


def compiled_for_jax(function):
    """A function of NumPy's arrays as it is, of JAX's compiled: in one go, not step by step."""
    compiled = jax.jit(function)
    return lambda *args: (function if isinstance(args[0], np.ndarray) else compiled)(*args)


density = compiled_for_jax(spectra.density)
purity = compiled_for_jax(spectra.purity)
submatrices = compiled_for_jax(spectra.submatrices)
renyi_2 = jax.jit(functools.partial(entropy.renyi, order=2))


@jax.jit
def entropy_of(kernel):
    return entropy.von_neumann(spectra.density(kernel))


def test_density_recovers_the_eigenvalues():
    eigvals = np.array([0.0, 1.0, 1.0, 3.0, 5.0])
    kernel = matrix(eigvals)
    found = density(jnp.array(kernel, jnp.float32))
    np.testing.assert_allclose(found, eigvals / 10, atol=4e-7)  # float32
    on_host = spectra.density(kernel)
    assert isinstance(on_host, np.ndarray)
    np.testing.assert_allclose(on_host, eigvals / 10, atol=1e-15)
    in_float32 = spectra.density(np.float32(kernel))
    assert in_float32.dtype == np.float64


def test_closed_forms():
    n = 8
    ones, blocks = np.ones((n, n)), np.kron(np.eye(2), np.ones((n // 2, n // 2)))
    ones, blocks = np.float32(ones), np.float32(blocks)
    assert float(entropy_of(np.eye(n, dtype=np.float32))) == pytest.approx(np.log(n), rel=1e-6)
    assert float(entropy_of(ones)) == pytest.approx(0, abs=1e-5)
    assert float(entropy_of(blocks)) == pytest.approx(np.log(2), abs=1e-5)


@pytest.mark.parametrize("make", [lambda k: jnp.array(k, jnp.float32), np.asarray])
def test_stacked_kernels_are_a_loop(make):
    kernels = np.stack([random_kernel(seed) for seed in range(4)]).reshape(2, 2, 8, 8)
    stacked = np.asarray(density(make(kernels)))
    for i in np.ndindex(2, 2):
        np.testing.assert_allclose(stacked[i], density(make(kernels[i])), atol=1e-6)
    np.testing.assert_allclose(np.sum(stacked, axis=-1), 1, rtol=1e-6)


@pytest.mark.parametrize("make", [lambda k: jnp.array(k, jnp.float32), np.asarray])
def test_kernels_of_zeros_and_broken_ones(make):
    kernels = np.stack([np.zeros((3, 3)), np.eye(3), np.eye(3), np.diag([1.0, 1.0, -0.1])])
    kernels[2, 0, 1] = np.nan
    found = np.asarray(density(make(kernels)))
    np.testing.assert_array_equal(found[0], 0)
    np.testing.assert_allclose(found[1], 1 / 3, rtol=1e-6)
    assert np.all(np.isnan(found[2:]))
    purities = [0, 1 / 3, np.nan, 2.01 / 1.9**2]
    np.testing.assert_allclose(purity(make(kernels)), purities, rtol=1e-6)
    assert np.isnan(purity(make(np.diag([1.0, -2.0, 0.0]))))
    infinite = make(np.diag([np.inf, 1.0, 1.0]))
    assert np.all(np.isnan(density(infinite)))
    assert np.isnan(purity(infinite))


@pytest.mark.parametrize("function", [spectra.density, spectra.purity])
def test_matrices_that_are_not_square(function):
    # Before the shapes are looked at by the type checker of the tests.
    with pytest.raises(ValueError, match=r"square matrices .* got \(2, 3\)"):
        function.__wrapped__(jnp.ones((2, 3)))


@given(seeds, st.integers(-30, 30))
def test_bounds_scale_and_rotation(seed, exponent):
    kernel = random_kernel(seed)
    expected = float64_entropy(np.linalg.eigvalsh(kernel))
    plain = float(entropy_of(jnp.array(kernel, jnp.float32)))
    # float32 eigenvalues are off by 1e-7, and the logarithm of a small one by more.
    assert plain == pytest.approx(expected, abs=1e-5)
    assert -1e-6 <= plain <= np.log(8) + 1e-6
    scaled = entropy_of(jnp.array(kernel * 10.0**exponent, jnp.float32))
    assert float(scaled) == pytest.approx(plain, abs=1e-5)
    q = rotation(8, seed + 2)
    rotated = entropy_of(jnp.array(q @ kernel @ q.T, jnp.float32))
    assert float(rotated) == pytest.approx(plain, abs=1e-5)


@given(seeds, st.floats(0, 1))
def test_entropy_is_concave(seed, share):
    a, b = (k / np.trace(k) for k in (random_kernel(seed), random_kernel(seed + 3)))
    mixture, first, second = (
        float(entropy_of(jnp.array(k, jnp.float32))) for k in (share * a + (1 - share) * b, a, b)
    )
    assert mixture >= share * first + (1 - share) * second - 2e-5


@given(seeds)
def test_entropy_of_a_tensor_product_adds_up(seed):
    a, b = random_kernel(seed, n=2), random_kernel(seed + 3, n=4)
    product = float(entropy_of(jnp.array(np.kron(a, b), jnp.float32)))
    parts = [float(entropy_of(jnp.array(k, jnp.float32))) for k in (a, b)]
    assert product == pytest.approx(sum(parts), abs=2e-5)


@given(seeds)
def test_purity_is_the_renyi_entropy_of_order_two(seed):
    kernel = jnp.array(random_kernel(seed), jnp.float32)
    order_two = -np.log(float(purity(kernel)))
    assert float(renyi_2(density(kernel))) == pytest.approx(order_two, abs=2e-6)
    assert float(entropy_of(kernel)) >= order_two - 1e-5
    on_host = float(spectra.purity(random_kernel(seed)))
    assert on_host == pytest.approx(np.exp(-order_two), rel=2e-6)


def test_float32_neither_overflows_nor_vanishes():
    for scale in (5e37, 1e-34):
        kernel = jnp.array(matrix([1.0, 2.0, 5.0]) * scale, jnp.float32)
        np.testing.assert_allclose(density(kernel), [0.125, 0.25, 0.625], rtol=2e-6)
        assert float(purity(kernel)) == pytest.approx(30 / 64, rel=2e-6)


def test_gradient_against_differences_and_at_equal_eigenvalues():
    kernel, change = matrix([1.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]), random_kernel(1)

    def along(t):
        shifted = spectra.density(kernel + t * change)
        return float64_entropy(shifted)

    expected = (along(1e-6) - along(-1e-6)) / 2e-6
    gradient = jax.jit(jax.grad(entropy_of))
    found = float(np.sum(gradient(np.float32(kernel)) * change))
    assert found == pytest.approx(expected, rel=1e-3)
    for degenerate in (np.eye(8), np.ones((8, 8)), np.zeros((8, 8))):
        assert np.all(np.isfinite(gradient(np.float32(degenerate))))


@pytest.mark.parametrize("make", [jnp.array, np.asarray])
def test_submatrices(make):
    kernel = np.arange(25.0, dtype=np.float32).reshape(5, 5)
    indices = np.array([[[4, 0], [1, 1]], [[3, 2], [2, -1]]])
    found = np.asarray(submatrices(make(kernel), make(indices)))
    assert found.shape == (2, 2, 2, 2)
    for i in np.ndindex(2, 2):
        if indices[i].min() >= 0:
            np.testing.assert_array_equal(found[i], kernel[np.ix_(indices[i], indices[i])])
    np.testing.assert_array_equal(found[1, 1], [[kernel[2, 2], 0], [0, 0]])


def test_submatrices_of_an_index_that_does_not_exist():
    kernel = np.eye(3, dtype=np.float32)
    found = submatrices(jnp.array(kernel), jnp.array([0, 3]))
    np.testing.assert_array_equal(found, [[1, np.nan], [np.nan, np.nan]])
    with pytest.raises(IndexError, match="out of bounds"):
        spectra.submatrices(kernel, np.array([0, 3]))


def test_an_empty_place_leaves_the_entropy_alone():
    kernel = jnp.array(random_kernel(5), jnp.float32)
    three = np.linalg.eigvalsh(random_kernel(5)[np.ix_([6, 1, 3], [6, 1, 3])])
    padded = entropy_of(submatrices(kernel, jnp.array([6, -1, -1, 1, 3, -1, -1, -1])))
    assert float(padded) == pytest.approx(float64_entropy(three), abs=2e-6)


eigvals_of = compiled_for_jax(spectra.eigvals)


@pytest.mark.parametrize("n", [1, 2, 20, 80])  # 80 rows are bisected, fewer are not
def test_eigvals_of_all_scales(n):
    eigvals = np.sort(np.random.default_rng(n).normal(size=n))
    plain = matrix(eigvals)
    np.testing.assert_allclose(spectra.eigvals(plain), eigvals, atol=1e-14)
    kernels = np.stack([plain, plain * 1e-33, plain * 1e33])
    found = np.asarray(eigvals_of(jnp.array(kernels, jnp.float32)), np.float64)
    largest = np.max(np.abs(eigvals))
    for row, scale in zip(found, (1, 1e-33, 1e33), strict=True):
        np.testing.assert_allclose(row / scale, eigvals, atol=1e-6 * largest)  # float32


def test_eigvals_in_float64():
    eigvals = np.sort(np.random.default_rng(0).normal(size=500))
    with jax.enable_x64(True):
        found = eigvals_of(jnp.array(matrix(eigvals)))
        assert found.dtype == np.float64
        np.testing.assert_allclose(found, eigvals, atol=3e-14)


@pytest.mark.parametrize("n", [5, 60])
def test_eigvals_of_a_skew_part_and_of_no_numbers(n):
    kernel = np.stack([matrix(np.arange(1.0, n + 1))] * 3)
    kernel[0] += np.triu(np.ones((n, n)), 1) - np.tril(np.ones((n, n)), -1)
    kernel[1, 0, 1], kernel[2, 1, 1] = np.nan, np.inf
    for found in (spectra.eigvals(kernel), eigvals_of(jnp.array(kernel, jnp.float32))):
        np.testing.assert_allclose(found[0], np.arange(1.0, n + 1), atol=2e-7 * n)
        assert np.all(np.isnan(found[1:]))


@pytest.mark.parametrize("n", [6, 60])
def test_derivatives_of_a_spectral_function_at_equal_eigenvalues(n):
    r"""$\nabla \sum_k f(\lambda_k) = V f'(\Lambda) V^\top$, whatever the choice of $V$."""
    q, eigvals = rotation(n, 0), np.repeat([1.0, 2.0, 5.0], n // 3)
    kernel = jnp.array((q * eigvals) @ q.T, jnp.float32)
    change = jnp.array(random_kernel(3, n=n), jnp.float32)
    change = change / jnp.linalg.norm(change)

    def f(kernel):
        return jnp.sum(jnp.log1p(spectra.eigvals(kernel) ** 2))

    expected = (q * (2 * eigvals / (1 + eigvals**2))) @ q.T
    value, gradient = jax.jit(jax.value_and_grad(f))(kernel)
    np.testing.assert_allclose(gradient, expected, atol=2e-6)
    assert float(value) == pytest.approx(np.sum(np.log1p(eigvals**2)), rel=1e-6)
    stacked = jax.jit(jax.vmap(jax.grad(f)))(jnp.stack([kernel, 2 * kernel]))
    np.testing.assert_allclose(stacked[0], expected, atol=2e-6)
    _, along = jax.jit(lambda kernel, change: jax.jvp(f, (kernel,), (change,)))(kernel, change)
    assert float(along) == pytest.approx(np.sum(expected * np.asarray(change)), abs=1e-5)


ON_FOUR_DEVICES = """
import jax, jax.numpy as jnp, numpy as np
from entropax import spectra
mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
x = np.random.default_rng(0).normal(size=(8, 60, 80)).astype(np.float32)
kernels = x @ x.swapaxes(1, 2)
density = jax.jit(spectra.density)
here = density(kernels)
for _ in range(5):
    np.testing.assert_allclose(density(jax.device_put(kernels, split)), here, atol=1e-6)

@jax.jit
def estimate(kernel):
    product = lambda x: jnp.matmul(kernel, x, precision="highest")
    return spectra.lanczos_entropy(jax.random.key(0), product, 60, trace=jnp.trace(kernel))

here = estimate(kernels[0])
np.testing.assert_allclose(estimate(jax.device_put(kernels[0], split)), here, rtol=1e-4)
"""


def test_on_several_devices():
    """Decompositions in a program of several devices end, and give what one device gives."""
    run_on_four_devices(ON_FOUR_DEVICES)
