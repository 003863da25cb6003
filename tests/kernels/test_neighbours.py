"""Neighbours agree with distances that are sorted one by one."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from entropax.kernels import neighbours as module
from entropax.kernels.neighbours import neighbour_distances, neighbour_graph

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 5)).astype(np.float32)
NORMAL = X[:36, :2]
LATTICE = np.stack(np.meshgrid(*[np.arange(6.0)] * 2), -1).reshape(-1, 2).astype(np.float32)
COPIES = np.repeat(X[:4, :2], [1, 3, 30, 2], axis=0)


@partial(jax.jit, static_argnames="k")
def graphs(x, k):
    return neighbour_graph(x, k, symmetric=False), neighbour_graph(x, k)


def distances(x):
    x = np.asarray(x, np.float64)
    return np.sqrt(((x[:, None] - x) ** 2).sum(-1))


def graph(x, k):
    d = distances(x)
    return (d <= np.sort(d, axis=1)[:, [k - 1]]).astype(float)


@pytest.mark.parametrize("k", [1, 5, 59])
def test_distances(k):
    found = jax.jit(lambda x: neighbour_distances(x, k))
    for x in (X, X + np.float32(100)):
        np.testing.assert_allclose(found(x), np.sort(distances(x), axis=1)[:, k], rtol=1e-6)


def test_tight_groups_far_apart():
    """Products of matrices in float32 see the points of a group as one; differences do not."""
    x = np.concatenate([X[:12] * 1e-3 - 1000, X[12:24] * 1e-3 + 1000])
    np.testing.assert_allclose(
        neighbour_distances(x, 3), np.sort(distances(x), axis=1)[:, 3], rtol=1e-6
    )


@pytest.mark.parametrize("x", [NORMAL, LATTICE, COPIES, np.ones((36, 2), np.float32)],
                         ids=["normal", "lattice", "copies", "all equal"])  # fmt: skip
@pytest.mark.parametrize("k", [1, 4, 20])
def test_graph(x, k):
    """Ties are kept: on the lattice four neighbours are equally far, among copies up to thirty."""
    directed, union = graphs(x, k)
    np.testing.assert_array_equal(directed, graph(x, k))
    np.testing.assert_array_equal(union, np.maximum(graph(x, k), graph(x, k).T))


def test_blocks_of_rows(monkeypatch):
    monkeypatch.setattr(module, "_BLOCK", 1000)  # three rows
    np.testing.assert_array_equal(neighbour_graph(X, 4, symmetric=False), graph(X, 4))
    rows = np.array([3, 50, 7])
    expected = np.sort(distances(X), axis=1)[rows, 2]
    np.testing.assert_allclose(neighbour_distances(X, 2, rows=rows), expected, rtol=1e-6)


def test_padding_may_hold_anything():
    where = RNG.permutation(np.arange(80) < 60)
    padded = np.full((80, 5), np.nan, np.float32)
    padded[where] = X
    inside = np.ix_(where, where)

    @jax.jit
    def both(x, where):
        return neighbour_distances(x, 4, where=where), neighbour_graph(x, 4, where=where)

    found, links = (np.asarray(y) for y in both(padded, where))
    np.testing.assert_allclose(found[where], neighbour_distances(X, 4), rtol=1e-6)
    np.testing.assert_array_equal(links[inside], neighbour_graph(X, 4))
    assert found[~where].sum() == 0
    assert links.sum() == links[inside].sum()


def test_few_real_points():
    """The farthest of them, where there are not as many neighbours as asked for."""
    x = jnp.array([[0.0], [1.0], [jnp.nan], [5.0], [7.0]])
    where = jnp.array([True, True, False, True, False])
    assert neighbour_distances(x, 4, where=where).tolist() == [5, 4, 0, 5, 0]
    assert neighbour_graph(x, 5, where=where).sum() == 9
    alone = jnp.arange(5) == 1
    assert neighbour_distances(x, 4, where=alone).tolist() == [0] * 5
    assert neighbour_graph(x, 3, where=alone).sum() == 1


def test_vmap():
    x = jnp.stack([X, X[::-1] * 2])
    found = jax.vmap(lambda x: neighbour_distances(x, 3))(x)
    np.testing.assert_allclose(found[1][::-1], 2 * found[0], rtol=1e-6)


def test_gradient():
    """A distance doubles with the points: by Euler's theorem the gradient along `x` is itself."""

    def total(x):
        return neighbour_distances(x, 3).sum()

    value, gradient = jax.value_and_grad(total)(jnp.asarray(X))
    np.testing.assert_allclose(jnp.vdot(gradient, X), value, rtol=1e-5)
    assert jnp.isfinite(jax.grad(total)(jnp.asarray(COPIES))).all()


def test_nan_in_the_points():
    broken = X.copy()
    broken[3, 1] = np.nan
    assert jnp.isnan(neighbour_distances(broken, 2)).all()
    assert jnp.isnan(neighbour_graph(broken, 2)).all()


def test_wrong_numbers():
    for k in (0, 60):
        with pytest.raises(ValueError, match=f"from 1 to n - 1 = 59 others, got {k}"):
            neighbour_distances(X, k)
    for k in (0, 61):
        with pytest.raises(ValueError, match=f"from 1 to n = 60, .* included, got {k}"):
            neighbour_graph(X, k)
