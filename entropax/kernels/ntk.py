r"""Empirical neural tangent kernels of any function `apply_fn(params, x)`.

    kernel_fn = ntk(apply_fn)
    K = kernel_fn(params, x)                 # [n, n]

The kernel compares two examples by the derivatives of the outputs with respect to the parameters:

$$\Theta_{ij}^{cd} = \sum_\theta \frac{\partial f_c(x_i)}{\partial \theta}
                                 \frac{\partial f_d(x_j)}{\partial \theta}.$$
"""

import inspect
import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PyTree

from entropax.kernels.base import FeatureKernel, num_examples
from entropax.kernels.features import Features, Jacobian, Lookup, Outer, cheapest, inner_products
from entropax.kernels.structure import Structure, evaluate, factor, read_structure
from entropax.parameters import (
    PathPredicate,
    merge,
    network_parameters,
    partition_floats,
    path_name,
)
from entropax.types import ApplyFn, Array, Params

METHODS = ("structured", "contraction")
OUTPUTS = ("mean", "trace", "full")
# Measured on a small convolutional network: in batches of 5, which take as much, features are made
# 1.4 times as fast as 100 at a time, in a twentieth of the memory.
_CPU_BYTES = 2**23


class FallbackWarning(UserWarning):
    """The structured kernel forms the whole derivative by a parameter that it cannot split."""


def ntk(
    apply_fn: ApplyFn,
    *,
    method: str = "structured",
    outputs: str = "mean",
    classes: Sequence[int] | None = None,
    trainable: PathPredicate | None = None,
    batch_size: int | None = None,
) -> FeatureKernel:
    r"""The empirical neural tangent kernel.

    $$K_{ij} = \frac1C \sum_{c=1}^C \sum_\theta \frac{\partial f_c(x_i)}{\partial \theta}
                 \frac{\partial f_c(x_j)}{\partial \theta}.$$

    Each example is differentiated by itself: an output must not depend on the other examples of a
    batch. Normalisation by running statistics is fine, by the batch at hand is not.

    Args:
      apply_fn: the network, `(params, x [n, ...]) -> [n, ...]`; every axis but the first is
        of outputs.
      method: `"structured"` contracts the activations and cotangents of each layer, and forms a
        derivative by a parameter only where that is cheaper (in most convolutions);
        `"contraction"` forms them all. The kernel is the same.
      outputs: `"mean"` over outputs as above (what neural-tangents calls the trace), `"trace"`
        without the $1/C$, or `"full"` for $\Theta_{ij}^{cd}$ `[n, m, c, c]`.
      classes: numbers of the outputs to use; by default all.
      trainable: predicate on paths such as `"params/Dense_0/kernel"`, to differentiate with respect
        to some of the parameters only, the last layer's for example. By default all of them; of
        linen variables, a mapping with the collection `"params"`, that collection. Integers never.
        Of an nnx model pass the parameters, `nnx.split(model, nnx.Param, ...)`, and no statistics.
      batch_size: examples whose features are computed at a time. By default all, but of the
        structured method on a CPU as many as leave what is computed on the way in the cache. Choose
        a number if memory does not suffice.

    Returns:
      `kernel_fn(params, x1, x2=None)`, compiled once for each shape. NaN and infinite parameters or
      inputs give a kernel with NaN.

    Raises:
      ValueError: an unknown option; a function of the batch (one that takes `where`); and, when it
        is called, no parameter is selected, or a class does not exist.

    Warns:
      FallbackWarning: when it is called, for every weight of a layer whose whole derivative has to
        be formed, with the reason: it goes through a scan or an indexing of stacked layers, say, or
        a product with derivatives of its own. The kernel is exact all the same.

    Reference: A. Jacot et al., "Neural tangent kernel: convergence and generalization in neural
    networks" (2018), section 4; R. Novak et al., "Fast finite width neural tangent kernel" (2022),
    sections 3.1 (contraction) and 3.3 (structured derivatives).

    >>> x = jnp.array([[1.0, 0.0], [1.0, 1.0]])
    >>> kernel_fn = ntk(lambda params, x: x @ params)
    >>> kernel_fn(jnp.ones((2, 3)), x).tolist()  # of a linear model: x x^T
    [[1.0, 1.0], [1.0, 2.0]]
    """
    if method not in METHODS:
        raise ValueError(f"`method` must be one of {', '.join(METHODS)}, got {method!r}.")
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"`batch_size` must be positive, got {batch_size}.")
    inner = inner_products_compiled(outputs)
    function = one_example(apply_fn, classes=classes)
    make = _structured if method == "structured" else _contraction

    @partial(jax.jit, static_argnums=2)
    def features(params: Params, x: PyTree[Any], partners: int) -> Features:
        n = num_examples(x)
        chosen = differentiated(params, trainable)
        of_one = make(chosen, lambda leaves, x: function(chosen.merge(leaves), x), x)

        def of_some(x: PyTree[Any]) -> Features:
            made = jax.vmap(of_one)(x)
            return cheapest(made, partners=partners, traced=outputs != "full")

        # XLA's derivative by a convolution's kernel, which contraction needs, is slow in a loop.
        size = batch_size or (_fitting(of_one, x) if method == "structured" else n)
        return of_some(x) if size >= n else _in_batches(of_some, x, size)

    return FeatureKernel(features, inner)


