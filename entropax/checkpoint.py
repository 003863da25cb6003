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
        `jax.ShapeDtypeStruct`s (`jax.eval_shape(module.init, ...)` makes one for free).

    Raises:
      FileNotFoundError: there is no such folder.
      ValueError: the stored tree has another structure or other shapes.
    """
    path = Path(path).absolute()
    if not path.is_dir():
        raise FileNotFoundError(f"There is no checkpoint at {path}.")
    abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), like)
    with ocp.StandardCheckpointer() as checkpointer:
        restored = checkpointer.restore(path, abstract)
    for wanted, leaf in zip(jax.tree.leaves(abstract), jax.tree.leaves(restored), strict=True):
        if wanted.shape != leaf.shape:
            raise ValueError(
                f"The checkpoint at {path} belongs to another network: expected an array of shape "
                f"{wanted.shape}, found {leaf.shape}."
            )
    return restored
