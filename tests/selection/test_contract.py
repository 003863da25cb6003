"""One table of agents, one set of promises, all pairs."""

import jax
import numpy as np
import optax
import pytest
from selection.agents import (
    AGENTS,
    LABELS,
    TARGET,
    D,
    M,
    agent_of,
    distillation,
    features,
    kernel,
    linear,
)

from entropax import selection

agents = pytest.mark.parametrize("name", AGENTS)
on_kernels = pytest.mark.parametrize(
    "name", [k for k, (_, pool) in AGENTS.items() if pool is kernel]
)


def pool_of(name, seed=0):
    return AGENTS[name][1](seed)


def assert_trees_close(a, b, atol):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, atol=atol, rtol=0)


@pytest.mark.parametrize("n", [1, 5, M])
@agents
def test_indices_are_distinct_and_in_range(name, n):
    indices, infos = selection.select(jax.random.key(0), agent_of(name), pool_of(name), n)
    assert isinstance(indices, np.ndarray)
    assert len(set(indices.tolist())) == len(indices) == n
    assert indices.min() >= 0
    assert indices.max() < M
    assert all(len(leaf) == agent_of(name).num_steps(n) for leaf in infos)
    assert all(np.all(np.isfinite(leaf)) for leaf in infos)
    assert infos.done[-1] or name in ("local search", "k-means")


@agents
def test_the_same_key_gives_the_same_set(name):
    first, second = (
        selection.select(jax.random.key(7), agent_of(name), pool_of(name), 5) for _ in range(2)
    )
    assert_trees_close(first, second, 0)


@agents
def test_what_is_done_stays(name):
    infos = selection.select(jax.random.key(0), agent_of(name), pool_of(name), 5).infos
    done = np.asarray(infos.done)
    assert np.all(done[1:] >= done[:-1])
    assert not np.any(infos.changed[1:] & done[:-1])


# The gain of distillation is the distance of the example that joined.
@pytest.mark.parametrize("name", sorted(set(AGENTS) - {"distillation"}))
def test_gains_add_up_to_the_objective(name):
    infos = selection.select(jax.random.key(0), agent_of(name), pool_of(name), 5).infos
    differences = np.diff(infos.objective)
    np.testing.assert_allclose(infos.gain[1:], differences, atol=2e-6, rtol=0)


@agents
def test_many_keys_and_pools_at_once(name):
    agent = agent_of(name)
    keys = jax.random.split(jax.random.key(3), 3)
    pools = np.stack([pool_of(name, seed) for seed in range(3)])
    run = jax.vmap(lambda key, pool: selection.run(key, agent, pool, 5))
    states, infos = jax.jit(run)(keys, pools)
    for i in range(3):
        indices, alone = selection.select(keys[i], agent, pools[i], 5)
        np.testing.assert_array_equal(np.asarray(states.indices)[i], indices)
        assert_trees_close(jax.tree.map(lambda a, i=i: np.asarray(a)[i], infos), alone, 1e-5)


@agents
def test_a_pool_of_one_example_repeated(name):
    pool = np.ones_like(pool_of(name))
    indices, infos = selection.select(jax.random.key(0), agent_of(name), pool, 5)
    assert len(set(indices.tolist())) == 5
    assert all(np.all(np.isfinite(leaf)) for leaf in infos)
    if "entropy" in name:  # The set has one eigenvalue that is not 0.
        np.testing.assert_allclose(infos.objective, 0, atol=2e-6)


@pytest.mark.parametrize("scale", [1e-20, 1e-3, 1e20])
@on_kernels
def test_the_scale_of_the_kernel_does_not_matter(name, scale):
    key, pool = jax.random.key(0), pool_of(name)
    expected = selection.select(key, agent_of(name), pool, 5).indices
    scaled = selection.select(key, agent_of(name), pool * np.float32(scale), 5).indices
    np.testing.assert_array_equal(scaled, expected)


@pytest.mark.parametrize(
    "name", ["greedy entropy", "greedy entropy of order 2", "greedy determinant", "kernel herding"]
)
def test_the_order_of_the_pool_does_not_matter(name):
    """Up to ties, which examples that occur twice and a constant diagonal would bring."""
    x, norms = np.random.default_rng(5).normal(size=(M, D)), np.linspace(1, 2, M)
    similar = np.exp(-0.3 * np.sum(np.square(x[:, None] - x), axis=-1))
    pool = (similar * norms * norms[:, None]).astype(np.float32)
    order = np.random.default_rng(6).permutation(M)
    indices = selection.select(jax.random.key(0), agent_of(name), pool, 5).indices
    shuffled = selection.select(
        jax.random.key(0), agent_of(name), pool[np.ix_(order, order)], 5
    ).indices
    # Either member of the best pair may come first.
    assert set(order[shuffled].tolist()) == set(indices.tolist())


