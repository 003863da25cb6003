import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

from entropax.models import batch_statistics, running_statistics
from entropax.models.resnet import ResNet

X = jax.random.normal(jax.random.key(0), (6, 8, 8, 2))
SMALL = ResNet(num_classes=3, widths=(4, 6), blocks=2)
VARIABLES = jax.jit(SMALL.init)(jax.random.key(1), X)


def by_hand(variables, x, norm):
    """The network in plain lax, its normalisation as an argument."""

    def conv(path, x, stride):
        return norm(
            lax.conv_general_dilated(
                x, path["conv"]["kernel"], (stride, stride), "SAME",
                dimension_numbers=("NHWC", "HWIO", "NHWC"), precision="highest",
            )
        )  # fmt: skip

    params = variables["params"]
    x = jax.nn.relu(conv(params["stem"], x, 1))
    for i, stride in enumerate((1, 1, 2, 1)):
        block = params[f"residual_{i}"]
        y = conv(block["second"], jax.nn.relu(conv(block["first"], x, stride)), 1)
        x = jax.nn.relu(y + (conv(block["shortcut"], x, stride) if "shortcut" in block else x))
    features = x.mean((1, 2))
    return features, features @ params["head"]["kernel"] + params["head"]["bias"]


def test_it_is_the_network_of_the_docstring():
    """In evaluation mode a fresh BatchNorm divides by sqrt(1 + 1e-5) and nothing else."""
    features, logits = by_hand(VARIABLES, X, lambda x: x / jnp.sqrt(1 + 1e-5))
    assert set(VARIABLES["params"]["residual_2"]) == {"first", "second", "shortcut"}
    assert set(VARIABLES["params"]["residual_3"]) == {"first", "second"}
    found = running_statistics(SMALL, method="features")(VARIABLES, X)
    np.testing.assert_allclose(found, features, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        running_statistics(SMALL)(VARIABLES, X), logits, rtol=1e-4, atol=1e-5
    )


def test_statistics_of_the_batch():
    def norm(x):
        return (x - x.mean((0, 1, 2))) / jnp.sqrt(x.var((0, 1, 2)) + 1e-5)

    features, logits = by_hand(VARIABLES, X, norm)
    found = batch_statistics(SMALL, method="features")(VARIABLES, X)
    np.testing.assert_allclose(found, features, rtol=1e-4, atol=1e-4)
    trained, updated = SMALL.apply(VARIABLES, X, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(trained, logits, rtol=1e-4, atol=1e-4)
    moved = jax.tree.map(jnp.array_equal, updated["batch_stats"], VARIABLES["batch_stats"])
    assert not any(jax.tree.leaves(moved))


def test_initialisers_are_used():
    module = ResNet(
        num_classes=200,
        widths=(16, 32),
        conv_init=nn.initializers.normal(0.03),
        dense_init=nn.initializers.normal(1e-3),
    )
    params = jax.jit(module.init)(jax.random.key(0), X)["params"]
    kernels = [leaf for path, leaf in jax.tree.leaves_with_path(params) if "conv" in str(path)]
    assert len(kernels) == 1 + 2 * 4 + 1
    values = jnp.concatenate([kernel.ravel() for kernel in kernels])
    # Tens of thousands of draws: the deviation is within a few percent of the one asked for.
    assert float(values.std()) == pytest.approx(0.03, rel=0.05)
    assert float(params["head"]["kernel"].std()) == pytest.approx(1e-3, rel=0.05)
    assert not params["head"]["bias"].any()


def test_it_learns():
    labels = jnp.arange(6) % 3
    tx = optax.adam(1e-2)

    def loss_fn(params):
        logits, _ = SMALL.apply({**VARIABLES, "params": params}, X, True, mutable=["batch_stats"])
        return optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    @jax.jit
    def step(params, opt_state):
        loss, grads = jax.value_and_grad(loss_fn)(params)
        updates, opt_state = tx.update(grads, opt_state)
        return optax.apply_updates(params, updates), opt_state, loss

    params, opt_state = VARIABLES["params"], tx.init(VARIABLES["params"])
    for _ in range(30):
        params, opt_state, loss = step(params, opt_state)
    assert float(loss) < 0.1


@pytest.mark.parametrize("options", [{"widths": ()}, {"blocks": 0}])
def test_it_has_to_have_layers(options):
    with pytest.raises(ValueError, match="at least one stage"):
        ResNet(num_classes=2, **options).init(jax.random.key(0), X)
