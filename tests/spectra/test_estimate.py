"""Traces of functions of an operator, and what is made of them, from quadrature rules."""

import functools
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from spectra.matrices import matrix

from entropax import spectra

N = 200


def diffusion_entropy(sums, t=1.0):
    return jnp.log1p(sums[0]) - t * sums[1] / (1 + sums[0])


def exact_diffusion_entropy(eigvals, t):
    p = np.r_[1, eigvals[eigvals > 0]] ** t
    p = p / p.sum()
    return -np.sum(p * np.log(p))


@functools.cache
def rules_of(keys, **options):
    """The rules of a stack of keys, in one program for all operators."""

    @jax.jit
    def rules(operator):
        def one(key):
            def matvec(x):
                return jnp.matmul(operator, x, precision="highest")

            return spectra.quadrature(key, matvec, N, **options)

        return jax.lax.map(one, jax.random.split(jax.random.key(0), keys))

    return lambda operator: rules(jnp.array(operator, jnp.float32))


@functools.cache
def estimates_of(num_moments):
    @jax.jit
    def estimates(rules, t, moments):
        def one(rules):
            return spectra.spectral_estimate(
                rules,
                [lambda x: x**t, lambda x: x**t * jnp.log(x)],
                functools.partial(diffusion_entropy, t=t),
                moments=moments[:num_moments],
            )

        return jax.vmap(one)(rules)

    return lambda rules, t, eigvals: jax.tree.map(
        lambda x: np.asarray(x, np.float64),
        estimates(rules, t, jnp.array([np.sum(eigvals), np.sum(eigvals**2)], jnp.float32)),
    )


def diffusion_residual(features, sigma):
    """The diffusion operator without its leading eigenvector, as its definition says."""
    distances = np.sum((features[:, None] - features) ** 2, axis=-1)
    kernel = np.exp(-distances / (2 * sigma**2))
    degrees = np.sum(kernel, axis=1)
    leading = np.sqrt(degrees / np.sum(degrees))
    return kernel / np.sqrt(degrees[:, None] * degrees) - leading[:, None] * leading


@pytest.mark.parametrize("t", [1.0, 1.5, 2.0])
@pytest.mark.parametrize("sigma", [1.0, 4.0])
def test_diffusion_entropy_of_a_gaussian_kernel(sigma, t):
    rng = np.random.default_rng(0)
    features = 2 * rng.normal(size=(8, 6))[rng.integers(8, size=N)] + rng.normal(size=(N, 6))
    residual = diffusion_residual(features, sigma)
    eigvals = np.linalg.eigvalsh(residual)
    expected = exact_diffusion_entropy(eigvals, t)
    found = estimates_of(2)(rules_of(16, num_steps=12)(residual), t, eigvals)
    errors = found.value - expected
    # 0.004 nats at the narrow kernel for t = 1, whose entropy is 3.5; less for the others.
    assert np.sqrt(np.mean(errors**2)) < 2e-3 * expected + 1e-6
    inside = (found.lower <= expected) & (expected <= found.upper)
    assert np.sum(inside) >= 12  # of 16 at 95 %: fewer has a probability of 1e-3
    assert np.all((found.lower <= found.value) & (found.value <= found.upper))
    gap = np.max(found.upper - found.lower)
    stderr = np.sqrt(np.mean(found.stderr**2))
    assert np.abs(np.mean(errors)) < 4 * stderr / 4 + gap / 4


@pytest.mark.parametrize("scale", [1e-9, 1e-3, 1.0])
def test_digits_are_kept_at_small_scales(scale):
    """Features that have nearly collapsed: the entropy is tiny, its relative error is not."""
    eigvals = 0.9 * scale / np.arange(1.0, N + 1)
    found = estimates_of(2)(rules_of(16, num_steps=12)(matrix(eigvals)), 1.0, eigvals)
    expected = np.log1p(np.sum(eigvals)) - np.sum(eigvals * np.log(eigvals)) / (1 + eigvals.sum())
    np.testing.assert_allclose(found.value, expected, rtol=2e-3)
    inside = (found.lower <= expected) & (expected <= found.upper)
    assert np.sum(inside) >= 12


