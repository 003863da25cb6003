import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from entropax.models.transformer import VisionTransformer, patches

IMAGES = jax.random.uniform(jax.random.key(0), (3, 6, 9, 2))


def test_patches_are_squares_row_by_row():
    found = np.asarray(patches(IMAGES, 3))
    squares = [
        np.asarray(IMAGES[:, i : i + 3, j : j + 3]).reshape(3, -1)
        for i in (0, 3)
        for j in (0, 3, 6)
    ]
    np.testing.assert_array_equal(found, np.stack(squares, axis=1))


def network(pool):
    module = VisionTransformer(5, patch_size=3, features=8, num_blocks=2, pool=pool)
    variables = jax.jit(module.init)(jax.random.key(1), IMAGES[:1])
    # Away from the beginning, where the class token and the biases are 0.
    rng = np.random.default_rng(2)
    return module, jax.tree.map(
        lambda leaf: leaf + 0.3 * rng.normal(size=leaf.shape).astype(np.float32), variables
    )


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
    return pooled @ params["head"]["kernel"] + params["head"]["bias"]


@pytest.mark.parametrize("pool", ["mean", "class"])
def test_equals_the_formula_written_out(pool):
    module, variables = network(pool)
    logits = jax.jit(module.apply)(variables, IMAGES)
    expected = written_out(variables["params"], IMAGES, pool)
    # float32 against float64 through two blocks.
    np.testing.assert_allclose(logits, expected, rtol=2e-4, atol=2e-4)


def test_every_parameter_has_a_gradient():
    module, variables = network("class")

    def loss(variables):
        return jnp.sum(jnp.square(module.apply(variables, IMAGES, train=True)))

    for path, grad in jax.tree_util.tree_leaves_with_path(jax.jit(jax.grad(loss))(variables)):
        assert np.all(np.isfinite(grad))
        # A key's bias adds the same to the scores of all tokens: softmax does not see it.
        if not jax.tree_util.keystr(path).endswith("['key']['bias']"):
            assert np.any(grad != 0), path


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch_size": 4}, "`patch_size` must divide the sides of the image, 6 and 9: 4"),
        ({"patch_size": 0}, "`patch_size` must divide"),
        ({"pool": "max"}, "`pool` must be 'mean' or 'class', got 'max'"),
        ({"features": 10}, "`features` must be a multiple of `num_heads`, got 10 and 4"),
    ],
)
def test_wrong_options(options, message):
    module = VisionTransformer(5, **{"patch_size": 3, **options})
    with pytest.raises(ValueError, match=message):
        module.init(jax.random.key(0), IMAGES)
