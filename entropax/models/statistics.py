"""Linen modules as pure functions, with a choice of statistics for their BatchNorm layers."""

import math
from collections.abc import Callable
from typing import Any, cast

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from entropax.types import ApplyFn, Array, Variables


def running_statistics(module: nn.Module, **call: Any) -> ApplyFn:
    """`apply_fn(variables, x)` of a module as it stands, in its evaluation mode.

    Args:
      module: any linen module that maps inputs to logits.
      call: keyword arguments of its `__call__` that select evaluation, such as `train=False`.
    """

    def apply_fn(variables: Variables, x: Array | np.ndarray) -> Array:
        return cast(Array, module.apply(variables, jnp.asarray(x), **call))

    return apply_fn


def batch_statistics(module: nn.Module, *, batch_weight: float = 1.0, **call: Any) -> ApplyFn:
    r"""`apply_fn(variables, x, where=None)` whose BatchNorm layers use the batch at hand.

    Every BatchNorm inside the module, at any depth and whatever its arguments, normalises by

    $$\mu = a\,\mu_{\text{batch}} + (1 - a)\,\mu_{\text{running}}, \qquad
      \sigma^2 = a\,\sigma^2_{\text{batch}} + (1 - a)\,\sigma^2_{\text{running}},$$

    with the mean and the biased variance of the examples where `where` is True, over all axes but
    the features. Running statistics are not updated; a batch without examples uses them.

    Args:
      module: any linen module that maps inputs to logits. Other normalisation layers are not
        touched.
      batch_weight: $a$ in (0, 1]. At 1, the default, a single example without spatial axes
        normalises to zero, so that its logits are the same whatever the input; use about 0.1 for
        batches that small.
      call: keyword arguments of its `__call__` that select evaluation, such as `train=False`.

    Raises:
      ValueError: `batch_weight` is outside (0, 1].

    Reference: S. Schneider et al., "Improving robustness against common corruptions by covariate
    shift adaptation" (2020), equation 3.

    >>> import jax
    >>> module = nn.Sequential([nn.BatchNorm(use_running_average=True), nn.Dense(3)])
    >>> x = 5 + jax.random.normal(jax.random.key(0), (8, 4))
    >>> variables = module.init(jax.random.key(1), x)
    >>> logits = batch_statistics(module)(variables, x)
    >>> bool(jnp.allclose(logits.mean(0), 0, atol=1e-5))  # centred by the batch, not by 0
    True
    """
    if not 0 < batch_weight <= 1:
        raise ValueError(f"`batch_weight` must be in (0, 1], got {batch_weight}.")

    def apply_fn(
        variables: Variables, x: Array | np.ndarray, where: Bool[Array, " b"] | None = None
    ) -> Array:
        where = jnp.ones(len(x), bool) if where is None else where

        def intercept(layer_call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
            if isinstance(context.module, nn.BatchNorm) and context.method_name == "__call__":
                x = args[0] if args else kwargs["x"]
                return _normalise(context.module, x, where, batch_weight)
            return layer_call(*args, **kwargs)

        with nn.intercept_methods(intercept):
            return cast(Array, module.apply(variables, jnp.asarray(x), **call))

    return apply_fn


def _normalise(
    layer: nn.BatchNorm, x: Float[Array, "b *shape"], where: Bool[Array, " b"], batch_weight: float
) -> Float[Array, "b *shape"]:
    """What `layer` computes, with statistics of the batch, in float32 at least."""
    axes = (layer.axis,) if isinstance(layer.axis, int) else tuple(layer.axis)
    features = {axis % x.ndim for axis in axes}
    over = tuple(axis for axis in range(x.ndim) if axis not in features)
    if 0 in features:
        raise ValueError("A BatchNorm over the batch axis (axis=0) has no statistics of a batch.")
    broadcast = tuple(x.shape[axis] if axis in features else 1 for axis in range(x.ndim))

    def variable(collection: str, name: str) -> Array:
        value: Any = layer.get_variable(collection, name)
        if value is None:
            raise ValueError(
                f"The variables hold no {collection!r} for the BatchNorm {layer.name!r}; pass all "
                "collections, as module.init returns them."
            )
        return cast(Array, value).reshape(broadcast)

    x32 = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    mask = where.reshape((-1,) + (1,) * (x.ndim - 1))

    # A padded row may hold anything, NaN included: cleared first, or its gradient would be NaN.
    real = jnp.where(mask, x32, 0)
    places = math.prod(x.shape[axis] for axis in over[1:])
    count = jnp.maximum(jnp.sum(where), 1) * places
    mean = jnp.sum(real, axis=over, keepdims=True) / count
    deviation = jnp.where(mask, real - mean, 0)
    var = jnp.sum(jnp.square(deviation), axis=over, keepdims=True) / count

    weight = jnp.where(jnp.any(where), batch_weight, 0)
    mean = weight * mean + (1 - weight) * variable("batch_stats", "mean")
    var = weight * var + (1 - weight) * variable("batch_stats", "var")

    y = (x32 - mean) / jnp.sqrt(var + layer.epsilon)
    dtypes = [x.dtype]
    if layer.use_scale:
        scale = variable("params", "scale")
        y, dtypes = y * scale, [*dtypes, scale.dtype]
    if layer.use_bias:
        bias = variable("params", "bias")
        y, dtypes = y + bias, [*dtypes, bias.dtype]
    return y.astype(layer.dtype or jnp.result_type(*dtypes))
