import logging
import math
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from entropax.diffusion.entropy import dse, dse_estimate
from entropax.diffusion.spectral import estimate, spectral_entropy
from entropax.diffusion.spectrum import Lanczos, spectrum

# The package exports a function of the name of the module.
module = sys.modules["entropax.diffusion.spectrum"]

N, D = 40, 5
SAMPLED = Lanczos(num_probes=4, num_deflated=4, num_steps=4)


def normal(seed=0, shape=(N, D)):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def distances(x):
    return np.sqrt(np.sum(np.square(x[:, None].astype(np.float64) - x), axis=-1))


def operator(kernel, alpha=0.0):
    for power in (alpha, 0.5):
        degrees = kernel.sum(1)
        kernel = kernel / np.outer(degrees, degrees) ** power
    return kernel


def magnitudes(kernel, alpha=0.0):
    """Without the leading one, which is 1."""
    eigvals = np.sort(np.abs(np.linalg.eigvalsh(operator(kernel, alpha))))
    assert eigvals[-1] == pytest.approx(1)
    return eigvals[:-1]


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_the_eigenvalues_of_the_operator(alpha):
    x = normal()
    walk = spectrum(x, sigma=1.5, alpha=alpha)
    expected = magnitudes(np.exp(-(distances(x) ** 2) / (2 * 1.5**2)), alpha)
    np.testing.assert_allclose(walk.residual, expected, atol=1e-6)
    np.testing.assert_allclose(walk.moments, [expected.sum(), (expected**2).sum()], rtol=1e-5)
    assert (int(walk.n), float(walk.sigma), walk.method) == (N, 1.5, "exact")


def test_a_bandwidth_for_each_point():
    x = normal()
    widths = np.sort(distances(x), axis=1)[:, 10]
    kernel = np.exp(-(distances(x) ** 2) / (2 * np.outer(widths, widths)))
    for sigma in ("adaptive", widths, jnp.asarray(widths)):
        walk = spectrum(x, sigma=sigma)
        np.testing.assert_allclose(walk.residual, magnitudes(kernel), atol=2e-6)
        np.testing.assert_allclose(walk.sigma, widths, rtol=1e-5)
    assert dse_estimate(x, sigma="adaptive").sigma == pytest.approx(np.median(widths), rel=1e-5)


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_the_graph_of_neighbours(alpha):
    x = normal()
    graph = distances(x) <= np.sort(distances(x), axis=1)[:, 6, None]
    walk = spectrum(x, kernel="knn", neighbours=7, alpha=alpha)
    expected = magnitudes(np.maximum(graph, graph.T).astype(float), alpha)
    np.testing.assert_allclose(walk.residual, expected, atol=2e-6)
    assert walk.sigma is None


def test_rules_for_the_bandwidth():
    x = normal()
    assert float(spectrum(x, sigma="sqrt_d").sigma) == pytest.approx(math.sqrt(D))
    nearest = np.median(np.sort(distances(x), axis=1)[:, 3])
    assert float(spectrum(x, sigma="knn", neighbours=3).sigma) == pytest.approx(nearest, rel=1e-5)
    for scale in (1e-30, 100.0, 1e30):
        walk = spectrum(x * np.float32(scale), sigma="median")
        np.testing.assert_allclose(walk.residual, spectrum(x, sigma="median").residual, atol=1e-6)


@pytest.mark.parametrize("options", [{"sigma": 1.5}, {"sigma": "median"}, {"kernel": "knn"}])
def test_padding_changes_nothing(options):
    x = normal()[:30]
    padded = np.concatenate([x, np.full((10, D), np.nan, np.float32)])
    where = np.arange(N) < 30
    # Rows in another order, padding in between.
    order = np.random.default_rng(1).permutation(N)
    walk = spectrum(padded[order], where=where[order], **options)
    assert int(walk.n) == 30
    assert np.all(np.asarray(walk.residual)[:10] == 0)
    np.testing.assert_allclose(walk.residual[10:], spectrum(x, **options).residual, atol=2e-6)
    traced = jax.jit(lambda x, where: dse(x, where=where, **options))(padded, where)
    assert float(traced) == pytest.approx(float(dse(x, **options)), abs=1e-5)
    gradient = jax.jit(jax.grad(lambda x: dse(x, where=where, **options)))(padded)
    assert np.all(np.isfinite(gradient))
    assert np.all(gradient[30:] == 0)


def test_numbers_of_any_type():
    x = np.random.default_rng(0).integers(-3, 4, (N, D))
    expected = float(dse(x.astype(np.float64), sigma=1.5))
    for converted in (x, x.astype(np.int8), x.astype(np.float16), jnp.asarray(x, jnp.bfloat16)):
        walk = spectrum(converted, sigma=1.5)
        assert walk.residual.dtype == np.float32
        assert float(spectral_entropy(walk)) == pytest.approx(expected, rel=1e-6)
    with jax.enable_x64(True):
        assert spectrum(normal(), sigma=1.5).residual.dtype == np.float32
        assert spectrum(normal().astype(np.float64), sigma=1.5).residual.dtype == np.float64


def test_constant_columns_are_harmless():
    x = normal()
    wide = np.concatenate([x, np.full((N, 2), 1e6, np.float32)], axis=1)
    assert float(dse(wide, sigma=1.5)) == pytest.approx(float(dse(x, sigma=1.5)), abs=1e-6)


