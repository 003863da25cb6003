"""Small networks, one for each way in which a parameter can meet the data.

`network(name)` is `(apply_fn, params, x [6, ...])`. `FALLBACKS` tells a part of what the structured
kernel says of the parameters whose derivative it has to form, for the networks that have such.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from entropax import models

N = 6


def normal(i, *shape):
    """NumPy's numbers, as those of JAX would be compiled for every shape."""
    return np.random.default_rng(i).normal(size=shape).astype(np.float32) / 2


def linen(module, x):
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)
    leaves, treedef = jax.tree.flatten(shapes)
    variables = treedef.unflatten([normal(i, *leaf.shape) for i, leaf in enumerate(leaves)])
    stats = variables.get("batch_stats")
    if stats is not None:
        variables["batch_stats"] = jax.tree.map(np.abs, stats)
    return module.apply, variables, x


class Cnn(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.avg_pool(nn.relu(nn.Conv(4, (3, 3), padding="VALID")(x)), (2, 2), (2, 2))
        return nn.Dense(3)(nn.relu(nn.Dense(8)(x.reshape(len(x), -1))))


class Residual(nn.Module):
    """A residual block; normalised by running statistics, groups and layer in turn."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(4, (3, 3), use_bias=False)(x)
        y = nn.relu(nn.BatchNorm(use_running_average=True)(x))
        y = nn.Conv(4, (3, 3), strides=2, use_bias=False)(y)
        y = nn.relu(nn.GroupNorm(num_groups=2)(y))
        x = y + nn.Conv(4, (1, 1), strides=2)(x)
        return nn.Dense(3)(nn.LayerNorm()(x).mean((1, 2)))


class ViT(nn.Module):
    """Patches, positions, a class token, attention."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(8, (4, 4), (4, 4))(x).reshape(len(x), -1, 8)
        token = self.param("token", nn.initializers.normal(), (1, 1, 8))
        x = jnp.concatenate([jnp.broadcast_to(token, (len(x), 1, 8)), x], axis=1)
        x = x + self.param("positions", nn.initializers.normal(), (1, x.shape[1], 8))
        x = x + nn.MultiHeadDotProductAttention(2)(nn.LayerNorm()(x))
        return nn.Dense(3)(nn.gelu(x[:, 0]))


class Recurrent(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(nn.RNN(nn.GRUCell(4))(x)[:, -1])


class Tokens(nn.Module):
    tied: bool = False

    @nn.compact
    def __call__(self, x):
        embed = nn.Embed(7, 5)
        h = nn.tanh(nn.Dense(5)(embed(x))).mean(1)
        return embed.attend(h) if self.tied else nn.Dense(3)(h)


def convolutions(params, x):
    """Groups, dilation of either side, strides and padding; weights in an unusual layout."""
    x = lax.conv_general_dilated(
        x, params[0], (1, 1), "SAME", dimension_numbers=("NCHW", "OIHW", "NCHW"),
        feature_group_count=2,
    )  # fmt: skip
    x = jnp.tanh(x)
    x = lax.conv_general_dilated(
        x, params[1], (2, 1), ((1, 2), (-1, 0)), lhs_dilation=(1, 2), rhs_dilation=(2, 1),
        dimension_numbers=("NCHW", "HWIO", "NHWC"),
    )  # fmt: skip
    return jnp.tanh(x).sum((1, 2))


def rematerialised(params, x):
    """Calls within calls."""
    layer = jax.checkpoint(lambda w, x: jnp.tanh(x @ w[0] + w[1]))
    return jax.jit(lambda w, x: jax.jit(layer)(w, layer(w, x)))(params, x)


def einsums(params, x):
    """Weights on the left, several contracted axes, a weight for every group."""
    x = jnp.einsum("dij,nij->nd", params[0], x)
    x = jnp.tanh(x).reshape(len(x), 2, 3)
    x = jnp.einsum("ngi,gio->ngo", x, params[1])
    return jnp.einsum("oc,ngo->nc", params[2], jnp.tanh(x))


def scaled(params, x):
    """Views of parameters: transposed, reshaped, times and over numbers."""
    x = jnp.tanh(x @ (params[0].T * 2.0 / jnp.sqrt(4.0)))
    return x @ (params[1].reshape(5, 3) / 3) + 0.1 * params[2]


def shared(params, x):
    """The same layer three times, at different scales."""
    for scale in (1.0, 0.5, 2.0):
        x = jnp.tanh(x @ (scale * params[0]) + params[1])
    return x


def shared_transposed(params, x):
    return jnp.tanh(x @ params) @ params.T


def low_rank(params, x):
    return jnp.tanh(x @ (params[0] + params[1] @ params[2]))


def weight_normalised(params, x):
    return x @ (params[0] / jnp.linalg.norm(params[0], axis=0) * params[1])


def also_penalised(params, x):
    return x @ params + jnp.sum(params**2)


@jax.custom_vjp
def rounded_product(x, w):
    return x @ jnp.round(w)


rounded_product.defvjp(
    lambda x, w: (rounded_product(x, w), (x, w)),
    lambda saved, g: (g @ saved[1].T, saved[0].T @ g),
)


@jax.custom_jvp
def product_with_a_frozen_weight(x, w):
    return x @ w


product_with_a_frozen_weight.defjvp(
    lambda primals, tangents: (primals[0] @ primals[1], tangents[0] @ primals[1])
)


def frozen(params, x):
    """A rule that is not the derivative of what it belongs to."""
    return jnp.tanh(product_with_a_frozen_weight(jnp.tanh(x @ params[0]), params[1]))


def padded(params, x):
    """Rows that are not in the table: read as 0, clipped, and dropped."""
    filled = jnp.take(params, x, axis=0, mode="fill", fill_value=0)
    return (filled + jnp.take(params, x, axis=0, mode="clip") ** 2).sum(1)


def unused(params, x):
    return x @ params["used"] + jax.lax.stop_gradient(params["stopped"]).sum()


def straight_through(params, x):
    return jnp.tanh(rounded_product(x, params[0])) @ params[1]


def looped(params, x):
    """A scan over layers."""
    return lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, params)[0]


def branched(params, x):
    return lax.cond(params[1] > 0, lambda x: x @ params[0], lambda x: 2 * x @ params[0], x)


def scalar(params, x):
    return jnp.tanh(x @ params).sum(-1)


def with_mask(params, x):
    """Inputs that are a pytree, of several types."""
    return (x["values"] @ params) * x["mask"][:, None]


IMAGES = normal(0, N, 8, 8, 2)
ROWS = normal(1, N, 4)
IDS = np.random.default_rng(6).integers(0, 7, (N, 5))
MLP = nn.Sequential([nn.Dense(16), nn.relu, nn.Dense(3)])
MODULES = {
    "mlp": (MLP, ROWS),
    "cnn": (Cnn(), IMAGES),
    "convnet": (models.ConvNet(3, features=(4, 4)), IMAGES),
    "residual": (Residual(), IMAGES),
    "vit": (ViT(), IMAGES),
    "recurrent": (Recurrent(), normal(2, N, 3, 2)),
    "embedding": (Tokens(), IDS),
    "tied embedding": (Tokens(tied=True), IDS),
}
KERNELS = [normal(3, 4, 1, 3, 3), normal(4, 2, 2, 4, 3)]
FACTORS = [normal(3, 6, 4, 2), normal(4, 2, 3, 2), normal(5, 2, 3)]
SQUARE = normal(3, 4, 4)
WIDE = normal(3, 4, 3)
FUNCTIONS = {
    "rematerialised": (rematerialised, (SQUARE, normal(4, 4)), ROWS),
    "convolutions": (convolutions, KERNELS, IMAGES.transpose(0, 3, 1, 2)),
    "einsums": (einsums, FACTORS, normal(2, N, 4, 2)),
    "scaled": (scaled, [normal(3, 5, 4), normal(4, 15), normal(5, 3)], ROWS),
    "shared": (shared, [SQUARE, normal(4, 4)], ROWS),
    "shared transposed": (shared_transposed, SQUARE, ROWS),
    "low rank": (low_rank, [WIDE, normal(4, 4, 1), normal(5, 1, 3)], ROWS),
    "weight norm": (weight_normalised, [WIDE, normal(4, 3)], ROWS),
    "also penalised": (also_penalised, WIDE, ROWS),
    "straight through": (straight_through, [SQUARE, normal(4, 4, 3)], ROWS),
    "frozen": (frozen, [SQUARE, normal(4, 4, 3)], ROWS),
    "padded": (padded, normal(3, 7, 3), IDS + np.arange(5) - 1),
    "unused": (unused, {"used": WIDE, "stopped": WIDE, "absent": SQUARE}, ROWS),
    "looped": (looped, normal(3, 3, 4, 4), ROWS),
    "branched": (branched, (WIDE, np.float32(1.0)), ROWS),
    "scalar": (scalar, WIDE, ROWS),
    "with mask": (with_mask, WIDE, {"values": ROWS, "mask": np.arange(N) % 2}),
}
NAMES = [*MODULES, *FUNCTIONS]
FALLBACKS = {
    "recurrent": "enters `scan`",
    "tied embedding": "different layout",
    "shared transposed": "different layout",
    "low rank": "enters `dot_general`",
    "weight norm": "enters `dot_general`",
    "also penalised": "other ways",
    "straight through": "enters `custom_vjp_call`",
    "frozen": "enters `custom_jvp_call`",
    "looped": "enters `scan`",
    "branched": "enters `cond`",
}


@functools.cache
def network(name):
    apply_fn, params, x = linen(*MODULES[name]) if name in MODULES else FUNCTIONS[name]
    return apply_fn, jax.tree.map(jnp.asarray, params), x
