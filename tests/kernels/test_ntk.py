"""Kernels against the plain definition, closed forms, and each other.

Kernels are sums of up to a few thousand products in float32: two orders of summation differ by
about 1e-6 of the largest entry; 1e-5 is asserted.
"""

import functools
import itertools
import warnings

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from kernels.networks import FALLBACKS, NAMES, ROWS, N, network, normal

from entropax import kernels
from entropax.kernels.ntk import FallbackWarning
from entropax.parameters import path_name


@functools.cache
def ntk(name, **options):
    """One kernel for all the tests of a network: it compiles once for each shape."""
    return kernels.ntk(network(name)[0], **options)


def call(kernel_fn, *args):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FallbackWarning)
        return kernel_fn(*args)


def close(one, other):
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * float(np.max(np.abs(other))))


@functools.cache
def derivatives(name):
    """Paths and the derivatives `[n, c, p]` by their parameters, of one output at a time."""
    apply_fn, params, x = network(name)
    gradient = jax.jit(jax.grad(lambda params, x, output: apply_fn(params, x).reshape(-1)[output]))
    c = jax.eval_shape(apply_fn, params, x).size // N
    ones = [jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], x) for i in range(N)]
    found = [gradient(params, one, output) for one, output in itertools.product(ones, range(c))]
    stacked = jax.tree.map(lambda *leaves: np.float64(leaves).reshape(N, c, -1), *found)
    paths = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    found = dict(zip(paths, jax.tree.leaves(stacked), strict=True))
    in_params = {path: d for path, d in found.items() if path.startswith("params/")}
    return in_params or found


def by_definition(name, trainable=lambda path: True):
    """`[n, n, c, c]`, from the derivatives of every output by every parameter."""
    chosen = [d for path, d in derivatives(name).items() if trainable(path)]
    jacobian = np.concatenate(chosen, axis=-1)
    return np.einsum("icp,jdp->ijcd", jacobian, jacobian)


def mean_by_definition(name, trainable=lambda path: True):
    return np.trace(by_definition(name, trainable), axis1=2, axis2=3) / 3


@pytest.mark.parametrize("name", NAMES)
def test_structured_is_the_definition(name):
    _, params, x = network(name)
    some = jax.tree.map(lambda leaf: leaf[:3], x)
    others = jax.tree.map(lambda leaf: leaf[3:], x)
    kernel = call(ntk(name, outputs="full"), params, some, others)
    close(kernel, by_definition(name)[:3, 3:])


@pytest.mark.parametrize("name", ["mlp", "cnn", "residual", "vit"])
def test_three_implementations_agree(name):
    apply_fn, params, x = network(name)
    expected = mean_by_definition(name)
    close(ntk(name)(params, x), expected)
    close(ntk(name, method="contraction")(params, x), expected)
    matvec = kernels.ntk_vector_product(apply_fn, params, jnp.asarray(x), batch_size=4)
    matvec = jax.jit(matvec)
    close(np.stack([matvec(column) for column in np.eye(N, dtype=np.float32)]), expected)


def features_traced(name):
    apply_fn, params, x = network(name)
    jax.eval_shape(lambda p, x: kernels.ntk(apply_fn).features(p, x, N), params, x)


@pytest.mark.parametrize("name", FALLBACKS)
def test_a_fallback_is_told(name):
    with pytest.warns(FallbackWarning, match=FALLBACKS[name]):
        features_traced(name)


@pytest.mark.parametrize("name", sorted(set(NAMES) - FALLBACKS.keys()))
def test_no_weight_falls_back(name):
    """Warnings are errors in these tests, so that it is enough to call."""
    features_traced(name)


def test_linear_model():
    x = normal(0, 5, 7)
    kernel = kernels.ntk(lambda params, x: x @ params)(np.zeros((7, 3), np.float32), x)
    np.testing.assert_allclose(kernel, x @ x.T, rtol=1e-6, atol=1e-6)


