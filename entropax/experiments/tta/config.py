"""Options of `python -m entropax.experiments.tta`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from entropax.estimation.flip_curve import Form, Target
from entropax.experiments.device_options import DeviceOptions
from entropax.experiments.shifted_images import ShiftOptions


@dataclass(frozen=True)
class Tent:
    """Minimise the entropy of every prediction."""


@dataclass(frozen=True)
class Eta:
    """Minimise the entropy of reliable, non-redundant predictions."""


@dataclass(frozen=True)
class Eata:
    """ETA with an anchor to the source weights."""

    fisher_weight: float = 1.0
    """Strength of the anchor."""
    fisher_images: int = 512
    """Validation images from which the Fisher information is computed."""


@dataclass(frozen=True)
class Rdumb:
    """ETA that returns to the source network periodically."""

    period: int = 1000
    """Steps between two resets; with fewer `steps` there is none, and this is ETA."""


@dataclass(frozen=True)
class Config(ShiftOptions, DeviceOptions):
    """Test-time adaptation and accuracy without labels."""

    run_dir: Path | None = None
    """The run folder; by default runs/tta-DATA-seedSEED."""
    seed: int = 0
    """Of the network, the corruptions and the order of the images."""

    method: Tent | Eta | Eata | Rdumb = field(default_factory=Rdumb)
    """How to adapt."""
    learning_rate: float = 2e-2
    """Of SGD on the scales and shifts of the normalisation layers."""
    momentum: float = 0.9
    """Of SGD."""
    steps: int = 500
    """Batches to adapt on; the images are visited as often as that takes."""
    batch_size: int = 64
    """Images a batch."""
    held: int = 1000
    """Images whose label flips are counted, or all if there are fewer."""

    estimate: Target = "batch_statistics"
    """Whose accuracy to estimate: the source network's, the same with batch statistics, or the
    adapted network's."""
    flips: Literal["weighted", "unweighted"] = "weighted"
    """Weigh each flip by the rank of the first confidence, or not."""
    form: Form = "quadratic"
    """Form of the curve from flips to accuracy."""

    features: tuple[int, ...] = (32, 64, 64)
    """Channels of the source network's blocks."""
    epochs: int | None = None
    """Of its training; by default 4, or more until there are 600 steps."""

    def __post_init__(self) -> None:
        super().__post_init__()
        DeviceOptions.__post_init__(self)
        if self.run_dir is not None:
            object.__setattr__(self, "run_dir", Path(self.run_dir))  # a string does as well
        positive = {
            "learning_rate": self.learning_rate,
            "steps": self.steps,
            "batch_size": self.batch_size,
            "epochs": 1 if self.epochs is None else self.epochs,
        }
        for name, value in positive.items():
            if not value > 0:
                raise ValueError(f"`{name}` must be positive, got {value}.")
        if self.held < 2:
            raise ValueError(f"`held` must be at least 2 images, got {self.held}.")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"`momentum` must be in [0, 1), got {self.momentum}.")
        if isinstance(self.method, Rdumb) and self.method.period < 1:
            raise ValueError(f"`period` must be at least 1 step, got {self.method.period}.")
