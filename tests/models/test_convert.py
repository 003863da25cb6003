"""Weights of torch give the logits that a network written in torch's layout gives."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from models.resnet_tensors import WIDTHS, random_tensors

from entropax.models import running_statistics
from entropax.models.convert import cifar_resnet, convert_tensors


def by_hand(tensors, x, blocks=1):
    """He et al.'s network for CIFAR on `[b, channels, h, w]`, with torch's names and padding."""

    def layer(x, convolution, norm, stride):
        x = lax.conv_general_dilated(
            x, tensors[f"{convolution}.weight"], (stride, stride), ((1, 1), (1, 1)),
            precision="highest",
        )  # fmt: skip
        mean, var, scale, shift = (
            tensors[f"{norm}.{leaf}"][:, None, None]
            for leaf in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / np.sqrt(var + 1e-5) * scale + shift

    x = jax.nn.relu(layer(x, "conv1", "bn1", 1))
    for stage in (1, 2, 3):
        for block in range(blocks):
            name = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            y = jax.nn.relu(layer(x, f"{name}.conv1", f"{name}.bn1", stride))
            y = layer(y, f"{name}.conv2", f"{name}.bn2", 1)
            if stride == 2:
                more = x.shape[1] // 2
                x = jnp.pad(x[:, :, ::2, ::2], ((0, 0), (more, more), (0, 0), (0, 0)))
            x = jax.nn.relu(x + y)
    return x.mean((2, 3)) @ tensors["linear.weight"].T + tensors["linear.bias"]


@pytest.mark.parametrize("blocks", [1, 2])
def test_a_published_resnet_gives_its_logits(blocks):
    tensors = random_tensors(blocks)
    module, variables = cifar_resnet(tensors)
    x = np.random.default_rng(1).normal(size=(3, 16, 16, 3)).astype(np.float32)
    found = jax.jit(running_statistics(module))(variables, x)
    expected = by_hand(tensors, x.transpose(0, 3, 1, 2), blocks)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert (module.num_classes, module.widths, module.blocks) == (5, WIDTHS, blocks)


def test_a_missing_tensor_is_named():
    tensors = random_tensors()
    del tensors["layer2.0.bn1.running_var"]
    with pytest.raises(ValueError, match="batch_stats/residual_1/first/norm/var is not there"):
        cifar_resnet(tensors)


def test_a_tensor_of_another_shape_is_named():
    tensors = random_tensors()
    tensors["layer1.0.bn2.bias"] = np.zeros(9, np.float32)
    with pytest.raises(ValueError, match=r"second/norm/bias is \(9,\), expected \(4,\)"):
        cifar_resnet(tensors)


def test_a_shortcut_with_weights_is_another_network():
    tensors = {**random_tensors(), "layer2.0.shortcut.0.weight": np.zeros((8, 4, 1, 1))}
    with pytest.raises(ValueError, match="no weights in its shortcuts"):
        cifar_resnet(tensors)


def test_what_is_not_used_is_reported_and_what_comes_twice_refused():
    like = jax.eval_shape(nn.Dense(2).init, jax.random.key(0), jnp.zeros((1, 3)))
    tensors = {"a.weight": np.ones((2, 3)), "a.bias": np.ones(2), "b.bias": np.ones(2)}
    found = convert_tensors(tensors, like, {"a": ""}.get)
    assert found.unused == ("b.bias",)
    with pytest.raises(ValueError, match=r"Two tensors belong to params/bias; .* b\.bias"):
        convert_tensors(tensors, like, lambda layer: "")


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_kernels_of_any_number_of_axes(axes):
    module = nn.Conv(5, (3,) * axes, use_bias=False)
    like = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, *(4,) * axes, 2)))
    value = np.random.default_rng(0).normal(size=(5, 2, *(3,) * axes)).astype(np.float32)
    kernel = convert_tensors({"weight": value}, like, lambda layer: "").variables["params"][
        "kernel"
    ]
    np.testing.assert_array_equal(np.moveaxis(kernel, (-1, -2), (0, 1)), value)


def test_another_network():
    with pytest.raises(ValueError, match="three stages"):
        cifar_resnet({"fc.weight": np.zeros((2, 2))})
    with pytest.raises(ValueError, match="three stages"):
        cifar_resnet({k: v for k, v in random_tensors(2).items() if "layer3.1" not in k})


def test_dtypes_are_those_of_the_module():
    like = jax.eval_shape(nn.Dense(2).init, jax.random.key(0), jnp.zeros((1, 3)))
    big_endian = {"weight": np.arange(6.0).reshape(2, 3).astype(">f8"), "bias": np.ones(2, "f2")}
    variables, _ = convert_tensors(big_endian, like, lambda layer: "")
    kernel = variables["params"]["kernel"]
    assert kernel.dtype == jnp.float32
    np.testing.assert_array_equal(kernel, np.arange(6.0).reshape(2, 3).T)


def test_a_tensor_that_is_a_parameter_itself_is_renamed_by_its_whole_name():
    class Tokens(nn.Module):
        @nn.compact
        def __call__(self, x):
            token = self.param("class_token", nn.initializers.zeros, (1, 2, 3))
            return nn.Dense(4, name="head")(x + token)

    like = jax.eval_shape(Tokens().init, jax.random.key(0), jnp.zeros((1, 2, 3)))
    token = np.arange(6.0).reshape(1, 2, 3)
    tensors = {"cls_token": token, "fc.kernel": np.ones((3, 4)), "fc.bias": np.zeros(4)}
    paths = {"cls_token": "class_token", "fc": "head"}
    params = convert_tensors(tensors, like, paths.get).variables["params"]
    np.testing.assert_array_equal(params["class_token"], token)
    np.testing.assert_array_equal(params["head"]["kernel"], np.ones((3, 4)))


def test_narrow_floats_become_float32():
    like = jax.eval_shape(nn.Dense(2).init, jax.random.key(0), jnp.zeros((1, 3)))
    tensors = {
        "weight": np.asarray(jnp.arange(6, dtype=jnp.bfloat16).reshape(2, 3)),
        "bias": np.ones(2, np.float16),
    }
    kernel = convert_tensors(tensors, like, lambda layer: "").variables["params"]["kernel"]
    assert kernel.dtype == jnp.float32
    np.testing.assert_array_equal(kernel, np.arange(6.0).reshape(2, 3).T)
