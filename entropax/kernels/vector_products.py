"""Products of a tangent kernel with vectors, without the kernel."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, PyTree

from entropax.distributed import AnyMesh, data_axis, mesh_of
from entropax.kernels.base import check_equal_shares, num_examples, on_shares
from entropax.kernels.ntk import check_outputs, differentiated, one_example
from entropax.parameters import PathPredicate
from entropax.types import ApplyFn, Array, Params, fill_padding


def ntk_vector_product(
    apply_fn: ApplyFn,
    params: Params,
    x: PyTree[Any],
    *,
    outputs: str = "mean",
    classes: Sequence[int] | None = None,
    trainable: PathPredicate | None = None,
    batch_size: int = 128,
    mesh: AnyMesh | None = None,
    where: Bool[Array, " n"] | Bool[np.ndarray, " n"] | None = None,
) -> Callable[[Float[Array, "n *c"]], Float[Array, "n *c"]]:
    r"""The map $v \mapsto \Theta v$ of the tangent kernel of `ntk`.

    $$\Theta v = J\,(J^\top v),$$

    one vector-Jacobian and one Jacobian-vector product a block of examples, for each output. Memory
    is that of the parameters and of one block, whatever n is. Where the examples are split among
    devices, each works on its own; the one thing that they exchange is a sum of the size of the
    parameters, for each output.

    Args:
      apply_fn: the network, as for `ntk`.
      params: its parameters.
      x: `[n, ...]` examples.
      outputs: `"mean"` or `"trace"` over the outputs, for vectors `[n]`; or `"full"`, for `[n, c]`.
      classes: numbers of the outputs to use; by default all.
      trainable: which paths to differentiate by; by default those of `ntk`.
      batch_size: examples at a time, on each device.
      mesh: devices among which the examples are split, along the mesh's first axis; by default
        those that they lie on.
      where: `[n]` False for examples that only fill up the shape and may hold anything; their rows
        and columns of the kernel are 0.

    Returns:
      A linear function, to be compiled by the caller.

    Raises:
      ValueError: an unknown option, a block size that is not positive, or examples that cannot be
        split equally among the devices.

    Reference: R. Novak et al., "Fast finite width neural tangent kernel" (2022), section 3.2.

    >>> x = jnp.array([[1.0, 0.0], [1.0, 1.0]])
    >>> matvec = ntk_vector_product(lambda params, x: x @ params, jnp.ones((2, 3)), x)
    >>> matvec(jnp.array([1.0, 1.0])).tolist()
    [2.0, 3.0]
    """
    check_outputs(outputs)
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be positive, got {batch_size}.")
    n = num_examples(x)
    mesh = mesh_of(x) if mesh is None else mesh
    check_equal_shares(n, mesh)
    differentiated(params, trainable)  # raises an error before anything is compiled
    function = one_example(apply_fn, classes=classes)
    share_size = n if mesh is None else n // mesh.shape[data_axis(mesh)]
    size = min(batch_size, share_size)
    num_blocks = -(-share_size // size)

    def blocks(leaf: Array | np.ndarray) -> Array:
        """The rows of a device in blocks; the last is filled up with copies, of weight 0."""
        leaf = jnp.asarray(leaf)
        missing = num_blocks * size - share_size
        filled = jnp.concatenate([leaf, jnp.repeat(leaf[-1:], missing, axis=0)])
        return filled.reshape(num_blocks, size, *leaf.shape[1:])

    def cut(_: None, x: PyTree[Any], where: Bool[Array, " n"]) -> tuple[PyTree[Any], Array]:
        real = (jnp.arange(num_blocks * size) < share_size).reshape(num_blocks, size)
        return jax.tree.map(blocks, x), (blocks(where) & real)[..., None]

    if where is not None:
        x = fill_padding(jax.tree.map(jnp.asarray, x), jnp.asarray(where))
    real = jnp.ones(n, bool) if where is None else where
    x_blocks, real_blocks = on_shares(cut, mesh)(None, x, real)

    example = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), x)
    (c,) = jax.eval_shape(function, params, example).shape

    def check(v: Array, shape: tuple[int, ...]) -> None:
        if jnp.shape(v) != shape:
            raise ValueError(
                f"With `outputs={outputs!r}` a vector has the shape {shape}, got {jnp.shape(v)}."
            )

    def of_share(
        params: Params,
        v: Float[Array, "b c"],
        x_blocks: PyTree[Any],
        real: Bool[Array, "t s 1"],
    ) -> Float[Array, "b c"]:
        chosen = differentiated(params, trainable)

        def of_block(leaves: list[Array], x: PyTree[Any]) -> Float[Array, "b c"]:
            return jax.vmap(lambda one: function(chosen.merge(leaves), one))(x)

        def pulled_back(
            total: list[Array], block: tuple[PyTree[Any], Array, Array]
        ) -> tuple[list[Array], None]:
            x, v, where = block
            y, pullback = jax.vjp(lambda leaves: of_block(leaves, x), chosen.leaves)
            (share,) = pullback(jnp.where(where, v, 0).astype(y.dtype))
            return jax.tree.map(jnp.add, total, share), None

        def pushed_forward(x: PyTree[Any]) -> Float[Array, "b c"]:
            return jax.jvp(lambda leaves: of_block(leaves, x), (chosen.leaves,), (total,))[1]

        zeros = jax.tree.map(jnp.zeros_like, chosen.leaves)
        total, _ = jax.lax.scan(pulled_back, zeros, (x_blocks, blocks(v), real))
        if mesh is not None:
            total = jax.lax.psum(total, data_axis(mesh))
        y = jax.lax.map(pushed_forward, x_blocks)
        y = y if where is None else jnp.where(real, y, 0)
        return y.reshape(num_blocks * size, -1)[:share_size]

    def full(v: Array) -> Float[Array, "n c"]:
        check(v, (n, c))
        return on_shares(of_share, mesh)(params, v, x_blocks, real_blocks)

    if outputs == "full":
        return full

    def traced(v: Array) -> Float[Array, " n"]:
        check(v, (n,))

        def share(output: Array) -> Float[Array, " n"]:
            return full(v[:, None] * jax.nn.one_hot(output, c, dtype=v.dtype))[:, output]

        total = jnp.sum(jax.lax.map(share, jnp.arange(c)), axis=0)
        return total / c if outputs == "mean" else total

    return traced
