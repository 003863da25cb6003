"""Does a stored pytree fit the one that is asked for, and where do its arrays go?"""

from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import PyTree

_NUMBERS = bool | int | float
_NUMBER = "a number"


def check_savable(tree: PyTree[Any]) -> None:
    """Refuse what cannot be written, before anything is.

    Raises:
      ValueError: the tree is one leaf or none; a leaf is neither an array nor a number, or is an
        array without entries.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    if not leaves or leaves[0][0] == ():
        raise ValueError(
            "`state` must be a pytree with one array or more inside, such as {'params': params}, "
            f"got {'an empty tree' if not leaves else type(tree).__name__}."
        )
    for path, leaf in leaves:
        if isinstance(leaf, jax.Array | np.ndarray | np.generic):
            if leaf.size == 0:
                raise ValueError(
                    f"`state` has an array without entries, {_name(path)} of shape {leaf.shape}, "
                    "which cannot be written; leave it out."
                )
        elif not isinstance(leaf, _NUMBERS):
            raise ValueError(
                "`state` may hold arrays and numbers; "
                f"{_name(path)} is {leaf!r} of type {type(leaf).__name__}. Text belongs in the "
                "metadata."
            )


def key_shapes(tree: PyTree[Any]) -> dict[str, str]:
    """Implementation and shape of the typed keys by path, which orbax's metadata do not tell."""
    return {
        _name(path): f"{leaf.dtype}{list(leaf.shape)}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        if _is_key(leaf)
    }


def placed(
    stored: PyTree[Any],
    like: PyTree[Any],
    *,
    origin: str,
    keys: dict[str, str] | None = None,
) -> PyTree[Any]:
    """`like` as orbax wants it: checked against what is stored, and with a place for every array.

    Args:
      stored: metadata of the stored leaves.
      like: a tree of the same structure of arrays, `jax.ShapeDtypeStruct`s and numbers. Where a
        leaf has a sharding, the array gets it; otherwise it goes to the first local device. NumPy
        arrays and numbers come back as such, NumPy's own numbers as arrays without axes.
      origin: names the checkpoint in messages.
      keys: the stored `key_shapes`; if given, keys must be of the same implementation, and typed
        where those stored are.

    Raises:
      ValueError: the stored tree has another structure, other shapes or dtypes.
    """
    there, wanted = _shapes(stored), _shapes(like)
    if keys is not None:
        there, wanted = there | keys, wanted | key_shapes(like)
    missing = ", ".join(sorted(wanted.keys() ^ there.keys())[:5])
    other = ", ".join(
        f"{name} is {there[name]}, expected {wanted[name]}"
        for name in sorted(wanted.keys() & there.keys())
        if not _fits(there[name], wanted[name])
    )
    if missing or other:
        raise ValueError(
            f"The checkpoint at {origin} belongs to another network"
            + (f"; only one of the two has {missing}" if missing else "")
            + (f"; {other}" if other else "")
            + "."
        )
    # Devices are those of this process, not those that wrote the checkpoint.
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

    def place(leaf: Any) -> Any:
        if isinstance(leaf, np.generic):
            return np.asarray(leaf)
        if isinstance(leaf, np.ndarray | _NUMBERS):
            return leaf
        sharding = getattr(leaf, "sharding", None) or here
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map(place, like)


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _shapes(tree: PyTree[Any]) -> dict[str, str]:
    """Dtype and shape by path; a checkpoint's metadata and its arrays name their paths alike."""
    return {_name(path): _shape(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _shape(leaf: Any) -> str:
    if isinstance(leaf, _NUMBERS | ocp.metadata.ScalarMetadata):
        return _NUMBER
    if _is_key(leaf):
        leaf = jax.eval_shape(jax.random.key_data, leaf)  # as which keys are stored
    return f"{leaf.dtype}{list(leaf.shape)}"


def _fits(there: str, wanted: str) -> bool:
    """A number and an array of no axes are as good as each other."""
    one, other = sorted((there, wanted), key=lambda shape: shape != _NUMBER)
    return one == other or (one == _NUMBER and other.endswith("[]"))
