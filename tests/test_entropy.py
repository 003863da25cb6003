import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from entropax.entropy import (
    effective_rank,
    effective_von_neumann,
    probabilities,
    renyi,
    shannon,
    softmax_entropy,
    von_neumann,
)

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
    np.testing.assert_allclose(softmax_entropy(jnp.float32(jnp.array(logits))), expected, atol=2e-6)


@given(logits_5)
def test_both_entropies_agree(logits):
    logits = jnp.array(logits, jnp.float32)
    np.testing.assert_allclose(
        shannon(jax.nn.softmax(logits)), softmax_entropy(logits), atol=2e-6, rtol=0
    )


@given(logits_5)
def test_gradient_is_the_closed_form(logits):
    r"""dH/dz_k = -p_k (ln p_k + H)."""
    logits = jnp.array(logits, jnp.float32)
    log_probs = jax.nn.log_softmax(logits)
    expected = -jnp.exp(log_probs) * (log_probs + softmax_entropy(logits))
    np.testing.assert_allclose(jax.grad(softmax_entropy)(logits), expected, atol=2e-6)


def test_bounds():
    assert float(softmax_entropy(jnp.zeros(10))) == pytest.approx(np.log(10), rel=1e-6)
    assert float(softmax_entropy(jnp.array([1e4, 0.0, -1e4]))) == 0
    assert float(shannon(jnp.array([1.0, 0.0, 0.0]))) == 0


def test_where_leaves_classes_out():
    logits = jnp.array([[1.0, 2.0, jnp.nan], [0.0, 0.0, 5.0]])
    where = jnp.array([True, True, False])
    expected = softmax_entropy(logits[:, :2])
    np.testing.assert_allclose(softmax_entropy(logits, where=where), expected, rtol=1e-6)
    probs = jnp.array([[0.2, 0.3, 0.5]])
    np.testing.assert_allclose(shannon(probs, where=where), shannon(probs[:, :2]), rtol=1e-6)


def test_nan_stays_nan():
    assert jnp.isnan(softmax_entropy(jnp.array([0.0, jnp.nan])))


@pytest.mark.parametrize(
    ("function", "at"), [(shannon, [0.5, 0.5, 0.0]), (softmax_entropy, [1.0, 1.0, -jnp.inf])]
)
def test_gradient_is_finite_where_a_probability_is_zero(function, at):
    assert jnp.all(jnp.isfinite(jax.grad(function)(jnp.array(at))))


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
    probs = probabilities(jnp.array(eigvals, jnp.float32))
    # float32: six terms of size ln 6 or less. Entries that vanish in float32 count for order 0.
    expected = float64_renyi(probs, order)
    np.testing.assert_allclose(renyi(probs, order=order), expected, atol=3e-6, rtol=0)


@given(eigvals_6)
def test_renyi_never_increases_with_the_order(eigvals):
    probs = probabilities(jnp.array(eigvals, jnp.float32))
    entropies = np.array([renyi(probs, order=order) for order in ORDERS])
    assert np.all(np.diff(entropies) <= 3e-6)  # rounding, as above
    assert entropies.min() >= -1e-6
    assert entropies.max() <= np.log(6) + 1e-6


@pytest.mark.parametrize("order", ORDERS)
def test_renyi_closed_forms(order):
    assert float(renyi(jnp.full(8, 1 / 8), order=order)) == pytest.approx(np.log(8), rel=1e-6)
    assert float(renyi(jnp.array([0.0, 1.0, 0.0]), order=order)) == pytest.approx(0, abs=1e-7)
    assert float(renyi(jnp.zeros(3), order=order)) == 0


@pytest.mark.parametrize("order", [0, 0.5, 1, 1.2, 2, math.inf])
def test_renyi_where_nan_and_gradient(order):
    probs = jnp.array([0.2, 0.8, jnp.nan])
    where = jnp.array([True, True, False])
    expected = renyi(probs[:2], order=order)
    np.testing.assert_allclose(renyi(probs, order=order, where=where), expected, rtol=1e-6)
    assert jnp.isnan(renyi(probs, order=order))
    assert jnp.isnan(renyi(jnp.array([1.2, -0.2]), order=order))
    gradient = jax.jit(jax.grad(lambda p: renyi(p, order=order)))(jnp.array([0.0, 0.4, 0.6]))
    assert jnp.all(jnp.isfinite(gradient))
    assert gradient[0] == 0


