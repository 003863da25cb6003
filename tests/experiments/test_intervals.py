"""Means with intervals over seeds, and over corruptions and seeds."""

import numpy as np
import pytest
from scipy import stats

from entropax.experiments.intervals import clustered_mean, mean_over_seeds


def test_mean_over_seeds_is_students():
    values = [0.8, 0.9, 0.7]
    found = mean_over_seeds(values, level=0.9)
    expected = stats.t.interval(0.9, 2, loc=np.mean(values), scale=stats.sem(values))
    np.testing.assert_allclose(found, (np.mean(values), *expected))


def test_one_seed_has_no_interval():
    found = mean_over_seeds([0.8], level=0.9)
    assert found.value == 0.8
    assert np.isnan([found.lower, found.upper]).all()


def test_clustered_mean_of_equal_cells_is_the_pigeonhole_bootstrap():
    """Two rows and one column: the mean is one row, the other, or both in half of the draws."""
    narrow = clustered_mean(np.array([0.0, 1.0]), ["fog", "snow"], [0, 0], level=0.4)
    assert narrow == (0.5, 0.5, 0.5)
    wide = clustered_mean(np.array([0.0, 1.0]), ["fog", "snow"], [0, 0], level=0.9)
    assert (wide.lower, wide.upper) == (0.0, 1.0)  # each with probability 1/4


def test_rows_of_a_cluster_are_drawn_together():
    """Ten equal numbers of one corruption are no more certain than one."""
    values = np.repeat([0.2, 0.6], 10)
    rows = np.repeat(["fog", "snow"], 10).tolist()
    found = clustered_mean(values, rows, [0] * 20, level=0.9)
    assert found.value == pytest.approx(0.4)
    np.testing.assert_allclose((found.lower, found.upper), (0.2, 0.6))


def test_clusters_of_different_sizes_keep_the_plain_mean():
    values = np.array([0.0, 0.0, 0.0, 1.0])
    found = clustered_mean(values, ["fog"] * 3 + ["snow"], [0, 1, 2, 0], level=0.9)
    assert found.value == 0.25
    again = clustered_mean(values, ["fog"] * 3 + ["snow"], [0, 1, 2, 0], level=0.9)
    assert found == again
