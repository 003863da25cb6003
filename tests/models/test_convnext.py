import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from entropax.models.convnext import ConvNeXt
from entropax.models.statistics import running_statistics
from entropax.parameters import is_norm_affine, path_name

SMALL = {"widths": (4, 6), "blocks": (1, 1)}
# The last row and column of the first stage do not fill a square of the second.
IMAGES = jax.random.normal(jax.random.key(0), (2, 20, 12, 3))


INITIAL = jax.jit(ConvNeXt(5, **SMALL).init)(jax.random.key(1), IMAGES[:1])


def network(**options):
    # Away from the beginning, where the blocks hardly do anything.
    rng = np.random.default_rng(2)
    return ConvNeXt(5, **{**SMALL, **options}), jax.tree.map(
        lambda leaf: leaf + 0.3 * rng.normal(size=leaf.shape).astype(np.float32), INITIAL
    )


def normalised(x, norm):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * norm["scale"] + norm["bias"]


def squares(x, layer, side):
    """Place by place."""
    b, h, w, _ = x.shape
    y = np.zeros((b, h // side, w // side, layer["bias"].size))
    for i in range(h // side):
        for j in range(w // side):
            square = x[:, i * side : (i + 1) * side, j * side : (j + 1) * side]
            y[:, i, j] = np.einsum("bhwc,hwcd->bd", square, layer["kernel"]) + layer["bias"]
    return y


def depthwise(x, layer):
    """Place by place."""
    b, h, w, c = x.shape
    y = np.zeros((b, h, w, c))
    for i in range(h):
        for j in range(w):
            for p in range(max(i - 3, 0), min(i + 4, h)):
                for q in range(max(j - 3, 0), min(j + 4, w)):
                    y[:, i, j] += x[:, p, q] * layer["kernel"][p - i + 3, q - j + 3, 0]
    return y + layer["bias"]


def written_out(variables, x):
    """The last layer but one, and the logits, in NumPy."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])
    x = normalised(squares(np.asarray(x, np.float64), params["stem"], 4), params["stem_norm"])
    for stage, blocks in enumerate(SMALL["blocks"]):
        if stage:
            x = squares(normalised(x, params["reduction1_norm"]), params["reduction1"], 2)
        for number in range(blocks):
            block = params[f"stage{stage}_block{number}"]
            y = normalised(depthwise(x, block["conv"]), block["norm"])
            y = y @ block["mlp0"]["kernel"] + block["mlp0"]["bias"]
            y = y * (1 + np.vectorize(math.erf)(y / np.sqrt(2))) / 2
            x = x + block["layer_scale"] * (y @ block["mlp1"]["kernel"] + block["mlp1"]["bias"])
    features = normalised(x.mean((1, 2)), params["norm"])
    return features, features @ params["head"]["kernel"] + params["head"]["bias"]


def test_equals_the_formula_written_out():
    module, variables = network()
    features, logits = written_out(variables, IMAGES)
    # float32 against float64 through two blocks.
    found = jax.jit(module.apply)(variables, IMAGES)
    np.testing.assert_allclose(found, logits, rtol=0, atol=5e-5)
    found = jax.jit(running_statistics(module, method="features"))(variables, IMAGES)
    np.testing.assert_allclose(found, features, rtol=0, atol=5e-5)


def test_every_parameter_has_a_gradient():
    module, variables = network()

    def loss(variables):
        return jnp.sum(jnp.square(module.apply(variables, IMAGES, train=True)))

    for path, grad in jax.tree_util.tree_leaves_with_path(jax.jit(jax.grad(loss))(variables)):
        assert np.all(np.isfinite(grad)), path
        assert np.any(grad != 0), path


def test_adapters_find_the_layers_that_normalise():
    _, variables = network()
    paths = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(variables)]
    layers = ["stem_norm", "stage0_block0/norm", "reduction1_norm", "stage1_block0/norm"]
    layers += ["norm"]
    expected = {f"params/{layer}/{leaf}" for layer in layers for leaf in ("scale", "bias")}
    assert {path for path in paths if is_norm_affine(path)} == expected


def test_mixed_precision():
    module, variables = network()
    narrow, _ = network(dtype=jnp.bfloat16)
    expected = jax.jit(module.apply)(variables, IMAGES)
    apply_fn = jax.jit(narrow.apply, static_argnames="capture_intermediates")
    found, kept = apply_fn(variables, IMAGES, capture_intermediates=True)
    assert found.dtype == jnp.float32
    (inside,) = kept["intermediates"]["stage1_block0"]["__call__"]
    assert inside.dtype == jnp.bfloat16
    # 8 bits through two blocks, logits of order one.
    assert 0 < np.max(np.abs(found - expected)) < 0.1
    there = jax.eval_shape(narrow.init, jax.random.key(0), IMAGES)
    assert {leaf.dtype for leaf in jax.tree.leaves(there)} == {np.dtype(np.float32)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"blocks": (1,)}, r"must be as long as each other, .* got \(4, 6\) and \(1,\)"),
        ({"blocks": (1, 0)}, r"at least one block .* got \(4, 6\) and \(1, 0\)"),
        ({"widths": (), "blocks": ()}, r"got \(\) and \(\)"),
        ({"widths": (4, 6, 8, 9), "blocks": (1,) * 4}, "at least 32 pixels, got 20 x 12"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        ConvNeXt(5, **{**SMALL, **options}).init(jax.random.key(0), IMAGES)
