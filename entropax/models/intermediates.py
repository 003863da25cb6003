"""What comes out of the inner layers of a linen module, without a change to the module."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from entropax.types import Array, Variables

_INPUT = ":input"
_COLLECTION = "intermediates"


def layer_features(
    module: nn.Module, names: Sequence[str] | Mapping[str, str], **call: Any
) -> Callable[[Variables, Array | np.ndarray], dict[str, Array]]:
    """`features_fn(variables, x) -> {name: features [n, ...]}` of a linen module.

    Args:
      module: any linen module that maps inputs to outputs. Wrapped in `nn.remat` or `nn.jit` it
        works as well; inside `nn.scan` only with "intermediates" among its variable axes.
      names: of submodules, as paths from the module, such as `"block0/attention"`: what they
        return; with `":input"` behind it, as in `"head:input"`, what they are called with (their
        first argument), which is how one gets at activations that are no submodule's output. As a
        mapping: names of one's own to these.
      call: keyword arguments of its `__call__` that select evaluation, such as `train=False`, with
        which BatchNorm layers use their running averages.

    Returns:
      A function to be jitted: what is not asked for is not computed then. Of a submodule that is
      called several times it returns the last call.

    Raises:
      ValueError: no name is given, or (by the function) there is no such submodule, or it does not
        return an array; the message lists what there is.

    A `flax.nnx` module has no need of this: its layers are attributes, and
    `lambda state, x: {"hidden": nnx.merge(graphdef, state).hidden(x)}` is such a function.

    >>> from entropax.models import ConvNet
    >>> module = ConvNet(num_classes=10, features=(4, 8))
    >>> variables = module.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    >>> features_fn = layer_features(module, {"first": "norm0", "last": "head:input"}, train=False)
    >>> features = features_fn(variables, jnp.zeros((5, 8, 8, 1)))
    >>> {name: z.shape for name, z in features.items()}
    {'first': (5, 4, 4, 4), 'last': (5, 32)}
    """
    wanted = dict(names) if isinstance(names, Mapping) else {name: name for name in names}
    if not wanted:
        raise ValueError("`names` is empty; name at least one submodule, such as 'head:input'.")
    inputs = {path.removesuffix(_INPUT) for path in wanted.values() if path.endswith(_INPUT)}

    def record(next_call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        path = "/".join(context.module.path)
        if context.method_name == "__call__" and path in inputs:
            first = args[0] if args else next(iter(kwargs.values()))
            context.module.sow(_COLLECTION, _INPUT, first)
        return next_call(*args, **kwargs)

    def features_fn(variables: Variables, x: Array | np.ndarray) -> dict[str, Array]:
        variables = {k: v for k, v in variables.items() if k != _COLLECTION}
        with nn.intercept_methods(record):
            _, updated = module.apply(
                variables,
                jnp.asarray(x),
                capture_intermediates=True,
                mutable=[_COLLECTION],
                **call,
            )
        found = _by_path(updated[_COLLECTION])
        return {name: _pick(found, path) for name, path in wanted.items()}

    return features_fn


def _by_path(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            found |= _by_path(value, f"{prefix}{name}/")
        elif name in ("__call__", _INPUT):
            path = prefix.removesuffix("/") + (_INPUT if name == _INPUT else "")
            found[path] = value[-1]  # a tuple with an entry for each call
    return found


def _pick(found: Mapping[str, Any], path: str) -> Array:
    if path not in found:
        there = ", ".join(repr(name) for name in found if name and not name.endswith(_INPUT))
        raise ValueError(
            f"The network has no submodule {path.removesuffix(_INPUT)!r} that is called; it has "
            f"{there or 'none'}."
        )
    value = found[path]
    if not isinstance(value, jax.Array | np.ndarray):
        raise ValueError(f"{path!r} is no array but {type(value).__name__}; choose another layer.")
    return jnp.asarray(value)
