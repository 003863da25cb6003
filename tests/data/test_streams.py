import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entropax.data.streams import one_pass, shuffled_stream


@given(st.integers(1, 40), st.integers(1, 16), st.integers(1, 8), st.integers(0, 5))
def test_every_image_comes_up_before_any_comes_up_again(n, batch_size, steps, seed):
    stream = shuffled_stream(n, batch_size=batch_size, steps=steps, seed=seed)
    assert stream.x.shape == stream.where.shape == (steps, batch_size)
    visited = np.asarray(stream.x)[np.asarray(stream.where)]
    assert len(visited) == steps * min(n, batch_size)
    for start in range(0, len(visited), n):
        a_pass = visited[start : start + n]
        assert len(set(a_pass.tolist())) == len(a_pass)
        assert set(a_pass.tolist()) <= set(range(n))


@given(st.integers(1, 40), st.integers(1, 16))
def test_one_pass_visits_each_image_once(n, batch_size):
    order = one_pass(n, batch_size=batch_size, seed=3)
    visited = np.asarray(order.x)[np.asarray(order.where)]
    assert sorted(visited.tolist()) == list(range(n))
    assert np.all(np.asarray(order.where)[:-1])


def test_seeds():
    options = {"batch_size": 4, "steps": 6}
    a, b, c = (shuffled_stream(9, **options, seed=seed).x for seed in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert np.any(a != c)


@pytest.mark.parametrize(
    ("n", "batch_size", "steps", "name"),
    [(0, 4, 4, "n"), (4, 0, 4, "batch_size"), (4, 4, 0, "steps")],
)
def test_sizes_must_be_positive(n, batch_size, steps, name):
    with pytest.raises(ValueError, match=f"`{name}` must be at least 1, got 0"):
        shuffled_stream(n, batch_size=batch_size, steps=steps, seed=0)
