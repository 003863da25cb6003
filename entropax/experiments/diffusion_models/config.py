"""Options of `python -m entropax.experiments.diffusion_models`."""

import math
from dataclasses import dataclass
from pathlib import Path

from entropax.experiments.data_options import DataOptions

RULES = ("sqrt_d", "median", "knn")


@dataclass(frozen=True)
class Config(DataOptions):
    """Entropies of features against the accuracy of the model, over many models."""

    run_dir: Path | None = None
    """The run folder; by default runs/models-DATA-seedSEED."""
    seed: int = 0
    """Of the first draw of models; the second has the next one."""

    features: Path | None = None
    """A folder of .npz files with the features of models that are there already."""
    models: int = 48
    """Networks in a draw."""
    draws: int = 2
    """Draws, each correlated by itself."""

    sigma: tuple[str, ...] = ("10", "sqrt_d", "median", "knn")
    """Bandwidths: positive numbers, sqrt_d, median or knn."""
    repetitions: int = 5
    """Random classes that those of the labels are compared with."""
    clusters: int = 10
    """Of the inputs, for the information about them."""
    bins: int = 10
    """Of each coordinate, for the binned quantities."""

    probe: int = 600
    """Test images whose features are measured."""
    max_test: int = 2000
    """Other test images that decide the accuracy, at most; of the digits 500."""
    max_train: int = 2000
    """The largest number of training images, at most; of the digits what is left."""
    max_epochs: int = 30
    """The longest training, in passes over the training images of a network."""

    level: float = 0.9
    """Nominal coverage of the intervals."""
    resamples: int = 2000
    """Of the bootstrap."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("run_dir", "features"):
            if (place := getattr(self, name)) is not None:
                object.__setattr__(self, name, Path(place))  # a string does as well
        lowest = {
            "models": 3,
            "draws": 1,
            "repetitions": 1,
            "clusters": 2,
            "bins": 1,
            "probe": 20,
            "max_test": 1,
            "max_train": 20,
            "max_epochs": 1,
            "resamples": 1,
        }
        for name, least in lowest.items():
            if getattr(self, name) < least:
                raise ValueError(f"`{name}` must be at least {least}, got {getattr(self, name)}.")
        if not self.sigma or len(set(self.sigma)) < len(self.sigma):
            raise ValueError(f"`sigma` must be one or more, each once, got {self.sigma}.")
        for sigma in self.sigma:
            self.bandwidth(sigma)
        if not 0 < self.level < 1:
            raise ValueError(f"`level` must be between 0 and 1, got {self.level}.")

    @staticmethod
    def bandwidth(sigma: str) -> float | str:
        """A word of `sigma` as the library takes it."""
        if sigma in RULES:
            return sigma
        try:
            number = float(sigma)
        except ValueError:
            number = math.nan
        if not 0 < number < math.inf:
            raise ValueError(f"`sigma` must be positive numbers or {RULES}, got {sigma!r}.")
        return number
