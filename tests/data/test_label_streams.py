import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entropax.data.label_streams import correlated_stream, label_shift_stream

LABELS = np.random.default_rng(0).integers(0, 5, 200)
DELTAS = [0.0, 1e-3, 0.1, 1.0, 100.0, np.inf]


def runs(classes):
    """In how many stretches of one class the stream falls."""
    return 1 + np.count_nonzero(np.diff(classes))


@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=30),
    st.integers(1, 12),
    st.integers(1, 6),
    st.sampled_from(DELTAS),
    st.integers(0, 3),
)
def test_every_image_comes_up_before_any_comes_up_again(labels, batch_size, steps, delta, seed):
    stream = correlated_stream(
        np.array(labels), batch_size=batch_size, steps=steps, seed=seed, delta=delta
    )
    n = len(labels)
    assert stream.x.shape == stream.where.shape == (steps, batch_size)
    visited = np.asarray(stream.x)[np.asarray(stream.where)].tolist()
    assert len(visited) == steps * min(n, batch_size)
    for start in range(0, len(visited), n):
        a_pass = visited[start : start + n]
        assert len(set(a_pass)) == len(a_pass)
        assert set(a_pass) <= set(range(n))


@given(st.integers(0, 30))
def test_without_concentration_a_pass_goes_class_by_class(seed):
    stream = correlated_stream(LABELS, batch_size=50, steps=4, seed=seed, delta=0.0)
    assert runs(LABELS[stream.x].ravel()) == 5


def test_concentration_decides_how_mixed_a_batch_is():
    """Mean number of classes in a batch of 8 of the 200 images; 4.2 if they were shuffled."""

    def classes_in_a_batch(delta):
        seen = LABELS[
            correlated_stream(LABELS, batch_size=8, steps=500, seed=1, delta=delta, slots=20).x
        ]
        return np.mean([len(set(row.tolist())) for row in seen])

    mixed = [classes_in_a_batch(delta) for delta in DELTAS]
    assert mixed[0] < 1.5
    assert mixed[-1] > 3.5
    assert np.all(np.diff(mixed) > -0.05)


def test_even_slots_hold_the_classes_in_equal_shares():
    labels = np.repeat([3, 8], 40)
    stream = correlated_stream(labels, batch_size=10, steps=8, seed=0, delta=np.inf, slots=8)
    assert [sorted(row) for row in labels[stream.x].tolist()] == [[3] * 5 + [8] * 5] * 8


def test_shares_of_the_slots_are_drawn_from_dirichlet():
    """The first run is the share of one class in the first of two slots: Beta(2, 2)."""
    labels = np.repeat([0, 1], 500)
    first = []
    for seed in range(400):
        order = correlated_stream(labels, batch_size=1000, steps=1, seed=seed, delta=2.0, slots=2)
        first.append(np.flatnonzero(np.diff(labels[order.x[0]]))[0] + 1)
    # 400 draws know the mean to 0.011 and the variance, 1/20, to 5 %.
    assert np.mean(first) / 500 == pytest.approx(0.5, abs=0.045)
    assert np.var(first) / 500**2 == pytest.approx(0.05, rel=0.2)


@pytest.mark.parametrize(
    "stream", [correlated_stream, lambda *a, **o: label_shift_stream(*a, **o, delta=1.0)]
)
def test_seeds(stream):
    a, b, c = (stream(LABELS, batch_size=4, steps=6, seed=seed).x for seed in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert np.any(a != c)


def test_label_shift_has_the_proportions_that_are_asked_for():
    proportions = np.array([0.5, 0.3, 0.0, 0.15, 0.05])
    stream = label_shift_stream(LABELS, batch_size=50, steps=80, seed=0, proportions=proportions)
    assert bool(stream.where.all())
    found = np.bincount(LABELS[stream.x].ravel(), minlength=5) / 4000
    # Four standard errors of a proportion among 4,000.
    assert np.all(np.abs(found - proportions) <= 4 * np.sqrt(proportions / 4000))


def test_images_of_a_class_take_turns():
    stream = label_shift_stream(
        LABELS, batch_size=50, steps=9, seed=2, proportions=np.array([0.6, 0.4])
    )
    counts = np.bincount(np.asarray(stream.x).ravel(), minlength=200)
    for c in (0, 1):
        assert np.ptp(counts[np.equal(LABELS, c)]) <= 1
    assert not counts[LABELS > 1].any()


def test_small_concentrations_favour_few_classes():
    def largest_share(delta):
        stream = label_shift_stream(LABELS, batch_size=100, steps=20, seed=3, delta=delta)
        return np.bincount(LABELS[stream.x].ravel()).max() / 2000

    assert largest_share(0.05) > 0.6
    assert largest_share(1000.0) < 0.25


@pytest.mark.parametrize(
    ("stream", "options", "message"),
    [
        (correlated_stream, {"delta": -0.1}, "`delta` must not be negative, got -0.1"),
        (correlated_stream, {"delta": np.nan}, "`delta` must not be negative, got nan"),
        (correlated_stream, {"slots": 0}, "`slots` must be at least 1, got 0"),
        (correlated_stream, {"batch_size": 0}, "`batch_size` must be at least 1, got 0"),
        (label_shift_stream, {}, "either `proportions` or `delta`"),
        (label_shift_stream, {"delta": 1.0, "proportions": np.ones(1)}, "and not both"),
        (label_shift_stream, {"delta": 0.0}, "`delta` must be positive"),
        (label_shift_stream, {"proportions": np.array([0.5, 0.4])}, "sum to 1"),
        (label_shift_stream, {"proportions": np.array([1.5, -0.5])}, "at least 0"),
        (label_shift_stream, {"proportions": np.eye(7)[6]}, r"no image: \[6\]"),
    ],
)
def test_bad_options(stream, options, message):
    with pytest.raises(ValueError, match=message):
        stream(LABELS, **{"batch_size": 4, "steps": 3, "seed": 0, **options})


def test_labels():
    with pytest.raises(ValueError, match="`n` must be at least 1, got 0"):
        correlated_stream(LABELS[:0], batch_size=4, steps=3, seed=0, slots=2)
    with pytest.raises(ValueError, match=r"must be classes 0, 1, \.\.\., got -1"):
        label_shift_stream(np.array([-1, 0]), batch_size=4, steps=3, seed=0, delta=1.0)
