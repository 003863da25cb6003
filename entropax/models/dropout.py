"""Predictions under dropout, of networks that have no dropout."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, PRNGKeyArray

from entropax.models.statistics import batch_statistics
from entropax.types import ApplyFn, Array, Batch, Variables, forward

_NORMS = (nn.BatchNorm, nn.GroupNorm, nn.InstanceNorm, nn.LayerNorm, nn.RMSNorm)


def dropout_passes(
    module: nn.Module,
    *,
    rate: float,
    num_passes: int = 10,
    sites: Callable[[str], bool] | None = None,
    statistics: Callable[..., ApplyFn] = batch_statistics,
    **call: Any,
) -> Callable[..., Float[Array, "k b c"]]:
    r"""`passes_fn(key, variables, x, where=None)`: logits of passes with dropout behind layers.

    What a chosen submodule returns, $y$, becomes

    $$y_j \leftarrow \frac{m_j\, y_j}{1 - \text{rate}}, \qquad
      m_j \sim \mathrm{Bernoulli}(1 - \text{rate}),$$

    anew for each element, pass and call of it. Nothing in the module has to know. How often the
    passes disagree with the prediction without dropout is what `estimation.aetta` goes by.

    Args:
      module: any linen module that maps inputs to logits.
      rate: share of the elements that are dropped, in [0, 1). AETTA has 0.4 with CIFAR-10, 0.3 with
        CIFAR-100 and ImageNet-R, 0.2 with ImageNet, behind each residual stage.
      num_passes: k.
      sites: which submodules, from their paths in the module, such as `"residual_1"` or
        `"block0/norm"`; by default every normalisation layer.
      statistics: `batch_statistics`, `running_statistics`, or whatever makes an `apply_fn` of the
        module: the same as for the network that is adapted.
      call: keyword arguments for `statistics`: those of the module's `__call__` that select
        evaluation, such as `train=False`, or `batch_weight`.

    Returns:
      A function that returns logits `[k, b, c]`. To be jitted; the passes are computed together.
      Layers inside one `nn.scan` share their masks.

    Raises:
      ValueError: `rate` outside [0, 1), `num_passes` not positive; by the function, no submodule is
        a site (the message lists those that were called), or one does not return an array.

    Reference: T. Lee et al., "AETTA: label-free accuracy estimation for test-time adaptation"
    (2024).

    >>> from entropax.models import ConvNet
    >>> module = ConvNet(num_classes=10, features=(4, 8))
    >>> x = jax.random.normal(jax.random.key(0), (5, 8, 8, 1))
    >>> variables = jax.jit(module.init)(jax.random.key(1), x)
    >>> passes_fn = jax.jit(dropout_passes(module, rate=0.4, num_passes=3))
    >>> passes_fn(jax.random.key(2), variables, x).shape
    (3, 5, 10)
    """
    if not 0 <= rate < 1:
        raise ValueError(f"`rate` must be in [0, 1), got {rate}.")
    if num_passes < 1:
        raise ValueError(f"`num_passes` must be at least 1, got {num_passes}.")
    logits_of = forward(statistics(module, **call))

    def chosen(layer: nn.Module) -> bool:
        return isinstance(layer, _NORMS) if sites is None else sites("/".join(layer.path))

    def one_pass(key: PRNGKeyArray, variables: Variables, batch: Batch) -> Float[Array, "b c"]:
        seen, dropped = [], 0

        def intercept(layer_call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
            nonlocal dropped
            y = layer_call(*args, **kwargs)
            if context.method_name != "__call__":
                return y
            seen.append("/".join(context.module.path))
            if not chosen(context.module):
                return y
            if not isinstance(y, jax.Array):
                raise ValueError(
                    f"Dropout needs an array, but {seen[-1]!r} returns {type(y).__name__}; choose "
                    "other `sites`."
                )
            dropped += 1
            kept = jax.random.bernoulli(jax.random.fold_in(key, dropped), 1 - rate, y.shape)
            return jnp.where(kept, y / (1 - rate), 0).astype(y.dtype)

        with nn.intercept_methods(intercept):
            logits = logits_of(variables, batch)
        if not dropped:
            there = ", ".join(map(repr, filter(None, dict.fromkeys(seen)))) or "none"
            raise ValueError(
                f"No submodule is a site of dropout. Pass `sites`; those called are {there}."
            )
        return logits

    def passes_fn(
        key: PRNGKeyArray,
        variables: Variables,
        x: Array | np.ndarray,
        where: Bool[Array, " b"] | None = None,
    ) -> Float[Array, "k b c"]:
        batch = Batch(jnp.asarray(x), jnp.ones(len(x), bool) if where is None else where)
        keys = jax.random.split(key, num_passes)
        return jax.vmap(one_pass, in_axes=(0, None, None))(keys, variables, batch)

    return passes_fn
