import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from entropax.models.depthwise import depthwise_convolution

C = 4
X = jax.random.normal(jax.random.key(0), (2, 9, 6, C))
KERNEL = jax.random.normal(jax.random.key(1), (7, 3, 1, C))
OPTIONS = {"dimension_numbers": ("NHWC", "HWIO", "NHWC"), "feature_group_count": C}


def convolved(function):
    return lambda x, kernel: function(x, kernel, (1, 1), "SAME", **OPTIONS)


OURS, THEIRS = convolved(depthwise_convolution), convolved(lax.conv_general_dilated)


def primitives(function, *args):
    return str(jax.make_jaxpr(function)(*args))


def test_it_takes_effect():
    assert "conv_general_dilated" not in primitives(OURS, X, KERNEL)


@pytest.mark.parametrize("padding", ["SAME", [(3, 3), (1, 1)]])
def test_equals_the_convolution_of_lax(padding):
    found = depthwise_convolution(X, KERNEL, (1, 1), padding, **OPTIONS)
    # Sums of 21 products of order one, in another order.
    np.testing.assert_allclose(found, THEIRS(X, KERNEL), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "derivative",
    [
        lambda f: jax.grad(lambda x, k: jnp.sum(jnp.sin(f(x, k))), argnums=(0, 1))(X, KERNEL),
        lambda f: jax.jvp(f, (X, KERNEL), (X**2, jnp.cos(KERNEL)))[1],
        lambda f: jax.grad(  # of a directional derivative: second order, reverse over forward
            lambda x, k: jnp.sum(jax.jvp(lambda x: jnp.sin(f(x, k)), (x,), (X**2,))[1]), (0, 1)
        )(X, KERNEL),
        lambda f: jax.vmap(jax.grad(lambda x, k: jnp.sum(f(x[None], k) ** 2)), (0, None))(
            X, KERNEL
        ),
        lambda f: jax.jacfwd(lambda k: f(X[:1], k).sum((1, 2)))(KERNEL),
    ],
    ids=["reverse", "forward", "second order", "per example", "jacobian"],
)
def test_derivatives_are_those_of_lax(derivative):
    found, expected = jax.jit(derivative, static_argnums=0), derivative(THEIRS)
    # Sums over 108 places of terms of order ten.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-3), found(OURS), expected
    )


def test_float64_and_bfloat16():
    with jax.enable_x64(True):
        x, kernel = np.asarray(X, np.float64), np.asarray(KERNEL, np.float64)
        found, expected = OURS(jnp.asarray(x), jnp.asarray(kernel)), THEIRS(x, kernel)
        assert found.dtype == np.float64
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    narrow = OURS(X.astype(jnp.bfloat16), KERNEL.astype(jnp.bfloat16))
    exact = THEIRS(*(each.astype(jnp.bfloat16).astype(jnp.float32) for each in (X, KERNEL)))
    assert narrow.dtype == jnp.bfloat16
    # Rounded once, at the end, to 8 bits.
    np.testing.assert_allclose(narrow.astype(jnp.float32), exact, rtol=2**-8, atol=1e-5)


@pytest.mark.parametrize(
    ("kernel", "strides", "padding", "change"),
    [
        (KERNEL, (2, 2), "SAME", {}),
        (KERNEL, (1, 1), "VALID", {}),
        (KERNEL, (1, 1), [(1, 1), (1, 1)], {}),
        (KERNEL[:6], (1, 1), "SAME", {}),
        (KERNEL, (1, 1), "SAME", {"rhs_dilation": (2, 1)}),
        (jnp.ones((3, 3, 2, 4)), (1, 1), "SAME", {"feature_group_count": 2}),
        (jnp.ones((3, 3, 1, 8)), (1, 1), "SAME", {}),
    ],
)
def test_other_convolutions_are_passed_on(kernel, strides, padding, change):
    options = {**OPTIONS, **change}
    found = depthwise_convolution(X, kernel, strides, padding, **options)
    expected = lax.conv_general_dilated(X, kernel, strides, padding, **options)
    np.testing.assert_array_equal(found, expected)
