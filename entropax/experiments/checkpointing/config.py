"""Options of `python -m entropax.experiments.checkpointing`."""

from dataclasses import dataclass
from pathlib import Path

from entropax.experiments.data_options import DataOptions

VALIDATION_LABELS = ("noisy", "clean")


@dataclass(frozen=True)
class Config(DataOptions):
    """Accuracy of the checkpoints that each criterion keeps."""

    run_dir: Path | None = None
    """The run folder; by default runs/checkpointing-DATA-seedSEED."""
    seed: int = 0
    """Of the first network; the next ones count on."""
    seeds: int = 10
    """Networks for each share of wrong labels."""

    noise: tuple[float, ...] = (0.0, 0.2, 0.4)
    """Shares of wrong training labels."""
    validation_labels: str = "noisy"
    """noisy: as many wrong ones as in training; clean."""

    train: int = 1000
    """Training images, at most."""
    validation: int = 300
    """Validation images; of image sets with splits, from the test split."""
    max_test: int = 5000
    """Clean test images, at most; of the digits what is left, 497."""

    width: int = 256
    """Of both hidden layers."""
    epochs: int = 60
    """Passes over the training images."""
    every: int = 2
    """Epochs from one possible checkpoint to the next."""
    batch_size: int = 32
    """Training images in a step."""
    learning_rate: float = 1e-3
    """Of Adam."""
    warm_up: float = 0.2
    """Share of the training before which the criteria with `_late` keep nothing."""

    keep_checkpoints: bool = False
    """Leave the checkpoints on disk when they have been measured."""
    level: float = 0.9
    """Nominal coverage of the intervals."""
    resamples: int = 2000
    """Of the bootstrap."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.run_dir is not None:
            object.__setattr__(self, "run_dir", Path(self.run_dir))  # a string does as well
        for name in (
            "seeds",
            "validation",
            "max_test",
            "width",
            "every",
            "batch_size",
            "resamples",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be positive, got {getattr(self, name)}.")
        if self.train < self.batch_size:
            raise ValueError(
                f"`train` must be at least a batch of {self.batch_size}, got {self.train}."
            )
        if self.epochs < self.every:
            raise ValueError(f"`epochs` must be at least `every`, {self.every}, got {self.epochs}.")
        if not self.noise or len(set(self.noise)) < len(self.noise):
            raise ValueError(f"`noise` must be one or more shares, each once, got {self.noise}.")
        for name, shares in (("noise", self.noise), ("warm_up", (self.warm_up,))):
            for share in shares:
                if not 0 <= share < 1:
                    raise ValueError(f"`{name}` must be in [0, 1), got {share}.")
        if self.validation_labels not in VALIDATION_LABELS:
            raise ValueError(
                f"`validation_labels` must be one of {VALIDATION_LABELS}, got "
                f"{self.validation_labels!r}."
            )
        if not self.learning_rate > 0:
            raise ValueError(f"`learning_rate` must be positive, got {self.learning_rate}.")
        if not 0 < self.level < 1:
            raise ValueError(f"`level` must be between 0 and 1, got {self.level}.")
        if self.warm_up_step > self.epochs // self.every * self.every:
            raise ValueError(
                f"No checkpoint is past a `warm_up` of {self.warm_up} with {self.epochs} `epochs`, "
                f"one `every` {self.every}."
            )

    @property
    def warm_up_step(self) -> int:
        """The first epoch that is past the warm-up."""
        return round(self.warm_up * self.epochs)
