"""Options of `python -m entropax.experiments.diffusion_training`."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

from entropax.experiments.data_options import DataOptions

Network: TypeAlias = Literal["convnet", "transformer"]
Objective: TypeAlias = Literal["supervised", "contrastive", "wrong_labels"]
Bandwidth: TypeAlias = float | Literal["median", "sqrt_d", "knn", "adaptive"]


class Amounts(NamedTuple):
    """How much of everything; the options of the same names in `Config`."""

    max_train: int
    probe: int
    epochs: int
    records: int


# What `None` stands for: a quick look at the digits, a study of anything else.
REDUCED = Amounts(max_train=1000, probe=400, epochs=20, records=8)
WHOLE = Amounts(max_train=2000, probe=1000, epochs=40, records=10)


@dataclass(frozen=True)
class Config(DataOptions):
    """Diffusion entropy and mutual information of a network's layers during training."""

    run_dir: Path | None = None
    """The run folder; by default runs/diffusion-training-DATA."""

    objectives: tuple[Objective, ...] = ("supervised", "contrastive", "wrong_labels")
    """What is trained for. supervised: the labels; contrastive: two views of an image (SimCLR),
    without labels; wrong_labels: labels that were permuted once, which can be learnt by heart and
    do not generalise."""
    networks: tuple[Network, ...] = ("convnet", "transformer")
    """Which are trained: convolutions with batch normalisation, or a small vision transformer."""
    seeds: tuple[int, ...] = (0, 1)
    """Of the initial weights, the order of the images, the views and the permuted labels. The
    images are the same for all."""

    max_train: int | None = None
    """Use at most this many training images; by default 2000, of the digits
    1000."""
    probe: int | None = None
    """Test images whose features are measured, and which decide the accuracy; by default 1000, of
    the digits 400."""
    epochs: int | None = None
    """Of training; by default 40, on the digits 20."""
    batch_size: int = 100
    """Images a step; an incomplete last batch is dropped."""
    learning_rate: float = 2e-3
    """The highest of AdamW, after a warm-up of a tenth of the steps; a cosine leads back to 0."""
    temperature: float = 0.5
    """Of the contrastive loss."""

    records: int | None = None
    """Epochs, evenly spaced on a logarithmic scale (equal ones count once), after which the
    networks are measured, in addition to before training; by default 10, on the digits 8."""
    layers: Literal["last", "all"] = "last"
    """Measure what the last dense layer sees, or the blocks before it as well."""
    sigma: tuple[Bandwidth, ...] = (10.0, "median")
    """Bandwidths of the kernel, each measured by itself. 10 is the published constant, which
    measures the scale of the features as well; median does not depend on it."""
    t: float = 1.0
    """Diffusion time."""
    num_bins: int = 10
    """Bins of the binned entropy, the baseline."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.run_dir is not None:
            object.__setattr__(self, "run_dir", Path(self.run_dir))  # a string does as well
        lowest = {
            "max_train": 20,
            "probe": 20,
            "epochs": 1,
            "batch_size": 2,
            "records": 1,
            "num_bins": 1,
        }
        for name, least in lowest.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"`{name}` must be at least {least}, got {value}.")
        for name in ("objectives", "networks", "seeds", "sigma"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ValueError(f"`{name}` must be one or more, each once, got {values}.")
        for name, value in (
            ("learning_rate", self.learning_rate),
            ("temperature", self.temperature),
            ("t", self.t),
            *(("sigma", value) for value in self.sigma if not isinstance(value, str)),
        ):
            if not (value > 0 and math.isfinite(value)):
                raise ValueError(f"`{name}` must be positive, got {value}.")
        if min(self.seeds) < 0:
            raise ValueError(f"`seeds` must not be negative, got {self.seeds}.")

    @property
    def amounts(self) -> Amounts:
        """The numbers of this study: those given, and for every None what the data call for."""
        default = REDUCED if self.data == "digits" else WHOLE
        given = {name: getattr(self, name) for name in Amounts._fields}
        return default._replace(**{k: v for k, v in given.items() if v is not None})
