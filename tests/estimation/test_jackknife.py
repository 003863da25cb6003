import numpy as np
import pytest

from entropax.estimation.jackknife import error_rate, jackknife_interval

NO, YES = np.array(False), np.array(True)


def interval(centre, residuals, **options):
    options = {"splits": len(centre), "level": 0.8, "below": NO, "above": NO, **options}
    return jackknife_interval(np.array(0.6), centre, residuals, **options)


CENTRE, RESIDUALS = np.random.default_rng(0).uniform(0.4, 0.8, 20), np.linspace(0, 0.5, 20)


def test_ranks():
    """Of 20 splits the fourth from either end: floor(0.2 * 21)."""
    lower, upper = interval(CENTRE, RESIDUALS)
    spread = RESIDUALS * (1 - CENTRE)
    assert lower == sorted(CENTRE - spread)[3]
    assert upper == sorted(CENTRE + spread)[-4]


def test_repetitions_change_nothing():
    twice = interval(np.repeat(CENTRE, 3), np.repeat(RESIDUALS, 3), splits=20)
    assert twice == interval(CENTRE, RESIDUALS)


def test_one_side():
    lower, upper = interval(CENTRE, RESIDUALS)
    assert interval(CENTRE, RESIDUALS, below=YES) == (0, upper)
    assert interval(CENTRE, RESIDUALS, above=YES) == (lower, 1)


def test_too_few_splits():
    assert interval(CENTRE, RESIDUALS, level=0.96) == (0, 1)
    # 1 - 0.9 is a hair below 0.1, and 9 splits are enough for it.
    assert interval(CENTRE[:9], RESIDUALS[:9], level=0.9) != (0, 1)


def test_contains_the_value():
    lower, upper = interval(np.full(9, 0.9), np.zeros(9))
    assert (lower, upper) == (0.6, 0.9)


def test_small_error_rates():
    np.testing.assert_allclose(error_rate(np.array([0.0, 0.97, 0.99, 1.0])), [1, 0.03, 0.02, 0.02])


@pytest.mark.parametrize("level", [0.0, 1.0, np.nan])
def test_levels(level):
    with pytest.raises(ValueError, match="`level` must be between 0 and 1"):
        interval(CENTRE, RESIDUALS, level=level)
