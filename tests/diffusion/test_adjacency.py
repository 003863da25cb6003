import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entropax.diffusion.adjacency import adjacency_entropy, adjacency_estimate
from entropax.diffusion.entropy import dse
from entropax.diffusion.sampling import Lanczos

seeds = st.integers(0, 10**6)
ORDERS = [0.5, 1, 1.001, 2, math.inf]
jitted = jax.jit(
    adjacency_entropy,
    static_argnames=("sigma", "kernel", "neighbours", "symmetric", "order", "method"),
)


def squared_distances(x):
    return np.sum((x[:, None] - x) ** 2, axis=-1)


def renyi(magnitudes, order):
    probs = np.sort(magnitudes) / np.sum(magnitudes)
    probs = probs[probs > 0]
    if order == 1:
        return -np.sum(probs * np.log(probs))
    if order == math.inf:
        return -np.log(probs[-1])
    return np.log(np.sum(probs**order)) / (1 - order)


def gaussian_entropy(x, order=1, sigma=1.0):
    kernel = np.exp(-squared_distances(x) / (2 * np.square(sigma)))
    return renyi(np.maximum(np.linalg.eigvalsh(kernel), 0), order)


def graph(x, neighbours):
    squares = squared_distances(x)
    return (squares <= np.sort(squares, axis=1)[:, neighbours - 1 : neighbours]) * 1.0


def random_points(seed, n=20, d=3):
    return np.random.default_rng(seed).standard_normal((n, d))


@pytest.mark.parametrize("order", ORDERS)
@given(seed=seeds, log_scale=st.floats(-1, 1.5))
def test_gaussian_is_brute_force_within_bounds(order, seed, log_scale):
    x = random_points(seed) * 10**log_scale
    value = float(jitted(jnp.asarray(x, jnp.float32), sigma=1.0, order=order))
    # float32: rounding weighs as a probability of 1e-7, of which order 0.5 takes the root
    atol = 2e-3 if order < 1 else 2e-5
    assert value == pytest.approx(gaussian_entropy(x, order), abs=atol)
    assert 0 <= value <= math.log(20) * (1 + 1e-6)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("scale", [0.3, 0.1, 1e-2, 1e-3, 1e-4])
def test_digits_of_points_that_nearly_coincide(order, scale):
    """The entropy falls to 1e-7, where those of the float32 kernel itself would be noise."""
    x = random_points(0, n=60, d=4).astype(np.float32).astype(np.float64)
    with jax.enable_x64(True):
        expected = float(jitted(jnp.asarray(scale * x), sigma=1.0, order=order))
    value = float(jitted(jnp.asarray(scale * x, jnp.float32), sigma=1.0, order=order))
    assert value == pytest.approx(expected, rel=2e-4)
    if scale > 1e-3:  # below it NumPy's own eigenvalues have lost the digits
        assert expected == pytest.approx(gaussian_entropy(scale * x, order), rel=1e-7)


def test_nothing_jumps_where_the_leading_eigenvalue_is_taken_out():
    x = random_points(0)
    with jax.enable_x64(True):
        scales = np.linspace(0.15, 0.25, 21)  # what the other eigenvalues hold passes 0.1
        values = [float(jitted(jnp.asarray(s * x), sigma=1.0)) for s in scales]
    shares = [
        1 - np.linalg.eigvalsh(np.exp(-squared_distances(s * x) / 2))[-1] / 20 for s in scales
    ]
    assert shares[0] < 0.09 < 0.11 < shares[-1]
    expected = [gaussian_entropy(s * x) for s in scales]
    np.testing.assert_allclose(values, expected, rtol=1e-12)


@given(seeds)
def test_graphs_are_brute_force(seed):
    x = random_points(seed)
    links = graph(x, 4)
    union = np.maximum(links, links.T)
    expected = renyi(np.abs(np.linalg.eigvalsh(union)), 1)
    value = float(jitted(jnp.asarray(x, jnp.float32), kernel="knn", neighbours=4))
    assert value == pytest.approx(expected, abs=2e-5)
    value = adjacency_entropy(jnp.asarray(x), kernel="knn", neighbours=4, symmetric=False)
    assert float(value) == pytest.approx(renyi(np.abs(np.linalg.eigvals(links)), 1), abs=2e-6)


