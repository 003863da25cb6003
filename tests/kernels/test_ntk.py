"""Kernels against the plain definition, closed forms, and each other.

Kernels are sums of up to a few thousand products in float32: two orders of summation differ by
about 1e-6 of the largest entry; 1e-5 is asserted.
"""

import functools
import warnings

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from kernels.networks import FALLBACKS, NAMES, ROWS, Cnn, network, normal

from entropax import kernels
from entropax.kernels.ntk import FallbackWarning


def call(kernel_fn, *args):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FallbackWarning)
        return kernel_fn(*args)


def close(one, other):
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * float(jnp.max(jnp.abs(other))))


@functools.partial(jax.jit, static_argnums=0)
def by_definition(apply_fn, params, x1, x2):
    """`[n, m, c, c]`, from the derivatives of every output by every parameter."""

    def jacobian(x):
        outputs = jax.eval_shape(apply_fn, params, x)
        n, c = outputs.shape[0], outputs.size // outputs.shape[0]
        j = jax.jacobian(lambda p: apply_fn(p, x).reshape(n, c))(params)
        j = j["params"] if isinstance(j, dict) and "params" in j else j
        return jnp.concatenate([d.reshape(n, c, -1) for d in jax.tree.leaves(j)], axis=-1)

    return jnp.einsum("icp,jdp->ijcd", jacobian(x1), jacobian(x2))


@pytest.mark.parametrize("name", NAMES)
def test_structured_is_the_definition(name):
    apply_fn, params, x = network(name)
    some = jax.tree.map(lambda leaf: leaf[:3], x)
    others = jax.tree.map(lambda leaf: leaf[3:], x)
    kernel = call(kernels.ntk(apply_fn, outputs="full"), params, some, others)
    close(kernel, by_definition(apply_fn, params, some, others))


@pytest.mark.parametrize("name", ["mlp", "cnn", "residual", "vit"])
def test_three_implementations_agree(name):
    apply_fn, params, x = network(name)
    structured = kernels.ntk(apply_fn)(params, x)
    close(kernels.ntk(apply_fn, method="contraction")(params, x), structured)
    matvec = jax.jit(jax.vmap(kernels.ntk_vector_product(apply_fn, params, x, block_size=4)))
    close(matvec(jnp.eye(len(x))), structured)


@pytest.mark.parametrize("name", FALLBACKS)
def test_a_fallback_is_told(name):
    apply_fn, params, x = network(name)
    with pytest.warns(FallbackWarning, match=FALLBACKS[name]):
        kernels.ntk(apply_fn).features(params, x, 6)


@pytest.mark.parametrize("name", sorted(set(NAMES) - FALLBACKS.keys()))
def test_no_weight_falls_back(name):
    """Warnings are errors in these tests, so that it is enough to call."""
    apply_fn, params, x = network(name)
    jax.eval_shape(lambda p, x: kernels.ntk(apply_fn).features(p, x, 6), params, x)


def test_linear_model():
    x = normal(0, 5, 7)
    kernel = kernels.ntk(lambda params, x: x @ params)(jnp.zeros((7, 3)), x)
    np.testing.assert_allclose(kernel, x @ x.T, rtol=1e-6)


def test_two_layers_by_hand():
    """f = v . relu(W x): the kernel is (x . x') sum v^2 1 1' + relu . relu'."""
    w, v, x = normal(0, 4, 8), normal(1, 8, 1), ROWS
    pre = x @ w
    on = (pre > 0) * v[:, 0]
    by_hand = (x @ x.T) * (on @ on.T) + jax.nn.relu(pre) @ jax.nn.relu(pre).T
    kernel = kernels.ntk(lambda p, x: jax.nn.relu(x @ p[0]) @ p[1])((w, v), x)
    np.testing.assert_allclose(kernel, by_hand, rtol=1e-5)


