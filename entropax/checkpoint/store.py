"""A folder of checkpoints with a record each: what orbax does, and what it must be kept from."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from jaxtyping import PyTree

import entropax
from entropax.checkpoint.trees import check_savable, placed


class Kept(NamedTuple):
    """A checkpoint on disk.

    Attributes:
      step: of training.
      value: what it is ranked by.
      eligible: whether it may be the best; those of the warm-up, or rejected, may only be the
        latest.
      examples: number of them in the value; None if a number was given.
      metadata: as given.
    """

    step: int
    value: float
    eligible: bool
    examples: int | None
    metadata: dict[str, Any]


class Store:
    """The checkpoints in one folder, `path/step`.

    Args:
      path: the folder, made if need be.
      kind: how the checkpoints are ranked, as JSON values; a folder has one kind.
      async_save: write in the background.

    Attributes:
      kept: the checkpoints by their steps, the one that is being written included.
      closed: whether `close` was called; orbax would take a checkpoint all the same, and lose it.

    Raises:
      ValueError: there are checkpoints of another kind.
    """

    kept: dict[int, Kept]

    def __init__(self, path: Path, kind: dict[str, Any], *, async_save: bool) -> None:
        self.path = path
        self._kind, self._async_save = kind, async_save
        self.closed = False
        self._open(writing=False)

    def __contains__(self, step: int) -> bool:
        return step in self._manager.all_steps()

    def save(self, new: Kept, state: PyTree[Any], *, steps_to_keep: set[int]) -> None:
        """Write a checkpoint; when it is complete, delete those that are not to be kept.

        Raises:
          RuntimeError: it failed.
          ValueError: the state cannot be written.
        """
        check_savable(state)
        if not self._writing:
            self._manager.close()
            self._open(writing=True)
        self.kept = {k.step: k for k in (*self.kept.values(), new) if k.step in steps_to_keep}
        versions = {m.__name__: m.__version__ for m in (entropax, jax, ocp)}
        try:
            self._manager.save(
                new.step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state),
                    record=ocp.args.JsonSave({**new._asdict(), **self._kind, "versions": versions}),
                ),
                metrics={"value": new.value, "eligible": float(new.eligible)},
                force=True,  # a step lower than the latest is saved as well
            )
        except Exception as error:
            self._reopen_after(error)

    def restore(self, step: int, like: PyTree[Any]) -> PyTree[Any]:
        """Read a state.

        Raises:
          ValueError: it has another structure, other shapes or dtypes than `like`.
        """
        stored = self._manager.item_metadata(step)["state"].tree
        target = placed(stored, like, origin=str(self.path / str(step)))
        return self._manager.restore(
            step, args=ocp.args.Composite(state=ocp.args.StandardRestore(target))
        )["state"]

    def discard(self, steps: Sequence[int]) -> None:
        """Delete checkpoints."""
        for step in steps:
            self._manager.delete(step)
            del self.kept[step]

    def raise_failure(self, *, wait: bool) -> None:
        """See whether writing in the background went well.

        Raises:
          RuntimeError: it did not.
        """
        if self.closed:
            return  # it was looked at then
        if wait or not self._manager.is_saving_in_progress():
            try:
                self._manager.wait_until_finished()
            except Exception as error:
                self._reopen_after(error)

    def close(self) -> None:
        """Give back what orbax holds."""
        if not self.closed:
            self.closed = True
            self._manager.close()

    def _open(self, *, writing: bool) -> None:
        """Begin with what is on disk."""
        self._writing = writing
        sign = 1 if self._kind["select"] == "max" else -1
        self._manager = ocp.CheckpointManager(
            self.path,
            options=ocp.CheckpointManagerOptions(
                # Without it orbax writes no metrics, by which others can tell the best.
                best_fn=lambda metrics: (metrics["eligible"], sign * metrics["value"]),
                preservation_policy=_Preserve(self._is_kept),
                enable_async_checkpointing=self._async_save,
                # Only who writes may tidy up: for a reader they may be another's, half done.
                cleanup_tmp_directories=writing,
            ),
            item_handlers={
                "state": ocp.StandardCheckpointHandler(),
                "record": ocp.JsonCheckpointHandler(),
            },
        )
        self.kept = {}
        for step in self._manager.all_steps():
            # A folder of somebody else, or one whose deletion was interrupted, has no record.
            with suppress(FileNotFoundError, KeyError):
                self.kept[step] = self._read(step)
        self._foreign = set(self._manager.all_steps()) - self.kept.keys()

    def _is_kept(self, step: int) -> bool:
        return step in self.kept or step in self._foreign

    def _read(self, step: int) -> Kept:
        try:
            record = self._manager.restore(
                step, args=ocp.args.Composite(record=ocp.args.JsonRestore())
            )["record"]
        except ValueError as error:
            raise ValueError(
                f"The record of the checkpoint {self.path / str(step)} is damaged, {error}; move "
                "that folder away."
            ) from error
        found = {name: record[name] for name in self._kind}
        if found != self._kind:
            changed = ", ".join(
                f"{name} {found[name]!r} and not {wanted!r}"
                for name, wanted in self._kind.items()
                if found[name] != wanted
            )
            raise ValueError(
                f"The checkpoints in {self.path} were ranked by {changed}: their values do not "
                "compare. Open them as they were, or take another directory or phase."
            )
        return Kept(**{name: record[name] for name in Kept._fields})

    def _reopen_after(self, error: Exception) -> None:
        """Forget what was not written after all."""
        with suppress(Exception):
            self._manager.close()
        self._open(writing=self._writing)
        raise RuntimeError(
            f"Saving a checkpoint to {self.path} failed: {error} What was there before is kept."
        ) from error


class _Preserve:
    """Asks for every step whether orbax must not delete it."""

    def __init__(self, is_kept: Callable[[int], bool]) -> None:
        self._is_kept = is_kept

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        return [self._is_kept(info.step) for info in checkpoints]