def test_renyi_of_many_small_probabilities_and_a_high_order():
    """`p ** order` is 1e-150 here: it has to be taken relative to the largest."""
    probs = jnp.full(1000, 1e-3)
    assert float(renyi(probs, order=50)) == pytest.approx(np.log(1000), rel=1e-6)


@pytest.mark.parametrize("order", [-1, -1e-9, math.nan])
def test_renyi_orders_out_of_range(order):
    with pytest.raises(ValueError, match=f"from 0 to infinity, got {order}"):
        renyi(jnp.ones(2) / 2, order=order)


@given(eigvals_6, st.floats(-25, 25))
def test_von_neumann_is_shannon_of_any_scale(eigvals, exponent):
    expected = float64_renyi(np.array(eigvals), 1)
    scaled = jnp.array(np.array(eigvals) * 10**exponent, jnp.float32)
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
    assert float(von_neumann(jnp.array([np.exp(-gap), 1.0]))) == pytest.approx(expected, rel=1e-6)


def test_sums_that_overflow_and_numbers_near_the_smallest():
    for scale in (3e38, 2e-38):
        assert float(von_neumann(jnp.full(4, scale))) == pytest.approx(np.log(4), rel=1e-6)


def test_rounding_is_zero_and_what_is_not_rounding_is_nan():
    assert float(von_neumann(jnp.array([-9e-5, 1.0, 1.0]))) == pytest.approx(np.log(2), rel=1e-6)
    for eigvals in ([-2e-4, 1.0, 1.0], [-1.0, 0.0], [jnp.nan, 1.0], [jnp.inf, 1.0]):
        for function in (von_neumann, effective_von_neumann, effective_rank):
            assert jnp.isnan(function(jnp.array(eigvals)))


def test_nothing_one_eigenvalue_and_none_that_count():
    for function in (von_neumann, effective_von_neumann, effective_rank):
        assert float(function(jnp.zeros(3))) == 0
        assert float(function(jnp.ones(3), where=jnp.zeros(3, bool))) == 0
    assert float(effective_von_neumann(jnp.array([5.0]))) == 0
    assert float(effective_rank(jnp.array([5.0]))) == 1


@pytest.mark.parametrize("function", [von_neumann, effective_von_neumann, effective_rank])
def test_padded_eigenvalues_change_nothing(function):
    eigvals = jnp.array([[1.0, 2.0, 5.0], [0.0, 4.0, 4.0]])
    padded = jnp.pad(eigvals, ((0, 0), (0, 2)), constant_values=jnp.nan)
    where = jnp.arange(5) < 3
    np.testing.assert_allclose(function(padded, where=where), function(eigvals), rtol=1e-6)
    each = jax.jit(jax.vmap(function))(eigvals)
    np.testing.assert_allclose(each, function(eigvals), rtol=1e-6)


def test_von_neumann_gradient_is_the_closed_form():
    r"""dS/d lambda_k = -(ln p_k + S) / sum lambda, and 0 where the eigenvalue is 0."""
    eigvals = jnp.array([0.0, -1e-9, 0.5, 2.0, 1.5])
    probs = eigvals[2:] / 4
    expected = -(jnp.log(probs) + shannon(probs)) / 4
    gradient = jax.grad(von_neumann)(eigvals)
    np.testing.assert_array_equal(gradient[:2], 0)
    np.testing.assert_allclose(gradient[2:], expected, atol=1e-6)
    assert jnp.all(jnp.isfinite(jax.grad(effective_rank)(eigvals)))
    np.testing.assert_array_equal(jax.grad(von_neumann)(jnp.zeros(3)), 0)


def test_numpy_eigenvalues_keep_their_precision():
    probs = probabilities(np.array([1e-12, 1.0, 3.0]))
    assert isinstance(probs, np.ndarray)
    np.testing.assert_allclose(probs, [2.5e-13, 0.25, 0.75], rtol=1e-11)
    assert float(von_neumann(np.array([0.0, 3.0, 3.0]))) == pytest.approx(np.log(2), rel=1e-6)
