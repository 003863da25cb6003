"""What a kernel is: a function of parameters and two sets of examples."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from jaxtyping import Float, PyTree

from entropax.distributed import AnyMesh, data_axis, mesh_of
from entropax.types import Array, Params

# `kernel_fn(params, x1, x2=None) -> [n, m]`, the similarities of `x1` with `x2` or with itself.
KernelFn: TypeAlias = Callable[..., Array]


class FeatureKernel(NamedTuple):
    r"""A kernel that is an inner product of features.

    $$K_{ij} = \langle \phi(x_i), \phi(x_j) \rangle.$$

    Calling it gives the matrix; a large one is made tile by tile from the two functions (`gram`).
    Both are compiled, once for each shape.

    Attributes:
      features: `(params, x, partners) -> features`, a pytree of arrays with a leading axis of
        examples; `partners` is the number of examples that each of them will meet, the same for all
        features that meet, since it decides what is kept.
      inner: `(features1, features2) -> [n, m]`, or `[n, m, c, c]`.
    """

    features: Callable[[Params, PyTree[Any], int], PyTree[Any]]
    inner: Callable[[PyTree[Any], PyTree[Any]], Float[Array, "n m *outputs"]]

    def __call__(
        self, params: Params, x1: PyTree[Any], x2: PyTree[Any] | None = None
    ) -> Float[Array, "n m *outputs"]:
        """Return the kernel of `x1` with `x2`, or with itself."""
        partners = max(num_examples(x1), 0 if x2 is None else num_examples(x2))
        check_alike(x1, x2)
        features1 = self.features(params, x1, partners)
        features2 = features1 if x2 is None else self.features(params, x2, partners)
        return self.inner(features1, features2)


def num_examples(x: PyTree[Any]) -> int:
    """Length of the leading axis of every array in `x`.

    Raises:
      ValueError: there is none, or the arrays have different lengths.
    """
    lengths = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(x)}
    if len(lengths) != 1 or lengths == {()}:
        shapes = jax.tree.map(jnp.shape, x)
        raise ValueError(f"Examples need one leading axis `n` in common, got shapes {shapes}.")
    ((n,),) = lengths
    if n == 0:
        raise ValueError("There are no examples: the leading axis of `x` has length 0.")
    return n


def check_alike(x1: PyTree[Any], x2: PyTree[Any] | None) -> None:
    """Raise a ValueError unless the examples of `x2`, if there are any, have the shapes of `x1`."""
    if x2 is None:
        return
    shapes = [jax.tree.map(lambda leaf: jnp.shape(leaf)[1:], x) for x in (x1, x2)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"Examples of `x1` and `x2` differ in shape: {shapes[0]}, {shapes[1]}.")


def check_equal_shares(n: int, mesh: AnyMesh | None) -> None:
    """Raise a ValueError unless every device of a mesh gets as many of `n` examples."""
    if mesh is not None and n % mesh.shape[data_axis(mesh)]:
        raise ValueError(
            f"{n} examples cannot be split equally among {mesh.shape[data_axis(mesh)]} devices; "
            "`distributed.shard_rows` fills them up, and gives `where`."
        )


def on_shares(f: Callable[..., Any], mesh: AnyMesh | None) -> Callable[..., Any]:
    """A function that is applied on each device to its share of the rows.

    Args:
      f: `(whole, *rows) -> rows`: of something that all devices have, and of arrays `[n, ...]`;
        what it gives has leading axes as well, which are joined.
      mesh: devices among which the rows are split; None to apply `f` to all of them.
    """
    if mesh is None:
        return f
    split = PartitionSpec(data_axis(mesh))
    # The check of what varies would let derivatives by parameters, which are the same on all
    # devices, be summed over the devices.

    def apply(whole: PyTree[Any], *rows: PyTree[Any]) -> PyTree[Any]:
        specs = (PartitionSpec(), *[split] * len(rows))
        on_each = jax.shard_map(f, mesh=mesh, in_specs=specs, out_specs=split, check_vma=False)
        return on_each(whole, *rows)

    return apply


def diagonal(
    kernel_fn: FeatureKernel, params: Params, x: PyTree[Any]
) -> Float[Array, "n *outputs"]:
    r"""The similarity of each example with itself, $K_{ii}$; for a tangent kernel $\|J_i\|^2$.

    Args:
      kernel_fn: a kernel with features.
      params: its parameters.
      x: `[n, ...]` examples; where they are split among devices, equally.

    Returns:
      `[n]`, or `[n, c, c]` of a kernel of every pair of outputs.

    >>> from entropax.kernels.ntk import ntk
    >>> diagonal(ntk(lambda params, x: x @ params), jnp.ones((2, 1)), jnp.eye(2)).tolist()
    [1.0, 1.0]
    """
    mesh = mesh_of(x)
    check_equal_shares(num_examples(x), mesh)

    def with_itself(of_one: PyTree[Any]) -> Float[Array, "*outputs"]:
        of_one = jax.tree.map(lambda leaf: leaf[None], of_one)
        return kernel_fn.inner(of_one, of_one)[0, 0]

    def of_share(params: Params, x: PyTree[Any]) -> Float[Array, "b *outputs"]:
        return jax.vmap(with_itself)(kernel_fn.features(params, x, 1))

    return on_shares(of_share, mesh)(params, x)


def cosine(kernel: Float[Array, "n n"] | Float[np.ndarray, "n n"]) -> Float[Array, "n n"]:
    r"""A kernel between examples of length one, $K_{ij} / \sqrt{K_{ii} K_{jj}}$.

    Args:
      kernel: `[n, n]`; a zero on the diagonal gives zeros in its row and column, a negative number
        NaN.

    >>> cosine(jnp.array([[4.0, 1.0], [1.0, 1.0]])).tolist()
    [[1.0, 0.5], [0.5, 1.0]]
    """
    kernel = jnp.asarray(kernel)
    squares = jnp.diagonal(kernel)
    scale = jnp.where(squares == 0, 0, jax.lax.rsqrt(jnp.where(squares == 0, 1, squares)))
    return kernel * scale[:, None] * scale
