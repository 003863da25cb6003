"""Options of `python -m entropax.experiments.uncertainty`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from entropax.experiments.data_options import DataOptions
from entropax.experiments.device_options import DeviceOptions
from entropax.experiments.published_networks import InputOptions

ScoreName: TypeAlias = Literal[
    "max_softmax",
    "log_odds",
    "entropy_score",
    "margin",
    "max_logit",
    "p_norm_max_logit",
    "energy_score",
]
# Those of which more is better; of the others, less.
HIGHER = ("accuracy", "auroc", "coverage")


@dataclass(frozen=True)
class Config(DataOptions, InputOptions, DeviceOptions):
    """How well models know when they are right, many of them on the same examples."""

    run_dir: Path | None = None
    """The run folder; by default runs/uncertainty-DATA-seedSEED."""
    seed: int = 0
    """Of the split, the networks and the resamples."""

    outputs: Path | None = None
    """A folder of .npz files with `logits` [n, c] and `labels` [n], one file a model."""
    weights: tuple[Path, ...] = ()
    """Published networks (.pth, .safetensors, .npz, or their folders) for the images of --data."""
    module: str | None = None
    """PACKAGE.MODULE:NAME of your linen module, or of a function that returns it."""
    checkpoints: tuple[Path, ...] = ()
    """Folders of variables of --module, one a model, for the test images of --data."""
    on_error: Literal["stop", "skip"] = "stop"
    """What to do with a file that is broken or holds NaN, and with an image that cannot be read.
    With --multihost only images are left out."""

    networks: tuple[str, ...] = ()
    """Networks to train if no models are given; by default all."""
    max_train: int = 1000
    """Training images, at most."""
    max_test: int = 10_000
    """Other images, at most; of the digits 797."""
    epochs: int = 30
    """Passes over the training images."""

    score: ScoreName = "max_softmax"
    """The confidence by which predictions are ranked."""
    p: float = 5
    """Of the score p_norm_max_logit."""
    validation: float = 0.2
    """Share of the examples that the temperature is fitted on; the others are measured."""
    accuracies: tuple[float, ...] = (0.8, 0.9, 0.95, 0.99)
    """Accuracies for which the coverage is reported."""
    min_count: int = 1
    """The fewest examples that count as coverage."""
    bins: int = 15
    """Of the calibration error and the reliability figure."""

    level: float = 0.95
    """Nominal coverage of the intervals."""
    resamples: int = 1000
    """Of the bootstrap."""

    sort_by: str = "auroc"
    """A column of results.csv, by which the printed table is sorted."""
    compat: Literal["none", "reference"] = "none"
    """reference: also write published.csv, the table of the published code with its quirks."""

    def __post_init__(self) -> None:
        super().__post_init__()
        InputOptions.__post_init__(self)
        DeviceOptions.__post_init__(self)
        for name in ("run_dir", "outputs"):
            if (place := getattr(self, name)) is not None:
                object.__setattr__(self, name, Path(place))  # a string does as well
        for name in ("weights", "checkpoints"):
            object.__setattr__(self, name, tuple(map(Path, getattr(self, name))))
        lowest = {
            "max_train": 20,
            "max_test": 20,
            "epochs": 1,
            "min_count": 1,
            "bins": 1,
            "resamples": 2,
        }
        for name, least in lowest.items():
            if getattr(self, name) < least:
                raise ValueError(f"`{name}` must be at least {least}, got {getattr(self, name)}.")
        if not self.p > 0:
            raise ValueError(f"`p` must be positive, got {self.p}.")
        for name in ("validation", "level"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be between 0 and 1, got {getattr(self, name)}.")
        if len(set(self.accuracies)) < len(self.accuracies):
            raise ValueError(f"`accuracies` must be different ones, got {self.accuracies}.")
        for accuracy in self.accuracies:
            if not 0 <= accuracy <= 1:
                raise ValueError(f"`accuracies` must be in [0, 1], got {accuracy}.")
        if self.weights and self.data == "folder" and self.size is not None:
            raise ValueError("Published networks say how images are resized: give no --size.")
        if (self.mesh or self.multihost) and not (self.weights and self.data == "folder"):
            raise ValueError(
                "--mesh and --multihost are for --weights on --data folder; the rest is small."
            )
        if bool(self.module) != bool(self.checkpoints):
            raise ValueError("--module and --checkpoints go together.")
        if sum(map(bool, (self.outputs, self.weights, self.checkpoints, self.networks))) > 1:
            raise ValueError("Give one of --outputs, --weights, --checkpoints and --networks.")
        columns = [name + end for name in self.metrics for end in ("", "_ts")]
        if self.sort_by not in columns:
            raise ValueError(f"`sort_by` must be one of {columns}, got {self.sort_by!r}.")

    @property
    def metrics(self) -> list[str]:
        """Names of what is measured, in the order of the tables."""
        return [
            *("accuracy", "auroc", "aurc", "excess_aurc", "augrc"),
            *(f"coverage_at_{accuracy:g}" for accuracy in self.accuracies),
            *("ece", "nll", "brier"),
        ]
