import math

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entropax.diffusion.classes import classes, cluster_reference

BLOBS = np.random.default_rng(0).normal(size=(60, 4)) + 20 * np.eye(4)[np.arange(60) % 3]


@pytest.mark.parametrize(
    ("y", "labels", "names"),
    [
        ([3, 1, 3], [1, 0, 1], (1, 3)),
        ([[3], [1], [3]], [1, 0, 1], (1, 3)),
        (np.array([True, False, True]), [1, 0, 1], (False, True)),
        (["dog", "cat", "dog"], [1, 0, 1], ("cat", "dog")),
        (np.array([b"dog", b"cat"]), [1, 0], (b"cat", b"dog")),
        (np.array(["dog", "cat"], object), [1, 0], ("cat", "dog")),
        (jnp.array([7, 5, 7]), [1, 0, 1], (5, 7)),
        ([2.0, -1.0, 2.0], [1, 0, 1], (-1.0, 2.0)),
        (np.float32([2.0, 2.0]), [0, 0], (2.0,)),
        (["alone"], [0], ("alone",)),
    ],
)
def test_labels_of_every_type(y, labels, names):
    found = classes(y)
    assert found.labels.tolist() == labels
    assert found.names == names
    assert found.labels.dtype == np.int32


def test_classes_stay_what_they_are():
    found = classes([1, 2, 1])
    assert classes(found) is found
    assert found.counts.tolist() == [2, 1]
    assert [rows.tolist() for rows in found.members()] == [[0, 2], [1]]


def test_one_hot_rows_are_labels_if_one_says_so():
    rows = np.eye(3, dtype=int)[[2, 0, 1, 0]]
    found = classes(rows, discrete=True)
    assert found.names == ((0, 0, 1), (0, 1, 0), (1, 0, 0))
    assert found.labels.tolist() == [0, 2, 1, 2]


def test_values_fall_into_bins_of_equal_width():
    # The last bin has its right end; the empty one between is dropped.
    found = classes([0.0, 0.24, 0.25, 0.8, 1.0], num_bins=4)
    assert found.labels.tolist() == [0, 0, 1, 2, 2]
    assert found.names == ("[0, 0.25)", "[0.25, 0.5)", "[0.75, 1]")
    assert classes([0.5, 0.5], num_bins=4).names == ("0.5",)


def test_whole_numbers_can_be_values():
    assert classes([0, 1, 2, 3], discrete=False, num_bins=2).labels.tolist() == [0, 0, 1, 1]
    assert classes([0.5, 1.5, 0.5], discrete=True).labels.tolist() == [0, 1, 0]


@given(st.lists(st.floats(-1e9, 1e9, allow_subnormal=False), min_size=5, max_size=5))
def test_bins_keep_the_order_of_the_values(values):
    labels = classes(values, discrete=False, num_bins=3).labels
    assert np.all(np.diff(labels[np.argsort(values, kind="stable")]) >= 0)


@pytest.mark.parametrize(
    ("y", "options", "message"),
    [
        ([1.0, np.nan], {}, "must be finite"),
        ([[1.0, 2.0], [np.inf, 0.0]], {}, "must be finite"),
        ([], {}, r"shape \(0,\)"),
        (3, {}, r"shape \(\)"),
        ([1j, 2j], {}, "complex"),
        (np.array(["a", 1], object), {}, "do not compare"),
        (np.array(["a", None], object), {}, "missing labels"),
        (["a", "b"], {"discrete": False}, "must be numbers"),
        ([["a", "b"], ["a", "b"]], {}, "must be numbers"),
        ([0.5, 1.0], {"num_bins": 0}, "`num_bins` must be positive, got 0"),
    ],
)
def test_what_cannot_be_sorted(y, options, message):
    with pytest.raises(ValueError, match=message):
        classes(y, **options)


def test_clusters_find_separate_blobs():
    # Three components: scikit-learn warns of a graph that is not connected, and must not here.
    found = cluster_reference(BLOBS, num_clusters=3)
    assert found.names == (0, 1, 2)
    pairs = set(zip(found.labels.tolist(), (np.arange(60) % 3).tolist(), strict=True))
    assert len(pairs) == 3
    np.testing.assert_array_equal(classes(BLOBS, num_clusters=3).labels, found.labels)
    np.testing.assert_array_equal(
        cluster_reference(BLOBS.reshape(60, 2, 2), num_clusters=3).labels, found.labels
    )


def test_of_many_vectors_some_are_clustered_and_the_others_join():
    all_of_them = cluster_reference(BLOBS, num_clusters=3).labels
    # Thirty in even steps still have ten of each blob.
    some_of_them = cluster_reference(BLOBS, num_clusters=3, max_points=30).labels
    assert len(set(zip(all_of_them.tolist(), some_of_them.tolist(), strict=True))) == 3


@pytest.mark.parametrize(
    ("y", "options", "message"),
    [
        (BLOBS[:8], {}, "at least 10 vectors, got 8"),
        (BLOBS[:14], {"num_clusters": 20}, "at least 20 vectors, got 14"),
        (BLOBS, {"max_points": 5}, "`max_points` 5"),
        (BLOBS, {"num_clusters": 0}, "`num_clusters` must be positive, got 0"),
        (BLOBS[:, 0], {}, "must be numeric vectors"),
        (np.full((20, 2), np.nan), {}, "must be finite"),
    ],
)
def test_what_cannot_be_clustered(y, options, message):
    with pytest.raises(ValueError, match=message):
        cluster_reference(y, **options)


def test_a_missing_package_is_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    with pytest.raises(ImportError, match=r"entropax\[data\]"):
        cluster_reference(BLOBS)


@pytest.mark.parametrize(
    "y",
    [[None, None], ["a", None], ["a", math.nan], np.array([1.0, math.nan], object), (b"a", None)],
)
def test_missing_labels(y):
    with pytest.raises(ValueError, match="missing labels"):
        classes(y)
