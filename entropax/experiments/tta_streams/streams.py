"""The streams by name."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from entropax.data.label_streams import correlated_stream, label_shift_stream
from entropax.data.shifts import (
    Domain,
    ShiftStream,
    continual_shift,
    gradual_shift,
    mixed_shift,
    single_shift,
    smooth_shift,
)
from entropax.data.streams import shuffled_stream
from entropax.types import Batch


class Plan(NamedTuple):
    """What a stream may depend on.

    Attributes:
      labels: `[n]` classes of the images; they decide when an image comes, no adapter sees them.
      names: corruptions in turn.
      severity: of them.
      steps: number of batches.
      batch_size: rows of a batch.
      seed: of the order.
    """

    labels: Int[np.ndarray, " n"]
    names: Sequence[str]
    severity: int
    steps: int
    batch_size: int
    seed: int

    @property
    def domains(self) -> list[Domain]:
        """The corruptions, one by one."""
        return [((name, self.severity),) for name in self.names]

    @property
    def shuffled(self) -> Batch:
        """Images in random order."""
        return shuffled_stream(
            len(self.labels), batch_size=self.batch_size, steps=self.steps, seed=self.seed
        )

    def by_class(self, delta: float) -> Batch:
        """Images in runs of one class."""
        return correlated_stream(
            self.labels,
            batch_size=self.batch_size,
            steps=self.steps,
            seed=self.seed,
            delta=delta,
        )

    def split(self, parts: int) -> int:
        """Batches for each of so many parts of the stream."""
        return max(1, self.steps // parts)


STREAMS: Mapping[str, Callable[[Plan], ShiftStream]] = {
    "single": lambda p: single_shift(p.shuffled, p.domains[0]),
    "continual": lambda p: continual_shift(
        p.shuffled, p.domains, period=min(50, p.split(len(p.names)))
    ),
    "gradual": lambda p: gradual_shift(
        p.shuffled, p.names, period=min(10, p.split(9 * len(p.names)))
    ),
    "mixed": lambda p: mixed_shift(p.shuffled, p.domains, seed=p.seed + 1),
    "smooth": lambda p: smooth_shift(
        p.shuffled,
        p.names,
        period=min(50, p.split(len(p.names))),
        seed=p.seed + 1,
        severity=p.severity,
    ),
    "correlated": lambda p: continual_shift(
        p.by_class(0.1), p.domains, period=min(50, p.split(len(p.names)))
    ),
    "label shift": lambda p: continual_shift(
        label_shift_stream(
            p.labels, batch_size=p.batch_size, steps=p.steps, seed=p.seed, delta=0.5
        ),
        p.domains,
        period=min(50, p.split(len(p.names))),
    ),
    "class by class": lambda p: single_shift(p.by_class(0.0), p.domains[0]),
}