@pytest.mark.parametrize("storage", ["stored", "matrix_free"])
def test_a_sampled_spectrum_holds_the_exact_entropy(storage):
    x = normal(shape=(150, D))
    settings = Lanczos(num_probes=16, num_deflated=8, num_steps=8, storage=storage, block_size=64)
    walk = spectrum(x, sigma="median", alpha=0.5, method=settings)
    exact = spectrum(x, sigma="median", alpha=0.5)
    np.testing.assert_allclose(walk.moments, exact.moments, rtol=1e-5)
    assert float(walk.sigma) == pytest.approx(float(exact.sigma))
    for t, order in ((1.0, 1.0), (2.0, 1.0), (1.0, 2.0), (1.0, math.inf)):
        found = estimate(walk, t=t, order=order)
        expected = float(spectral_entropy(exact, t=t, order=order))
        assert found.lower <= expected <= found.upper
        assert found.value == pytest.approx(expected, abs=5 * found.stderr + 1e-5)
        assert found.upper - found.lower < 0.1
        assert found.method == f"slq, {storage.replace('_', '-')}"


def test_the_key_decides_what_is_sampled():
    def value(**options):
        return dse_estimate(normal(), sigma=1.5, method=SAMPLED, **options).value

    assert value() == value(key=jax.random.key(0))
    assert value() != value(key=jax.random.key(1))


def test_how_it_is_chosen(monkeypatch, caplog):
    monkeypatch.setattr(module, "_EXACT_ON_CPU", N - 1)
    monkeypatch.setattr(module, "_EXACT_ELSEWHERE", N - 1)
    monkeypatch.setattr(module, "sample", lambda *_, **__: (None, None, None))
    x = normal()
    with caplog.at_level(logging.INFO, logger="entropax.diffusion"):
        assert spectrum(x, sigma=1.5).method == "slq, stored"
        assert spectrum(x, sigma=1.5, memory=1000).method == "slq, matrix-free"
        assert spectrum(x, sigma=1.5, method="exact").method == "exact"
        assert spectrum(x, sigma="adaptive").method == "exact"
        assert spectrum(x, kernel="knn").method == "exact"
        assert spectrum(x, sigma=1.5, where=np.ones(N, bool)).method == "exact"
        assert jax.jit(lambda x: spectrum(x, sigma=1.5))(x).method == "exact"
    assert caplog.messages[:2] == ["40 points: slq, stored.", "40 points: slq, matrix-free."]
    monkeypatch.setattr(module, "_EXACT_ON_CPU", N)
    monkeypatch.setattr(module, "_EXACT_ELSEWHERE", N)
    assert spectrum(x, sigma=1.5).method == "exact"


def test_chebyshev_warns(monkeypatch):
    monkeypatch.setattr(module, "sample", lambda *_, **__: (None, None, None))
    with pytest.warns(UserWarning, match="gave wrong entropies"):
        walk = spectrum(normal(), sigma=1.5, method="chebyshev")
    assert walk.method == "slq, stored"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "pass sigma='median' to be independent of their scale"),
        ({"sigma": 0.0}, "`sigma` must be positive and finite, got 0.0"),
        ({"sigma": -2.0}, "got -2.0"),
        ({"sigma": math.nan}, "got nan"),
        ({"sigma": "mean"}, "`sigma` must be a positive number or one of .* got 'mean'"),
        ({"sigma": 1.0, "alpha": -0.5}, "`alpha` must be 0 or positive, got -0.5"),
        ({"sigma": 1.0, "kernel": "laplace"}, "`kernel` must be one of .* got 'laplace'"),
        ({"sigma": 1.0, "kernel": "knn"}, "has no bandwidth; leave out `sigma`, got 1.0"),
        ({"kernel": "knn", "neighbours": N + 1}, "n = 40.* got 41"),
        ({"kernel": "knn", "neighbours": 0}, "`neighbours` must be at least 1, got 0"),
        ({"sigma": "knn", "neighbours": N}, "n - 1 = 39.* got 40"),
        ({"sigma": 1.0, "method": "lanczos"}, "`method` must be .* got 'lanczos'"),
        ({"kernel": "knn", "method": "slq"}, "take method='exact'"),
        ({"sigma": "adaptive", "method": SAMPLED}, "take method='exact'"),
        ({"sigma": 1.0, "method": "slq", "where": np.ones(N, bool)}, "without `where`"),
        ({"sigma": 1.0, "method": SAMPLED._replace(storage="disk")}, "got 'disk'"),
        ({"sigma": 1.0, "method": SAMPLED._replace(num_probes=1)}, "at least 2, got 1"),
        ({"sigma": 1.0, "method": SAMPLED._replace(num_deflated=N)}, "n - 1 = 39, got 40"),
        ({"sigma": 1.0, "where": np.ones(3, bool)}, r"`where` must be \[40\].* got \(3,\)"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        spectrum(normal(), **options)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((4, 3, 2)), r"got the shape \(4, 3, 2\); flatten"),
        (np.zeros(4), r"got the shape \(4,\)"),
        (np.zeros((0, 3)), r"no points, or no features: `x` has the shape \(0, 3\)"),
        (np.diag([1.0, np.nan, np.inf]), "in 2 of 3 rows, the first of them row 1"),
        (jnp.diag(jnp.array([1.0, 1.0, jnp.nan])), "the first of them row 2"),
        (np.diag([1.0, 1e300]), "too large for float32 in 2 of 2 rows"),
    ],
)
def test_points_that_are_none(x, message):
    with pytest.raises(ValueError, match=message):
        spectrum(x, sigma=1.0)


def test_a_sampled_spectrum_is_not_traced():
    with pytest.raises(ValueError, match="not under jit, grad or vmap"):
        jax.jit(lambda x: spectrum(x, sigma=1.0, method="slq").residual)(normal())
