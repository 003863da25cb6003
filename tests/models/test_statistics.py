import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from entropax.models import ConvNet, batch_statistics, moving_statistics, running_statistics

X = 3 + 2 * jax.random.normal(jax.random.key(0), (6, 8, 8, 2))


def variables_of(module, x=X):
    variables = module.init(jax.random.key(1), x)
    # Statistics and affine parameters that are not 0 and 1.
    return jax.tree.map(
        lambda a: a + 0.3 * jax.random.uniform(jax.random.key(a.size), a.shape), variables
    )


class InTraining(nn.Module):
    """A module that takes `train`, as most do, and nests its normalisation."""

    @nn.compact
    def __call__(self, x, train=True):
        x = ConvNet(num_classes=5, features=(4, 6), name="inner")(x, train=train)
        return nn.BatchNorm(use_running_average=not train, use_bias=False)(x)


def test_full_batch_is_linen_in_training_mode():
    module = InTraining()
    variables = variables_of(module)
    expected, _ = module.apply(variables, X, mutable=["batch_stats"])
    logits = batch_statistics(module, train=False)(variables, X)
    np.testing.assert_allclose(logits, expected, atol=2e-5)


def test_masked_batch_is_linen_on_the_rows_that_count():
    module = InTraining()
    variables = variables_of(module)
    where = jnp.array([True, True, False, True, False, True])
    expected, _ = module.apply(variables, X[where], mutable=["batch_stats"])
    padded = X.at[2].set(jnp.nan).at[4].set(1e9)
    logits = batch_statistics(module, train=False)(variables, padded, where=where)
    np.testing.assert_allclose(logits[where], expected, atol=2e-5)


