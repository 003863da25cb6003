import math
from collections import Counter

import jax.numpy as jnp
import numpy as np
import pytest
from diffusion import golden
from hypothesis import given
from hypothesis import strategies as st

from entropax.diffusion.binned import binned_entropy


def brute_force(x, num_bins):
    """Cell by cell, with the edges as they are written in the docstring."""
    cells = []
    for row in x:
        cell = []
        for value, low, high in zip(row, x.min(0), x.max(0), strict=True):
            if high > low:
                edges = np.linspace(0, 1, num_bins + 1)[:-1]
                cell.append(int(np.sum((value - low) / (high - low) >= edges)))
        cells.append(tuple(cell))
    shares = np.array(list(Counter(cells).values())) / len(x)
    return -np.sum(shares * np.log(shares))


@given(st.integers(0, 1000), st.integers(1, 7), st.integers(1, 4))
def test_brute_force_and_bounds(seed, num_bins, num_features):
    rng = np.random.default_rng(seed)
    x = np.round(rng.standard_normal((30, num_features)), int(rng.integers(0, 3)))
    value = binned_entropy(x, num_bins=num_bins)
    assert value == pytest.approx(brute_force(x, num_bins), abs=1e-12)
    assert 0 <= value <= min(math.log(30), num_features * math.log(num_bins)) + 1e-12


@pytest.mark.parametrize("num_bins", [2, 3, 7, 10, 49, 1000])
def test_a_value_on_an_edge_is_in_the_bin_above(num_bins):
    """Rounding would put 0.29 = 29 / 100 into bin 28 of 100, and others likewise."""
    edges = np.linspace(0, 1, num_bins + 1)
    below = np.nextafter(edges[1:-1], 0)
    # Each bin but the last holds its left edge and the largest number below its right one.
    x = np.concatenate([edges, below])[:, None]
    counts = np.array([2] * num_bins)
    shares = counts / counts.sum()
    assert binned_entropy(x, num_bins=num_bins) == pytest.approx(-np.sum(shares * np.log(shares)))


@pytest.mark.parametrize(
    "case", golden.cases(fn="dse", classic_shannon_entropy=True), ids=lambda case: case["id"]
)
def test_published_values(case):
    x = golden.features(case)
    bits = binned_entropy(x, num_bins=case["params"].get("num_bins_per_dim", 2)) / math.log(2)
    assert bits == pytest.approx(case["value"], rel=1e-10, abs=1e-10)  # eps: 1e-14 for each row


def test_constant_coordinates_make_no_difference():
    x = np.random.default_rng(0).standard_normal((40, 2))
    with_constants = np.insert(x, [0, 1, 2], 7.0, axis=1)
    expected = binned_entropy(x, num_bins=3)
    assert binned_entropy(with_constants, num_bins=3) == expected > 0
    assert binned_entropy(np.full((5, 3), 2.0), num_bins=3) == 0
    assert binned_entropy(np.ones((1, 3)), num_bins=3) == 0


def test_one_bin_is_no_information():
    assert binned_entropy(np.random.default_rng(0).random((9, 2)), num_bins=1) == 0


def test_many_bins_and_many_rows():
    """More bins than a byte counts, and rows in more than one chunk."""
    x = np.arange(40000.0)[:, None] * np.ones(60)
    assert binned_entropy(x, num_bins=40000) == pytest.approx(math.log(40000), rel=1e-12)
    assert binned_entropy(x.astype(np.float32), num_bins=4) == pytest.approx(math.log(4), rel=1e-12)


def test_types_of_arrays():
    x = np.array([[0, 3], [5, 1], [2, 2]])
    expected = binned_entropy(x.astype(float), num_bins=2)
    assert binned_entropy(x, num_bins=2) == expected
    assert binned_entropy(jnp.asarray(x, jnp.float32), num_bins=2) == expected
    assert binned_entropy(jnp.asarray(x, jnp.bfloat16), num_bins=2) == expected
    wide = np.array([[-100, 100], [120, -90], [0, 5]], np.int8)  # its range is no int8
    assert binned_entropy(wide, num_bins=2) == binned_entropy(wide.astype(float), num_bins=2)


def test_bad_input():
    x = np.zeros((3, 2))
    with pytest.raises(ValueError, match="`num_bins` must be at least 1, got 0"):
        binned_entropy(x, num_bins=0)
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match="coordinate 1 is not"):
            binned_entropy(np.array([[0.0, 1.0], [1.0, bad]]), num_bins=2)
    with pytest.raises(ValueError, match="its range"):
        binned_entropy(np.array([[-1.7e308], [1.7e308]]), num_bins=2)
    with pytest.raises(ValueError, match="at least one, got shape"):
        binned_entropy(np.zeros((0, 2)), num_bins=2)
    with pytest.raises(ValueError, match="at least one, got shape"):
        binned_entropy(np.zeros((2, 0)), num_bins=2)
