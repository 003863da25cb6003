"""Options of `python -m entropax.experiments.diffusion_estimators`."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Config:
    """Estimates of mutual information against the truth, over dimensions."""

    run_dir: Path | None = None
    """The run folder; by default runs/estimators-seedSEED."""
    seed: int = 0
    """Of the first data sets; the others have the next ones."""

    n: int = 1000
    """Points."""
    classes: int = 10
    """Blobs."""
    dims: tuple[int, ...] = (20, 200, 2000)
    """Numbers of dimensions."""
    corruption: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    """Shares of the labels that are drawn anew, from all classes."""
    seeds: int = 3
    """Data sets of each number of dimensions."""
    separation: float | None = None
    """Typical distance of two centres, in standard deviations of a blob along one axis; by default
    centres are uniform in [-10, 10], far apart in any dimension."""

    sigma: float | None = None
    """Bandwidth of the diffusion estimators; by default the root of the number of dimensions."""
    repetitions: int = 5
    """Random classes that those of the labels are compared with."""
    bins: tuple[int, ...] = (5, 10, 100)
    """Of each coordinate, for the binned estimators."""

    problems: Path | None = None
    """Write the data sets into this folder, for peers."""
    peers: Path | None = None
    """What peers made of them, to be reported with the others."""
    level: float = 0.9
    """Nominal coverage of the intervals."""
    resamples: int = 2000
    """Of the bootstrap."""

    def __post_init__(self) -> None:
        for name in ("run_dir", "problems", "peers"):
            if (place := getattr(self, name)) is not None:
                object.__setattr__(self, name, Path(place))  # a string does as well
        lowest = {"classes": 2, "seeds": 1, "repetitions": 1, "resamples": 1}
        for name, least in lowest.items():
            if getattr(self, name) < least:
                raise ValueError(f"`{name}` must be at least {least}, got {getattr(self, name)}.")
        if self.n < 2 * self.classes:
            raise ValueError(
                f"`n` must give each of {self.classes} classes two points or more, got {self.n}."
            )
        for name, low, high in (("dims", 1, None), ("corruption", 0, 1), ("bins", 1, None)):
            values = getattr(self, name)
            outside = not values or min(values) < low or (high is not None and max(values) > high)
            if outside or len(set(values)) < len(values):
                bounds = f"at least {low}" if high is None else f"in [{low}, {high}]"
                raise ValueError(
                    f"`{name}` must be one or more, each once, {bounds}, got {values}."
                )
        for name in ("separation", "sigma"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"`{name}` must be positive, got {value}.")
        if not 0 < self.level < 1:
            raise ValueError(f"`level` must be between 0 and 1, got {self.level}.")