def _fitting(of_one: Callable[[PyTree[Any]], Features], x: PyTree[Any]) -> int:
    """How many examples to take at a time."""
    n = num_examples(x)
    if jax.default_backend() != "cpu":
        return n
    made = jax.eval_shape(of_one, jax.tree.map(lambda leaf: leaf[0], x))
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(made))
    largest = min(n, max(1, _CPU_BYTES // max(1, size)))
    # A last batch that is not full would be filled up: take a size that divides n if one is near.
    divisors = [d for d in range(1, largest + 1) if n % d == 0]
    return divisors[-1] if divisors[-1] > largest / 2 else largest


def _in_batches(function: Callable[[PyTree[Any]], Features], x: PyTree[Any], size: int) -> Features:
    """`jax.lax.map` in batches of one size; the last one is filled up with copies.

    One size, because each has to be compiled.
    """
    n = num_examples(x)
    rows = np.minimum(np.arange(-(-n // size) * size), n - 1).reshape(-1, size)
    made = jax.lax.map(lambda rows: function(jax.tree.map(lambda leaf: leaf[rows], x)), rows)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:n], made)


def check_outputs(outputs: str) -> None:
    """Raise a ValueError unless `outputs` is one of mean, trace, full."""
    if outputs not in OUTPUTS:
        raise ValueError(f"`outputs` must be one of {', '.join(OUTPUTS)}, got {outputs!r}.")


@cache
def inner_products_compiled(outputs: str) -> Callable[[Features, Features], Array]:
    """`inner_products` with a choice of outputs, compiled; one function for every kernel.

    Raises:
      ValueError: `outputs` is none of mean, trace, full.
    """
    check_outputs(outputs)
    return jax.jit(partial(inner_products, outputs=outputs))


def one_example(
    apply_fn: ApplyFn, *, classes: Sequence[int] | None = None
) -> Callable[[Params, PyTree[Any]], Float[Array, " c"]]:
    """The outputs of a network for one example, `(params, x [...]) -> [c]`.

    Raises:
      ValueError: the function takes `where`; and when it is called, it does not keep the leading
        axis, or a class does not exist.
    """
    if "where" in inspect.signature(apply_fn).parameters:
        raise ValueError(
            "`apply_fn` takes `where`: its outputs depend on the whole batch, so that no example "
            "has a derivative of its own. Use running statistics."
        )
    if classes is not None and len(classes) == 0:
        raise ValueError("`classes` is empty; name at least one output, or pass None for all.")

    def outputs_of(params: Params, x: PyTree[Any]) -> Float[Array, " c"]:
        y = apply_fn(params, jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], x))
        if not isinstance(y, jax.Array) or y.shape[:1] != (1,):
            raise ValueError(
                "`apply_fn` must return one array with the leading axis of its examples, got "
                f"{jax.tree.map(jnp.shape, y)} for one example."
            )
        y = y.reshape(-1)
        if classes is None:
            return y
        if not all(0 <= c < len(y) for c in classes):
            raise ValueError(f"`classes` must be in [0, {len(y)}), got {tuple(classes)}.")
        return y[np.asarray(classes)]

    return outputs_of


class Differentiated(NamedTuple):
    """The parameters that a kernel differentiates with respect to.

    Attributes:
      leaves: their arrays.
      paths: their names.
      merge: `leaves -> params`, with the other parameters put back.
    """

    leaves: list[Array]
    paths: list[str]
    merge: Callable[[list[Array]], Params]


def differentiated(params: Params, trainable: PathPredicate | None) -> Differentiated:
    """Take out the floating-point arrays on the chosen paths; by default those of `ntk`.

    Raises:
      ValueError: nothing is chosen; the message names the paths that there are.
    """
    trainable = network_parameters(params) if trainable is None else trainable
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if jnp.iscomplexobj(leaf) and trainable(path_name(path)):
            raise ValueError(
                f"{path_name(path) or 'The parameter'} is complex; kernels are of real parameters. "
                "Leave it out by `trainable`, or pass its real and imaginary parts."
            )
    chosen, frozen = partition_floats(params, trainable)
    leaves, treedef = jax.tree.flatten(chosen)
    return Differentiated(
        leaves=[jnp.asarray(leaf) for leaf in leaves],
        paths=[path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(chosen)],
        merge=lambda leaves: merge(jax.tree.unflatten(treedef, leaves), frozen),
    )


OfOne: TypeAlias = Callable[[PyTree[Any]], Features]


def _contraction(
    chosen: Differentiated, function: Callable[..., Float[Array, " c"]], x: PyTree[Any]
) -> OfOne:
    def features(x: PyTree[Any]) -> Features:
        derivatives = jax.jacrev(function)(chosen.leaves, x)
        return tuple(Jacobian(jnp.reshape(d, (d.shape[0], -1))) for d in derivatives)

    return features


def _structured(
    chosen: Differentiated, function: Callable[..., Float[Array, " c"]], x: PyTree[Any]
) -> OfOne:
    params = chosen.leaves
    structure = read_structure(function, params, jax.tree.map(lambda leaf: leaf[0], x))
    _warn(chosen, structure)
    plain = [i for i in range(len(params)) if i not in structure.uses.keys() | structure.unused]
    uses = [use for found in structure.uses.values() for use in found]

    def features(x: PyTree[Any]) -> Features:
        def perturbed(
            perturbations: dict[int, Array], moved: list[Array]
        ) -> tuple[Array, list[Any]]:
            leaves = list(params)
            for i, leaf in zip(plain, moved, strict=True):
                leaves[i] = leaf
            return evaluate(structure, [*leaves, *jax.tree.leaves(x)], perturbations)

        zeros = {use.operation: structure.zeros(use) for use in uses}
        y, pullback, values = jax.vjp(perturbed, zeros, [params[i] for i in plain], has_aux=True)
        cotangents, derivatives = jax.vmap(pullback)(jnp.eye(len(y), dtype=y.dtype))

        made: dict[int, Jacobian | Outer | Lookup] = {
            i: Jacobian(jnp.reshape(d, (len(y), -1)))
            for i, d in zip(plain, derivatives, strict=True)
        }
        for i, found in structure.uses.items():
            # Layers that share a parameter are one layer with the positions of all.
            a = [use.layer.activations(structure.operand(use, values)) for use in found]
            g = [
                jax.vmap(use.layer.cotangents, out_axes=2)(
                    cotangents[use.operation] * factor(use.view, values)
                )
                for use in found
            ]
            if found[0].layer.lookup:
                made[i] = Lookup(jnp.concatenate(a), jnp.concatenate(g, axis=1))
            else:
                made[i] = Outer(jnp.concatenate(a, axis=1), jnp.concatenate(g, axis=1))
        # Of a network without any parameter in use, the number of outputs is kept.
        nothing = Jacobian(jnp.zeros((len(y), 0), y.dtype))
        return tuple(made[i] for i in sorted(made)) or (nothing,)

    return features


def _warn(chosen: Differentiated, structure: Structure) -> None:
    paths = defaultdict(list)
    for i, reason in structure.reasons.items():
        paths[reason].append(chosen.paths[i])
    for reason, found in paths.items():
        named = ", ".join(path or "the parameters" for path in found)
        warnings.warn(
            f"The whole derivative is formed by {named}: {reason}. The kernel is exact, but takes "
            "more memory and time than a structured one.",
            FallbackWarning,
            stacklevel=2,
        )