@agents
def test_wrong_numbers_of_examples(name):
    for n in (0, -1, M + 1):
        with pytest.raises(ValueError, match=f"between 1 and the {M} examples .* got {n}"):
            selection.select(jax.random.key(0), agent_of(name), pool_of(name), n)


@pytest.mark.parametrize("name", [k for k in AGENTS if k not in ("random", "class balanced")])
def test_a_pool_that_is_not_finite(name):
    pool = pool_of(name).copy()
    pool[2, 3] = pool[3, 2] = np.nan
    with pytest.raises(ValueError, match=r"[12] of 12 examples hold NaN"):
        selection.select(jax.random.key(0), agent_of(name), pool, 5)


@on_kernels
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda k: k[:, :5], r"kernel matrix \[m, m\] of the pool, got the shape \(12, 5\)"),
        (lambda k: k[0], r"got the shape \(12,\)"),
        (lambda k: 0 * k, "Every entry of the kernel is 0"),
        (lambda k: k + np.eye(M, k=1, dtype=np.float32), "must be symmetric"),
        (lambda k: k - 2 * np.eye(M, dtype=np.float32), "has -1 on the diagonal"),
        (lambda k: k - np.eye(M, dtype=np.float32), "where the diagonal allows 0 at most"),
        (lambda k: np.eye(M, dtype=int), "floating-point type, got int64"),
    ],
)
def test_what_is_not_a_kernel(name, change, message):
    with pytest.raises(ValueError, match=message):
        selection.select(jax.random.key(0), agent_of(name), change(pool_of(name)), 5)


def test_an_agent_is_compiled_once():
    traces = []

    def counting(params, x):
        traces.append(1)
        return linear(params, x)

    agent = selection.distillation(
        counting, counting, TARGET, np.zeros_like(TARGET), optax.sgd(0.05), training_steps=1
    )
    selection.select(jax.random.key(0), agent, features(), 3)
    count = len(traces)
    selection.select(jax.random.key(1), agent, features(1), 3)
    assert len(traces) == count


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: selection.random(compat="numpy"), "`compat` must be None or 'reference'"),
        (lambda: selection.class_balanced(np.zeros(3)), "one integer an example"),
        (lambda: selection.class_balanced(np.zeros((3, 1), int)), r"shape \(3, 1\)"),
        (lambda: selection.approximate_entropy(0), "`num_candidates` must be at least 1, got 0"),
        (lambda: selection.approximate_entropy(9, batch=0), "`batch` must be at least 1, got 0"),
        (lambda: selection.approximate_entropy(9, compat=""), "`compat` must be None"),
        (lambda: selection.greedy_entropy(order=3), "`order` must be 1 .* got 3"),
        (lambda: selection.greedy_determinant(noise=0.0), "`noise` must be positive, got 0"),
        (lambda: selection.local_search([0], rounds=0), "`rounds` must be at least 1, got 0"),
        (lambda: selection.local_search([0], min_gain=-1.0), "`min_gain` must not be negative"),
        (lambda: selection.k_means(iterations=0), "`iterations` must be at least 1, got 0"),
        (lambda: distillation(threshold=-1.0), "`threshold` must not be negative, got -1"),
        (lambda: distillation(tolerance=0), "`tolerance` must be at least 1, got 0"),
        (lambda: distillation(batch_size=0), "`batch_size` must be at least 1, got 0"),
    ],
)
def test_bad_settings_fail_when_the_agent_is_built(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    ("agent", "pool", "n", "message"),
    [
        (lambda: selection.random(compat="reference"), np.ones((1, 2)), 1, "there is but one"),
        (
            lambda: selection.approximate_entropy(3, compat="reference"),
            np.ones((1, 1)),
            1,
            "there is but one",
        ),
        (lambda: selection.class_balanced(LABELS), features()[1:], 3, "`labels` has 12 entries"),
        (lambda: selection.greedy_entropy(start=12), kernel(), 3, "`start` must be one of the 12"),
        (lambda: distillation(start=-1), features(), 3, "`start` must be one of the 12"),
        (lambda: selection.local_search([0, 1]), kernel(), 3, "must be 3 distinct indices"),
        (lambda: selection.local_search([0, 1, 1]), kernel(), 3, "must be 3 distinct indices"),
        (lambda: selection.local_search([0, 1, 12]), kernel(), 3, "among the 12 examples"),
        (lambda: selection.local_search([0, 1, -1]), kernel(), 3, "among the 12 examples"),
        (
            lambda: selection.local_search(selection.greedy_entropy(start=12)),
            kernel(),
            3,
            "`start` must be one of the 12",
        ),
    ],
)
def test_settings_that_do_not_fit_the_pool(agent, pool, n, message):
    with pytest.raises(ValueError, match=message):
        selection.select(jax.random.key(0), agent(), pool, n)
