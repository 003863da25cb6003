import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from entropax.convolution import convolution

LAYOUT = ("NHWC", "HWIO", "NHWC")
CASES = {
    "same": ((8, 8), (3, 3), (2, 2), "SAME"),
    "valid, uneven": ((7, 9), (3, 5), (2, 3), "VALID"),
    "padded": ((9, 9), (4, 4), (1, 2), ((1, 1), (2, 0))),
    "too small to matter": ((3, 3), (3, 3), (2, 2), "SAME"),
    "one pixel": ((7, 8), (1, 1), (1, 1), "SAME"),
    "one pixel, strided": ((7, 8), (1, 1), (2, 3), ((0, 0), (0, 0))),
    "one pixel, padded": ((7, 8), (1, 1), (2, 2), ((1, 0), (1, 1))),
}
DERIVATIVES = {
    "value": lambda f, x, k: f(x, k),
    "reverse": lambda f, x, k: jax.grad(lambda x, k: jnp.sum(jnp.tanh(f(x, k))), (0, 1))(x, k),
    "forward": lambda f, x, k: jax.jvp(f, (x, k), (2 * x, k**2)),
    "vmap of reverse": lambda f, x, k: jax.vmap(
        jax.grad(lambda x: jnp.sum(jnp.tanh(f(x, k))))
    )(jnp.stack([x, x + 1])),
    "forward over reverse": lambda f, x, k: jax.jvp(
        jax.grad(lambda k: jnp.sum(jnp.tanh(f(x, k)))), (k,), (k**2,)
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("derivative", DERIVATIVES)
def test_equals_lax_to_rounding(case, derivative):
    size, kernel_size, strides, padding = CASES[case]
    x = jax.random.normal(jax.random.key(0), (2, *size, 3))
    kernel = jax.random.normal(jax.random.key(1), (*kernel_size, 3, 4))
    ours, theirs = (
        jax.tree.leaves(
            DERIVATIVES[derivative](
                lambda x, k, conv=conv: conv(x, k, strides, padding, dimension_numbers=LAYOUT),
                x,
                kernel,
            )
        )
        for conv in (convolution, lax.conv_general_dilated)
    )
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("derivative", DERIVATIVES)
def test_groups_equal_lax_to_rounding(derivative):
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 12))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 4, 6))
    options = {"dimension_numbers": LAYOUT, "feature_group_count": 3}
    ours, theirs = (
        jax.tree.leaves(
            DERIVATIVES[derivative](
                lambda x, k, conv=conv: conv(x, k, (2, 1), "SAME", **options), x, kernel
            )
        )
        for conv in (convolution, lax.conv_general_dilated)
    )
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_groups_are_divided_on_the_cpu_alone():
    x, kernel = jnp.ones((1, 8, 8, 8)), jnp.ones((3, 3, 4, 8))
    options = {"dimension_numbers": LAYOUT, "feature_group_count": 2}
    lowered = jax.jit(lambda x, k: convolution(x, k, (1, 1), "SAME", **options)).trace(x, kernel)
    groups = "feature_group_count = 2"
    assert groups not in lowered.lower(lowering_platforms=("cpu",)).as_text()
    assert groups in lowered.lower(lowering_platforms=("tpu",)).as_text()


@pytest.mark.parametrize(
    ("channels", "options"),
    [
        (2, {"dimension_numbers": LAYOUT, "feature_group_count": 2}),
        (4, {"dimension_numbers": ("NCHW", "OIHW", "NCHW")}),
        (4, {"dimension_numbers": LAYOUT, "rhs_dilation": (2, 2)}),
    ],
)
def test_other_convolutions_are_passed_on(channels, options):
    if options["dimension_numbers"] == LAYOUT:
        x, kernel = jnp.ones((1, 8, 8, 4)), jnp.ones((3, 3, channels, 4))
    else:
        x, kernel = jnp.ones((1, 4, 8, 8)), jnp.ones((4, channels, 3, 3))

    def gradient(conv):
        return jax.grad(lambda x: jnp.sum(conv(x, kernel, (1, 1), "SAME", **options) ** 2))(x)

    np.testing.assert_allclose(gradient(convolution), gradient(lax.conv_general_dilated), rtol=1e-5)
