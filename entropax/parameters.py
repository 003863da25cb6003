"""Some of a network's variables, chosen by their path: those to adapt, or to differentiate."""

import re
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from entropax.types import Params, Variables

PathPredicate = Callable[[str], bool]

_NORM_LAYER = re.compile(
    r"(?:Batch|Group|Layer|Instance|RMS)Norm"  # class names: BatchNorm_0, MyLayerNorm
    r"|(?:^|_)(?:batch|group|layer|instance|rms)?_?norm_?\d*(?:$|_)"  # norm1, final_layer_norm
    r"|(?:^|_)(?:bn|gn|ln)_?\d*(?:$|_)"  # bn1, ln_f
)
_AFFINE_NAMES = frozenset({"scale", "bias", "weight", "offset", "gamma", "beta"})


def is_norm_affine(path: str) -> bool:
    """Whether a path names the scale or the shift of a normalisation layer.

    The parent's name has to hold the class name of a layer (`BatchNorm_0`) or one of the words
    norm, batch_norm, group_norm, layer_norm, instance_norm, rms_norm, bn, gn, ln, with or without
    a number; the leaf has to be one of scale, bias, weight, offset, gamma, beta. Names say nothing
    in an `nn.Sequential` of torch (`downsample.1.weight`): write your own predicate for those.

    >>> is_norm_affine("params/Block_0/BatchNorm_1/scale"), is_norm_affine("params/Conv_0/bias")
    (True, False)
    >>> is_norm_affine("layer1.0.bn2.weight"), is_norm_affine("batch_stats/BatchNorm_1/mean")
    (True, False)
    """
    *parents, name = re.split(r"[/.]", path.removesuffix("/value"))  # nnx keeps arrays in .value
    return name in _AFFINE_NAMES and bool(parents) and bool(_NORM_LAYER.search(parents[-1]))


def partition(variables: Variables, trainable: PathPredicate) -> tuple[Params, Variables]:
    """Split variables into the chosen ones and the others.

    Args:
      variables: any pytree of arrays.
      trainable: predicate on paths such as `"params/BatchNorm_0/scale"`.

    Returns:
      `(params, frozen)`, both of the structure of `variables`, with None where the other has the
      array. `merge` puts them together again.

    Raises:
      ValueError: the predicate matches no path.
    """
    paths = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(variables)]
    if not any(map(trainable, paths)):
        shown = ", ".join(paths[:8]) + (", ..." if len(paths) > 8 else "")
        raise ValueError(
            "No variable is selected: `trainable` is False on every path "
            f"({shown}). Pass a predicate that is True on some of them."
        )
    params = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf if trainable(path_name(path)) else None, variables
    )
    frozen = jax.tree_util.tree_map_with_path(
        lambda path, leaf: None if trainable(path_name(path)) else leaf, variables
    )
    return params, frozen


def partition_floats(
    variables: Variables, trainable: PathPredicate | None
) -> tuple[Params, Variables]:
    """`partition` of the floating-point arrays, whatever other arrays the predicate chooses.

    Args:
      variables: any pytree of arrays.
      trainable: predicate on paths; None stands for `network_parameters(variables)`.

    Returns:
      `(params, frozen)`, as from `partition`.

    Raises:
      ValueError: no floating-point array is chosen.

    >>> variables = {"params": {"w": jnp.ones(2), "calls": jnp.ones(2, int)}}
    >>> params, frozen = partition_floats(variables, None)
    >>> params["params"]["calls"] is None, frozen["params"]["w"] is None
    (True, True)
    """
    chosen = network_parameters(variables) if trainable is None else trainable
    floats = {
        path_name(path)
        for path, leaf in jax.tree_util.tree_leaves_with_path(variables)
        if jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
    }
    return partition(variables, lambda path: path in floats and chosen(path))


def network_parameters(variables: Variables) -> PathPredicate:
    """Predicate on the paths in the collection "params", or on all if there is no such collection.

    >>> network_parameters({"params": {"w": 1.0}, "batch_stats": {"mean": 0.0}})("batch_stats/mean")
    False
    """
    collections = isinstance(variables, Mapping) and "params" in variables
    return lambda path: not collections or path.split("/")[0] == "params"


def merge(params: Params, frozen: Variables) -> Variables:
    """Undo `partition`.

    >>> variables = {"bn": {"scale": 1.0}, "fc": {"kernel": 2.0}}
    >>> merge(*partition(variables, is_norm_affine)) == variables
    True
    """
    return jax.tree.map(
        lambda moved, kept: kept if moved is None else moved,
        params,
        frozen,
        is_leaf=lambda leaf: leaf is None,
    )


def path_name(path: tuple) -> str:
    """A path of `jax.tree_util` as `"params/BatchNorm_0/scale"`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")
