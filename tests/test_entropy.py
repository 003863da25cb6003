"""Functions are compiled once for each shape here; step by step, every step would be."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from entropax import entropy

shannon = jax.jit(entropy.shannon)
softmax_entropy = jax.jit(entropy.softmax_entropy)
renyi = jax.jit(entropy.renyi, static_argnames="order")
probabilities = jax.jit(entropy.probabilities)
von_neumann = jax.jit(entropy.von_neumann)
effective_von_neumann = jax.jit(entropy.effective_von_neumann)
effective_rank = jax.jit(entropy.effective_rank)


@functools.cache
def gradient_of(function, **options):
    return jax.jit(jax.grad(functools.partial(function, **options)))


def row(*values):
    return np.array(values, np.float32)


logits_5 = st.lists(st.floats(-30, 30, width=32), min_size=5, max_size=5)
# Eigenvalues from 1e-6 to 1e6, and exact zeros.
eigvals_6 = st.lists(
    st.one_of(st.just(0.0), st.floats(-6, 6).map(lambda x: 10**x)), min_size=6, max_size=6
).filter(any)
ORDERS = [0, 0.3, 0.5, 0.999, 1, 1.001, 1.5, 2, 7, 60, math.inf]


@given(logits_5)
def test_softmax_entropy_is_scipy_entropy(logits):
    probs = np.exp(np.float64(logits) - np.max(logits))
    expected = scipy.stats.entropy(probs)
    # float32: five terms, each rounded to about 1e-7 of ln 5
    np.testing.assert_allclose(softmax_entropy(row(*logits)), expected, atol=2e-6)


@given(logits_5)
def test_both_entropies_agree(logits):
    logits = row(*logits)
    of_probs = shannon(scipy.special.softmax(logits))
    np.testing.assert_allclose(of_probs, softmax_entropy(logits), atol=2e-6, rtol=0)


@given(logits_5)
def test_gradient_is_the_closed_form(logits):
    r"""dH/dz_k = -p_k (ln p_k + H)."""
    log_probs = scipy.special.log_softmax(np.float64(logits))
    expected = -np.exp(log_probs) * (log_probs + scipy.stats.entropy(np.exp(log_probs)))
    gradient = gradient_of(entropy.softmax_entropy)(row(*logits))
    np.testing.assert_allclose(gradient, expected, atol=2e-6)


def test_bounds():
    assert float(softmax_entropy(row(0, 0, 0, 0, 0))) == pytest.approx(np.log(5), rel=1e-6)
    assert float(softmax_entropy(row(1e4, 0, 0, 0, -1e4))) == 0
    assert float(shannon(row(1, 0, 0, 0, 0))) == 0


def test_where_leaves_classes_out():
    logits = np.array([[1, 2, np.nan], [0, 0, 5]], np.float32)
    where = np.array([True, True, False])
    expected = scipy.stats.entropy(np.exp(np.float64(logits[:, :2])), axis=1)
    np.testing.assert_allclose(softmax_entropy(logits, where=where), expected, rtol=1e-6)
    probs = np.array([[0.2, 0.3, 0.5], [0.5, 0.5, np.nan]], np.float32)
    expected = -np.sum(probs[:, :2] * np.log(probs[:, :2]), axis=1)
    np.testing.assert_allclose(shannon(probs, where=where), expected, rtol=1e-6)


def test_nan_stays_nan():
    assert np.isnan(softmax_entropy(row(0, np.nan, 0, 0, 0)))


@pytest.mark.parametrize(
    ("function", "at"),
    [
        (entropy.shannon, row(0.5, 0.5, 0, 0, 0)),
        (entropy.softmax_entropy, row(1, 1, 1, 1, -np.inf)),
    ],
)
def test_gradient_is_finite_where_a_probability_is_zero(function, at):
    assert np.all(np.isfinite(gradient_of(function)(at)))


def float64_renyi(probs, order):
    """The definition, in float64 and by its limits."""
    probs = np.float64(probs)
    probs = probs[probs > 0] / probs.sum()
    if order == 0:
        return np.log(len(probs))
    if order == 1:
        return -np.sum(probs * np.log(probs))
    if order == math.inf:
        return -np.log(probs.max())
    return np.log(np.sum(probs**order)) / (1 - order)


@pytest.mark.parametrize("order", ORDERS)
@given(eigvals_6)
def test_renyi_is_its_definition(order, eigvals):
    probs = probabilities(row(*eigvals))
    # float32: six terms of size ln 6 or less. Entries that vanish in float32 count for order 0.
    expected = float64_renyi(probs, order)
    np.testing.assert_allclose(renyi(probs, order=order), expected, atol=3e-6, rtol=0)


@given(eigvals_6)
def test_renyi_never_increases_with_the_order(eigvals):
    probs = probabilities(row(*eigvals))
    entropies = np.array([renyi(probs, order=order) for order in ORDERS])
    assert np.all(np.diff(entropies) <= 3e-6)  # rounding, as above
    assert entropies.min() >= -1e-6
    assert entropies.max() <= np.log(6) + 1e-6


@pytest.mark.parametrize("order", ORDERS)
def test_renyi_closed_forms(order):
    equal, certain, nothing = row(*[1 / 6] * 6), row(0, 1, 0, 0, 0, 0), row(*[0] * 6)
    assert float(renyi(equal, order=order)) == pytest.approx(np.log(6), rel=1e-6)
    assert float(renyi(certain, order=order)) == pytest.approx(0, abs=1e-7)
    assert float(renyi(nothing, order=order)) == 0


@pytest.mark.parametrize("order", [0, 0.5, 1, 1.2, 2, math.inf])
def test_renyi_where_nan_and_gradient(order):
    probs = row(0.2, 0.8, 0, np.nan, np.nan, np.nan)
    where = np.arange(6) < 3
    expected = float64_renyi(probs[:2], order)
    np.testing.assert_allclose(renyi(probs, order=order, where=where), expected, rtol=1e-6)
    assert np.isnan(renyi(probs, order=order))
    assert np.isnan(renyi(row(1.2, -0.2, 0, 0, 0, 0), order=order))
    gradient = gradient_of(entropy.renyi, order=order)(row(0, 0.4, 0.6, 0, 0, 0))
    assert np.all(np.isfinite(gradient))
    assert np.all(gradient[np.array([0, 3, 4, 5])] == 0)


def test_renyi_of_many_small_probabilities_and_a_high_order():
    """`p ** order` is 1e-150 here: it has to be taken relative to the largest."""
    probs = np.full(1000, 1e-3, np.float32)
    assert float(renyi(probs, order=50)) == pytest.approx(np.log(1000), rel=1e-6)


@pytest.mark.parametrize("order", [-1, -1e-9, math.nan])
def test_renyi_orders_out_of_range(order):
    with pytest.raises(ValueError, match=f"from 0 to infinity, got {order}"):
        renyi(row(0.5, 0.5), order=order)


@given(eigvals_6, st.floats(-25, 25))
def test_von_neumann_is_shannon_of_any_scale(eigvals, exponent):
    expected = float64_renyi(np.array(eigvals), 1)
    scaled = row(*np.array(eigvals) * 10**exponent)
    np.testing.assert_allclose(von_neumann(scaled), expected, atol=2e-6, rtol=0)
    np.testing.assert_allclose(
        effective_von_neumann(scaled), expected / np.log(6), atol=1e-6, rtol=0
    )
    rank = float(effective_rank(scaled))
    np.testing.assert_allclose(rank, np.exp(expected), rtol=3e-6)
    assert 1 - 1e-6 <= rank <= np.count_nonzero(eigvals) * (1 + 3e-6)


def test_two_levels():
    """A qubit with energies apart by `gap` at temperature 1: S = ln Z + mean energy."""
    gap = 0.7
    z = 1 + np.exp(-gap)
    expected = np.log(z) + gap * np.exp(-gap) / z
    eigvals = row(np.exp(-gap), 1, 0, 0, 0, 0)
    assert float(von_neumann(eigvals)) == pytest.approx(expected, rel=1e-6)


def test_sums_that_overflow_and_numbers_near_the_smallest():
    for scale in (3e38, 2e-38):
        assert float(von_neumann(row(*[scale] * 6))) == pytest.approx(np.log(6), rel=1e-6)


def test_rounding_is_zero_and_what_is_not_rounding_is_nan():
    rounding = row(-9e-5, 1, 1, 0, 0, 0)
    assert float(von_neumann(rounding)) == pytest.approx(np.log(2), rel=1e-6)
    for first, second in ((-2e-4, 1), (-1, 0), (np.nan, 1), (np.inf, 1)):
        for function in (von_neumann, effective_von_neumann, effective_rank):
            assert np.isnan(function(jnp.asarray(row(first, second, second, 0, 0, 0))))


def test_nothing_one_eigenvalue_and_none_that_count():
    for function in (von_neumann, effective_von_neumann, effective_rank):
        assert float(function(row(*[0] * 6))) == 0
        assert float(function(row(*[1] * 6), where=np.zeros(6, bool))) == 0
    assert float(effective_von_neumann(row(5))) == 0
    assert float(effective_rank(row(5))) == 1


@pytest.mark.parametrize("function", [von_neumann, effective_von_neumann, effective_rank])
def test_padded_eigenvalues_change_nothing(function):
    eigvals = np.array([[1, 2, 5], [0, 4, 4]], np.float32)
    expected = function(eigvals)
    padded = np.pad(eigvals, ((0, 0), (0, 3)), constant_values=np.nan)
    where = np.arange(6) < 3
    np.testing.assert_allclose(function(padded, where=where), expected, rtol=1e-6)
    each = [function(row, where=where) for row in padded]
    np.testing.assert_allclose(each, expected, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(jax.vmap(function))(eigvals), expected, rtol=1e-6)


def test_von_neumann_gradient_is_the_closed_form():
    r"""dS/d lambda_k = -(ln p_k + S) / sum lambda, and 0 where the eigenvalue is 0."""
    eigvals = row(0, -1e-9, 0.5, 2, 1.5)
    probs = np.float64(eigvals[2:]) / 4
    expected = -(np.log(probs) + scipy.stats.entropy(probs)) / 4
    gradient = gradient_of(entropy.von_neumann)(eigvals)
    np.testing.assert_array_equal(gradient[:2], 0)
    np.testing.assert_allclose(gradient[2:], expected, atol=1e-6)
    np.testing.assert_array_equal(gradient_of(entropy.von_neumann)(0 * eigvals), 0)
    assert np.all(np.isfinite(gradient_of(entropy.effective_rank)(eigvals)))


def test_numpy_eigenvalues_keep_their_precision():
    probs = entropy.probabilities(np.array([1e-12, 1.0, 3.0]))
    assert isinstance(probs, np.ndarray)
    np.testing.assert_allclose(probs, [2.5e-13, 0.25, 0.75], rtol=1e-11)
    of_host = entropy.von_neumann(np.array([0.0, 3.0, 3.0]))
    assert float(of_host) == pytest.approx(np.log(2), rel=1e-6)
