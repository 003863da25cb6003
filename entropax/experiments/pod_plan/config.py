"""Options of `python -m entropax.experiments.pod_plan`."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Config:
    """What computations take on many chips."""

    chip: Literal["v5e", "v5p"] = "v5e"
    """Of which kind."""
    chips: int = 256
    """How many."""
    chips_per_host: int | None = None
    """Chips that share a host; by default 8 of v5e and 4 of v5p. Nodes of GKE have 4 of either."""
    images_per_host: int = 64
    """Images of a step of adaptation that each host brings."""
    share: float = 0.5
    """Of the peak of arithmetic that is reached."""
    check: bool = False
    """Compare predictions with measurements on simulated devices of this machine, instead."""
    devices: tuple[int, ...] = (1, 2, 4)
    """Numbers of simulated devices to check on."""
