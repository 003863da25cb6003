import functools

import jax.numpy as jnp
import numpy as np
import pytest

from entropax.diffusion.entropy import dse
from entropax.diffusion.subsets import _solve, entropies_by_size, padded_size, subset_entropies

X = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
entropy_fn = functools.partial(dse, sigma=1.0, method="exact")


def sum_of_rows(x, where):
    return jnp.sum(x if where is None else jnp.where(where[:, None], x, 0))


def by_definition(x):
    kernel = np.exp(-np.sum((x[:, None] - x) ** 2, axis=-1) / 2)
    degrees = kernel.sum(1)
    p = np.linalg.eigvalsh(kernel / np.sqrt(np.outer(degrees, degrees))) / np.sum(1 / degrees)
    return -np.sum(p[p > 0] * np.log(p[p > 0]))


def test_subsets_of_many_sizes_agree_with_one_at_a_time():
    rng = np.random.default_rng(1)
    subsets = [rng.choice(60, size, replace=False) for size in (1, 2, 5, 16, 31, 32, 5)]
    found = subset_entropies(entropy_fn, X, subsets)
    one_by_one = [by_definition(np.float64(X[rows])) for rows in subsets]
    np.testing.assert_allclose(found, one_by_one, atol=5e-6)  # float32


def test_equal_subsets_are_solved_once_and_programs_are_kept():
    calls = []

    def counting(x, where):
        calls.append(x.shape)
        return sum_of_rows(x, where)

    x = np.arange(40.0).reshape(40, 1)
    subsets = [np.array([1, 2, 3]), np.array([3, 2, 1]), np.arange(10), np.arange(33), np.arange(0)]
    expected = [6, 6, 45, 528, 0]
    assert subset_entropies(counting, x, subsets).tolist() == expected
    assert calls == [(10, 1), (33, 1)]  # traced once for each size, the largest that is padded to
    before = _solve._cache_size()
    # Other subsets and another number of examples find the programs compiled.
    assert subset_entropies(counting, x[:30], subsets[:3]).tolist() == expected[:3]
    assert len(calls) == 2
    assert _solve._cache_size() == before


@pytest.mark.parametrize("batch_size", [1, 3, None])
def test_the_batch_makes_no_difference(batch_size):
    x = np.arange(9.0).reshape(9, 1)
    subsets = [np.array([i, i + 1]) for i in range(8)]
    found = subset_entropies(sum_of_rows, x, subsets, batch_size=batch_size)
    assert found.tolist() == [2 * i + 1 for i in range(8)]


def test_several_arrays_of_one_length():
    def weighted(rows, where):
        x, weights = rows
        return jnp.sum(x[:, 0] * weights, where=where)

    rows = (np.arange(4.0).reshape(4, 1), np.array([1.0, 10.0, 100.0, 1000.0]))
    assert subset_entropies(weighted, rows, [np.array([1, 3])]).tolist() == [3010.0]


def test_padding_is_never_more_than_an_eighth_of_a_large_subset():
    for size in (300, 500, 513, 1999, 5000):
        assert size <= padded_size(size) <= size * 9 / 8
    assert len({padded_size(size) for size in range(1025, 2049)}) == 8


@pytest.mark.parametrize("rows", [[0, 9], [-1, 2], [1, 1]])
def test_rows_that_are_not_there(rows):
    with pytest.raises(ValueError, match="different rows from 0 to 8"):
        subset_entropies(sum_of_rows, np.zeros((9, 1)), [np.array(rows)])


def test_batch_size_is_positive():
    with pytest.raises(ValueError, match="`batch_size` must be at least 1, got 0"):
        subset_entropies(sum_of_rows, np.zeros((9, 1)), [np.array([1])], batch_size=0)


def test_large_subsets_are_solved_one_by_one():
    values, errors = entropies_by_size(
        [np.arange(2), np.arange(9), np.arange(3)],
        largest=3,
        batched=lambda small: np.array([float(len(rows)) for rows in small]),
        single=lambda rows: (-float(len(rows)), 0.5),
    )
    assert values.tolist() == [2, -9, 3]
    assert errors.tolist() == [0, 0.5, 0]
