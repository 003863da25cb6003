"""The kernel of a pool whose examples are split among devices, which keep its rows."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, PyTree

from entropax.distributed import AnyMesh, data_axis, mesh_of
from entropax.kernels.base import (
    FeatureKernel,
    KernelFn,
    check_equal_shares,
    num_examples,
    on_shares,
)
from entropax.types import Array, Params


def pool_kernel(
    kernel_fn: FeatureKernel | KernelFn,
    params: Params,
    x: PyTree[Any],
    *,
    mesh: AnyMesh | None = None,
    where: Bool[Array, " n"] | Bool[np.ndarray, " n"] | None = None,
) -> Float[Array, "n n *outputs"]:
    r"""The kernel matrix of a pool, its rows on the devices that have the examples.

    Each device computes the features of its own examples, and they travel in a ring: device $i$ of
    $D$ meets those of $i, i - 1, \dots, i - \lfloor D / 2 \rfloor$ and contracts

    $$K_{ij} = \langle \phi(x_i), \phi(x_j) \rangle, \qquad K_{ji} = K_{ij}^\top,$$

    of which it keeps the first and sends the second to device $j$; two that are opposite each other
    on an even ring both compute their block. A device holds its rows of the kernel, $n^2 / D$
    numbers, its own features, those that pass by and those that arrive; no device ever has the
    matrix, and nothing goes over the host. (`gram` is for a kernel that fits there, and takes
    features in bounded memory.)

    It runs under `jit`, and compiles itself outside. On one device it is `kernel_fn(params, x)`.
    Do not differentiate it.

    Args:
      kernel_fn: a symmetric kernel; of one without features the examples themselves travel.
      params: its parameters, whole on every device.
      x: `[n, ...]` examples; n has to be a multiple of the devices. `distributed.shard_rows` and
        `distributed.join_rows` fill them up, and give `where`.
      mesh: devices among which the examples are split, along the mesh's first axis; by default
        those that they lie on.
      where: `[n]` False for examples that only fill up the shape. Their rows and columns are 0,
        which adds eigenvalues 0, and changes neither trace nor entropy.

    Returns:
      `[n, n]`, or `[n, n, c, c]` of a kernel of every pair of outputs, with its first axis split;
      NaN for an example or parameters with NaN.

    Raises:
      ValueError: the examples cannot be split equally, or have no leading axis in common.

    >>> from entropax.kernels.ntk import ntk
    >>> x = jnp.array([[1.0, 0.0], [1.0, 1.0], [7.0, 7.0]])
    >>> real = jnp.array([True, True, False])
    >>> pool_kernel(ntk(lambda params, x: x @ params), jnp.ones((2, 3)), x, where=real).tolist()
    [[1.0, 1.0, 0.0], [1.0, 2.0, 0.0], [0.0, 0.0, 0.0]]
    """
    mesh = mesh_of(x) if mesh is None else mesh
    check_equal_shares(num_examples(x), mesh)
    return _pool_kernel(params, x, where, kernel_fn=kernel_fn, mesh=mesh)


@partial(jax.jit, static_argnames=("kernel_fn", "mesh"))
def _pool_kernel(
    params: Params,
    x: PyTree[Any],
    where: Bool[Array, " n"] | None,
    *,
    kernel_fn: FeatureKernel | KernelFn,
    mesh: AnyMesh | None,
) -> Float[Array, "n n *outputs"]:
    if mesh is None:
        kernel = kernel_fn(params, x)
    else:
        rows = partial(_rows, kernel_fn, n=num_examples(x), mesh=mesh)
        kernel = on_shares(rows, mesh)(params, x)
    if where is None:
        return kernel
    pairs = where[:, None] & where
    return jnp.where(pairs.reshape(*pairs.shape, *[1] * (kernel.ndim - 2)), kernel, 0)


def _rows(
    kernel_fn: FeatureKernel | KernelFn, params: Params, x: PyTree[Any], *, n: int, mesh: AnyMesh
) -> Float[Array, "b n *outputs"]:
    """The rows of one device."""
    axis = data_axis(mesh)
    devices = mesh.shape[axis]
    here = jax.lax.axis_index(axis)
    inner: Callable[[Any, Any], Array]
    if isinstance(kernel_fn, FeatureKernel):
        own, inner = kernel_fn.features(params, x, n), kernel_fn.inner
    else:
        own, inner = x, partial(kernel_fn, params)

    def sent(tree: PyTree[Array], steps: int) -> PyTree[Array]:
        """To the device so many places on."""
        ring = [(i, (i + steps) % devices) for i in range(devices)]
        return jax.tree.map(lambda leaf: jax.lax.ppermute(leaf, axis, ring), tree)

    # To send over a distance that a loop counts, all distances have to be known.
    back = [partial(sent, steps=-distance) for distance in range(devices // 2 + 1)]

    def meet(carry: tuple[Array, Any], distance: Array) -> tuple[tuple[Array, Any], None]:
        kernel, passing = carry
        arriving = sent(passing, 1)  # while the block is computed; the last is not needed
        block = inner(own, passing)
        swapped = block.swapaxes(0, 1)
        swapped = swapped.swapaxes(2, 3) if block.ndim == 4 else swapped
        received = jax.lax.switch(distance, back, swapped)
        kernel = kernel.at[:, (here - distance) % devices].set(block)
        kernel = kernel.at[:, (here + distance) % devices].set(received)
        return (kernel, arriving), None

    size = num_examples(x)
    block = jax.eval_shape(inner, own, own)
    kernel = jnp.zeros((size, devices, *block.shape[1:]), block.dtype)
    (kernel, _), _ = jax.lax.scan(meet, (kernel, own), jnp.arange(devices // 2 + 1))
    return kernel.reshape(size, n, *block.shape[2:])