def test_gradient_does_not_see_padding():
    module = nn.BatchNorm(use_running_average=True)
    variables = variables_of(module)
    where = jnp.array([True] * 5 + [False])

    def loss(variables, x):
        logits = batch_statistics(module)(variables, x, where=where)
        return jnp.sum(jnp.where(where[:, None, None, None], logits**3, 0))

    clean = jax.grad(loss)(variables, X.at[5].set(0))
    padded = jax.grad(loss)(variables, X.at[5].set(1e9))
    for a, b in zip(jax.tree.leaves(clean), jax.tree.leaves(padded), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_no_weight_on_the_batch_is_running_statistics():
    """Without a single example the running statistics are all there is."""
    module = InTraining()
    variables = variables_of(module)
    nothing = jnp.zeros(len(X), bool)
    logits = batch_statistics(module, train=False)(variables, X, where=nothing)
    expected = running_statistics(module, train=False)(variables, X)
    np.testing.assert_allclose(logits, expected, atol=2e-5)


def test_batch_weight_mixes_statistics():
    module = nn.BatchNorm(use_running_average=True, epsilon=1e-5)
    variables = variables_of(module)
    stats, affine = variables["batch_stats"], variables["params"]
    mean = 0.1 * X.mean((0, 1, 2)) + 0.9 * stats["mean"]
    var = 0.1 * X.var((0, 1, 2)) + 0.9 * stats["var"]
    expected = (X - mean) / jnp.sqrt(var + 1e-5) * affine["scale"] + affine["bias"]
    logits = batch_statistics(module, batch_weight=0.1)(variables, X)
    np.testing.assert_allclose(logits, expected, rtol=2e-5)


def test_single_example_with_little_batch_weight_still_depends_on_the_input():
    module = nn.Sequential([nn.BatchNorm(use_running_average=True), nn.Dense(3)])
    x = X[:, 0, 0]
    variables = variables_of(module, x)
    whole = batch_statistics(module)
    np.testing.assert_allclose(whole(variables, x[:1]), whole(variables, x[1:2]), atol=1e-5)
    mixed = batch_statistics(module, batch_weight=0.1)
    assert not np.allclose(mixed(variables, x[:1]), mixed(variables, x[1:2]), atol=1e-2)


def test_feature_axis_and_half_precision():
    module = nn.BatchNorm(use_running_average=True, axis=1, dtype=jnp.bfloat16)
    x = jnp.moveaxis(X, -1, 1)
    variables = module.init(jax.random.key(1), x)
    y = batch_statistics(module)(variables, x)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(jnp.mean(y.astype(jnp.float32), (0, 2, 3)), 0, atol=1e-2)


def test_other_norms_are_left_alone():
    module = ConvNet(num_classes=3, features=(8,), norm="group")
    variables = variables_of(module)
    np.testing.assert_array_equal(
        batch_statistics(module)(variables, X), running_statistics(module)(variables, X)
    )


def test_normalising_over_the_batch_axis_is_refused():
    module = nn.BatchNorm(use_running_average=True, axis=(0, 3))
    variables = module.init(jax.random.key(1), X)
    with pytest.raises(ValueError, match="no statistics of a batch"):
        batch_statistics(module)(variables, X)


def test_unknown_norm():
    with pytest.raises(ValueError, match="`norm` must be 'batch'"):
        ConvNet(num_classes=3, norm="spectral").init(jax.random.key(0), X)


def test_moving_statistics_are_a_running_mean_by_hand():
    module = nn.BatchNorm(use_running_average=True, epsilon=1e-5)
    variables = variables_of(module)
    where = jnp.array([True, True, False, True, False, True])
    logits, moved = moving_statistics(module, momentum=0.3)(
        variables, X.at[2].set(jnp.nan).at[4].set(1e9), where=where
    )
    real = np.asarray(X, np.float64)[np.asarray(where)]
    mean = 0.7 * variables["batch_stats"]["mean"] + 0.3 * real.mean((0, 1, 2))
    var = 0.7 * variables["batch_stats"]["var"] + 0.3 * real.var((0, 1, 2))
    np.testing.assert_allclose(moved["batch_stats"]["mean"], mean, rtol=2e-6)
    np.testing.assert_allclose(moved["batch_stats"]["var"], var, rtol=2e-6)
    affine = variables["params"]
    expected = (real - mean) / np.sqrt(var + 1e-5) * affine["scale"] + affine["bias"]
    np.testing.assert_allclose(logits[where], expected, rtol=2e-5, atol=2e-6)
    assert moved["params"] is variables["params"]


def test_a_momentum_of_1_is_batch_statistics():
    module = InTraining()
    variables = variables_of(module)
    where = jnp.arange(len(X)) < 4
    logits, moved = moving_statistics(module, momentum=1.0, train=False)(variables, X, where=where)
    expected = batch_statistics(module, train=False)(variables, X, where=where)
    np.testing.assert_allclose(logits, expected, atol=1e-6)
    # The statistics that it has kept are those of the batch: as running ones they do the same.
    again = running_statistics(module, train=False)(moved, X)
    np.testing.assert_allclose(again[where], expected[where], atol=2e-5)


def test_a_constant_stream_is_approached_geometrically():
    module = nn.BatchNorm(use_running_average=True)
    variables = module.init(jax.random.key(0), X)
    update_fn = moving_statistics(module, momentum=0.25)
    for _ in range(5):
        logits, variables = update_fn(variables, jnp.full_like(X, 8.0))
    np.testing.assert_allclose(variables["batch_stats"]["mean"], 8 * (1 - 0.75**5), rtol=1e-6)
    np.testing.assert_allclose(variables["batch_stats"]["var"], 0.75**5, rtol=1e-6)
    # Normalised by the new statistics, not by those before the batch.
    np.testing.assert_allclose(logits, 8 * 0.75**5 / np.sqrt(0.75**5 + 1e-5), rtol=1e-5)


def test_an_empty_batch_moves_nothing():
    module = InTraining()
    variables = variables_of(module)
    nothing = jnp.zeros(len(X), bool)
    logits, moved = moving_statistics(module, train=False)(variables, X, where=nothing)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool(jnp.all(a == b)), moved, variables))
    expected = running_statistics(module, train=False)(variables, X)
    np.testing.assert_allclose(logits, expected, atol=2e-5)
    _, moved = moving_statistics(module, train=False)(
        variables, jnp.full_like(X, jnp.nan), where=nothing
    )
    assert jax.tree.all(jax.tree.map(lambda a, b: bool(jnp.all(a == b)), moved, variables))


