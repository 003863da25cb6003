import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from entropax.estimation.score_line import Score, score_line
from entropax.uncertainty import mean

KEY = jax.random.key(0)
# The mean of the first logit, so that scores can be chosen.
FIRST = score_line(Score(lambda logits: logits[:, 0], mean))


def splits(scores, accuracies, n=100):
    """Splits of such scores, of which the first so many examples are right."""
    logits = jnp.stack([jnp.asarray(scores), jnp.asarray(scores) - 1], axis=-1)
    logits = jnp.broadcast_to(logits[:, None], (len(scores), n, 2))
    labels = jnp.where(jnp.arange(n) < n * jnp.asarray(accuracies)[:, None] - 0.5, 0, 1)
    return logits, labels


def at(score, n=50):
    return jnp.broadcast_to(jnp.array([score, 0.0]), (n, 2))


SCORES = np.array([0.2, 0.35, 0.5, 0.6, 0.8], np.float32)
ACCURACIES = np.array([0.31, 0.36, 0.58, 0.6, 0.87], np.float32)


def test_least_squares():
    fitted = FIRST.fit(*splits(SCORES, ACCURACIES))
    expected = scipy.stats.linregress(SCORES, ACCURACIES)
    assert float(fitted.slope) == pytest.approx(expected.slope, abs=1e-5)
    found = FIRST.estimate(KEY, fitted, at(0.7))
    assert float(found.value) == pytest.approx(expected.intercept + 0.7 * expected.slope, abs=1e-5)


@pytest.mark.parametrize("x", [0.3, 0.7])
def test_interval_is_the_one_of_a_prediction(x):
    """Examples that are all alike add nothing to it, but for those that were not seen."""
    fitted = FIRST.fit(*splits(SCORES, ACCURACIES))
    found = FIRST.estimate(KEY, fitted, at(x, n=1000), level=0.8)
    line = scipy.stats.linregress(SCORES, ACCURACIES)
    missed = ACCURACIES - line.intercept - line.slope * SCORES
    spread = np.sqrt(np.sum(missed**2) / 3)
    distance = (x - SCORES.mean()) ** 2 / np.sum((SCORES - SCORES.mean()) ** 2)
    half = scipy.stats.t.ppf(0.9, 3) * spread * np.sqrt(1 + 1 / 5 + distance)
    assert float(found.upper - found.value) == pytest.approx(half, abs=1e-5)
    assert float(found.value - found.lower) == pytest.approx(half, abs=1e-5)


def test_beyond_the_splits_is_flagged_and_clipped():
    fitted = FIRST.fit(*splits(SCORES, ACCURACIES))
    flags = [bool(FIRST.estimate(KEY, fitted, at(x)).extrapolated) for x in (0.1, 0.3, 0.79, 5.0)]
    assert flags == [True, False, False, True]
    assert float(FIRST.estimate(KEY, fitted, at(5.0)).value) == 1


def test_equal_scores_give_the_mean():
    fitted = FIRST.fit(*splits(np.full(4, 0.5, np.float32), ACCURACIES[:4]))
    found = FIRST.estimate(KEY, fitted, at(0.5))
    assert float(found.value) == pytest.approx(ACCURACIES[:4].mean(), abs=1e-6)
    assert not found.extrapolated


def test_too_few_splits():
    with pytest.raises(ValueError, match="three labelled splits or more, got 2"):
        FIRST.fit(*splits(SCORES[:2], ACCURACIES[:2]))
