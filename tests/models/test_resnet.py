import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

from entropax.models import batch_statistics, layer_features, running_statistics
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


BOTTLENECKS = ResNet(
    num_classes=3, widths=(32, 64), blocks=(1, 2), block="bottleneck", large_stem=True,
    stem_width=16, groups=2, group_width=8, padding=1,
)  # fmt: skip
LARGE = jax.random.normal(jax.random.key(2), (8, 32, 32, 2))


def test_bottlenecks_and_a_large_stem():
    """Shapes as in figure 3c of Xie et al.: in groups within, four times less resolution first."""
    variables = jax.eval_shape(BOTTLENECKS.init, jax.random.key(0), LARGE)
    params = variables["params"]
    assert params["stem"]["conv"]["kernel"].shape == (7, 7, 2, 16)
    kernels = [
        {name: layer["conv"]["kernel"].shape for name, layer in params[f"residual_{i}"].items()}
        for i in range(3)
    ]
    assert kernels[0] == {
        "first": (1, 1, 16, 16),
        "second": (3, 3, 8, 16),
        "third": (1, 1, 16, 32),
        "shortcut": (1, 1, 16, 32),
    }
    assert kernels[1] == {
        "first": (1, 1, 32, 32),
        "second": (3, 3, 16, 32),
        "third": (1, 1, 32, 64),
        "shortcut": (1, 1, 32, 64),
    }
    assert set(kernels[2]) == {"first", "second", "third"}
    outputs = [f"residual_{i}" for i in range(3)]
    shapes = jax.eval_shape(layer_features(BOTTLENECKS, outputs), variables, LARGE)
    assert [shapes[name].shape[1:3] for name in outputs] == [(8, 8), (4, 4), (4, 4)]


def filled(module, x):
    """Variables without compiling the initialisers."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)
    return jax.tree.map(
        lambda leaf: jnp.asarray(
            rng.normal(size=leaf.shape) / math.prod(leaf.shape[:-1]) ** 0.5
            if len(leaf.shape) > 1
            else rng.uniform(0.5, 1.5, leaf.shape),
            leaf.dtype,
        ),
        shapes,
    )


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_activations_in_bfloat16(norm):
    """Eight bits in each of ten layers: a few percent of the largest logit."""
    exact = BOTTLENECKS.clone(
        norm=norm, widths=(128,), blocks=2, stem_width=32, groups=1, group_width=32
    )
    mixed = exact.clone(dtype=jnp.bfloat16)
    variables = filled(mixed, LARGE)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    for mode in (running_statistics, batch_statistics) if norm == "batch" else (batch_statistics,):
        logits = jax.jit(mode(mixed))(variables, LARGE)
        expected = jax.jit(mode(exact))(variables, LARGE)
        assert logits.dtype == jnp.float32
        np.testing.assert_allclose(logits, expected, atol=0.05 * float(jnp.abs(expected).max()))
        assert float(jnp.abs(logits - expected).max()) > 0
    layers = ["stem/norm", "residual_1"]
    seen = jax.eval_shape(layer_features(mixed, layers), variables, LARGE)
    assert {seen[name].dtype for name in layers} == {jnp.dtype("bfloat16")}


def test_bfloat16_has_statistics_in_float32():
    """In training mode too, where a batch far from 0 would lose all its digits in bfloat16."""
    mixed = SMALL.clone(dtype=jnp.bfloat16)
    _, moved = mixed.apply(VARIABLES, X, train=True, mutable=["batch_stats"])
    _, expected = SMALL.apply(VARIABLES, X, train=True, mutable=["batch_stats"])
    for found, exact in zip(jax.tree.leaves(moved), jax.tree.leaves(expected), strict=True):
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, exact, rtol=0.05, atol=0.02)


def test_groups_know_no_batch():
    module = ResNet(num_classes=3, widths=(32,), blocks=1, norm="group", epsilon=0.1)
    variables = filled(module, X)
    assert set(variables) == {"params"}
    logits = running_statistics(module)(variables, X)
    np.testing.assert_array_equal(batch_statistics(module)(variables, X), logits)
    alone = running_statistics(module)(variables, X[:1])
    np.testing.assert_allclose(alone, logits[:1], rtol=1e-5, atol=1e-6)
    # 32 channels are 32 groups: each channel of an image by itself.
    stem = layer_features(module, ["stem/conv", "stem/norm"])(variables, X)
    x, affine = stem["stem/conv"], variables["params"]["stem"]["norm"]
    expected = (x - x.mean((1, 2), keepdims=True)) / jnp.sqrt(x.var((1, 2), keepdims=True) + 0.1)
    expected = expected * affine["scale"] + affine["bias"]
    np.testing.assert_allclose(stem["stem/norm"], expected, rtol=1e-4, atol=1e-5)


def test_float64_stays_float64():
    with jax.enable_x64(True):
        variables = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), VARIABLES)
        logits = running_statistics(SMALL)(variables, X.astype(jnp.float64))
    assert logits.dtype == jnp.float64
    np.testing.assert_allclose(logits, running_statistics(SMALL)(VARIABLES, X), atol=1e-5)


@pytest.mark.parametrize(
    "options", [{"widths": ()}, {"blocks": 0}, {"blocks": (1, 2)}, {"blocks": (1, 2, 0)}]
)
def test_it_has_to_have_layers(options):
    with pytest.raises(ValueError, match="at least one stage"):
        ResNet(num_classes=2, **options).init(jax.random.key(0), X)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block": "wide"}, "`block` must be one of 'basic', 'bottleneck', got 'wide'"),
        ({"norm": "layer"}, "`norm` must be one of .*'layer'"),
        ({"shortcut": "none"}, "`shortcut` must be one of .*'none'"),
        ({"groups": 2}, "Groups belong to block='bottleneck'"),
        ({"group_width": 8}, "Groups belong to block='bottleneck'"),
    ],
)
def test_unknown_options(options, message):
    with pytest.raises(ValueError, match=message):
        ResNet(num_classes=2, **options).init(jax.random.key(0), X)
