"""Products of a tangent kernel with vectors, without the kernel."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PyTree

from entropax.kernels.base import num_examples
from entropax.kernels.ntk import check_outputs, differentiated, one_example
from entropax.parameters import PathPredicate
from entropax.types import ApplyFn, Array, Params


def ntk_vector_product(
    apply_fn: ApplyFn,
    params: Params,
    x: PyTree[Any],
    *,
    outputs: str = "mean",
    classes: Sequence[int] | None = None,
    trainable: PathPredicate | None = None,
    batch_size: int = 128,
) -> Callable[[Float[Array, "n *c"]], Float[Array, "n *c"]]:
    r"""The map $v \mapsto \Theta v$ of the tangent kernel of `ntk`.

    $$\Theta v = J\,(J^\top v),$$

    one vector-Jacobian and one Jacobian-vector product a block of examples, for each output. Memory
    is that of the parameters and of one block, whatever n is.

    Args:
      apply_fn: the network, as for `ntk`.
      params: its parameters.
      x: `[n, ...]` examples.
      outputs: `"mean"` or `"trace"` over the outputs, for vectors `[n]`; or `"full"`, for `[n, c]`.
      classes: numbers of the outputs to use; by default all.
      trainable: which paths to differentiate by; by default those of `ntk`.
      batch_size: examples at a time.

    Returns:
      A linear function, to be compiled by the caller.

    Raises:
      ValueError: an unknown option, or a block size that is not positive.

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
    chosen = differentiated(params, trainable)
    function = one_example(apply_fn, classes=classes)
    size = min(batch_size, n)
    num_blocks = -(-n // size)

    def blocks(leaf: Array | np.ndarray) -> Array:
        """`[n, ...]` in blocks; the last is filled up with copies, which get weight 0."""
        leaf = jnp.asarray(leaf)
        filled = jnp.concatenate([leaf, jnp.repeat(leaf[-1:], num_blocks * size - n, axis=0)])
        return filled.reshape(num_blocks, size, *leaf.shape[1:])

    x_blocks = jax.tree.map(blocks, x)
    real = (jnp.arange(num_blocks * size) < n).reshape(num_blocks, size, 1)

    def of_block(leaves: list[Array], x: PyTree[Any]) -> Float[Array, "b c"]:
        return jax.vmap(lambda one: function(chosen.merge(leaves), one))(x)

    example = jax.tree.map(lambda leaf: jnp.asarray(leaf)[0], x)
    (c,) = jax.eval_shape(function, params, example).shape

    def check(v: Array, shape: tuple[int, ...]) -> None:
        if jnp.shape(v) != shape:
            raise ValueError(
                f"With `outputs={outputs!r}` a vector has the shape {shape}, got {jnp.shape(v)}."
            )

    def full(v: Array) -> Float[Array, "n c"]:
        check(v, (n, c))

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
        return jax.lax.map(pushed_forward, x_blocks).reshape(num_blocks * size, -1)[:n]

    if outputs == "full":
        return full

    def traced(v: Array) -> Float[Array, " n"]:
        check(v, (n,))

        def share(output: Array) -> Float[Array, " n"]:
            return full(v[:, None] * jax.nn.one_hot(output, c, dtype=v.dtype))[:, output]

        total = jnp.sum(jax.lax.map(share, jnp.arange(c)), axis=0)
        return total / c if outputs == "mean" else total

    return traced
