"""Keep the checkpoints of highest or lowest predictive entropy; orbax writes them."""

import inspect
import json
import math
import operator
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import PyTree

from entropax.checkpoint.accumulator import LOG_EPS, EntropySum, entropy_accumulator
from entropax.checkpoint.store import Kept, Store
from entropax.types import Array


class Best(NamedTuple):
    """The best checkpoint on disk.

    Attributes:
      step: of training.
      value: its value.
    """

    step: int
    value: float


class Decision(NamedTuple):
    """What `EntropyCheckpointer.step` did.

    Attributes:
      saved: whether the state is written, or is being written in the background.
      value: of this step.
      best_value: of the best checkpoint, this one included; None if there is none.
      best_step: its step.
      reason: `saved`, or why it is not among the best: `not_better`, `not_finite`, `warm_up`,
        `rejected`, `duplicate_step`. A step that is not among the best may still be saved as one of
        the latest.
    """

    saved: bool
    value: float
    best_value: float | None
    best_step: int | None
    reason: str


class EntropyCheckpointer:
    r"""Keep the checkpoints with the best mean predictive entropy, and perhaps the latest.

    The published rule, which is the default, keeps one checkpoint, that of the highest top-2
    entropy; the first of equals stays. A step that is not to be kept writes nothing. No file is
    overwritten: a checkpoint is written beside the one it replaces and renamed when it is complete;
    after that the old one is deleted.

    What the best was is read from disk when the directory is opened, and again at the first `step`,
    so that a checkpoint which another process has written in between competes. One process at a
    time may write. Used as a context manager, it waits for the last checkpoint when it is left.

    Several processes each make one, with the same options and a shared directory, and call every
    method together. Sums of entropies are added up over the processes; a number must be the same in
    all of them. What `accept` says counts in the first process.

    Args:
      directory: the checkpoints are in `directory/phase/step`, made if need be.
      mode: of entropy, as for `entropy_accumulator`. It says what `accumulator` adds up, and is
        recorded; of a function, its name, so that it must have one: no lambda, no partial.
      select: `"max"` or `"min"`.
      keep_best: number of checkpoints with the best values.
      keep_latest: number of checkpoints written last that are kept as well. If it is not 0, every
        step is written whose value is finite, but for those that are there already.
      phase: what the value was measured on; one folder each, so that the values of two sets never
        compete.
      min_step: no earlier step is among the best. An untrained network has the highest entropy.
      accept: predicate of the metadata of a step; where it is false, the step is not among the
        best.
      log_eps: as for `entropy_accumulator`.
      on_rewind: what becomes of checkpoints at a step or later when that step comes again, because
        training went back: `"keep"` them, the default, and such a step competes with them; or
        `"discard_later"`: they compete no more, and are deleted when a new checkpoint is complete
        and one that may be the best is among those left.
      async_save: write in the background; `step` then takes the time of a copy. It needs `with`,
        `wait` or `close`: a checkpoint that is being written when the interpreter ends is lost.

    Attributes:
      accumulator: an `EntropyAccumulator` of this mode, whose sums `step` takes.

    Raises:
      ValueError: an option that is not possible; a directory whose checkpoints were ranked in
        another way.

    Reference: the published class `EntropyCheckPoint` for PyTorch.

    Example:
      >>> import tempfile
      >>> import jax.numpy as jnp
      >>> with EntropyCheckpointer(tempfile.mkdtemp()) as keeper:
      ...     for step, entropy in enumerate([0.3, 0.5, 0.4]):
      ...         decision = keeper.step(step, {"w": jnp.full(2, step)}, entropy)
      ...     best = keeper.restore_best({"w": jnp.zeros(2, int)})
      >>> decision.reason, keeper.best, best["w"].tolist()
      ('not_better', Best(step=1, value=0.5), [1, 1])
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        mode: str | Callable[[Array], Array] = "top2",
        select: str = "max",
        keep_best: int = 1,
        keep_latest: int = 0,
        phase: str = "val",
        min_step: int = 0,
        accept: Callable[[dict[str, Any]], bool] | None = None,
        log_eps: float = LOG_EPS,
        on_rewind: str = "keep",
        async_save: bool = False,
    ) -> None:
        if select not in ("max", "min"):
            raise ValueError(f"`select` must be 'max' or 'min', got {select!r}.")
        if on_rewind not in ("keep", "discard_later"):
            raise ValueError(f"`on_rewind` must be 'keep' or 'discard_later', got {on_rewind!r}.")
        for name, least, number in (("keep_best", 1, keep_best), ("keep_latest", 0, keep_latest)):
            if number < least:
                raise ValueError(f"`{name}` must be at least {least}, got {number}.")
        if not phase or phase in (".", "..") or Path(phase).name != phase:
            raise ValueError(f"`phase` must be the name of a folder, got {phase!r}.")
        self.accumulator = entropy_accumulator(mode=mode, log_eps=log_eps)
        kind = {
            "mode": mode if isinstance(mode, str) else _name_of(mode),
            "select": select,
            "log_eps": log_eps if mode == "top2" else None,
            "phase": phase,
        }
        self._sign = 1 if select == "max" else -1
        self._keep_best, self._keep_latest = keep_best, keep_latest
        self._min_step, self._accept = min_step, accept
        self._on_rewind = on_rewind
        self._abandoned: set[int] = set()  # by going back
        path = Path(directory).expanduser().absolute() / phase
        self._store = Store(path, kind, async_save=async_save)

    @property
    def best(self) -> Best | None:
        """The best checkpoint; None if there is none."""
        ranked = self._ranked(self._current()) or self._ranked(self._store.kept.values())
        return Best(ranked[0].step, ranked[0].value) if ranked else None

    def history(self) -> list[Kept]:
        """The checkpoints that are kept, by step."""
        return sorted(self._store.kept.values(), key=lambda kept: kept.step)

    def step(
        self,
        step: int | np.integer | Array,
        state: PyTree[Any],
        value: EntropySum | Array | np.ndarray | np.generic | float,
        *,
        metadata: Mapping[str, Any] | None = None,
    ) -> Decision:
        """Save the state if it is to be kept.

        Args:
          step: of training, not negative.
          state: any pytree of arrays, keys and numbers, with all that training needs to go on.
          value: sums of `accumulator`, or the number itself.
          metadata: anything that JSON can hold; recorded, and shown to `accept`.

        Raises:
          RuntimeError: writing an earlier checkpoint in the background has failed. What was on disk
            before is there and counts again; the step may be given once more.
          ValueError: a state or metadata that cannot be written, a negative step, a value that is
            neither one number nor the sums of one stream, a number that differs between processes,
            a checkpointer that is closed.
        """
        if self._store.closed:
            raise ValueError("The checkpointer is closed; make another one to go on.")
        self._store.raise_failure(wait=False)
        step = _checked_step(step)
        metadata = _checked_metadata(metadata)
        number, examples = self._reduced(value)
        self._store.begin_writing()
        if not math.isfinite(number):
            return self._decision(False, number, "not_finite")
        if self._on_rewind == "discard_later":
            self._abandoned |= {s for s in self._store.kept if s >= step}
        others = self._current()
        # The only copy of anything is not deleted before another is complete.
        replace = step in self._abandoned and bool(self._ranked(others))
        if step in self._store and not replace:
            return self._decision(False, number, "duplicate_step")

        reason = "warm_up" if step < self._min_step else "saved"
        if self._accept is not None and not _of_first_process(bool(self._accept(metadata))):
            reason = "rejected" if reason == "saved" else reason
        written = 1 + max((k.written for k in self._store.kept.values()), default=-1)
        new = Kept(step, number, reason == "saved", examples, metadata, written)
        candidates = [*others, new]
        ranked = self._ranked(candidates)
        if reason == "saved" and new not in ranked[: self._keep_best]:
            reason = "not_better"
        steps_to_keep = self._steps_to_keep(candidates)
        saved = step in steps_to_keep
        if saved:
            to_keep = steps_to_keep if ranked else steps_to_keep | self._abandoned
            self._store.save(new, state, steps_to_keep=to_keep, replace=replace)
            self._abandoned.discard(step)
        return self._decision(saved, number, reason)

    def restore_best(self, like: PyTree[Any]) -> PyTree[Any]:
        """The state of the best checkpoint.

        Args:
          like: a tree of the same structure with the expected shapes and dtypes; where its leaves
            have a sharding, the arrays get it. `jax.eval_shape` makes one for free.

        Raises:
          FileNotFoundError: there is none.
          RuntimeError: writing it has failed.
          ValueError: it has another structure, other shapes, dtypes or kinds of keys.
        """
        return self._restore("best ", lambda: self.best and self.best.step, like)

    def restore_latest(self, like: PyTree[Any]) -> PyTree[Any]:
        """The state that was written last of those kept; see `restore_best`."""

        def latest() -> int | None:
            kept = self._current() or self._store.kept.values()
            return max(kept, key=lambda k: k.written).step if kept else None

        return self._restore("", latest, like)

    def reload(self) -> None:
        """Look at the disk again, on which another process may have written since.

        Raises:
          RuntimeError: writing has failed.
        """
        self.wait()
        self._store.reload()

    def wait(self) -> None:
        """Wait until everything is on disk.

        Raises:
          RuntimeError: writing has failed.
        """
        self._store.raise_failure(wait=True)

    def close(self) -> None:
        """Wait, and give back what orbax holds; see `wait`."""
        try:
            self.wait()
        finally:
            self._store.close()

    def __enter__(self) -> "EntropyCheckpointer":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:  # which is what the user should see
            with suppress(Exception):
                self.close()

    def _restore(
        self, name: str, choose: Callable[[], int | None], like: PyTree[Any]
    ) -> PyTree[Any]:
        self.wait()
        step = choose()
        if step is not None:
            with suppress(FileNotFoundError):
                return self._store.restore(step, like)
        self._store.reload()  # who writes may have replaced it, or written the first
        step = choose()
        if step is None:
            raise FileNotFoundError(f"There is no {name}checkpoint in {self._store.path}.")
        return self._store.restore(step, like)

    def _current(self) -> list[Kept]:
        """The checkpoints before the step to which training went back."""
        return [k for k in self._store.kept.values() if k.step not in self._abandoned]

    def _ranked(self, kept: Iterable[Kept]) -> list[Kept]:
        """From the best on; of equals, the first comes first."""
        eligible = (k for k in kept if k.eligible)
        return sorted(eligible, key=lambda k: (-self._sign * k.value, k.step))

    def _steps_to_keep(self, kept: Sequence[Kept]) -> set[int]:
        latest = sorted(kept, key=lambda k: -k.written)[: self._keep_latest]
        return {k.step for k in (*self._ranked(kept)[: self._keep_best], *latest)}

    def _reduced(self, value: Any) -> tuple[float, int | None]:
        """The value of all processes together, as the Python number that JSON wants."""
        if isinstance(value, EntropySum):
            if value.total.shape != ():
                raise ValueError(
                    f"A step has one stream of entropies, got sums of shape {value.total.shape}."
                )
            sums = _of_all_processes(value)
            merged = sums[0]
            for other in sums[1:]:
                merged = self.accumulator.merge(merged, other)
            return float(self.accumulator.value(merged)), int(merged.examples)
        try:
            number = float(value)
        except TypeError as error:
            raise ValueError(
                f"`value` must be one number or sums of `accumulator`, got {value!r}."
            ) from error
        if jax.process_count() > 1:
            halves = np.frombuffer(struct.pack("<d", number), np.uint32)
            numbers = [n.tobytes() for n in multihost_utils.process_allgather(halves)]
            if len(set(numbers)) > 1:
                raise ValueError(
                    "The value differs between processes, "
                    f"{[struct.unpack('<d', n)[0] for n in numbers]}; reduce it first, or give the "
                    "sums of `accumulator`."
                )
        return number, None

    def _decision(self, saved: bool, number: float, reason: str) -> Decision:
        step, best = self.best or (None, None)
        return Decision(saved, number, best, step, reason)


def _name_of(mode: Callable[[Array], Array]) -> str:
    """What two ways to rank are told apart by."""
    function = inspect.unwrap(mode)
    if not inspect.isfunction(function) or "<lambda>" in function.__qualname__:
        raise ValueError(
            f"The checkpoints are recorded under the name of `mode`, got {mode!r}; define a named "
            "function with `def`."
        )
    return function.__qualname__


def _checked_step(step: Any) -> int:
    try:
        number = operator.index(step)
    except TypeError:
        number = -1
    if number < 0:
        raise ValueError(f"`step` must be an integer, not negative, got {step!r}.")
    return number


def _checked_metadata(metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    try:
        return json.loads(json.dumps(dict(metadata or {}), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"`metadata` must be what JSON can hold, got {metadata!r}: {error}."
        ) from error


def _of_first_process(decision: bool) -> bool:
    if jax.process_count() == 1:
        return decision
    return bool(multihost_utils.broadcast_one_to_all(np.array(decision)))


def _of_all_processes(sums: EntropySum) -> list[EntropySum]:
    """The sums of each process; those of arrays that span the processes are one sum already."""
    if jax.process_count() == 1:
        return [sums]
    if isinstance(sums.total, jax.Array) and not sums.total.is_fully_addressable:
        return [jax.tree.map(lambda leaf: leaf.addressable_data(0), sums)]
    gathered = multihost_utils.process_allgather(sums)
    return [EntropySum(*(leaf[i] for leaf in gathered)) for i in range(jax.process_count())]
