"""The entropy of an operator from its products."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from spectra.matrices import float64_entropy, matrix

from entropax import spectra


@functools.partial(jax.jit, static_argnames="num_steps")
def lanczos_of_matrix(kernel, start, *, num_steps):
    def matvec(x):
        return jnp.matmul(kernel, x, precision="highest")

    return spectra.lanczos(matvec, start, num_steps=num_steps)


def tridiagonal(kernel, start, num_steps):
    arguments = (np.asarray(a, np.float32) for a in (kernel, start))
    diagonal, off = lanczos_of_matrix(*arguments, num_steps=num_steps)
    return np.diag(np.float64(diagonal)) + np.diag(off, 1) + np.diag(off, -1)


SPECTRA = {
    "one over k": 1 / np.arange(1.0, 201),
    "one dominant": np.r_[0.7, 0.3 / np.arange(1, 200) / np.sum(1 / np.arange(1, 200))],
    "half the rank": np.r_[np.zeros(100), np.exp(-np.arange(100) / 20)],
}


@functools.cache
def compiled(**options):
    """The kernel is an argument, so that all kernels of a size share one program."""

    def estimate(key, kernel):
        def matvec(x):
            return jnp.matmul(kernel, x, precision="highest")

        trace = jnp.trace(kernel) if options.get("known", True) else None
        rest = {name: value for name, value in options.items() if name != "known"}
        return spectra.lanczos_entropy(key, matvec, len(kernel), trace=trace, **rest)

    return jax.jit(estimate)


def test_lanczos_keeps_the_moments():
    """The rule of `t` steps is exact for polynomials up to degree 2 t - 1."""
    kernel, start = matrix(np.arange(1.0, 31) / 30), np.random.default_rng(0).normal(size=30)
    found = tridiagonal(kernel, start, 4)
    for power in range(8):
        moment = np.linalg.matrix_power(found, power)[0, 0]
        expected = start @ np.linalg.matrix_power(kernel, power) @ start / (start @ start)
        assert moment == pytest.approx(expected, rel=5e-6)


def test_lanczos_of_all_steps_has_the_eigenvalues():
    eigvals = np.arange(1.0, 13)
    found = tridiagonal(matrix(eigvals), np.arange(1.0, 13), 12)
    np.testing.assert_allclose(np.linalg.eigvalsh(found), eigvals, rtol=1e-5)


@pytest.mark.parametrize("start", [np.ones(30), np.arange(1.0, 31)])
def test_lanczos_stops_where_there_is_no_new_direction(start):
    """Going on from rounding would give values far outside the spectrum."""
    eigvals, vectors = np.linalg.eigh(tridiagonal(np.eye(30), start, 4))
    assert np.all((np.abs(eigvals) < 1e-6) | (np.abs(eigvals - 1) < 1e-6))
    assert np.sum(vectors[0] ** 2 * eigvals) == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("name", SPECTRA)
def test_the_interval_holds_the_entropy(name, known):
    eigvals = SPECTRA[name]
    expected = float64_entropy(eigvals)
    kernel = jnp.array(matrix(eigvals), jnp.float32)
    estimates = [compiled(known=known)(jax.random.key(seed), kernel) for seed in range(20)]
    inside = [float(e.lower) <= expected <= float(e.upper) for e in estimates]
    assert np.sum(inside) >= 16  # of 20 at 95 %: fewer has a probability of 3e-3 at most
    errors = np.array([float(e.value) - expected for e in estimates])
    stderr = np.sqrt(np.mean([float(e.stderr) ** 2 for e in estimates]))
    # The mean over 20 keys is right to its own error, and to the quadrature's.
    gap = max(float(e.upper - e.lower) for e in estimates)
    assert abs(errors.mean()) < 4 * stderr / np.sqrt(20) + gap / 4
    assert np.std(errors) < 2 * stderr + 1e-5
    for e in estimates:
        assert float(e.lower) <= float(e.value) <= float(e.upper)
        assert float(e.trace) == pytest.approx(eigvals.sum(), rel=1e-5 if known else 0.1)


def test_a_gaussian_kernel_with_a_dominant_eigenvalue():
    """The exact part cuts the error by far at the same number of products."""
    rng = np.random.default_rng(0)
    features = np.maximum(rng.normal(size=(200, 40)) * 0.8 ** np.arange(40) + 0.7, 0)
    squares = np.sum(features**2, axis=1)
    distances = squares[:, None] + squares[None] - 2 * features @ features.T
    kernel = np.exp(-distances / 2 / 2.2**2)
    exact = spectra.density(kernel)
    assert 0.6 < exact[-1] < 0.8
    expected = float64_entropy(exact)
    kernel = jnp.array(kernel, jnp.float32)

    def root_mean_square(**options):
        run = compiled(known=True, **options)
        estimates = [run(jax.random.key(seed), kernel) for seed in range(4)]
        inside = [float(e.lower) <= expected <= float(e.upper) for e in estimates]
        assert np.sum(inside) >= 3
        return np.sqrt(np.mean([(float(e.value) - expected) ** 2 for e in estimates]))

    both = root_mean_square()
    line_alone = root_mean_square(num_deflated=0, num_probes=32)
    assert both < 4e-3 * expected
    assert line_alone > 8 * both


@pytest.mark.parametrize("order", [0.5, 2.5])
def test_lanczos_of_other_orders(order):
    eigvals = SPECTRA["one over k"]
    kernel = jnp.array(matrix(eigvals), jnp.float32)
    expected = float64_entropy(eigvals, order)
    estimates = [compiled(order=order)(jax.random.key(seed), kernel) for seed in range(6)]
    inside = [float(e.lower) <= expected <= float(e.upper) for e in estimates]
    assert np.sum(inside) >= 4
    mean = np.mean([float(e.value) for e in estimates])
    stderr = np.sqrt(np.mean([float(e.stderr) ** 2 for e in estimates]))
    gap = max(float(e.upper - e.lower) for e in estimates)
    assert abs(mean - expected) < 4 * stderr / np.sqrt(6) + gap / 4


@pytest.mark.parametrize("scale", [1.0, 1e30, 1e-30])
@pytest.mark.parametrize("known", [True, False])
def test_operators_of_a_few_eigenvalues_are_exact(known, scale):
    """Where Lanczos runs out of directions, and at scales whose squares float32 cannot hold."""
    run = compiled(known=known)
    for eigvals in (np.ones(200), np.r_[np.ones(8), np.zeros(192)]):
        kernel = jnp.array(matrix(eigvals) * scale, jnp.float32)
        estimate = run(jax.random.key(0), kernel)
        expected = float64_entropy(eigvals)
        assert float(estimate.value) == pytest.approx(expected, abs=2e-5)
        assert float(estimate.lower) - 1e-5 <= expected <= float(estimate.upper) + 1e-5


@pytest.mark.parametrize("known", [True, False])
def test_operators_that_are_zero_indefinite_or_not_numbers(known):
    run = compiled(known=known)
    zeros = np.zeros((200, 200))
    indefinite = matrix(np.linspace(-0.1, 1, 200))
    of_zeros, *others = (
        run(jax.random.key(0), jnp.array(kernel, jnp.float32))
        for kernel in (zeros, indefinite, -np.eye(200), zeros + np.nan)
    )
    np.testing.assert_array_equal(of_zeros, 0)
    for estimate in others:
        assert np.all(np.isnan(estimate))


def test_the_product_is_traced_a_few_times_and_batches_change_nothing():
    eigvals = np.float32(SPECTRA["one over k"])
    calls = []

    def matvec(x):
        calls.append(x.shape)
        return eigvals * x

    def estimate(key, batch_size):
        trace = float(eigvals.sum())
        return spectra.lanczos_entropy(key, matvec, 200, trace=trace, batch_size=batch_size)

    for batch_size in (None, 5):
        calls.clear()
        jax.eval_shape(functools.partial(estimate, batch_size=batch_size), jax.random.key(0))
        assert len(calls) <= 8
    run = jax.jit(functools.partial(estimate, batch_size=5))
    first = run(jax.random.key(0))
    traced = len(calls)
    again = run(jax.random.key(1))
    assert len(calls) == traced
    assert float(first.value) != float(again.value)
    all_at_once = compiled(known=True)(jax.random.key(0), jnp.array(np.diag(eigvals)))
    np.testing.assert_allclose(first, all_at_once, atol=2e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": 0.0}, "`order` must be positive and finite, got 0.0"),
        ({"order": np.inf}, "`order` must be positive and finite, got inf"),
        ({"num_probes": 1}, "`num_probes` must be at least 2, got 1"),
        ({"num_deflated": 30}, "`num_deflated` must be from 0 to n - 1 = 29, got 30"),
        ({"num_deflated": -1}, "got -1"),
        ({"num_steps": 1}, "`num_steps` must be at least 2, got 1"),
        ({"batch_size": 0}, "`batch_size` must be at least 1, got 0"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        spectra.lanczos_entropy(jax.random.key(0), lambda x: x, 30, **options)


def test_a_product_of_the_wrong_shape():
    with pytest.raises(ValueError, match=r"`matvec` must map \(4,\) to itself, got \(1, 4\)"):
        jax.eval_shape(lambda x: spectra.lanczos(lambda x: x[None], x, num_steps=2), np.ones(4))
