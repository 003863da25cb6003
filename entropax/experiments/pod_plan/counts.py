"""What a network costs, counted in its traced program."""

from collections.abc import Callable, Iterator
from math import prod
from typing import Any, NamedTuple

import jax
from jaxtyping import PyTree

from entropax import kernels
from entropax.types import ApplyFn, Params


class Network(NamedTuple):
    """One example through a network.

    Attributes:
      flops: operations of its matrix products and convolutions, forward.
      outputs: numbers that convolutions and dense layers give.
      parameters: of all layers.
    """

    flops: float
    outputs: float
    parameters: int


class TangentFeatures(NamedTuple):
    """What a tangent kernel needs of one example.

    Attributes:
      size: numbers.
      flops: operations of the inner product of two examples.
    """

    size: int
    flops: int


def count(apply_fn: ApplyFn, variables: Params, x: jax.ShapeDtypeStruct) -> Network:
    """Count a network on examples `x`, of which shapes are enough.

    >>> import jax.numpy as jnp
    >>> x = jax.ShapeDtypeStruct((5, 3), jnp.float32)
    >>> count(lambda variables, x: x @ variables, jnp.ones((3, 4)), x)
    Network(flops=24.0, outputs=4.0, parameters=12)
    """
    made = list(_products(jax.make_jaxpr(apply_fn)(variables, x)))
    return Network(
        flops=sum(flops for flops, _ in made) / x.shape[0],
        outputs=sum(outputs for _, outputs in made) / x.shape[0],
        parameters=sum(leaf.size for leaf in jax.tree.leaves(variables)),
    )


def _products(program: Any) -> Iterator[tuple[int, int]]:
    """Operations and outputs of every product and convolution."""
    for equation in program.eqns:
        name, params = equation.primitive.name, equation.params
        outputs = sum(prod(out.aval.shape) for out in equation.outvars)
        if name == "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            yield 2 * outputs * prod(shape[axis] for axis in contracted), outputs
        elif name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            features = params["dimension_numbers"].rhs_spec[0]
            yield 2 * outputs * prod(kernel) // kernel[features], outputs
        for value in params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from _products(inner)


def tangent_features(
    apply_fn: ApplyFn, params: Params, x: jax.ShapeDtypeStruct, *, partners: int
) -> TangentFeatures:
    """Count the features of `kernels.ntk` for the mean over the logits.

    Args:
      apply_fn: the network.
      params: its parameters, or their shapes.
      x: `[n, ...]` examples.
      partners: examples that each is compared with.
    """
    kernel: Callable[..., PyTree[Any]] = kernels.ntk(apply_fn).features
    made = jax.eval_shape(lambda params, x: kernel(params, x, partners), params, x)
    size = sum(leaf.size for leaf in jax.tree.leaves(made)) // x.shape[0]
    return TangentFeatures(size=size, flops=2 * size)