@pytest.mark.parametrize("method", ["structured", "contraction"])
def test_outputs_and_classes(method):
    apply_fn, params, x = network("mlp")
    full = kernels.ntk(apply_fn, outputs="full", method=method)(params, x)
    assert full.shape == (6, 6, 3, 3)
    trace = jnp.trace(full, axis1=2, axis2=3)
    close(kernels.ntk(apply_fn, outputs="trace", method=method)(params, x), trace)
    two = kernels.ntk(apply_fn, outputs="full", classes=(2, 0), method=method)(params, x)
    close(two, full[:, :, [2, 0]][..., [2, 0]])


def test_features_of_few_examples_meet_those_of_many():
    """Whether a derivative is formed depends on how many there are, the kernel does not."""
    params, x = normal(3, 2, 8), ROWS.reshape(6, 2, 2)
    kernel_fn = kernels.ntk(lambda params, x: jnp.tanh(x @ params).sum(1))
    kinds = [
        [type(feature).__name__ for feature in kernel_fn.features(params, x, partners)]
        for partners in (1, 1000)
    ]
    assert kinds == [["Outer"], ["Jacobian"]]
    whole = kernel_fn(params, x)
    close(kernel_fn(params, x[:1], x), whole[:1])
    features = kernel_fn.features(params, x, 1000)
    close(kernel_fn.inner(features, features), whole)


def test_some_parameters():
    apply_fn, params, x = network("cnn")
    whole = kernels.ntk(apply_fn)(params, x)
    of_head = kernels.ntk(apply_fn, trainable=lambda path: "Dense_1" in path)(params, x)
    of_rest = kernels.ntk(apply_fn, trainable=lambda path: "Dense_1" not in path)
    with pytest.raises(ValueError, match="No variable is selected"):
        kernels.ntk(apply_fn, trainable=lambda path: "Dense_9" in path)(params, x)
    close(of_head + of_rest({"params": params["params"]}, x), whole)
    # The last layer's kernel is that of its inputs, and 1 for the bias.
    penultimate = lambda p, x: Cnn().apply(p, x, capture_intermediates=True)[1]["intermediates"][  # noqa: E731
        "Dense_0"
    ]["__call__"][0]
    close(of_head, kernels.feature_kernel(lambda p, x: nn.relu(penultimate(p, x)))(params, x) + 1)


def test_only_the_parameters_of_linen_variables():
    """Running statistics are variables, not parameters; nor are integers."""
    apply_fn, variables, x = network("residual")
    stats = variables["batch_stats"]
    alone = kernels.ntk(lambda p, x: apply_fn({"params": p, "batch_stats": stats}, x))
    close(kernels.ntk(apply_fn)(variables, x), alone(variables["params"], x))
    counted = {"w": normal(0, 4, 2), "step": jnp.int32(3)}
    kernel = kernels.ntk(lambda p, x: x @ p["w"] * p["step"])(counted, ROWS)
    close(kernel, 9 * ROWS @ ROWS.T)


def test_gradient_and_vmap_over_networks():
    apply_fn, params, x = network("mlp")
    kernel_fn = kernels.ntk(apply_fn)
    networks = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), params)
    stacked = jax.vmap(lambda p: kernel_fn(p, x))(networks)
    close(stacked[1], kernel_fn(jax.tree.map(lambda leaf: 2 * leaf, params), x))

    def trace(scale):
        return jnp.trace(kernel_fn(jax.tree.map(lambda leaf: scale * leaf, params), x))

    by_difference = (trace(1.01) - trace(0.99)) / 0.02
    np.testing.assert_allclose(jax.grad(trace)(1.0), by_difference, rtol=1e-3)


def test_half_precision():
    """bfloat16 has 8 bits; sums are kept in float32."""
    apply_fn, params, x = network("mlp")
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), (params, x))
    kernel = kernels.ntk(lambda p, x: apply_fn(p, x).astype(jnp.bfloat16))(*half)
    assert kernel.dtype == jnp.float32
    exact = kernels.ntk(apply_fn)(params, x)
    np.testing.assert_allclose(kernel, exact, atol=0.05 * float(exact.max()))


def test_duplicates_and_nan():
    apply_fn, params, x = network("mlp")
    twice = kernels.ntk(apply_fn)(params, jnp.stack([x[0], x[0], x[1]]))
    np.testing.assert_array_equal(twice[0], twice[1])
    broken = jax.tree.map(lambda leaf: leaf.at[(0,) * leaf.ndim].set(jnp.nan), params)
    assert bool(jnp.isnan(kernels.ntk(apply_fn)(broken, x)).any())


