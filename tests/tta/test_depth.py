import jax
import jax.numpy as jnp

from entropax.models import ResNet, batch_statistics
from entropax.parameters import is_norm_affine, partition, path_name
from entropax.tta import State
from entropax.tta.depth import order_of_use


def paths_in_order(function, params, data):
    paths = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    ranks = order_of_use(function, params, data)
    assert sorted(ranks) == list(range(len(paths)))
    return [path for _, path in sorted(zip(ranks, paths, strict=True))]


def layers(names):
    return {name: {"scale": jnp.ones(3), "bias": jnp.zeros(3)} for name in names}


def affine(p, x):
    return x * p["scale"] + p["bias"]


def test_names_say_nothing():
    params = layers(["a", "b", "c"])

    def function(p, x):
        return affine(p["b"], jnp.tanh(affine(p["a"], jnp.tanh(affine(p["c"], x)))))

    expected = [f"{layer}/{name}" for layer in "cab" for name in ("scale", "bias")]
    assert paths_in_order(function, params, jnp.ones(3)) == expected


def test_what_happens_before_the_data_does_not_count():
    """Casts in the order of the tree, a product of two parameters, one that is not used."""
    params = layers(["a", "b"]) | {"unused": jnp.ones(2)}

    def function(p, x):
        p = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), p)
        return x.astype(jnp.bfloat16) * (p["b"]["scale"] * p["b"]["bias"]) + p["a"]["scale"]

    expected = ["b/bias", "b/scale", "a/scale", "a/bias", "unused"]
    assert paths_in_order(function, params, jnp.ones(3)) == expected


def test_through_jit_checkpoint_and_scan():
    params = layers(["a", "b", "c", "d"])

    @jax.jit
    def early(p, x):
        return affine(p["c"], jnp.tanh(affine(p["d"], x)))

    def function(p, x):
        x = jax.checkpoint(lambda p, x: affine(p["b"], x))(p, early(p, x))

        def body(carry, _):
            return affine(p["a"], jnp.tanh(carry)), None

        return jax.lax.scan(body, x, None, length=2)[0]

    expected = [f"{layer}/{name}" for layer in "dcba" for name in ("scale", "bias")]
    assert paths_in_order(jax.jit(function), params, jnp.ones(3)) == expected


def test_a_residual_network_with_batch_statistics():
    module = ResNet(num_classes=3, widths=(2, 4), blocks=1)
    x = jnp.ones((2, 4, 4, 1))
    variables = jax.eval_shape(module.init, jax.random.key(0), x)
    params, frozen = partition(jax.tree.map(lambda a: jnp.ones(a.shape), variables), is_norm_affine)
    apply_fn = batch_statistics(module)
    found = paths_in_order(lambda p, x: apply_fn(State(p, frozen, ()).variables, x), params, x)
    blocks = [path.removeprefix("params/").removesuffix("/norm/scale") for path in found[::2]]
    assert blocks == [
        "stem",
        "residual_0/first",
        "residual_0/second",
        "residual_1/first",
        "residual_1/second",
        "residual_1/shortcut",
    ]
    assert [path[-5:] for path in found] == ["scale", "/bias"] * 6