def test_the_value_in_the_bracket_goes_by_the_last_step():
    """Half of the eigenvalues are 0, or none is near it: the truth is at one end, or the other."""
    rng = np.random.default_rng(0)
    for zeros, side in ((0, "gauss"), (N // 2, "radau")):
        spread = np.linalg.svd(rng.normal(size=(N - zeros, 2 * N)), compute_uv=False) ** 2
        if zeros:
            spread = np.linalg.svd(rng.normal(size=(N - zeros, N)), compute_uv=False) ** 2
        eigvals = 0.9 * np.r_[spread / spread.max(), np.zeros(zeros)]
        rules = rules_of(16, num_steps=6)(matrix(eigvals))
        expected = np.sum(eigvals * np.log(np.where(eigvals > 0, eigvals, 1)))

        @jax.jit
        def estimates(rules, moments):
            def one(rules):
                functions = [lambda x: x * jnp.log(x)]
                return spectra.spectral_estimate(
                    rules, functions, lambda sums: sums[0], moments=moments
                )

            return jax.vmap(one)(rules)

        moments = jnp.array([np.sum(eigvals), np.sum(eigvals**2)], jnp.float32)
        ends = {
            name: rules._replace(
                **{
                    f"{rule}_{part}": getattr(rules, f"{name}_{part}")
                    for rule in ("gauss", "radau")
                    for part in ("nodes", "weights")
                }
            )
            for name in ("gauss", "radau")
        }
        mean = {name: np.mean(estimates(end, moments).value) for name, end in ends.items()}
        gap = abs(mean["gauss"] - mean["radau"])
        found = np.mean(estimates(rules, moments).value)
        # A fixed share of a quarter is too far from either end.
        assert abs(found - mean[side]) < 0.2 * gap
        noise = np.sqrt(np.mean(np.square(estimates(rules, moments).stderr)) / 16)
        assert abs(found - expected) < 0.2 * gap + 4 * noise


def test_known_traces_cut_the_error():
    eigvals = 0.5 + 0.4 * np.cos(np.arange(N))
    rules = rules_of(16, num_steps=12)(matrix(eigvals))
    expected = exact_diffusion_entropy(eigvals, 1.0)
    errors = [
        np.sqrt(np.mean((estimates_of(known)(rules, 1.0, eigvals).value - expected) ** 2))
        for known in (0, 2)
    ]
    assert errors[0] > 5 * errors[1]


def test_sums_of_known_moments_are_exact():
    eigvals = np.random.default_rng(0).exponential(size=N)
    rules = jax.tree.map(lambda x: x[0], rules_of(16, num_steps=12)(matrix(eigvals)))
    traces = [float(np.sum(eigvals**power)) for power in (1, 2, 3)]

    def cubic(x):
        return x - 2 * x**2 + 0.5 * x**3

    @functools.partial(jax.jit, static_argnames="known")
    def estimate(rules, known):
        return spectra.spectral_estimate(rules, [cubic], jnp.sum, moments=traces[:known])

    found, without = estimate(rules, 3), estimate(rules, 2)
    expected = np.sum(cubic(eigvals))
    assert float(found.value) == pytest.approx(expected, abs=1e-4 * np.sum(eigvals**3))
    assert float(found.stderr) < 1e-3 * float(without.stderr)


def test_a_trace_that_is_lost_in_rounding_does_no_harm():
    """Of the trace of the square nothing is left without the first eigenvalue."""
    eigvals = np.r_[1.0, 1e-6 * (1 + np.cos(np.arange(N - 1)))]
    rules = rules_of(16, num_steps=12)(matrix(eigvals))
    expected = exact_diffusion_entropy(eigvals, 1.0)
    found = estimates_of(2)(rules, 1.0, eigvals)
    # The float32 matrix has eigenvalues of its own, off by 1e-7 of the first each.
    single = np.linalg.eigvalsh(np.float64(np.float32(matrix(eigvals))))
    rounding = abs(exact_diffusion_entropy(single, 1.0) - expected)
    assert np.max(np.abs(found.value - expected)) < 2e-4 + 3 * rounding


def test_rules_have_the_traces_of_an_operator_of_few_directions():
    eigvals = np.r_[np.arange(1.0, 9), np.zeros(N - 8)]
    rules = jax.tree.map(lambda x: np.asarray(x[0]), rules_of(16, num_steps=12)(matrix(eigvals)))
    assert bool(rules.definite)
    assert rules.n == N
    assert rules.gauss_nodes.shape == rules.radau_weights.shape == (32, 12)
    np.testing.assert_allclose(rules.gauss_weights.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(rules.radau_weights.sum(1), 1, rtol=1e-5)
    assert np.all(np.min(rules.radau_nodes, axis=1) < 1e-6)
    assert rules.shorter_nodes.shape == rules.shorter_weights.shape == (2, 32, 11)
    np.testing.assert_allclose(rules.shorter_weights.sum(2), 1, rtol=1e-5)
    assert np.all(np.min(rules.shorter_nodes[1], axis=1) < 1e-6)
    for power in (1, 2, 3):
        for name in ("gauss", "radau"):
            nodes, weights = getattr(rules, f"{name}_nodes"), getattr(rules, f"{name}_weights")
            forms = np.sum(weights * nodes**power, axis=1)
            assert np.sum(forms[:16]) == pytest.approx(np.sum(eigvals**power), rel=1e-5)
            assert np.max(forms[16:]) < 1e-5  # nothing is left for the probes


def test_each_step_is_one_product_for_all_rows():
    eigvals = jnp.linspace(0, 1, 40)
    shapes = []

    def product(x):
        shapes.append(x.shape)
        return np.asarray(x) * np.asarray(eigvals)

    def matvec(x):
        return jax.pure_callback(product, x, x, vmap_method="broadcast_all")

    options = {"num_probes": 3, "num_deflated": 2, "num_steps": 6}
    run = jax.jit(functools.partial(spectra.quadrature, matvec=matvec, n=40, **options))
    jax.block_until_ready(run(jax.random.key(0)))
    assert shapes == [(2, 40)] * 2 + [(5, 40)] * 6


@functools.cache
def diffusion_rules():
    return rules_of(2, num_probes=4, num_deflated=3, num_steps=4)


def test_operators_that_are_zero_indefinite_or_not_numbers():
    cases = [np.zeros((N, N)), matrix(np.linspace(-0.1, 1, N)), -np.eye(N), np.full((N, N), np.nan)]
    of_zero, *others = (
        estimates_of(2)(diffusion_rules()(operator), 1.0, np.zeros(N)) for operator in cases
    )
    np.testing.assert_array_equal(of_zero, 0)
    for found in others:
        assert np.all(np.isnan(found))


def test_an_operator_of_equal_eigenvalues_is_exact():
    """Lanczos runs out of directions after one step, and a fit has one point."""
    found = estimates_of(2)(diffusion_rules()(np.eye(N) / 4), 1.5, np.full(N, 0.25))
    expected = exact_diffusion_entropy(np.full(N, 0.25), 1.5)
    np.testing.assert_allclose(found.value, expected, rtol=1e-5)
    assert np.all((found.lower - 1e-5 <= expected) & (expected <= found.upper + 1e-5))


def test_the_error_of_a_combination_follows_from_its_derivatives():
    """Twice a sum has twice its error, its logarithm has the relative one; the ends go along."""
    rules = jax.tree.map(lambda x: x[0], diffusion_rules()(matrix(1 / np.arange(1.0, N + 1))))

    combinations = {
        "plain": lambda sums: sums[0],
        "doubled": lambda sums: sums[0] + sums[1],
        "logarithm": lambda sums: jnp.log(sums[0]),
        "turned": lambda sums: -sums[0],
        "cancelled": lambda sums: sums[0] - sums[1],
    }

    @jax.jit
    def estimates(rules):
        functions = (jnp.sqrt, jnp.sqrt)
        return {
            name: jnp.stack(spectra.spectral_estimate(rules, functions, combine))
            for name, combine in combinations.items()
        }

    found = {name: np.asarray(estimate) for name, estimate in estimates(rules).items()}
    value, stderr, lower, upper = found["plain"]
    np.testing.assert_allclose(found["doubled"], 2 * found["plain"], rtol=1e-5)
    np.testing.assert_allclose(
        np.exp(found["logarithm"][[0, 2, 3]]), [value, lower, upper], rtol=1e-5
    )
    assert found["logarithm"][1] == pytest.approx(stderr / value, rel=1e-4)
    np.testing.assert_allclose(found["turned"], [-value, stderr, -upper, -lower], rtol=1e-5)
    np.testing.assert_array_equal(found["cancelled"][:2], 0)


def test_rules_can_be_stored():
    eigvals = 1 / np.arange(1.0, N + 1)
    rules = diffusion_rules()(matrix(eigvals))
    file = io.BytesIO()
    np.savez(file, **rules._asdict())
    file.seek(0)
    loaded = spectra.Quadrature(**np.load(file, allow_pickle=False))
    here, there = (estimates_of(2)(stored, 1.0, eigvals) for stored in (rules, loaded))
    np.testing.assert_array_equal(here, there)


def test_more_moments_than_the_rules_know():
    rules = jax.tree.map(lambda x: x[0], diffusion_rules()(np.eye(N)))
    with pytest.raises(ValueError, match=r"Rules of 4 steps are exact for 6 `moments`, got 7"):
        spectra.spectral_estimate(rules, [jnp.sqrt], jnp.sum, moments=[1.0] * 7)


def test_one_row():
    rules = spectra.quadrature(jax.random.key(0), lambda x: 3 * x, 1, num_deflated=0, num_probes=2)
    found = spectra.spectral_estimate(rules, [jnp.sqrt], lambda sums: sums[0])
    assert float(found.lower) <= float(found.value) <= float(found.upper)
    assert float(found.upper) == pytest.approx(np.sqrt(3), rel=1e-5)
