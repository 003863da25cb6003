"""Checkpoints on disk, and the ones worth keeping by predictive entropy.

- `accumulator`: the mean predictive entropy of a stream of batches, on the device.
- `checkpointer`: keep the checkpoints of highest or lowest entropy (or of any other number).
- `variables`: one pytree of arrays to a folder and back.

orbax, which writes the files, is imported with `checkpointer` or `variables`, not before: whoever
wants the accumulator alone does not wait for it.
"""

from typing import TYPE_CHECKING, Any

from entropax.checkpoint.accumulator import (
    EntropyAccumulator,
    EntropySum,
    entropy_accumulator,
    top2_entropy,
)

if TYPE_CHECKING:
    from entropax.checkpoint.checkpointer import Best, Decision, EntropyCheckpointer
    from entropax.checkpoint.store import Kept
    from entropax.checkpoint.variables import restore_variables, save_variables

__all__ = [
    "Best",
    "Decision",
    "EntropyAccumulator",
    "EntropyCheckpointer",
    "EntropySum",
    "Kept",
    "entropy_accumulator",
    "restore_variables",
    "save_variables",
    "top2_entropy",
]


def __getattr__(name: str) -> Any:
    if name in ("restore_variables", "save_variables"):
        from entropax.checkpoint import variables

        return getattr(variables, name)
    if name in ("Best", "Decision", "EntropyCheckpointer"):
        from entropax.checkpoint import checkpointer

        return getattr(checkpointer, name)
    if name == "Kept":
        from entropax.checkpoint import store

        return store.Kept
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
