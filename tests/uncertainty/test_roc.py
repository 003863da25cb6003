"""Against counted pairs, scikit-learn, and recorded values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st
from uncertainty import recorded

from entropax.uncertainty.roc import auroc, average_precision, fpr_at_tpr

N = 10
some_of_each = st.lists(st.booleans(), min_size=N, max_size=N).filter(lambda x: 0 < sum(x) < N)
grid = st.lists(st.integers(-2, 3), min_size=N, max_size=N)
every_case = pytest.mark.parametrize("name", recorded.names())


@jax.jit
def areas(scores, correct, where):
    return (
        auroc(scores, correct, where=where),
        average_precision(scores, correct, where=where),
        average_precision(scores, correct, positive="error", where=where),
    )


fpr = jax.jit(fpr_at_tpr, static_argnames="tpr")


def expect(values):
    return [np.nan if value is None else value for value in values]


@every_case
def test_recorded_areas(name):
    known = recorded.others(name)
    expected = [recorded.correct_values(name)["auroc"]]
    expected += [known["sklearn_ap_success"], known["sklearn_ap_error"]]
    scores, correct, where = recorded.padded(name)
    # float32: sums of shares that are rounded to 6e-8
    np.testing.assert_allclose(areas(scores, correct, where), expect(expected), atol=2e-6, rtol=0)
    if len(scores) > 2048:
        return  # another compilation
    with jax.enable_x64(True):
        values = areas(scores.astype(np.float64), correct, where)
    assert values[0].dtype == np.float64
    np.testing.assert_allclose(values, expect(expected), atol=1e-9, rtol=0)


@every_case
def test_recorded_area_of_torchmetrics(name):
    expected = recorded.others(name).get("torchmetrics_binary_auroc")
    value = float(areas(*recorded.padded(name))[0])
    if expected is None:  # it wants scores in [0, 1]
        assert recorded.case(name)[0].max() > 1
    elif np.isnan(value):
        assert expected == 0  # where it is not defined
    else:
        assert value == pytest.approx(expected, abs=2e-6)


@given(grid, some_of_each)
def test_auroc_counts_pairs_and_half_of_the_ties(scores, correct):
    scores, correct = np.array(scores, np.float32), np.array(correct)
    right, wrong = scores[correct][:, None], scores[~correct]
    expected = np.mean((right > wrong) + 0.5 * (right == wrong))
    value = areas(scores, correct, np.ones(N, bool))[0]
    assert float(value) == pytest.approx(expected, abs=1e-6)
    reverse = areas(-scores, correct, np.ones(N, bool))[0]
    assert float(value + reverse) == pytest.approx(1, abs=1e-6)


@given(grid, some_of_each)
def test_areas_are_those_of_scikit_learn(scores, correct):
    scores, correct = np.array(scores, np.float32), np.array(correct)
    expected = [
        sklearn.metrics.roc_auc_score(correct, scores),
        sklearn.metrics.average_precision_score(correct, scores),
        sklearn.metrics.average_precision_score(~correct, -scores),
    ]
    values = areas(scores, correct, np.ones(N, bool))
    np.testing.assert_allclose(values, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("tpr", [0.2, 0.5, 0.95, 1.0])
@given(grid, some_of_each)
def test_fpr_is_the_first_point_of_the_roc_curve_that_is_high_enough(tpr, scores, correct):
    scores, correct = np.array(scores, np.float32), np.array(correct)
    false, true, _ = sklearn.metrics.roc_curve(correct, scores, drop_intermediate=False)
    expected = false[true >= tpr - 1e-9].min()  # shares of at most ten
    assert float(fpr(scores, correct, tpr=tpr)) == pytest.approx(expected, abs=1e-6)


def test_fpr_counts_19_of_20_as_95_percent():
    """The twentieth comes after all errors."""
    scores = np.arange(40, 0, -1, dtype=np.float32)
    correct = (np.arange(40) < 19) | (np.arange(40) == 39)
    assert float(fpr(scores, correct, tpr=0.95)) == 0
    assert float(fpr(scores, correct, tpr=0.951)) == 1


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        (np.ones(N), (0.5, 0.8, 0.2, 1)),  # it says nothing
        (-np.arange(N), (1, 1, 1, 0)),  # it says all
    ],
)
def test_the_least_and_the_most_that_scores_can_say(scores, expected):
    scores, correct = scores.astype(np.float32), np.arange(N) < 8
    values = [*areas(scores, correct, np.ones(N, bool)), fpr(scores, correct, tpr=0.95)]
    np.testing.assert_allclose(values, expected, atol=1e-7)


def test_options_out_of_range():
    scores, correct = jnp.ones(2), jnp.arange(2)
    with pytest.raises(ValueError, match='"success" or "error", got "failure"'):
        average_precision(scores, correct, positive="failure")
    for tpr in (0, -1, 1.01, np.nan):
        with pytest.raises(ValueError, match=f"`tpr` must be above 0 and at most 1, got {tpr}"):
            fpr_at_tpr(scores, correct, tpr=tpr)