def test_wrong_calls():
    apply_fn, params, x = network("mlp")
    for options, message in [
        ({"method": "exact"}, "`method` must be one of structured, contraction, got 'exact'"),
        ({"outputs": "sum"}, "`outputs` must be one of mean, trace, full, got 'sum'"),
        ({"classes": ()}, "`classes` is empty"),
    ]:
        with pytest.raises(ValueError, match=message):
            kernels.ntk(apply_fn, **options)
    with pytest.raises(ValueError, match=r"`classes` must be in \[0, 3\), got \(3,\)"):
        kernels.ntk(apply_fn, classes=(3,))(params, x)
    with pytest.raises(ValueError, match="running statistics"):
        kernels.ntk(lambda params, x, where=None: x)
    with pytest.raises(ValueError, match="one array with the leading axis"):
        kernels.ntk(lambda params, x: (x @ params, x))(normal(0, 4, 2), x)
    with pytest.raises(ValueError, match="no examples"):
        kernels.ntk(apply_fn)(params, x[:0])
    with pytest.raises(ValueError, match="one leading axis"):
        kernels.ntk(apply_fn)(params, {"a": x, "b": x[:3]})
    with pytest.raises(ValueError, match="`outputs` must be"):
        kernels.ntk_vector_product(apply_fn, params, x, outputs="sum")
    with pytest.raises(ValueError, match="`block_size` must be positive, got 0"):
        kernels.ntk_vector_product(apply_fn, params, x, block_size=0)
    with pytest.raises(ValueError, match="`dimension` must be positive, got 0"):
        kernels.ntk_sketch(jax.random.key(0), apply_fn, dimension=0)


@pytest.mark.parametrize("block_size", [1, 4, 100])
def test_products_with_full_kernels(block_size):
    apply_fn, params, x = network("mlp")
    full = kernels.ntk(apply_fn, outputs="full")(params, x)
    v = normal(5, 6, 3)
    matvec = kernels.ntk_vector_product(apply_fn, params, x, outputs="full", block_size=block_size)
    close(jax.jit(matvec)(v), jnp.einsum("ijcd,jd->ic", full, v))
    options = {"classes": (1,), "trainable": lambda path: "layers_4" in path}
    of_last = kernels.ntk_vector_product(apply_fn, params, x, outputs="trace", **options)
    close(of_last(v[:, 0]), kernels.ntk(apply_fn, **options)(params, x) @ v[:, 0])


def test_sketch_has_the_stated_error():
    apply_fn, params, x = network("scaled")
    exact = kernels.ntk(apply_fn, classes=(0,))(params, x)
    lengths = jnp.diagonal(exact)
    dimension, repeats = 64, 50
    stderr = jnp.sqrt((jnp.outer(lengths, lengths) + exact**2) / dimension)

    @jax.jit
    @jax.vmap
    def sketch(key):
        return kernels.ntk_sketch(key, apply_fn, dimension=dimension, classes=(0,))(params, x)

    sketches = sketch(jax.random.split(jax.random.key(1), repeats))
    z = (sketches - exact) / stderr
    assert float(jnp.abs(z.mean(0)).max()) < 4 / np.sqrt(repeats)  # unbiased
    assert 0.8 < float(jnp.sqrt((z**2).mean())) < 1.2


def test_diagonal_and_cosine():
    apply_fn, params, x = network("mlp")
    kernel_fn = kernels.ntk(apply_fn)
    kernel = kernel_fn(params, x)
    close(kernels.diagonal(kernel_fn, params, x), jnp.diagonal(kernel))
    full = kernels.ntk(apply_fn, outputs="full")
    assert kernels.diagonal(full, params, x).shape == (6, 3, 3)
    np.testing.assert_allclose(jnp.diagonal(kernels.cosine(kernel)), 1, rtol=1e-6)
    np.testing.assert_array_equal(kernels.cosine(jnp.zeros((2, 2))), 0)
