"""Networks as pure functions of plain parameters, for all sides of a comparison to import.

Nothing but JAX is needed, of any version since 0.4.25. Weights are standard normal and the forward
pass scales them by 1 / sqrt(inputs), the NTK parameterisation, as `stax` of neural-tangents does.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax
from jax import numpy as jnp

CLASSES = 10


class Network(NamedTuple):
    """A network of the benchmarks.

    Attributes:
      apply: `(params, x [n, ...]) -> [n, 10]`.
      shapes: the shapes of the parameters, a pytree.
      input_shape: of one example.
    """

    apply: Callable[[Any, jax.Array], jax.Array]
    shapes: Any
    input_shape: tuple[int, ...]


def convolve(x: jax.Array, w: jax.Array, stride: int = 1, padding: str = "VALID") -> jax.Array:
    scale = 1 / math.sqrt(math.prod(w.shape[:3]))
    axes = ("NHWC", "HWIO", "NHWC")
    return scale * lax.conv_general_dilated(x, w, (stride, stride), padding, dimension_numbers=axes)


def dense(x: jax.Array, w: jax.Array) -> jax.Array:
    return 1 / math.sqrt(w.shape[0]) * lax.dot(x, w)


def relu(x: jax.Array) -> jax.Array:
    return lax.max(x, jnp.zeros((), x.dtype))


def average_pool(x: jax.Array) -> jax.Array:
    """Means over windows of 2x2 that do not overlap; a last odd row or column is left out."""
    window = (1, 2, 2, 1)
    zero = np.zeros((), x.dtype)
    return lax.reduce_window(x, zero, lax.add, window, window, "VALID") / 4


def group_norm(x: jax.Array, scale: jax.Array, shift: jax.Array, groups: int = 4) -> jax.Array:
    n, h, w, c = x.shape
    grouped = x.reshape(n, h, w, groups, c // groups)
    centred = grouped - grouped.mean((1, 2, 4), keepdims=True)
    variance = (centred**2).mean((1, 2, 4), keepdims=True)
    return (centred * lax.rsqrt(variance + 1e-5)).reshape(x.shape) * scale + shift


def cnn(params: Any, x: jax.Array) -> jax.Array:
    x = average_pool(relu(convolve(x, params[0])))
    x = average_pool(relu(convolve(x, params[1])))
    x = relu(dense(x.reshape(len(x), -1), params[2]))
    return dense(x, params[3])


def mlp(params: Any, x: jax.Array) -> jax.Array:
    *hidden, last = params
    for w in hidden:
        x = relu(dense(x, w))
    return dense(x, last)


WIDTHS = (16, 32, 64)


def residual(params: Any, x: jax.Array) -> jax.Array:
    """A block of two convolutions for each width; the first keeps the size, the others halve it."""
    x = convolve(x, params["first"], padding="SAME")
    for i, block in enumerate(params["blocks"]):
        stride = 1 if i == 0 else 2
        y = relu(group_norm(x, *block["norm1"]))
        shortcut = convolve(y, block["shortcut"], stride) if i > 0 else x
        y = convolve(y, block["conv1"], stride, "SAME")
        y = convolve(relu(group_norm(y, *block["norm2"])), block["conv2"], padding="SAME")
        x = y + shortcut
    x = relu(group_norm(x, *params["norm"])).mean((1, 2))
    return dense(x, params["last"]["weight"]) + params["last"]["bias"]


def residual_shapes() -> Any:
    blocks = []
    before = WIDTHS[0]
    for i, width in enumerate(WIDTHS):
        block = {
            "norm1": ((before,), (before,)),
            "norm2": ((width,), (width,)),
            "conv1": (3, 3, before, width),
            "conv2": (3, 3, width, width),
        }
        blocks.append({**block, "shortcut": (1, 1, before, width)} if i > 0 else block)
        before = width
    return {
        "first": (3, 3, 3, WIDTHS[0]),
        "blocks": blocks,
        "norm": ((before,), (before,)),
        "last": {"weight": (before, CLASSES), "bias": (CLASSES,)},
    }


NETWORKS = {
    # Conv 32 3x3, ReLU, AvgPool 2, Conv 64 3x3, ReLU, AvgPool 2, Flatten, Dense 256, ReLU, Dense 10
    "cnn": Network(cnn, [(3, 3, 1, 32), (3, 3, 32, 64), (1600, 256), (256, CLASSES)], (28, 28, 1)),
    "mlp": Network(mlp, [(784, 1024), (1024, 1024), (1024, CLASSES)], (784,)),
    "residual": Network(residual, residual_shapes(), (16, 16, 3)),
}


def problem(network: Network, n: int, seed: int) -> dict[str, np.ndarray]:
    """Random inputs `x` [n, ...] in [0, 1], and random parameters `p0`, `p1`, ... in leaf order."""
    rng = np.random.default_rng(seed)
    arrays = {"x": rng.uniform(0, 1, (n, *network.input_shape)).astype(np.float32)}
    shapes = jax.tree_util.tree_leaves(network.shapes, is_leaf=is_shape)
    for i, shape in enumerate(shapes):
        arrays[f"p{i}"] = rng.normal(0, 1, shape).astype(np.float32)
    return arrays


def is_shape(node: Any) -> bool:
    return isinstance(node, tuple) and all(isinstance(size, int) for size in node)


def load(network: Network, path: str, dtype: str) -> tuple[Any, jax.Array]:
    """Parameters and inputs from the arrays of `problem`, saved with `np.savez`."""
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: jnp.asarray(file[name], dtype) for name in file}
    structure = jax.tree_util.tree_structure(network.shapes, is_leaf=is_shape)
    leaves = [arrays[f"p{i}"] for i in range(structure.num_leaves)]
    return jax.tree_util.tree_unflatten(structure, leaves), arrays["x"]