def test_anisotropic_is_the_diffusion_entropy():
    x = jnp.asarray(random_points(0), jnp.float32)
    for order in (1, 2):
        value = adjacency_entropy(x, sigma="median", kernel="anisotropic", order=order)
        assert float(value) == pytest.approx(float(dse(x, sigma="median", order=order)), rel=1e-6)


def test_closed_forms():
    far = 1e3 * jnp.eye(12)
    blocks = far[jnp.repeat(jnp.array([0, 1, 2]), jnp.array([2, 4, 6]))]
    for kernel in ("gaussian", "anisotropic"):
        entropy = functools.partial(jitted, sigma=1.0, kernel=kernel)
        assert float(entropy(jnp.ones((12, 12)))) == 0
        assert float(entropy(far)) == pytest.approx(math.log(12), rel=1e-6)
        assert float(entropy(jnp.repeat(far[:2], 6, 0))) == pytest.approx(math.log(2), rel=5e-6)
    # equal points: eigenvalues 2, 4 and 6 of the kernel, 1, 1 and 1 of the walk
    expected = renyi(np.array([2, 4, 6]), 1)
    assert float(jitted(blocks, sigma=1.0)) == pytest.approx(expected, rel=5e-6)
    value = jitted(blocks, sigma=1.0, kernel="anisotropic")
    assert float(value) == pytest.approx(math.log(3), rel=5e-6)
    # clusters of 4 that hold all neighbours; in the graph of all points, one eigenvalue
    clusters = jnp.repeat(far[:3], 4, 0) + 0.1 * random_points(0, 12, 12)
    graph_of = functools.partial(jitted, jnp.asarray(clusters, jnp.float32), kernel="knn")
    assert float(graph_of(neighbours=4)) == pytest.approx(math.log(3), rel=1e-5)
    assert float(graph_of(neighbours=12)) == pytest.approx(0, abs=2e-5)
    assert float(graph_of(neighbours=1)) == pytest.approx(math.log(12), rel=1e-6)


def test_one_point():
    assert float(jitted(jnp.ones((1, 2)), sigma=1.0)) == 0
    assert float(jitted(jnp.ones((1, 2)), kernel="knn", neighbours=1)) == 0


def test_copies_make_no_difference():
    x = jnp.asarray(random_points(0), jnp.float32)
    value = float(jitted(jnp.repeat(x, 2, axis=0), sigma=1.0))
    assert value == pytest.approx(float(jitted(x, sigma=1.0)), rel=2e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"sigma": 1.0},
        {"sigma": 20.0},  # the leading eigenvalue is taken out
        {"sigma": "median", "order": 2},
        {"sigma": "adaptive"},
        {"sigma": 1.0, "kernel": "anisotropic"},
        {"kernel": "knn", "neighbours": 5},
    ],
    ids=str,
)
def test_padding_does_not_count(options):
    x = jnp.asarray(random_points(0, n=14), jnp.float32)
    filled = jnp.concatenate([jnp.full((4, 3), jnp.nan), x])
    where = jnp.arange(18) >= 4
    value = float(jitted(filled, where=where, **options))
    assert value == pytest.approx(float(jitted(x, **options)), rel=2e-5)
    assert float(jitted(filled, where=jnp.zeros(18, bool), **options)) == 0


def test_fewer_real_points_than_neighbours():
    x = jnp.asarray(random_points(0, n=8), jnp.float32)
    value = jitted(x, kernel="knn", neighbours=5, where=jnp.arange(8) < 3)
    assert float(value) == pytest.approx(0, abs=1e-5)


def test_a_bandwidth_for_each_point():
    x, sigma = random_points(0), np.random.default_rng(1).uniform(0.5, 2, 20)
    kernel = np.exp(-squared_distances(x) / (2 * np.multiply.outer(sigma, sigma)))
    expected = renyi(np.abs(np.linalg.eigvalsh(kernel)), 1)
    value = adjacency_entropy(x, sigma=jnp.asarray(sigma, jnp.float32))
    assert float(value) == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize("scale", [1.0, 0.1])