def test_two_layers_by_hand():
    """f = v . relu(W x): the kernel is (x . x') sum v^2 1 1' + relu . relu'."""
    w, v, x = normal(0, 4, 8), normal(1, 8, 1), ROWS
    pre = x @ w
    on = (pre > 0) * v[:, 0]
    by_hand = (x @ x.T) * (on @ on.T) + np.maximum(pre, 0) @ np.maximum(pre, 0).T
    close(kernels.ntk(lambda p, x: jax.nn.relu(x @ p[0]) @ p[1])((w, v), x), by_hand)


@pytest.mark.parametrize("method", ["structured", "contraction"])
def test_outputs_and_classes(method):
    _, params, x = network("mlp")
    expected = by_definition("mlp")
    full = ntk("mlp", outputs="full", method=method)(params, x)
    assert full.shape == (6, 6, 3, 3)
    close(full, expected)
    trace = np.trace(expected, axis1=2, axis2=3)
    close(ntk("mlp", outputs="trace", method=method)(params, x), trace)
    two = ntk("mlp", outputs="full", classes=(2, 0), method=method)(params, x)
    close(two, expected[:, :, [2, 0]][..., [2, 0]])


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
    _, params, x = network("mlp")
    of_head = ntk("mlp", trainable=lambda path: "layers_2" in path)(params, x)
    of_rest = ntk("mlp", trainable=lambda path: "params/layers_0" in path)(params, x)
    with pytest.raises(ValueError, match="No variable is selected"):
        ntk("mlp", trainable=lambda path: "layers_9" in path)(params, x)
    close(of_rest, mean_by_definition("mlp", lambda path: "layers_0" in path))
    close(np.asarray(of_head) + of_rest, mean_by_definition("mlp"))
    # The last layer's kernel is that of its inputs, and 1 for the bias.
    first = params["params"]["layers_0"]
    penultimate = kernels.feature_kernel(lambda p, x: nn.relu(x @ p["kernel"] + p["bias"]))
    close(of_head, np.asarray(penultimate(first, x)) + 1)


def test_only_the_parameters_of_linen_variables():
    """Running statistics are variables, not parameters; nor are integers."""
    module = nn.BatchNorm(use_running_average=True)
    params, stats = ({"scale": normal(i, 4), "bias": normal(i + 1, 4)} for i in (0, 2))
    stats = {"mean": stats["bias"], "var": np.abs(stats["scale"])}
    alone = kernels.ntk(lambda p, x: module.apply({"params": p, "batch_stats": stats}, x))
    of_variables = kernels.ntk(module.apply)({"params": params, "batch_stats": stats}, ROWS)
    close(of_variables, alone(params, ROWS))
    counted = {"w": normal(0, 4, 2), "step": jnp.int32(3)}
    kernel = kernels.ntk(lambda p, x: x @ p["w"] * p["step"])(counted, ROWS)
    close(kernel, 9 * ROWS @ ROWS.T)


def test_gradient_and_vmap_over_networks():
    _, params, x = network("mlp")
    kernel_fn = ntk("mlp")
    networks = jax.tree.map(lambda leaf: np.stack([leaf, 2 * np.asarray(leaf)]), params)
    stacked = jax.jit(jax.vmap(lambda p: kernel_fn(p, x)))(networks)
    close(stacked[1], kernel_fn(jax.tree.map(lambda leaf: leaf[1], networks), x))

    def trace(scale):
        return jnp.trace(kernel_fn(jax.tree.map(lambda leaf: scale * leaf, params), x))

    value_and_grad = jax.jit(jax.value_and_grad(trace))
    by_difference = (value_and_grad(1.01)[0] - value_and_grad(0.99)[0]) / 0.02
    np.testing.assert_allclose(value_and_grad(1.0)[1], by_difference, rtol=1e-3)


def test_half_precision():
    """bfloat16 has 8 bits; sums are kept in float32."""
    apply_fn, params, x = network("mlp")
    half = jax.tree.map(lambda leaf: np.asarray(leaf).astype(jnp.bfloat16), (params, x))
    kernel = kernels.ntk(lambda p, x: apply_fn(p, x).astype(jnp.bfloat16))(*half)
    assert kernel.dtype == jnp.float32
    exact = mean_by_definition("mlp")
    np.testing.assert_allclose(kernel, exact, atol=0.05 * exact.max())


