import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from entropax.models.statistics import running_statistics
from entropax.models.transformer import VisionTransformer, patches
from entropax.parameters import is_norm_affine, path_name
from entropax.tta import Batch, tent

IMAGES = jax.random.uniform(jax.random.key(0), (3, 6, 9, 2))


def test_patches_are_squares_row_by_row():
    found = np.asarray(patches(IMAGES, 3))
    squares = [
        np.asarray(IMAGES[:, i : i + 3, j : j + 3]).reshape(3, -1)
        for i in (0, 3)
        for j in (0, 3, 6)
    ]
    np.testing.assert_array_equal(found, np.stack(squares, axis=1))


@functools.cache
def initial(pool):
    module = VisionTransformer(5, patch_size=3, width=8, num_blocks=2, pool=pool)
    return jax.jit(module.init)(jax.random.key(1), IMAGES[:1])


def network(pool, **options):
    # Away from the beginning, where the class token and the biases are 0.
    rng = np.random.default_rng(2)
    variables = jax.tree.map(
        lambda leaf: leaf + 0.3 * rng.normal(size=leaf.shape).astype(np.float32), initial(pool)
    )
    return VisionTransformer(
        5, patch_size=3, width=8, num_blocks=2, pool=pool, **options
    ), variables


@functools.cache
def logits_of(pool):
    module, variables = network(pool)
    return np.asarray(jax.jit(module.apply)(variables, IMAGES))


def normalised(x, norm):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * norm["scale"] + norm["bias"]


def written_out(params, x, pool):
    """The network in NumPy, one image, one head and one token at a time."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    tokens = np.asarray(patches(jnp.asarray(x), 3), np.float64)
    tokens = tokens @ params["embedding"]["kernel"] + params["embedding"]["bias"]
    if pool == "class":
        first = np.broadcast_to(params["class_token"], (len(x), 1, 8))
        tokens = np.concatenate([first, tokens], axis=1)
    tokens = tokens + params["positions"]
    for i in range(2):
        block = params[f"block{i}"]
        attention = block["attention"]
        z = normalised(tokens, block["norm0"])
        q, k, v = (
            np.einsum("btd,dhe->bhte", z, attention[name]["kernel"])
            + attention[name]["bias"][:, None]
            for name in ("query", "key", "value")
        )
        mixed = np.zeros_like(tokens)
        for b in range(len(x)):
            for head in range(4):
                for token in range(tokens.shape[1]):
                    weights = np.exp(k[b, head] @ q[b, head, token] / np.sqrt(2))
                    value = weights @ v[b, head] / weights.sum()
                    mixed[b, token] += value @ attention["out"]["kernel"][head]
        tokens = tokens + mixed + attention["out"]["bias"]
        z = normalised(tokens, block["norm1"])
        hidden = z @ block["mlp0"]["kernel"] + block["mlp0"]["bias"]
        hidden = np.asarray(nn.gelu(jnp.asarray(hidden)), np.float64)
        tokens = tokens + hidden @ block["mlp1"]["kernel"] + block["mlp1"]["bias"]
    tokens = normalised(tokens, params["norm"])
    pooled = tokens.mean(1) if pool == "mean" else tokens[:, 0]
    return pooled, pooled @ params["head"]["kernel"] + params["head"]["bias"]


@pytest.mark.parametrize("pool", ["mean", "class"])
def test_equals_the_formula_written_out(pool):
    module, variables = network(pool)
    features = jax.jit(running_statistics(module, method="features"))(variables, IMAGES)
    last, expected = written_out(variables["params"], IMAGES, pool)
    # float32 against float64 through two blocks.
    np.testing.assert_allclose(logits_of(pool), expected, rtol=2e-4, atol=2e-4)
    np.testing.assert_allclose(features, last, rtol=2e-4, atol=2e-4)


def test_every_parameter_has_a_gradient():
    module, variables = network("class")

    def loss(variables):
        return jnp.sum(jnp.square(module.apply(variables, IMAGES, train=True)))

    for path, grad in jax.tree_util.tree_leaves_with_path(jax.jit(jax.grad(loss))(variables)):
        assert np.all(np.isfinite(grad))
        # A key's bias adds the same to the scores of all tokens: softmax does not see it.
        if not jax.tree_util.keystr(path).endswith("['key']['bias']"):
            assert np.any(grad != 0), path


def norm_layers():
    return [f"block{block}/norm{place}" for block in (0, 1) for place in (0, 1)] + ["norm"]


def test_adapters_find_the_layers_that_normalise():
    _, variables = network("class")
    paths = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(variables)]
    expected = {f"params/{layer}/{leaf}" for layer in norm_layers() for leaf in ("scale", "bias")}
    assert {path for path in paths if is_norm_affine(path)} == expected


def test_a_step_of_tent_moves_the_normalising_layers_alone():
    module, variables = network("class")
    adapter = tent(running_statistics(module), optax.sgd(0.1))
    state = adapter.init(variables)
    for _ in range(2):
        state, info = jax.jit(adapter.step)(state, Batch(IMAGES, jnp.ones(3, bool)))
    after = dict(jax.tree_util.tree_leaves_with_path(state.variables))
    for path, before in jax.tree_util.tree_leaves_with_path(variables):
        assert np.any(after[path] != before) == is_norm_affine(path_name(path)), path
    np.testing.assert_array_less(0, info.entropy)


def test_mixed_precision():
    narrow, variables = network("class", dtype=jnp.bfloat16)
    apply_fn = jax.jit(narrow.apply, static_argnames="capture_intermediates")
    found, kept = apply_fn(variables, IMAGES, capture_intermediates=True)
    assert found.dtype == jnp.float32
    inside = kept["intermediates"]
    assert inside["block1"]["__call__"][0].dtype == jnp.bfloat16
    assert inside["norm"]["__call__"][0].dtype == jnp.float32
    # 8 bits through two blocks, logits of order one.
    assert 0 < np.max(np.abs(found - logits_of("class"))) < 0.1
    there = jax.eval_shape(narrow.init, jax.random.key(0), IMAGES)
    assert {leaf.dtype for leaf in jax.tree.leaves(there)} == {np.dtype(np.float32)}


def test_softmax_is_in_float32_when_activations_are_narrow():
    module, variables = network("mean", dtype=jnp.bfloat16)
    program = str(jax.make_jaxpr(module.apply)(variables, IMAGES))
    exponentials = [line for line in program.splitlines() if "= exp " in line]
    assert exponentials
    assert all(":f32[" in line for line in exponentials)


def test_exact_gelu_differs_from_its_approximation():
    module, variables = network("mean")
    exact = jax.jit(module.clone(exact_gelu=True).apply)(variables, IMAGES)
    # The two functions differ by less than 5e-4 everywhere.
    assert 1e-6 < np.max(np.abs(exact - logits_of("mean"))) < 1e-2


def test_an_image_of_another_size_is_refused():
    module, variables = network("class")
    with pytest.raises(ValueError, match=r"another size: there are 7, .* 9 x 9 take 10"):
        module.apply(variables, jnp.zeros((1, 9, 9, 2)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch_size": 4}, "`patch_size` must divide the sides of the image, 6 and 9: 4"),
        ({"patch_size": 0}, "`patch_size` must divide"),
        ({"pool": "max"}, "`pool` must be 'mean' or 'class', got 'max'"),
        ({"width": 10}, "`width` must be a multiple of `num_heads`, got 10 and 4"),
    ],
)
def test_wrong_options(options, message):
    module = VisionTransformer(5, **{"patch_size": 3, **options})
    with pytest.raises(ValueError, match=message):
        module.init(jax.random.key(0), IMAGES)
