"""A folder of checkpoints with a record each: what orbax does, and what it must be kept from."""

import shutil
from collections.abc import Sequence, Set
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jaxtyping import PyTree

import entropax
from entropax.checkpoint.trees import check_savable, key_shapes, placed

_ITEMS = {"state", "record"}
# What orbax puts beside them.
_LAYOUT = _ITEMS | {"metrics", "_CHECKPOINT_METADATA", "commit_success.txt"}


class Kept(NamedTuple):
    """A checkpoint on disk.

    Attributes:
      step: of training.
      value: what it is ranked by.
      eligible: whether it may be the best; those of the warm-up, or rejected, may only be the
        latest.
      examples: number of them in the value; None if a number was given.
      metadata: as given.
      written: counts the checkpoints in the order in which they were written.
    """

    step: int
    value: float
    eligible: bool
    examples: int | None
    metadata: dict[str, Any]
    written: int


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

    def begin_writing(self) -> None:
        """Look at the disk again before the first decision, and tidy up what a kill has left."""
        if not self._writing:
            self._manager.close()
            self._remove_broken()
            self._open(writing=True)

    def reload(self) -> None:
        """Look at the disk again."""
        self._manager.close()
        self._open(writing=self._writing)
        if self.closed:
            self._manager.close()

    def save(
        self, new: Kept, state: PyTree[Any], *, steps_to_keep: Set[int], replace: bool = False
    ) -> None:
        """Write a checkpoint; when it is complete, delete those that are not to be kept.

        Args:
          new: what is recorded.
          state: what is written.
          steps_to_keep: of the known ones; those that are unknown are never deleted.
          replace: delete the checkpoint of the same step before.

        Raises:
          RuntimeError: it failed.
          ValueError: the state cannot be written.
        """
        check_savable(state)
        if replace:
            self.raise_failure(wait=True)
            self._manager.delete(new.step)
        self._displaced |= self.kept.keys() - steps_to_keep
        self._displaced.discard(new.step)
        self.kept = {k.step: k for k in (*self.kept.values(), new) if k.step in steps_to_keep}
        versions = {m.__name__: m.__version__ for m in (entropax, jax, ocp)}
        about = {"keys": key_shapes(state), "versions": versions}
        record = {**new._asdict(), **self._kind, **about}
        try:
            self._manager.save(
                new.step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state),
                    record=ocp.args.JsonSave(record),
                ),
                metrics={"value": new.value, "eligible": float(new.eligible)},
                force=True,  # a step lower than the latest is saved as well
            )
        except Exception as error:
            self._reopen_after(error)

    def restore(self, step: int, like: PyTree[Any]) -> PyTree[Any]:
        """Read a state.

        Raises:
          FileNotFoundError: it is not there any more.
          ValueError: it has another structure, other shapes, dtypes or kinds of keys than `like`.
        """
        if not self._is_complete(step):
            raise FileNotFoundError(f"There is no checkpoint of step {step} in {self.path}.")
        stored = self._manager.item_metadata(step)["state"].tree
        target = placed(
            stored, like, origin=str(self.path / str(step)), keys=self._record(step)["keys"]
        )
        return self._manager.restore(
            step, args=ocp.args.Composite(state=ocp.args.StandardRestore(target))
        )["state"]

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
        self._displaced: set[int] = set()  # those that orbax is to delete, and no others
        sign = 1 if self._kind["select"] == "max" else -1
        self._manager = ocp.CheckpointManager(
            self.path,
            options=ocp.CheckpointManagerOptions(
                # Without it orbax writes no metrics, by which others can tell the best.
                best_fn=lambda metrics: (metrics["eligible"], sign * metrics["value"]),
                preservation_policy=_Preserve(self._displaced),
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
            # A folder of somebody else has no record, nor has one that is half deleted.
            if self._is_complete(step):
                with suppress(FileNotFoundError, KeyError):
                    self.kept[step] = self._read(step)

    def _is_complete(self, step: int) -> bool:
        return all((self.path / str(step) / item).is_dir() for item in _ITEMS)

    def _remove_broken(self) -> None:
        """Remove what interrupted deletions have left; a folder with anything else in it stays."""
        if jax.process_index() == 0:
            for folder in self.path.iterdir():
                if folder.name.isdecimal() and folder.is_dir():
                    names = {path.name for path in folder.iterdir()}
                    if names <= _LAYOUT and not names >= _ITEMS:
                        shutil.rmtree(folder)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("entropax: broken checkpoints are removed")

    def _record(self, step: int) -> dict[str, Any]:
        args = ocp.args.Composite(record=ocp.args.JsonRestore())
        return self._manager.restore(step, args=args)["record"]

    def _read(self, step: int) -> Kept:
        try:
            record = self._record(step)
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
    """Lets orbax delete nothing but what is displaced."""

    def __init__(self, displaced: Set[int]) -> None:
        self._displaced = displaced

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        return [info.step not in self._displaced for info in checkpoints]
