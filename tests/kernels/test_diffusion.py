"""The diffusion operator against the random walk of the textbook, from differences of points."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from devices import run_on_four_devices

from entropax.kernels.diffusion import (
    diffusion_operator,
    diffusion_products,
    diffusion_residual,
    symmetric_normalised,
)

RNG = np.random.default_rng(0)
N = 45
X = RNG.normal(size=(N, 4))
EACH = np.exp(0.5 * RNG.normal(size=N))  # a bandwidth for each point
VECTORS = RNG.normal(size=(3, N))
ALPHAS = [0.0, 0.5, 1.0]
# Everything coincides; ordinary; nothing is near anything.
SIGMAS = [1e3, 1.0, 0.05]

residual = jax.jit(diffusion_residual)
operator = jax.jit(diffusion_operator)


@partial(jax.jit, static_argnames=("block_size", "mesh", "on_pass"))
def products(x, vectors, sigma, alpha, *, block_size=1024, mesh=None, on_pass=None):
    found = diffusion_products(
        x, sigma=sigma, alpha=alpha, block_size=block_size, mesh=mesh, on_pass=on_pass
    )
    return jax.vmap(found.matvec)(vectors), found.trace, found.squares, found.degrees


def walk(x, sigma, alpha):
    """Transition probabilities, the symmetric operator, and its residual."""
    x = np.asarray(x, np.float64)
    squares = ((x[:, None] - x) ** 2).sum(-1)
    kernel = np.exp(-squares / (2 * np.multiply.outer(sigma, sigma)))
    degrees = kernel.sum(1)
    kernel /= np.outer(degrees, degrees) ** alpha
    degrees = kernel.sum(1)
    symmetric = kernel / np.sqrt(np.outer(degrees, degrees))
    leading = np.sqrt(degrees / degrees.sum())
    return kernel / degrees[:, None], symmetric, symmetric - np.outer(leading, leading)


def entropy_of(matrix):
    """Of the walk, from the eigenvalues of its residual in float64."""
    eigvals = np.abs(np.linalg.eigvalsh(np.asarray(matrix, np.float64)))
    eigvals = eigvals[eigvals > 0]
    total = eigvals.sum()
    return np.log1p(total) - (eigvals * np.log(eigvals)).sum() / (1 + total)


@pytest.mark.parametrize("sigma", [*SIGMAS, EACH], ids=["wide", "ordinary", "narrow", "each"])
@pytest.mark.parametrize("alpha", ALPHAS)
def test_float64(sigma, alpha):
    transitions, symmetric, rest = walk(X, sigma, alpha)
    with jax.enable_x64(True):
        found = operator(X, sigma=sigma, alpha=alpha)
        left, degrees = residual(X, sigma=sigma, alpha=alpha)
        np.testing.assert_allclose(found, symmetric, rtol=0, atol=1e-13)
        np.testing.assert_allclose(left, rest, rtol=0, atol=1e-13)
    eigvals = np.sort(np.linalg.eigvals(transitions).real)
    np.testing.assert_allclose(np.linalg.eigvalsh(found), eigvals, rtol=0, atol=1e-12)
    # What is left has 0 in place of the leading 1.
    replaced = np.sort(np.append(eigvals[:-1], 0))
    np.testing.assert_allclose(np.linalg.eigvalsh(left), replaced, rtol=0, atol=1e-12)
    stationary = np.asarray(degrees) / np.asarray(degrees).sum()
    np.testing.assert_allclose(stationary @ transitions, stationary, rtol=0, atol=1e-13)


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("offset", [0, 100])
@pytest.mark.parametrize("scale", [1e-3, 0.05, 1.0, 20.0])
def test_float32(alpha, offset, scale):
    """Entropies of 1e-5 to 4 nats keep five digits, at an offset of 100 deviations as well."""
    x = (scale * (X + offset)).astype(np.float32)
    with jax.enable_x64(True):
        exact = entropy_of(residual(x.astype(np.float64), sigma=1.0, alpha=alpha).residual)
    found = entropy_of(residual(x, sigma=1.0, alpha=alpha).residual)
    assert exact < (1e-3 if scale == 1e-3 else 4)
    np.testing.assert_allclose(found, exact, rtol=1e-5)


def test_collapsed_points_in_float32():
    x = (2e-4 * X).astype(np.float32)
    with jax.enable_x64(True):
        exact = entropy_of(residual(x.astype(np.float64), sigma=1.0).residual)
    assert 1e-6 < exact < 2e-5
    np.testing.assert_allclose(entropy_of(residual(x, sigma=1.0).residual), exact, rtol=1e-5)


def test_copies_change_nothing():
    """Twice every point: the eigenvalues, and as many zeros."""
    with jax.enable_x64(True):
        once = np.linalg.eigvalsh(residual(X, sigma=1.0, alpha=0.5).residual)
        twice = residual(np.concatenate([X, X]), sigma=1.0, alpha=0.5).residual
    expected = np.sort(np.append(once, np.zeros(N)))
    np.testing.assert_allclose(np.linalg.eigvalsh(twice), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_padding_may_hold_anything(alpha):
    where = RNG.permutation(np.arange(N + 10) < N)
    padded = np.full((N + 10, 4), np.nan, np.float32)
    padded[where] = X
    sigma = np.full(N + 10, np.nan, np.float32)
    sigma[where] = EACH
    inside = np.ix_(where, where)
    for widths, of_real in ((1.0, 1.0), (sigma, EACH.astype(np.float32))):
        left, degrees = residual(padded, sigma=widths, alpha=alpha, where=where)
        whole = operator(padded, sigma=widths, alpha=alpha, where=where)
        expected = residual(X.astype(np.float32), sigma=of_real, alpha=alpha)
        np.testing.assert_allclose(left[inside], expected.residual, rtol=0, atol=1e-6)
        np.testing.assert_allclose(degrees[where], expected.degrees, rtol=1e-5)
        assert degrees[~where].sum() == 0
        for matrix in (left, whole):
            outside = np.asarray(matrix).copy()
            outside[inside] = 0
            assert (outside == 0).all()
    nothing = np.zeros(N + 10, bool)
    assert (residual(padded, sigma=1.0, alpha=alpha, where=nothing).residual == 0).all()
    assert (operator(padded, sigma=1.0, alpha=alpha, where=nothing) == 0).all()


def test_one_point_and_equal_points():
    for n in (1, 20):
        x = jnp.full((n, 3), 0.1)
        assert (residual(x, sigma=1.0, alpha=0.5).residual == 0).all()
        np.testing.assert_allclose(operator(x, sigma=1.0), 1 / n, rtol=1e-6)
        out, trace, squares, _ = products(x, jnp.ones((2, n)), 1.0, 0.5)
        assert trace == squares == jnp.abs(out).max() == 0


@pytest.mark.parametrize("alpha", ALPHAS)
def test_gradient(alpha):
    """Against finite differences; finite where points are equal."""
    direction, weights = RNG.normal(size=(N, 4)), RNG.normal(size=(N, N))

    @jax.jit
    def value(x):
        return jnp.sum(weights * diffusion_residual(x, sigma=1.0, alpha=alpha).residual)

    gradient = jax.jit(jax.grad(value))
    with jax.enable_x64(True):
        found = np.vdot(gradient(X), direction)
        ends = [float(value(X + step * direction)) for step in (1e-5, -1e-5)]
        np.testing.assert_allclose(found, (ends[0] - ends[1]) / 2e-5, rtol=1e-6)
        assert np.isfinite(gradient(np.concatenate([X[:20], X[:20], X[:5]]))).all()
        assert np.isfinite(gradient(np.ones((N, 4)))).all()


def test_vmap():
    xs = np.stack([X, 2 * X]).astype(np.float32)
    both = jax.jit(jax.vmap(lambda x: diffusion_residual(x, sigma=1.0, alpha=0.5).residual))(xs)
    for x, found in zip(xs, both, strict=True):
        np.testing.assert_allclose(
            found, residual(x, sigma=1.0, alpha=0.5).residual, rtol=0, atol=1e-6
        )


def test_any_kernel():
    kernel = RNG.random((7, 7))
    kernel = kernel + kernel.T
    degrees = kernel.sum(1)
    with jax.enable_x64(True):
        found = symmetric_normalised(kernel)
        np.testing.assert_allclose(found, kernel / np.sqrt(np.outer(degrees, degrees)), rtol=1e-13)
        corrected = symmetric_normalised(kernel, alpha=0.7)
        expected = symmetric_normalised(kernel / np.outer(degrees, degrees) ** 0.7)
        np.testing.assert_allclose(corrected, expected, rtol=1e-13)
        with_padding = symmetric_normalised(np.pad(kernel, (0, 2)), alpha=0.7)
        np.testing.assert_array_equal(with_padding, np.pad(corrected, (0, 2)))
    tiny = symmetric_normalised(1e-30 * kernel.astype(np.float32), alpha=1.0)
    np.testing.assert_allclose(tiny, symmetric_normalised(kernel, alpha=1.0), rtol=1e-5)
    assert (symmetric_normalised(np.zeros((3, 3))) == 0).all()


@pytest.mark.parametrize("sigma", [*SIGMAS, EACH], ids=["wide", "ordinary", "narrow", "each"])
@pytest.mark.parametrize("alpha", ALPHAS)
def test_products(sigma, alpha):
    """Three tiles, the last one not full; a product is right to 1e-5 of the largest in float32."""
    expected = walk(X, sigma, alpha)[2]
    with jax.enable_x64(True):
        exact = residual(X, sigma=sigma, alpha=alpha)
        out, trace, squares, degrees = products(X, VECTORS, sigma, alpha, block_size=16)
    # The smallest of these traces is 1e-6: what the test computes is right to 1e-16.
    np.testing.assert_allclose(out, VECTORS @ expected, rtol=0, atol=1e-13)
    np.testing.assert_allclose(trace, np.trace(exact.residual), rtol=1e-9)
    np.testing.assert_allclose(squares, np.sum(np.square(exact.residual)), rtol=1e-9)
    np.testing.assert_allclose(degrees, exact.degrees, rtol=1e-12)
    x, vectors, sigma = (np.asarray(y, np.float32) for y in (X, VECTORS, sigma))
    low = products(x, vectors, sigma, alpha, block_size=16)
    np.testing.assert_allclose(low[0], out, rtol=0, atol=1e-5 * np.abs(out).max())
    for one, other in zip(low[1:], (trace, squares, degrees), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)


def test_many_tiles_in_float32():
    """Sums over 38 tiles keep their digits, far from each other and near.

    Degrees of far points lack what rounds to -1 in the kernel less 1, at most 3e-8 for each of 600.
    """
    x = RNG.normal(size=(600, 32)).astype(np.float32)
    vectors = RNG.normal(size=(1, 600)).astype(np.float32)
    for sigma in (1.5, 100.0):
        low = products(x, vectors, sigma, 0.0, block_size=16)
        with jax.enable_x64(True):
            high = products(x.astype(np.float64), vectors.astype(np.float64), sigma, 0.0)
            high = [np.asarray(y) for y in high]
        np.testing.assert_allclose(low[0], high[0], rtol=0, atol=2e-6 * np.abs(high[0]).max())
        for one, other in zip(low[1:], high[1:], strict=True):
            np.testing.assert_allclose(one, other, rtol=5e-6)


def test_the_kernel_is_formed_once_for_all_vectors():
    x = X.astype(np.float32)
    matvec = diffusion_products(x, sigma=1.0, block_size=15).matvec
    program = str(jax.make_jaxpr(jax.vmap(matvec))(VECTORS.astype(np.float32)))
    assert re.findall(r"(\S+) = expm1", program)[0].split(":")[1] == "f32[15,15]"
    assert len(re.findall("= expm1", program)) == 1
    assert "45,45" not in program


def test_memory():
    """Some tiles, and nothing of the size of the matrix (64 MiB)."""
    shapes = (jax.ShapeDtypeStruct(shape, np.float32) for shape in ((4096, 8), (4, 4096)))
    compiled = products.lower(*shapes, 1.0, 0.5, block_size=256).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 2**22


def test_progress():
    passes = []
    x = X.astype(np.float32)
    for alpha, number in ((0.0, 3), (0.5, 4)):  # degrees, once more if corrected; squares; products
        passes.clear()
        # A concrete `alpha` of 0 saves a pass.
        program = jax.jit(
            lambda x, v, alpha=alpha: products.__wrapped__(
                x, v, 1.0, alpha, on_pass=lambda: passes.append(1)
            )
        )
        jax.block_until_ready(program(x, VECTORS.astype(np.float32)))
        jax.effects_barrier()
        assert len(passes) == number


def test_nan_in_the_points():
    broken = X.astype(np.float32)
    broken[3, 1] = np.nan
    assert jnp.isnan(residual(broken, sigma=1.0).residual).any()
    assert jnp.isnan(operator(broken, sigma=1.0)).any()
    assert all(jnp.isnan(y).any() for y in products(broken, VECTORS.astype(np.float32), 1.0, 0.5))


def test_wrong_values():
    for function in (diffusion_residual, diffusion_operator, diffusion_products):
        for sigma in (0, -1.0, float("nan"), jnp.zeros(N)):
            with pytest.raises(ValueError, match="`sigma` must be positive and finite, got"):
                function(X, sigma=sigma)
        for alpha in (-0.5, float("nan")):
            with pytest.raises(ValueError, match=f"`alpha` must be 0 or positive, got {alpha}"):
                function(X, sigma=1.0, alpha=alpha)
    with pytest.raises(ValueError, match="`alpha` must be 0 or positive"):
        symmetric_normalised(np.eye(2), alpha=-1.0)
    with pytest.raises(ValueError, match="`block_size` must be positive, got 0"):
        diffusion_products(X, sigma=1.0, block_size=0)


ON_FOUR_DEVICES = """
import jax
import numpy as np
from kernels import test_diffusion as t

x, vectors = t.X.astype(np.float32), t.VECTORS.astype(np.float32)
passes = []
for kind in jax.sharding.AxisType.Auto, jax.sharding.AxisType.Explicit:
    mesh = jax.make_mesh((4,), ("data",), axis_types=(kind,))
    sharded = jax.device_put(x[:44], jax.NamedSharding(mesh, jax.P("data")))
    for points in x, sharded:  # 45 points in 6 pairs of tiles: nothing divides by 4
        v = vectors[:, : len(points)]
        one = t.products(np.asarray(points), v, 1.0, 0.5, block_size=16)
        passes.clear()
        four = t.products(points, v, 1.0, 0.5, block_size=16, mesh=mesh, on_pass=t.count(passes))
        jax.effects_barrier()
        assert len(passes) == 4, passes
        for a, b in zip(one, four):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
"""


def count(passes):
    return lambda: passes.append(1)


def test_on_a_mesh():
    run_on_four_devices(ON_FOUR_DEVICES)
