import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from entropax.models import batch_statistics, running_statistics
from entropax.models.convert import convert_recognised
from entropax.models.keras_names import recognise

WIDTHS = (4, 6, 8)
RNG = np.random.default_rng(0)


def random_tensors():
    """Of the network, in the order in which Keras makes its layers."""
    tensors = {}
    kernels = [(3, 3, WIDTHS[0])]
    for inputs, width in zip((WIDTHS[0], *WIDTHS), WIDTHS, strict=False):
        kernels += [(3, inputs, width), (3, width, width)]
        kernels += [(1, inputs, width)] if inputs != width else []
    normalised = 0
    for i, (size, inputs, width) in enumerate(kernels):
        name = f"conv2d_{i}" if i else "conv2d"
        shape = (size, size, inputs, width)
        tensors[f"{name}.kernel"] = RNG.normal(0, (size**2 * inputs) ** -0.5, shape)
        tensors[f"{name}.bias"] = RNG.normal(0, 0.1, width)
        if size == 3:
            name = "batch_normalization" + (f"_{normalised}" if normalised else "")
            normalised += 1
            tensors[f"{name}.gamma"] = RNG.uniform(0.5, 1.5, width)
            tensors[f"{name}.beta"] = RNG.normal(0, 0.1, width)
            tensors[f"{name}.moving_mean"] = RNG.normal(0, 0.1, width)
            # Small, so that the epsilon of Keras is seen.
            tensors[f"{name}.moving_variance"] = RNG.uniform(0.01, 1, width)
    tensors["dense.kernel"] = RNG.normal(size=(WIDTHS[-1], 5))
    tensors["dense.bias"] = RNG.normal(size=5)
    return {name: value.astype(np.float32) for name, value in tensors.items()}


def by_hand(tensors, x, of_batch):
    """The network as `resnet_v1_eems` of the benchmark's training program writes it."""
    number = {"conv2d": -1, "batch_normalization": -1}

    def take(kind):
        number[kind] += 1
        return f"{kind}_{number[kind]}" if number[kind] else kind

    def conv(x, stride=1):
        name = take("conv2d")
        y = lax.conv_general_dilated(
            x, tensors[f"{name}.kernel"], (stride, stride), "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"), precision="highest",
        )  # fmt: skip
        return y + tensors[f"{name}.bias"]

    def norm(x):
        name = take("batch_normalization")
        mean, var = tensors[f"{name}.moving_mean"], tensors[f"{name}.moving_variance"]
        if of_batch:
            mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
        return (x - mean) / np.sqrt(var + 1e-3) * tensors[f"{name}.gamma"] + tensors[f"{name}.beta"]

    x = jax.nn.relu(norm(conv(x)))
    for stride in (1, 2, 2):
        y = norm(conv(jax.nn.relu(norm(conv(x, stride)))))
        x = jax.nn.relu(y + (conv(x, stride) if stride > 1 else x))
    return x.mean((1, 2)) @ tensors["dense.kernel"] + tensors["dense.bias"]


@pytest.mark.parametrize("of_batch", [False, True])
def test_logits_of_the_resnet_of_mlperf_tiny(of_batch):
    tensors = random_tensors()
    found = recognise(tensors)
    variables, unused = convert_recognised(found)
    assert unused == ()
    x = jnp.asarray(RNG.random((4, 16, 16, 3)), jnp.float32)
    apply_fn = (batch_statistics if of_batch else running_statistics)(found.module)
    expected = by_hand(tensors, x, of_batch)
    # Rounding of float32 through nine convolutions.
    np.testing.assert_allclose(jax.jit(apply_fn)(variables, x), expected, rtol=1e-4, atol=1e-4)


def test_its_images_are_in_0_to_255():
    inputs = recognise(random_tensors()).inputs
    np.testing.assert_allclose((1 - np.asarray(inputs.mean)) / np.asarray(inputs.std), [255.0] * 3)


def test_other_families_are_left_to_others():
    tensors = random_tensors()
    assert recognise({**tensors, "conv2d_9.kernel": np.zeros((1, 1, 2, 2))}) is None
    del tensors["dense.kernel"]
    assert recognise(tensors) is None
    assert recognise({}) is None
