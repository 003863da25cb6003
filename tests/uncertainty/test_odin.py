import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from entropax.uncertainty.odin import odin
from entropax.uncertainty.scores import max_softmax

RNG = np.random.default_rng(0)
jitted = jax.jit(odin, static_argnames=("apply_fn", "temperature", "step"))
W = RNG.normal(size=(6, 4))
X = RNG.normal(size=(20, 6))


def linear(variables, x):
    return x.reshape(len(x), -1) @ variables


def expected(x, temperature, step):
    """Of a linear network, where the gradient is known: w_top minus the mean of the columns."""
    z = x @ W / temperature
    p = scipy.special.softmax(z, axis=-1)
    gradient = W[:, p.argmax(-1)].T - p @ W.T
    moved = x + step * np.sign(gradient)
    return scipy.special.softmax(moved @ W / temperature, axis=-1).max(-1)


@pytest.mark.parametrize("temperature", [1, 10, 1000])
def test_linear_network(temperature):
    of_x = jax.jit(lambda w, x: odin(linear, w, x, temperature=temperature, step=0.05))
    with jax.enable_x64(True):
        found = of_x(jnp.asarray(W), jnp.asarray(X))
    np.testing.assert_allclose(found, expected(X, temperature, 0.05), rtol=1e-12)
    found = of_x(jnp.asarray(W, jnp.float32), jnp.asarray(X, jnp.float32))
    np.testing.assert_allclose(found, expected(X, temperature, 0.05), rtol=3e-6)


def test_without_a_step_it_is_the_largest_probability():
    w, x = jnp.asarray(W, jnp.float32), jnp.asarray(X, jnp.float32)
    expected = jax.jit(max_softmax)(linear(w, x) / 3)
    found = jitted(linear, w, x, temperature=3, step=0.0)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_images_of_any_shape_and_masked_classes():
    w, x = jnp.asarray(W, jnp.float32), jnp.asarray(X, jnp.float32)
    images = x.reshape(20, 2, 3, 1)
    np.testing.assert_allclose(jitted(linear, w, images), jitted(linear, w, x), rtol=1e-6)
    where = jnp.array([True, True, True, False])
    np.testing.assert_allclose(
        jitted(linear, w, x, where=where), jitted(linear, w[:, :3], x), rtol=1e-6
    )


def test_a_saturated_network_still_moves():
    """The probability is 1 in float32 and its gradient 0; that of the odds is not."""

    def deep(variables, x):
        return jnp.concatenate([jnp.sum(x, -1, keepdims=True) ** 2, jnp.zeros((len(x), 1))], -1)

    x = jnp.full((1, 4), 2.5)  # logit 100
    still = jitted(deep, None, x, temperature=1000, step=0.0)
    np.testing.assert_allclose(jitted(deep, None, x, temperature=1, step=0.1), 1)
    moved = jitted(deep, None, x, temperature=1000, step=0.1)
    assert float(moved[0]) > float(still[0])
    seen = []
    odin(lambda v, x: seen.append(x) or deep(v, x), None, x, temperature=1, step=0.1)
    np.testing.assert_allclose(seen[-1], x + 0.1, rtol=1e-6)


def test_nan_stays():
    x = jnp.asarray(X, jnp.float32).at[3, 0].set(jnp.nan)
    found = jitted(linear, jnp.asarray(W, jnp.float32), x)
    assert np.flatnonzero(np.isnan(found)).tolist() == [3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0}, "`temperature` must be positive, got 0"),
        ({"step": -0.1}, "`step` must not be negative, got -0.1"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        odin(linear, jnp.asarray(W), jnp.asarray(X), **options)


def test_integers_have_no_gradient():
    with pytest.raises(ValueError, match="`x` must be floating-point numbers"):
        odin(linear, jnp.asarray(W), jnp.ones((2, 6), int))