def test_duplicates_and_nan():
    _, params, x = network("mlp")
    twice = ntk("mlp")(params, x[[0, 0, 1, 2, 3, 4]])
    np.testing.assert_array_equal(twice[0], twice[1])
    broken = jax.tree.map(
        lambda leaf: (
            np.where(np.arange(leaf.size) == 0, np.nan, np.ravel(leaf))
            .reshape(leaf.shape)
            .astype(np.float32)
        ),
        params,
    )
    assert np.isnan(ntk("mlp")(broken, x)).any()


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
    with pytest.raises(ValueError, match="differ in shape"):
        kernels.ntk(apply_fn)(params, x, x[:, :2])
    with pytest.raises(ValueError, match="w is complex"):
        kernels.ntk(apply_fn)({"w": np.zeros(3, np.complex64)}, x)
    matvec = kernels.ntk_vector_product(apply_fn, params, x, outputs="full")
    with pytest.raises(ValueError, match=r"a vector has the shape \(6, 3\), got \(6,\)"):
        matvec(jnp.ones(6))
    with pytest.raises(ValueError, match="`outputs` must be"):
        kernels.ntk_vector_product(apply_fn, params, x, outputs="sum")
    with pytest.raises(ValueError, match="`batch_size` must be positive, got 0"):
        kernels.ntk_vector_product(apply_fn, params, x, batch_size=0)
    with pytest.raises(ValueError, match="`dimension` must be positive, got 0"):
        kernels.ntk_sketch(jax.random.key(0), apply_fn, dimension=0)


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_products_with_full_kernels(batch_size):
    apply_fn, params, x = network("mlp")
    x, v = jnp.asarray(x), normal(5, 6, 3)
    matvec = kernels.ntk_vector_product(apply_fn, params, x, outputs="full", batch_size=batch_size)
    close(jax.jit(matvec)(v), np.einsum("ijcd,jd->ic", by_definition("mlp"), v))


def test_products_with_the_kernel_of_some_outputs_and_parameters():
    apply_fn, params, x = network("mlp")
    x = jnp.asarray(x)

    def of_last(path):
        return "layers_2" in path

    matvec = kernels.ntk_vector_product(
        apply_fn, params, x, outputs="trace", classes=(1,), trainable=of_last
    )
    products = jax.jit(jax.vmap(matvec))(np.eye(N, dtype=np.float32))
    close(products, by_definition("mlp", of_last)[:, :, 1, 1])


def test_sketch_has_the_stated_error():
    apply_fn, params, x = network("scaled")
    exact = by_definition("scaled")[:, :, 0, 0]
    lengths = np.diagonal(exact)
    dimension, repeats = 64, 50
    stderr = np.sqrt((np.outer(lengths, lengths) + exact**2) / dimension)

    @jax.jit
    @jax.vmap
    def sketch(key):
        return kernels.ntk_sketch(key, apply_fn, dimension=dimension, classes=(0,))(params, x)

    sketches = np.asarray(sketch(jax.random.split(jax.random.key(1), repeats)))
    z = (sketches - exact) / stderr
    assert np.abs(z.mean(0)).max() < 4 / np.sqrt(repeats)  # unbiased
    assert 0.8 < np.sqrt((z**2).mean()) < 1.2


def test_diagonal_and_cosine():
    _, params, x = network("mlp")
    kernel = ntk("mlp")(params, x)
    close(jax.jit(functools.partial(kernels.diagonal, ntk("mlp")))(params, x), np.diagonal(kernel))
    full = ntk("mlp", outputs="full")
    assert jax.eval_shape(functools.partial(kernels.diagonal, full), params, x).shape == (6, 3, 3)
    np.testing.assert_allclose(np.diagonal(kernels.cosine(kernel)), 1, rtol=1e-6)
    np.testing.assert_array_equal(kernels.cosine(jnp.zeros((6, 6))), 0)
