"""Linen modules as pure functions, with a choice of statistics for their BatchNorm layers."""

import math
from collections.abc import Callable
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero
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
        with nn.intercept_methods(_mixed_into_batch_norm(where, batch_weight)):
            return cast(Array, module.apply(variables, jnp.asarray(x), **call))

    return apply_fn


def moving_statistics(
    module: nn.Module, *, momentum: float = 0.1, **call: Any
) -> Callable[..., tuple[Array, Variables]]:
    r"""`update_fn(variables, x, where=None)` whose BatchNorm layers follow the batches they see.

    Every BatchNorm inside the module moves its running statistics and normalises by the new ones,

    $$\mu \leftarrow (1 - m)\,\mu + m\,\mu_{\text{batch}}, \qquad
      \sigma^2 \leftarrow (1 - m)\,\sigma^2 + m\,\sigma^2_{\text{batch}},$$

    with the statistics of `batch_statistics`: the biased variance, and only the examples where
    `where` is True. A batch without examples changes nothing. A layer that is called several times
    moves several times.

    Args:
      module: any linen module that maps inputs to logits. Other normalisation layers are not
        touched.
      momentum: $m$ in (0, 1], the weight of the batch. At 1 nothing is left of the past, and the
        logits are those of `batch_statistics`.
      call: keyword arguments of its `__call__` that select evaluation, such as `train=False`.

    Returns:
      A function that returns the logits `[b, c]` and the variables with the moved statistics.

    Raises:
      ValueError: `momentum` is outside (0, 1].

    Reference: L. Yuan, B. Xie and S. Li, "Robust test-time adaptation in dynamic scenarios" (2023),
    whose robust batch normalisation has $m = 0.05$.

    >>> import jax
    >>> module = nn.Sequential([nn.BatchNorm(use_running_average=True), nn.Dense(3)])
    >>> variables = module.init(jax.random.key(0), jnp.ones((8, 4)))
    >>> _, variables = moving_statistics(module)(variables, jnp.full((8, 4), 5.0))
    >>> variables["batch_stats"]["layers_0"]["mean"].tolist()  # from 0 a tenth of the way to 5
    [0.5, 0.5, 0.5, 0.5]
    """
    if not 0 < momentum <= 1:
        raise ValueError(f"`momentum` must be in (0, 1], got {momentum}.")

    def update_fn(
        variables: Variables, x: Array | np.ndarray, where: Bool[Array, " b"] | None = None
    ) -> tuple[Array, Variables]:
        where = jnp.ones(len(x), bool) if where is None else where
        with nn.intercept_methods(_mixed_into_batch_norm(where, momentum)):
            logits, moved = module.apply(variables, jnp.asarray(x), mutable=["batch_stats"], **call)
        return cast(Array, logits), {**variables, **moved}

    return update_fn


def _mixed_into_batch_norm(
    where: Bool[Array, " b"], batch_weight: float
) -> Callable[[Callable[..., Any], Any, Any, Any], Any]:
    """An interceptor under which BatchNorm layers mix the batch into their statistics.

    They keep the mixture if `batch_stats` is mutable.
    """

    def intercept(layer_call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        if isinstance(context.module, nn.BatchNorm) and context.method_name == "__call__":
            x = args[0] if args else kwargs["x"]
            return _normalise(context.module, x, where, batch_weight)
        return layer_call(*args, **kwargs)

    return intercept


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
    weight = jnp.where(jnp.any(where), jnp.asarray(batch_weight, x32.dtype), 0)
    running_mean, running_var = variable("batch_stats", "mean"), variable("batch_stats", "var")
    if layer.is_mutable_collection("batch_stats"):
        average = _average(where, x.shape, over)
        mean = average(x32)
        var = average(jnp.square(x32 - mean))
        mean = weight * mean + (1 - weight) * running_mean
        var = weight * var + (1 - weight) * running_var
        for name, value in (("mean", mean), ("var", var)):
            before = cast(Array, layer.get_variable("batch_stats", name))
            layer.put_variable(
                "batch_stats", name, value.reshape(before.shape).astype(before.dtype)
            )

    dtypes = [x.dtype]
    scale, bias = jnp.ones(broadcast, x32.dtype), jnp.zeros(broadcast, x32.dtype)
    if layer.use_scale:
        scale = variable("params", "scale")
        dtypes.append(scale.dtype)
    if layer.use_bias:
        bias = variable("params", "bias")
        dtypes.append(bias.dtype)
    apply = _normalised(over, layer.epsilon)
    y = apply(x32, where, weight, running_mean, running_var, scale, bias)
    return y.astype(layer.dtype or jnp.result_type(*dtypes))


def _average(
    where: Bool[Array, " b"], shape: tuple[int, ...], over: tuple[int, ...]
) -> Callable[[Array], Array]:
    """The mean over the real examples and all their places.

    Examples are left out after the sum over places, not before: no array of the images' size is
    written for it, and a padded row may hold anything, NaN included.
    """
    count = jnp.maximum(jnp.sum(where), 1) * math.prod(shape[axis] for axis in over[1:])
    mask = where.reshape((-1,) + (1,) * (len(shape) - 1))

    def average(values: Array) -> Array:
        rows = jnp.sum(values, axis=over[1:], keepdims=True)
        return jnp.sum(jnp.where(mask, rows, 0), axis=0, keepdims=True) / count

    return average


def _normalised(over: tuple[int, ...], epsilon: float) -> Callable[..., Array]:
    r"""Normalisation of `(x, where, batch weight, running mean and variance, scale, bias)`.

    Its tangent is written down, since what JAX derives from the two sums keeps four arrays of the
    images' size for the gradient, and this one: with the deviations $d = x - \mu_{\text{batch}}$
    and $w = \gamma \dot x / \sigma$,

    $$\dot y = w - a\,\bar w + \hat x\,(\dot\gamma - a\,\overline{w d} / \sigma) + \dot\beta.$$
    """

    def value(
        x: Array,
        where: Array,
        weight: Array,
        running_mean: Array,
        running_var: Array,
        scale: Array,
        bias: Array,
    ) -> tuple[Array, Array, Array, Array]:
        average = _average(where, x.shape, over)
        mean = average(x)
        deviation = x - mean
        var = average(jnp.square(deviation))
        inverse = 1 / jnp.sqrt(weight * var + (1 - weight) * running_var + epsilon)
        shift = (1 - weight) * (mean - running_mean) * inverse
        y = deviation * (inverse * scale) + (shift * scale + bias)
        return y, deviation, inverse, shift

    @jax.custom_jvp
    def apply(*operands: Array) -> Array:
        return value(*operands)[0]

    def jvp(primals: tuple[Array, ...], tangents: tuple[Any, ...]) -> tuple[Array, Array]:
        x, where, weight, _, _, scale, _ = primals
        y, deviation, inverse, shift = value(*primals)
        x_dot, _, _, mean_dot, var_dot, scale_dot, bias_dot = (
            0 if isinstance(tangent, SymbolicZero) else tangent for tangent in tangents
        )
        slope = scale_dot - scale * jnp.square(inverse) * (1 - weight) * var_dot / 2
        constant = bias_dot - scale * inverse * (1 - weight) * mean_dot
        if isinstance(tangents[0], SymbolicZero):
            return y, deviation * (inverse * slope) + (constant + shift * slope)
        average = _average(where, x.shape, over)
        moved = x_dot * (inverse * scale)
        slope -= weight * inverse * average(moved * deviation)
        constant -= weight * average(moved)
        return y, moved + deviation * (inverse * slope) + (constant + shift * slope)

    apply.defjvp(jvp, symbolic_zeros=True)
    return apply
