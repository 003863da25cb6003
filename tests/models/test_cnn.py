import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from entropax.models import CNN, patch_convolution

LAYOUT = ("NHWC", "HWIO", "NHWC")
CASES = {
    "valid": ((7, 9), (3, 3), (1, 1), "VALID"),
    "same": ((8, 8), (3, 3), (1, 1), "SAME"),
    "strides": ((9, 8), (3, 2), (2, 3), "SAME"),
    "padded": ((5, 6), (4, 4), (1, 2), ((1, 1), (2, 0))),
}


@pytest.mark.parametrize("case", CASES)
def test_patches_convolve_like_lax(case):
    """Values and derivatives, to the rounding of sums of a few dozen float32 products."""
    size, kernel_size, strides, padding = CASES[case]
    x = jax.random.normal(jax.random.key(0), (2, *size, 3))
    kernel = jax.random.normal(jax.random.key(1), (*kernel_size, 3, 4))

    def both(convolve):
        def loss(x, kernel):
            y = convolve(x, kernel, strides, padding, dimension_numbers=LAYOUT)
            return jnp.sum(jnp.tanh(y)), y

        return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(x, kernel)

    ours, theirs = (jax.tree.leaves(both(c)) for c in (patch_convolution, lax.conv_general_dilated))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_patches_with_a_kernel_for_each_network():
    x = jax.random.normal(jax.random.key(0), (2, 6, 6, 3))
    kernels = jax.random.normal(jax.random.key(1), (5, 3, 3, 3, 4))
    together = jax.vmap(
        lambda k: patch_convolution(x, k, (1, 1), "VALID", dimension_numbers=LAYOUT)
    )(kernels)
    for kernel, y in zip(kernels, together, strict=True):
        expected = lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=LAYOUT)
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("x_shape", "kernel_shape", "options"),
    [
        ((1, 8, 8, 4), (3, 3, 2, 4), {"feature_group_count": 2, "dimension_numbers": LAYOUT}),
        ((1, 4, 8, 8), (4, 4, 3, 3), {"dimension_numbers": ("NCHW", "OIHW", "NCHW")}),
        ((1, 8, 8, 4), (3, 3, 4, 4), {"rhs_dilation": (2, 2), "dimension_numbers": LAYOUT}),
        ((1, 4, 8, 8), (4, 4, 3, 3), {}),
    ],
)
def test_other_convolutions_are_passed_on(x_shape, kernel_shape, options):
    x = jax.random.normal(jax.random.key(0), x_shape)
    kernel = jax.random.normal(jax.random.key(1), kernel_shape)
    ours = patch_convolution(x, kernel, (1, 1), "SAME", **options)
    np.testing.assert_array_equal(
        ours, lax.conv_general_dilated(x, kernel, (1, 1), "SAME", **options)
    )


def written_out(params, x):
    """The network of the study as one reads it, for VALID padding and NTK parameterisation."""
    for name, fan_in in (("conv0", 9), ("conv1", 9 * 32)):
        x = lax.conv_general_dilated(
            x, params[name]["kernel"], (1, 1), "VALID", dimension_numbers=LAYOUT
        )
        x = nn.avg_pool(nn.relu(x / fan_in**0.5), (2, 2), (2, 2))
    x = x.reshape(len(x), -1)
    x = nn.relu(x @ params["dense"]["kernel"] / x.shape[-1] ** 0.5)
    return x @ params["head"]["kernel"] / x.shape[-1] ** 0.5


def test_is_the_network_of_the_study():
    module = CNN(num_classes=10)
    x = jax.random.uniform(jax.random.key(0), (3, 28, 28, 1))
    variables = jax.jit(module.init)(jax.random.key(1), x)
    shapes = jax.tree.map(jnp.shape, variables["params"])
    assert shapes == {
        "conv0": {"kernel": (3, 3, 1, 32)},
        "conv1": {"kernel": (3, 3, 32, 64)},
        "dense": {"kernel": (5 * 5 * 64, 256)},
        "head": {"kernel": (256, 10)},
    }
    for leaf in jax.tree.leaves(variables):
        # The standard deviation of 288 normal numbers is known to 4 %.
        assert float(jnp.std(leaf)) == pytest.approx(1, abs=0.15)
    ours = jax.jit(module.apply)(variables, x)
    expected = jax.jit(written_out)(variables["params"], x)
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-6)


def random_variables(module, x):
    """Variables of the right shapes, without compiling the initialisation."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), shapes)


def test_what_pooling_drops_changes_nothing():
    module = CNN(num_classes=3, features=(4, 4), hidden=8)
    x = jax.random.uniform(jax.random.key(0), (2, 28, 28, 1))
    variables, apply_fn = random_variables(module, x), jax.jit(module.apply)
    logits = apply_fn(variables, x)
    np.testing.assert_array_equal(logits, apply_fn(variables, x.at[:, 26:].set(9)))
    assert not np.allclose(logits, apply_fn(variables, x.at[:, 25, :26].set(9)))


def test_parameterisations_are_one_family_of_functions():
    x = jax.random.uniform(jax.random.key(0), (2, 8, 8, 3))
    options = {"num_classes": 4, "features": (5, 6), "hidden": 7, "padding": "SAME"}
    by_ntk, standard = CNN(**options), CNN(**options, parameterization="standard")
    variables = random_variables(by_ntk, x)
    scaled = jax.tree.map(lambda w: w / np.prod(w.shape[:-1]) ** 0.5, variables)
    ours, theirs = jax.jit(by_ntk.apply)(variables, x), jax.jit(standard.apply)(scaled, x)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
    # And the standard initialisation has the scale that makes them so.
    wide = CNN(num_classes=4, features=(), hidden=500, parameterization="standard")
    kernel = jax.jit(wide.init)(jax.random.key(1), x)["params"]["dense"]["kernel"]
    assert float(jnp.std(kernel) * kernel.shape[0] ** 0.5) == pytest.approx(1, abs=0.02)


def test_variables_do_not_depend_on_the_convolution():
    x = jax.random.uniform(jax.random.key(0), (2, 12, 12, 1))
    ours, theirs = (
        CNN(num_classes=3, features=(4, 4), hidden=8, convolution=convolution)
        for convolution in (patch_convolution, lax.conv_general_dilated)
    )
    variables, others = (random_variables(net, x) for net in (ours, theirs))
    jax.tree.map(np.testing.assert_array_equal, variables, others)
    y, expected = (jax.jit(net.apply)(variables, x) for net in (ours, theirs))
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"Nothing is left of images \[8, 8\] .* padding='VALID'; .* or padding='SAME'"),
        ({"padding": "FULL"}, "`padding` must be 'VALID' or 'SAME', got 'FULL'"),
        ({"parameterization": "mup"}, "`parameterization` must be .* got 'mup'"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        CNN(num_classes=3, **options).init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
