"""Options of `python -m entropax.experiments.tta_streams`."""

from dataclasses import dataclass
from pathlib import Path

from entropax.data.corruptions import ALL
from entropax.experiments.data_options import DataOptions
from entropax.experiments.tta_benchmark.methods import METHODS
from entropax.experiments.tta_benchmark.networks import ARCHITECTURES
from entropax.experiments.tta_streams.streams import STREAMS


@dataclass(frozen=True)
class Config(DataOptions):
    """Adapters on streams whose shift changes."""

    run_dir: Path | None = None
    """The run folder; by default runs/tta-streams-DATA."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Each is a network, its corruptions and its order of the images."""
    networks: tuple[str, ...] = ("convnet",)
    """Architectures to train: convnet, convnet-group, resnet, mlp."""
    epochs: int | None = None
    """Of training; by default 4, or more until there are 600 steps."""
    max_images: int = 1000
    """Test images in the stream, at most."""

    adapters: tuple[str, ...] = ("source", "norm", "tent", "eta", "rdumb")
    """How to adapt."""
    streams: tuple[str, ...] = tuple(STREAMS)
    """What to adapt to."""
    corruptions: tuple[str, ...] = ()
    """Corruptions in turn; by default the 15 of ImageNet-C."""
    severity: int = 5
    """Of the corruptions, 1 to 5."""
    steps: int = 750
    """Batches of a stream."""
    batch_size: int = 64
    """Images a batch."""
    learning_rate: float = 2e-2
    """Of SGD on scales and shifts, for the adapters that use it."""
    period: int = 250
    """Steps between two resets of the adapter rdumb."""

    level: float = 0.9
    """Nominal coverage of the intervals."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.run_dir is not None:
            object.__setattr__(self, "run_dir", Path(self.run_dir))  # a string does as well
        for name in ("learning_rate", "steps", "batch_size", "max_images", "period"):
            if not getattr(self, name) > 0:
                raise ValueError(f"`{name}` must be positive, got {getattr(self, name)}.")
        if self.epochs is not None and self.epochs < 1:
            raise ValueError(f"`epochs` must be positive, got {self.epochs}.")
        if self.severity not in range(1, 6):
            raise ValueError(f"`severity` must be 1 to 5, got {self.severity}.")
        if not 0 < self.level < 1:
            raise ValueError(f"`level` must be between 0 and 1, got {self.level}.")
        tables = {"adapters": METHODS, "networks": ARCHITECTURES, "streams": STREAMS}
        for name, known in tables.items():
            chosen = getattr(self, name)
            if not chosen or set(chosen) - set(known) or len(set(chosen)) < len(chosen):
                raise ValueError(
                    f"`{name}` must be different ones of {', '.join(known)}, got {chosen}."
                )
        if unknown := sorted(set(self.corruptions) - set(ALL)):
            raise ValueError(f"Unknown corruption {', '.join(unknown)}; known: {', '.join(ALL)}.")
        following = (*self.corruptions[1:], *self.corruptions[:1])
        repeated = any(a == b for a, b in zip(self.corruptions, following, strict=True))
        if repeated and "smooth" in self.streams:
            raise ValueError(
                "The stream 'smooth' leads between two `corruptions` or more, none next to itself, "
                f"got {self.corruptions}."
            )
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(f"`seeds` must be different whole numbers from 0, got {self.seeds}.")
