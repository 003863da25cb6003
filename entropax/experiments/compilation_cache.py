"""Compiled programs kept on disk, so that the second start of a program is quick."""

import os
from pathlib import Path

import jax


def use_compilation_cache() -> None:
    """Keep compiled programs in `~/.cache/entropax`, unless JAX was told another place.

    `JAX_COMPILATION_CACHE_DIR` names another folder, `JAX_ENABLE_COMPILATION_CACHE=false` keeps
    none. Programs that compile within a second are not kept.
    """
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        place = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
        jax.config.update("jax_compilation_cache_dir", str(place / "entropax" / "compiled"))
