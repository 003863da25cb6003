import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from entropax.estimation.threshold import Threshold, fit_threshold, share_above

FIT = jax.jit(lambda scores, correct, where: fit_threshold(scores, correct, where=where))


@hypothesis.given(st.integers(0, 10_000))
def test_the_labelled_set_gets_its_accuracy(seed):
    """With few different scores, so that ties are everywhere, and with padding."""
    rng = np.random.default_rng(seed)
    scores = jnp.asarray(rng.integers(0, rng.choice([1, 2, 5, 100]), 12), jnp.float32)
    correct = jnp.asarray(rng.random(12) < rng.choice([0, 0.3, 0.8, 1]), jnp.float32)
    where = jnp.asarray(rng.random(12) < 0.8).at[0].set(True)
    found = FIT(scores, correct, where)
    estimate = jnp.mean(share_above(found, scores), where=where)
    np.testing.assert_allclose(estimate, jnp.mean(correct, where=where), atol=1e-6)
    assert 0 <= found.share <= 1
    both = np.unique(np.asarray(correct)[np.asarray(where)])
    assert bool(found.identified) == (len(both) == 2)


def test_without_ties_it_is_the_score_above_the_errors():
    scores = jnp.array([0.5, 0.1, 0.9, 0.3])
    for errors in range(4):
        correct = jnp.where(jnp.arange(4) < errors, 0.0, 1.0)
        found = fit_threshold(scores, correct)
        assert float(found.threshold) == float(jnp.sort(scores)[errors])
        assert float(found.share) == 1


def test_all_wrong():
    found = fit_threshold(jnp.array([0.5, 0.1]), jnp.zeros(2))
    assert np.isposinf(found.threshold)
    np.testing.assert_array_equal(share_above(found, jnp.array([0.0, 9.0, jnp.inf])), 0)
    assert not found.identified


@pytest.mark.parametrize(
    ("scores", "correct"), [([0.5, np.nan], [1.0, 0.0]), ([0.5, 0.1], [np.nan, 0.0])]
)
def test_invalid_numbers_give_nan(scores, correct):
    found = fit_threshold(jnp.array(scores), jnp.array(correct))
    assert np.isnan(found.threshold)
    assert np.isnan(share_above(found, jnp.array([0.5]))).all()
    # but not where they do not count
    count = ~np.isnan(scores) & ~np.isnan(correct)
    assert not np.isnan(
        fit_threshold(jnp.array(scores), jnp.array(correct), where=jnp.array(count)).threshold
    )


def test_a_score_that_is_nan_counts_as_nan():
    at = Threshold(jnp.array(0.5), jnp.array(1.0), jnp.array(True))
    np.testing.assert_array_equal(share_above(at, jnp.array([jnp.nan, 0.6])), [np.nan, 1])