def test_linen_in_training_moves_likewise():
    """Linen's own update has `1 - momentum` as the weight of the batch."""
    module = InTraining()
    variables = variables_of(module)
    _, expected = module.apply(variables, X, mutable=["batch_stats"])
    _, moved = moving_statistics(module, momentum=0.01, train=False)(variables, X)
    outer = moved["batch_stats"]["BatchNorm_0"]
    # Only the first layer sees the same inputs in both; the outer one's momentum is 0.99 as well.
    first = expected["batch_stats"]["inner"]["norm0"]["mean"]
    before = variables["batch_stats"]["inner"]["norm0"]["mean"]
    now = moved["batch_stats"]["inner"]["norm0"]["mean"]
    np.testing.assert_allclose((now - before) * 10, first - before, rtol=2e-4)
    assert jax.tree.structure(moved) == jax.tree.structure(variables)
    assert outer["mean"].shape == (5,)


def test_moving_statistics_of_any_axis_precision_and_norm():
    module = nn.BatchNorm(use_running_average=True, axis=1)
    x = jnp.moveaxis(X, -1, 1)
    variables = module.init(jax.random.key(1), x)
    variables["batch_stats"] = jax.tree.map(
        lambda a: a.astype(jnp.bfloat16), variables["batch_stats"]
    )
    _, moved = jax.jit(moving_statistics(module, momentum=0.5))(variables, x)
    assert moved["batch_stats"]["mean"].dtype == jnp.bfloat16
    np.testing.assert_allclose(
        moved["batch_stats"]["mean"].astype(jnp.float32), X.mean((0, 1, 2)) / 2, rtol=1e-2
    )
    without = ConvNet(num_classes=3, features=(8,), norm="group")
    variables = variables_of(without)
    logits, moved = moving_statistics(without)(variables, X)
    np.testing.assert_array_equal(logits, running_statistics(without)(variables, X))
    assert jax.tree.structure(moved) == jax.tree.structure(variables)


@pytest.mark.parametrize("momentum", [0.0, 1.5, float("nan")])
def test_bad_momentum(momentum):
    with pytest.raises(ValueError, match=r"`momentum` must be in \(0, 1\]"):
        moving_statistics(ConvNet(3), momentum=momentum)


@pytest.mark.parametrize("batch_weight", [1.0, 0.3])
@pytest.mark.parametrize("real", [(1, 1, 0, 1, 0), (0, 0, 0, 0, 0), (1, 1, 1, 1, 1)])
def test_derivatives_are_those_of_the_formula(batch_weight, real):
    """Values, tangents, gradients, and tangents of gradients, one network or several at a time."""
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(0), 6)
        x = 3 + jax.random.normal(keys[0], (5, 3, 2, 2), float)
        where = jnp.array(real, bool)
        module = nn.BatchNorm(use_running_average=True, param_dtype=float, dtype=float)
        variables = module.init(keys[1], x)
        variables = jax.tree.map(
            lambda a: a + jax.random.uniform(keys[2], a.shape, a.dtype), variables
        )
        tangents = jax.tree.map(
            lambda a: jax.random.normal(keys[3], a.shape, a.dtype), (variables, x)
        )
        weights = jax.random.normal(keys[4], x.shape, float)

        def by_formula(variables, x):
            mask, stats = where[:, None, None, None], variables["batch_stats"]
            count = jnp.maximum(where.sum(), 1) * 6
            mean = jnp.sum(jnp.where(mask, x, 0), (0, 1, 2)) / count
            var = jnp.sum(jnp.where(mask, (x - mean) ** 2, 0), (0, 1, 2)) / count
            share = jnp.where(where.any(), jnp.asarray(batch_weight, float), 0)
            mean = share * mean + (1 - share) * stats["mean"]
            var = share * var + (1 - share) * stats["var"]
            affine = variables["params"]
            return (x - mean) / jnp.sqrt(var + 1e-5) * affine["scale"] + affine["bias"]

        def ours(variables, x):
            return batch_statistics(module, batch_weight=batch_weight)(variables, x, where)

        def everything(function):
            def loss(variables, x):
                return jnp.sum(jnp.tanh(function(variables, x)) * weights)

            grad = jax.grad(loss, (0, 1))
            several = jnp.stack([x, 2 * x])
            return (
                jax.jvp(function, (variables, x), tangents),
                jax.jvp(grad, (variables, x), tangents),
                jax.jvp(lambda variables: function(variables, x), (variables,), tangents[:1]),
                jax.vmap(jax.grad(loss), (None, 0))(variables, several),
            )

        found, expected = (jax.jit(everything, static_argnums=0)(f) for f in (ours, by_formula))
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11)
