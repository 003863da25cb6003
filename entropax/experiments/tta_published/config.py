"""Options of `python -m entropax.experiments.tta --weights FILE`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from entropax.data import corruptions
from entropax.estimation.flip_curve import PUBLISHED_POLYNOMIALS, Form, Target
from entropax.experiments.device_options import DeviceOptions
from entropax.experiments.published_networks import InputOptions
from entropax.experiments.tta.config import Eta, Rdumb, Tent

Flips: TypeAlias = Literal["weighted", "unweighted"]


@dataclass(frozen=True, kw_only=True)
class Config(InputOptions, DeviceOptions):
    """Test-time adaptation of a published network to folders of images."""

    weights: Path
    """Weights of torchvision, timm or Hugging Face: .pth, .safetensors, .npz, or their folder."""
    path: Path
    """The folder of images."""
    data: Literal["folder"] = "folder"
    """Published networks take folders of image files."""
    run_dir: Path | None = None
    """The run folder; by default runs/tta-WEIGHTS-FOLDER, with -fit behind it for a fit."""
    seed: int = 0
    """Of the order of the images, and of the corruptions."""

    fit: bool = False
    """Fit the curve from flips to accuracy on --path, whose images have labels."""
    curve: str = "weighted_quadratic"
    """weighted_quadratic, unweighted_linear or unweighted_quadratic, which are published; or the
    run folder of a --fit."""

    method: Tent | Eta | Rdumb = field(default_factory=Rdumb)
    """How to adapt."""
    learning_rate: float = 2.5e-4
    """Of SGD on the scales and shifts of the normalisation layers."""
    momentum: float = 0.9
    """Of SGD."""
    steps: int = 990
    """Batches to adapt on; the images are visited as often as that takes."""
    batch_size: int = 64
    """Images a batch."""
    held: int = 1000
    """Images whose label flips are counted, and on which accuracies are measured."""
    level: float = 0.9
    """Nominal coverage of the intervals of a fitted curve."""

    estimate: Target = "batch_statistics"
    """With --fit: whose accuracy. The published curves are of the source network."""
    flips: Flips = "weighted"
    """With --fit: weigh each flip by the rank of the first confidence, or not."""
    form: Form = "quadratic"
    """With --fit: form of the curve."""
    calibration: tuple[str, ...] = corruptions.HOLDOUT
    """With --fit: corruptions of clean images."""
    severities: tuple[int, ...] = (1, 2, 3, 4, 5)
    """With --fit: of these."""

    def __post_init__(self) -> None:
        super().__post_init__()
        DeviceOptions.__post_init__(self)
        for name in ("weights", "path", "run_dir"):
            if (place := getattr(self, name)) is not None:
                object.__setattr__(self, name, Path(place))  # a string does as well
        for name in ("learning_rate", "steps", "batch_size"):
            if not getattr(self, name) > 0:
                raise ValueError(f"`{name}` must be positive, got {getattr(self, name)}.")
        if self.held < 2:
            raise ValueError(f"`held` must be at least 2 images, got {self.held}.")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"`momentum` must be in [0, 1), got {self.momentum}.")
        if not 0 < self.level < 1:
            raise ValueError(f"`level` must be between 0 and 1, got {self.level}.")
        if unknown := set(self.calibration) - set(corruptions.ALL):
            known = ", ".join(corruptions.ALL)
            raise ValueError(f"Unknown corruption {', '.join(sorted(unknown))}; known: {known}.")
        if not self.severities or not set(self.severities) <= {1, 2, 3, 4, 5}:
            raise ValueError(f"`severities` must be among 1 to 5, got {self.severities}.")
        for name in ("calibration", "severities"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"`{name}` must be different ones, got {values}.")
        published = self.fit or self.curve in PUBLISHED_POLYNOMIALS
        if not published and not (Path(self.curve) / "curve.json").is_file():
            raise ValueError(
                f"`curve` must be {', '.join(PUBLISHED_POLYNOMIALS)} or the run folder of a --fit "
                f"with a curve.json in it, got {self.curve}."
            )

    @property
    def adaptation(self) -> dict[str, object]:
        """All that the flips depend on besides the network and the images."""
        method = {"name": type(self.method).__name__.lower(), **vars(self.method)}
        names = ("learning_rate", "momentum", "steps", "batch_size", "held", "precision")
        return {"method": method, **{name: getattr(self, name) for name in names}}
