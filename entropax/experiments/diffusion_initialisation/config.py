"""Options of `python -m entropax.experiments.diffusion_initialisation`."""

from dataclasses import dataclass
from pathlib import Path

from entropax.experiments.data_options import DataOptions


@dataclass(frozen=True)
class Config(DataOptions):
    """Diffusion entropy before training against accuracy after it."""

    run_dir: Path | None = None
    """The run folder; by default runs/initialisation-DATA-seedSEED."""
    seed: int = 0
    """Of the weights and the order of the batches."""

    std: tuple[float, ...] = (1e-3, 1e-2, 2e-2, 3e-2, 4e-2, 5e-2, 8e-2, 1e-1)
    """Standard deviations of the weights of every convolution."""
    networks: int = 3
    """Networks for each of them."""
    widths: tuple[int, ...] = (16, 32, 64)
    """Channels of each stage of the residual network."""
    blocks: int = 2
    """Residual blocks of each stage."""

    sigma: float = 10.0
    """The constant bandwidth, beside "median"."""
    probe: int = 256
    """Images whose features are measured; of the test split, if there is one."""

    epochs: int = 4
    """Of training; 0 measures the untrained networks alone."""
    max_train: int = 800
    """Train on at most this many images."""
    max_test: int = 400
    """Test on at most this many other images."""
    batch_size: int = 64
    """Images a step."""
    learning_rate: float = 1e-3
    """Of Adam."""

    level: float = 0.9
    """Nominal coverage of the intervals."""
    resamples: int = 2000
    """Of the bootstrap."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.run_dir is not None:
            object.__setattr__(self, "run_dir", Path(self.run_dir))  # a string does as well
        lowest = {
            "networks": 1,
            "blocks": 1,
            "probe": 2,
            "epochs": 0,
            "max_train": 2,
            "max_test": 1,
            "batch_size": 1,
            "resamples": 1,
        }
        for name, least in lowest.items():
            if getattr(self, name) < least:
                raise ValueError(f"`{name}` must be at least {least}, got {getattr(self, name)}.")
        for name in ("sigma", "learning_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"`{name}` must be positive, got {getattr(self, name)}.")
        if not self.std or min(self.std) <= 0 or len(set(self.std)) < len(self.std):
            raise ValueError(
                f"`std` must be one or more positive numbers, each once, got {self.std}."
            )
        if not self.widths or min(self.widths) < 1:
            raise ValueError(f"`widths` must be one or more positive numbers, got {self.widths}.")
        if not 0 < self.level < 1:
            raise ValueError(f"`level` must be between 0 and 1, got {self.level}.")
