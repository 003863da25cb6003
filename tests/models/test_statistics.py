import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from entropax.models import ConvNet, batch_statistics, running_statistics

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
