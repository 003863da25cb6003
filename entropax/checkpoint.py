"""Variables on disk, by orbax: this file is the only one that knows about it."""

from pathlib import Path

import jax
import orbax.checkpoint as ocp

from entropax.types import Variables


def save_variables(path: str | Path, variables: Variables) -> None:
    """Write a pytree of arrays to a new folder; a killed run leaves no half of it under that name.

    Raises:
      ValueError: the folder exists.
    """
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(Path(path).absolute(), variables)


def restore_variables(path: str | Path, like: Variables) -> Variables:
    """Read what `save_variables` wrote.

    Args:
      path: the folder.
      like: a tree of the same structure with the expected shapes and dtypes, arrays or
        `jax.ShapeDtypeStruct`s (`jax.eval_shape(module.init, ...)` makes one for free). Where its
        leaves have a sharding, the arrays get it; otherwise they go to the first local device.

    Raises:
      FileNotFoundError: there is no such folder.
      ValueError: the stored tree has another structure, other shapes or dtypes.
    """
    path = Path(path).absolute()
    if not path.is_dir():
        raise FileNotFoundError(f"There is no checkpoint at {path}.")
    with ocp.StandardCheckpointer() as checkpointer:
        stored = _shapes(checkpointer.metadata(path).item_metadata.tree)
        expected = _shapes(like)
        if stored != expected:
            missing = ", ".join(sorted(expected.keys() ^ stored.keys())[:5])
            other = ", ".join(
                f"{name} is {stored[name]}, expected {expected[name]}"
                for name in sorted(expected.keys() & stored.keys())
                if stored[name] != expected[name]
            )
            raise ValueError(
                f"The checkpoint at {path} belongs to another network"
                + (f"; only one of the two has {missing}" if missing else "")
                + (f"; {other}" if other else "")
                + "."
            )
        # Devices are those of this process, not those that wrote the checkpoint.
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        places = jax.tree.map(lambda leaf: getattr(leaf, "sharding", None) or here, like)
        return checkpointer.restore(
            path,
            jax.tree.map(
                lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
                like,
                places,
            ),
        )


def _shapes(tree: Variables) -> dict[str, str]:
    """Dtype and shape by path; a checkpoint's metadata and its arrays name their paths alike."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): f"{leaf.dtype}{list(leaf.shape)}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
