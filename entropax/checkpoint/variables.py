"""One pytree of arrays to a folder and back."""

from pathlib import Path

import orbax.checkpoint as ocp

from entropax.checkpoint.trees import placed
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
      ValueError: the folder holds no variables, or a tree of another structure, of other shapes or
        dtypes.
    """
    path = Path(path).absolute()
    if not path.is_dir():
        raise FileNotFoundError(f"There is no checkpoint at {path}.")
    with ocp.StandardCheckpointer() as checkpointer:
        stored = checkpointer.metadata(path).item_metadata
        if stored is None:
            raise ValueError(f"{path} holds no variables; pass a folder that save_variables wrote.")
        stored = stored.tree
        return checkpointer.restore(path, placed(stored, like, origin=str(path)))
