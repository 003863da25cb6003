import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from entropax.estimation.aetta import aetta_error
from entropax.models import batch_statistics, running_statistics
from entropax.models.dropout import dropout_passes

KEY = jax.random.key(3)


class Net(nn.Module):
    """Two normalised layers and a head."""

    @nn.compact
    def __call__(self, x):
        for i in range(2):
            x = nn.Dense(8, use_bias=False, name=f"dense{i}")(x)
            x = nn.relu(nn.BatchNorm(use_running_average=True, name=f"norm{i}")(x))
        return nn.Dense(5, name="head")(x)


MODULE = Net()
X = jax.random.normal(jax.random.key(0), (6, 4))
VARIABLES = MODULE.init(jax.random.key(1), X)


class Affine(nn.Module):
    """Ten thousand outputs that dropout acts upon directly."""

    @nn.compact
    def __call__(self, x):
        return nn.LayerNorm(name="norm")(x)


@pytest.mark.parametrize(
    "statistics",
    [batch_statistics, running_statistics, functools.partial(batch_statistics, batch_weight=0.1)],
)
def test_no_rate_is_the_network(statistics):
    passes = dropout_passes(MODULE, rate=0.0, num_passes=2, statistics=statistics)
    expected = jax.jit(statistics(MODULE))(VARIABLES, X)
    for logits in jax.jit(passes)(KEY, VARIABLES, X):
        np.testing.assert_allclose(logits, expected, atol=2e-6)


def test_a_share_of_the_elements_is_dropped_and_the_others_grow():
    """Of 30,000 elements 40 % are 0: give or take 85, of which six are allowed."""
    x = jax.random.normal(KEY, (1, 10000))
    variables = Affine().init(KEY, x)
    fn = jax.jit(dropout_passes(Affine(), rate=0.4, num_passes=3))
    passes = fn(KEY, variables, x)[:, 0]
    dropped = np.asarray(passes == 0)
    assert abs(dropped.sum() - 12000) < 510
    whole = np.broadcast_to(Affine().apply(variables, x), passes.shape)
    np.testing.assert_allclose(passes[~dropped], whole[~dropped] / 0.6, rtol=1e-6)
    # The passes have nothing to do with each other.
    assert abs(np.corrcoef(dropped[0], dropped[1])[0, 1]) < 0.05


def test_every_site_has_its_own_mask():
    class Twice(nn.Module):
        @nn.compact
        def __call__(self, x):
            layer = nn.LayerNorm(name="norm")
            return jnp.concatenate([layer(x), layer(x)], axis=-1)

    x = jax.random.normal(KEY, (1, 10000))
    variables = Twice().init(KEY, x)
    fn = jax.jit(dropout_passes(Twice(), rate=0.5, num_passes=1))
    logits = fn(KEY, variables, x)[0, 0]
    first, second = np.split(np.asarray(logits == 0), 2)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.05


def test_sites_by_their_path():
    """Dropout before the last layer can be repeated by hand."""
    seen = []

    def sites(path):
        seen.append(path)
        return path == "norm1"

    fn = dropout_passes(MODULE, rate=0.5, num_passes=4, sites=sites, statistics=running_statistics)
    logits = jax.jit(fn)(KEY, VARIABLES, X)
    assert seen == ["dense0", "norm0", "dense1", "norm1", "head", ""]
    head = VARIABLES["params"]["head"]
    _, state = MODULE.apply(VARIABLES, X, capture_intermediates=True, mutable=["intermediates"])
    normalised = state["intermediates"]["norm1"]["__call__"][0]
    for i, key in enumerate(jax.random.split(KEY, 4)):
        kept = jax.random.bernoulli(jax.random.fold_in(key, 1), 0.5, normalised.shape)
        features = jax.nn.relu(jnp.where(kept, 2 * normalised, 0))
        expected = features @ head["kernel"] + head["bias"]
        np.testing.assert_allclose(logits[i], expected, atol=1e-5)


def test_statistics_of_the_batch_are_those_after_dropout():
    """The second layer normalises what the dropout behind the first has left."""
    module = nn.Sequential([nn.LayerNorm(), nn.BatchNorm(use_running_average=True)], name="net")
    x = jax.random.normal(KEY, (64, 20))
    variables = module.init(KEY, x)
    fn = dropout_passes(module, rate=0.3, num_passes=2, sites=lambda path: "layers_0" in path)
    logits = jax.jit(fn)(KEY, variables, x)
    np.testing.assert_allclose(logits.mean(1), 0, atol=1e-5)
    np.testing.assert_allclose(logits.var(1), 1, atol=1e-3)


def test_padding_changes_nothing():
    where = jnp.arange(6) < 4
    fn = jax.jit(dropout_passes(MODULE, rate=0.4, num_passes=3))
    padded = [fn(KEY, VARIABLES, X.at[4:].set(fill), where)[:, :4] for fill in (0.0, jnp.nan)]
    np.testing.assert_allclose(padded[0], padded[1], atol=2e-6)
    short = fn(KEY, VARIABLES, X[:4])
    np.testing.assert_allclose(padded[0], short, atol=1e-5)
    assert bool(jnp.all(jnp.any(short[0] != short[1], axis=1)))


def test_accuracy_from_the_passes():
    """A network that is sure of itself is said to be more accurate than a hesitant one."""
    fn = dropout_passes(MODULE, rate=0.2)

    @jax.jit
    def accuracy(margin):
        # Each image has a class of its own, by a margin that dropout does not touch.
        sure = margin * jax.nn.one_hot(jnp.arange(6) % 5, 5)
        labels = jnp.argmax(sure + batch_statistics(MODULE)(VARIABLES, X), axis=-1)
        passes = sure + fn(KEY, VARIABLES, X)
        disagreement = jnp.mean(jnp.argmax(passes, axis=-1) != labels)
        return 1 - aetta_error(disagreement, jnp.mean(jax.nn.softmax(passes), axis=(0, 1)))

    hesitant, sure = accuracy(0.1), accuracy(100.0)
    assert sure == 1
    assert 0.2 <= hesitant < 0.9


def test_sites_that_do_not_exist():
    fn = dropout_passes(MODULE, rate=0.4, sites=lambda path: path == "stage1")
    with pytest.raises(ValueError, match="those called are 'dense0', 'norm0', 'dense1', 'norm1'"):
        fn(KEY, VARIABLES, X)
    plain = nn.Sequential([nn.Dense(3)])
    with pytest.raises(ValueError, match="No submodule is a site of dropout"):
        dropout_passes(plain, rate=0.4)(KEY, plain.init(KEY, X), X)


def test_a_site_that_returns_two_arrays():
    class Two(nn.Module):
        @nn.compact
        def __call__(self, x):
            return x, x

    class Outer(nn.Module):
        @nn.compact
        def __call__(self, x):
            return Two(name="two")(x)[0]

    fn = dropout_passes(Outer(), rate=0.4, sites=lambda path: path == "two")
    with pytest.raises(ValueError, match="'two' returns tuple"):
        fn(KEY, {}, X)


@pytest.mark.parametrize("options", [{"rate": 1.0}, {"rate": -0.1}, {"rate": 0.1, "num_passes": 0}])
def test_bad_settings(options):
    with pytest.raises(ValueError, match="must be"):
        dropout_passes(MODULE, **options)