def test_gradient_is_that_of_float64_differences(scale):
    x, direction = scale * random_points(0), random_points(1)
    x[1] = x[0]  # equal points
    with jax.enable_x64(True):
        entropy = functools.partial(jitted, sigma=1.0)
        gradient = jax.grad(entropy)(jnp.asarray(x))
        step = 1e-6
        ends = [float(entropy(jnp.asarray(x + s * step * direction))) for s in (1, -1)]
    expected = (ends[0] - ends[1]) / (2 * step)
    # 20 distinct points have 20 eigenvalues, one of which is 0 here and moves as the step squared
    assert np.sum(np.asarray(gradient) * direction) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("x", [jnp.ones((5, 2)), 1e3 * jnp.eye(5)], ids=["equal", "far"])
def test_gradient_is_finite(x):
    assert np.isfinite(jax.grad(functools.partial(jitted, sigma=1.0))(x)).all()


@pytest.mark.parametrize("sigma", [3.0, 30.0])
def test_sampled(sigma):
    x = random_points(0, n=300, d=8)
    exact = adjacency_estimate(x, sigma=sigma)
    settings = Lanczos(num_probes=16, num_deflated=16, num_steps=12, block_size=128)
    sampled = adjacency_estimate(x, sigma=sigma, method=settings)
    assert (exact.stderr, exact.method) == (0, "exact")
    assert sampled.method == "slq, matrix-free"
    assert sampled.value == pytest.approx(exact.value, rel=5e-3)
    assert sampled.lower <= exact.value <= sampled.upper
    value = adjacency_entropy(x, sigma=sigma, method=settings)
    assert float(value) == pytest.approx(sampled.value, rel=1e-6)


def test_numpy_points_far_from_the_origin():
    x = random_points(0)
    assert float(adjacency_entropy(x + 1e6, sigma=1.0)) == pytest.approx(
        gaussian_entropy(x), abs=2e-5
    )


def test_bad_input():
    x = jnp.ones((5, 2))
    with pytest.raises(ValueError, match="needs a bandwidth"):
        adjacency_entropy(x)
    for sigma in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="`sigma` must be positive"):
            adjacency_entropy(x, sigma=sigma)
    with pytest.raises(ValueError, match="`kernel` must be one of"):
        adjacency_entropy(x, sigma=1.0, kernel="cosine")
    for order in (-1, math.nan):
        with pytest.raises(ValueError, match="`order` must be"):
            adjacency_entropy(x, sigma=1.0, order=order)
    with pytest.raises(ValueError, match="`method` must be"):
        adjacency_entropy(x, sigma=1.0, method="nystrom")
    for symmetric in (True, False):
        with pytest.raises(ValueError, match="itself included, got 6"):
            adjacency_entropy(x, kernel="knn", neighbours=6, symmetric=symmetric)
    with pytest.raises(ValueError, match="`neighbours` must be at least 1, got 0"):
        adjacency_entropy(x, kernel="knn", neighbours=0)
    with pytest.raises(ValueError, match="solved exactly"):
        adjacency_entropy(x, kernel="knn", neighbours=2, method="slq")
    with pytest.raises(ValueError, match="directed graph"):
        adjacency_entropy(x, kernel="knn", neighbours=2, symmetric=False, where=jnp.ones(5, bool))
    with pytest.raises(ValueError, match="directed graph"):
        jitted(x, kernel="knn", neighbours=2, symmetric=False)
    with pytest.raises(ValueError, match="without `where`"):
        jitted(x, sigma=1.0, method="slq")
    with pytest.raises(ValueError, match="without `where`"):
        adjacency_entropy(x, sigma=1.0, method="slq", where=jnp.ones(5, bool))
    with pytest.raises(ValueError, match="not known yet"):
        jax.jit(lambda x: adjacency_estimate(x, sigma=1.0).value)(x)
    with pytest.raises(ValueError, match="NaN"):
        adjacency_entropy(x.at[0, 0].set(jnp.nan), sigma=1.0)
    for options in ({"sigma": 1.0}, {"kernel": "knn", "neighbours": 2}):
        assert np.isnan(float(jitted(x.at[0, 0].set(jnp.nan), **options)))


def test_few_points_are_sampled_and_bandwidths_that_differ_are_not():
    x = np.random.default_rng(0).normal(size=(20, 3))
    found = adjacency_estimate(x, sigma=1.0, method="slq")
    assert found.lower <= float(adjacency_entropy(x, sigma=1.0)) <= found.upper
    with pytest.raises(ValueError, match="without negative eigenvalues"):
        adjacency_estimate(x, sigma="adaptive", method="slq")
