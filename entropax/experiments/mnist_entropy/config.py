"""Options of `python -m entropax.experiments.mnist_entropy`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

from entropax.experiments.data_options import DataOptions

Method: TypeAlias = Literal[
    "random",
    "class_balanced",
    "approximate_entropy",
    "greedy_entropy",
    "greedy_renyi",
    "greedy_determinant",
    "local_search",
    "distillation",
    "k_means",
    "kernel_herding",
]
# Methods that draw at random draw many sets; of the others each selector chooses one.
BASELINES: tuple[Method, ...] = ("random", "class_balanced")


class Amounts(NamedTuple):
    """How much of everything; the options of the same names in `Config`."""

    pool: int
    sets: int
    selectors: int
    networks: int
    epochs: int
    learning_rate: float
    max_test: int


# What `None` stands for: a quick look at the digits, the whole study of anything else.
REDUCED = Amounts(
    pool=500, sets=6, selectors=2, networks=3, epochs=100, learning_rate=1e-2, max_test=500
)
WHOLE = Amounts(
    pool=1000, sets=30, selectors=5, networks=5, epochs=500, learning_rate=1e-3, max_test=2000
)


@dataclass(frozen=True)
class Config(DataOptions):
    """NTK entropy of small training sets against what they train."""

    run_dir: Path | None = None
    """The run folder; by default runs/entropy-DATA-seedSEED."""
    seed: int = 0
    """Of the pool, the sets and the networks."""

    methods: tuple[Method, ...] = (
        "random",
        "class_balanced",
        "approximate_entropy",
        "greedy_entropy",
        "local_search",
        "distillation",
        "k_means",
        "kernel_herding",
    )
    """How sets are chosen. approximate_entropy: the best of some random sets; greedy_entropy,
    greedy_renyi: image by image, by von Neumann or Renyi entropy; local_search: greedy_entropy,
    then exchanges; greedy_determinant: by volume; distillation: random network distillation;
    k_means: nearest to the centres of clusters; kernel_herding: most like the pool; class_balanced
    alone sees labels."""
    set_size: tuple[int, ...] = (30,)
    """Images in a set."""
    pool: int | None = None
    """Training images that sets are chosen from; by default 1000, of the digits 500."""
    sets: int | None = None
    """Sets of each size that random and class_balanced draw; by default 30, of the digits 6."""
    selectors: int | None = None
    """Untrained networks, each of which chooses one set of each size by every other method; by
    default 5, of the digits 2."""
    candidates: int = 30
    """Random sets of which approximate_entropy takes the best."""

    networks: int | None = None
    """Networks trained on each set; by default 5, on the digits 3."""
    epochs: int | None = None
    """Of training; by default 500, on the digits 100."""
    max_steps: int = 10_000
    """Train on large sets for fewer epochs than `epochs`, those that begin within these steps."""
    batch_size: int = 10
    """Images a step."""
    learning_rate: float | None = None
    """Of Adam; by default 1e-3, on the digits, with their few epochs, 1e-2."""
    parameterization: Literal["ntk", "standard"] = "ntk"
    """Of the network's layers."""

    max_test: int | None = None
    """Use at most this many test images; by default 2000, of the digits 500."""
    records: int = 16
    """Epochs, evenly spaced on a logarithmic scale (equal ones count once), after which the
    networks are tested; the lowest test loss is the lowest of these."""
    kernel_records: int = 5
    """Of these, epochs at which the kernel is measured, the first (0) and the last among them."""
    level: float = 0.9
    """Nominal coverage of the intervals."""
    resamples: int = 2000
    """Of the bootstrap."""
    mesh: bool = False
    """Split the kernel of the pool among all devices of this machine."""
    workers: int | None = None
    """Sets that are trained on at the same time; by default one for each core of a CPU, and one on
    an accelerator. It changes no result."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size is not None and self.data in ("digits", "idx", "npz"):
            raise ValueError(
                f"`size` resizes image files; {self.data} come as they are, got {self.size}."
            )
        if self.run_dir is not None:
            object.__setattr__(self, "run_dir", Path(self.run_dir))  # a string does as well
        lowest = {
            "pool": 2,
            "sets": 1,
            "selectors": 1,
            "networks": 1,
            "epochs": 1,
            "max_test": 1,
            "candidates": 1,
            "max_steps": 1,
            "batch_size": 1,
            "records": 1,
            "workers": 1,
            "kernel_records": 2,
            "resamples": 1,
        }
        for name, least in lowest.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"`{name}` must be at least {least}, got {value}.")
        if not self.amounts.learning_rate > 0:
            raise ValueError(f"`learning_rate` must be positive, got {self.learning_rate}.")
        if not 0 < self.level < 1:
            raise ValueError(f"`level` must be between 0 and 1, got {self.level}.")
        for name, values in (("methods", self.methods), ("set_size", self.set_size)):
            if not values or len(set(values)) < len(values):
                raise ValueError(f"`{name}` must be one or more, each once, got {values}.")
        if min(self.set_size) < 2:
            raise ValueError(
                f"`set_size` must be at least 2, got {self.set_size}: one image has no entropy."
            )
        if max(self.set_size) > self.amounts.pool:
            raise ValueError(
                f"`set_size` {max(self.set_size)} exceeds the pool of {self.amounts.pool} images; "
                "give a larger --pool."
            )

    @property
    def amounts(self) -> Amounts:
        """The numbers of this study: those given, and for every None what the data call for."""
        default = REDUCED if self.data == "digits" else WHOLE
        given = {name: getattr(self, name) for name in Amounts._fields}
        return default._replace(**{k: v for k, v in given.items() if v is not None})
