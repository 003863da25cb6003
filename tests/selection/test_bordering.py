"""Entropies without eigenvalues against entropies from eigenvalues in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entropax import selection
from entropax.selection.bordering import bordering_gain, noise_levels

BORDERED = jax.jit(selection.bordered_entropies)
GAIN = jax.jit(bordering_gain)


def entropy64(kernel):
    eigvals = np.maximum(np.linalg.eigvalsh(np.asarray(kernel, np.float64)), 0)
    probs = eigvals[eigvals > 0] / eigvals.sum()
    return float(-np.sum(probs * np.log(probs)))


def brute_force(kernel, k):
    """Entropies of the first `k` rows with each of the others."""
    sets = [[*range(k), j] for j in range(k, len(kernel))]
    return [entropy64(kernel[np.ix_(s, s)]) for s in sets]


def bordered(kernel, k):
    kernel = np.float32(kernel)
    return BORDERED(kernel[:k, :k], kernel[:k, k:], np.diagonal(kernel)[k:])


def test_x_ln_x_at_every_scale():
    """A border of zeros adds x ln x of its corner; an increment of 0 is exact."""
    x = np.float32(np.r_[0, np.geomspace(1e-12, 1, 200)])
    residuals = np.broadcast_to(x, (len(noise_levels(jnp.array(1.0))), len(x)))
    x64 = np.asarray(x, np.float64)
    expected = x64 * np.log(np.where(x64 > 0, x64, 1))
    # The quadrature is right to 1e-7; sums over 31 levels in float32 add as much.
    gain = GAIN(residuals, x, np.ones((), np.float32))
    np.testing.assert_allclose(gain, expected, atol=3e-7, rtol=0)


@given(
    seed=st.integers(0, 2**32 - 1),
    rank=st.integers(1, 8),
    decay=st.floats(0, 4),
    exponent=st.integers(-25, 25),
)
def test_any_spectrum_duplicates_and_zeros(seed, rank, decay, exponent):
    """Ranks below the number of members repeat the eigenvalue 0; equal members repeat others."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(14, rank)) * 10.0 ** (-decay * np.arange(rank) / rank)
    x[1] = x[0]  # a member twice
    x[6] = x[0]  # a candidate that is in the set
    x[7] = 1e-3 * x[2]  # and one that is nearly 0
    x[8] = 0
    kernel = ((x @ x.T) * 10.0**exponent).astype(np.float32)
    # Both the entries and the eigenvectors are rounded to 6e-8 of the largest.
    np.testing.assert_allclose(bordered(kernel, 6), brute_force(kernel, 6), atol=2e-6, rtol=0)


@given(
    eigvals=st.lists(st.sampled_from([0.0, 1e-6, 0.5, 0.5, 1.0, 3.0]), min_size=6, max_size=6),
    corner=st.sampled_from([0.0, 1e-6, 0.5, 1.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_known_spectra_and_zero_borders(eigvals, corner, seed):
    """A border of zeros adds its corner to the eigenvalues, repeated ones included."""
    basis, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(6, 6)))
    kernel = np.zeros((14, 14))
    kernel[:6, :6] = (basis * np.array(eigvals)) @ basis.T
    kernel[6, 6] = corner
    expected = entropy64(np.diag([*eigvals, corner])) if any([*eigvals, corner]) else 0
    # An eigenvalue of 1e-6 is known to 2e-7: entropies of such eigenvalues alone are rough.
    np.testing.assert_allclose(bordered(kernel, 6)[0], expected, atol=2e-6, rtol=0)


def test_many_members():
    """At 200 members of rank 100 the comparison of candidates is as good as at 6."""
    x = np.random.default_rng(0).normal(size=(230, 100)) * 10.0 ** (-np.arange(100) / 20)
    kernel = (x @ x.T).astype(np.float32)
    error = np.asarray(bordered(kernel, 200)) - brute_force(kernel, 200)
    assert np.max(np.abs(error)) < 5e-6
    assert np.ptp(error) < 1e-6


def test_members_that_do_not_count():
    x = np.random.default_rng(0).normal(size=(14, 4))
    kernel = np.float32(x @ x.T)
    kernel[2] = kernel[:, 2] = np.nan
    where = np.array([True, True, False, True, True, True])
    kept = [0, 1, 3, 4, 5, *range(6, 14)]
    entropies = BORDERED(kernel[:6, :6], kernel[:6, 6:], np.diagonal(kernel)[6:], where=where)
    expected = brute_force(kernel[np.ix_(kept, kept)], 5)
    np.testing.assert_allclose(entropies, expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize("corner", [0.0, 2.0])
def test_an_empty_set(corner):
    kernel = np.zeros((14, 14))
    kernel[6:, 6:] = corner * np.eye(8)
    np.testing.assert_allclose(bordered(kernel, 6), 0, atol=1e-6)
