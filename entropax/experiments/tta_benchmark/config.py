"""Options of `python -m entropax.experiments.tta_benchmark`."""

from dataclasses import dataclass
from pathlib import Path

from entropax.estimation.flip_curve import Form, Target
from entropax.experiments.shifted_images import ShiftOptions
from entropax.experiments.tta_benchmark.methods import METHODS
from entropax.experiments.tta_benchmark.networks import ARCHITECTURES


@dataclass(frozen=True)
class Config(ShiftOptions):
    """Test-time adapters and accuracy estimators, side by side on the same shifts."""

    run_dir: Path | None = None
    """The run folder; by default runs/tta-benchmark-DATA."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Each is a network, its corruptions and its order of the images."""
    max_images: int = 1000
    """Use at most this many validation images, and as many test images."""

    networks: tuple[str, ...] = ("convnet", "mlp")
    """Architectures to train: convnet, convnet-group, resnet, mlp."""
    weights: tuple[Path, ...] = ()
    """Published ResNets for CIFAR (.npz, .safetensors, .th) to use instead; nothing is trained.
    Validation and test images are then the halves of the test split."""
    epochs: int | None = None
    """Of training; by default 4, or more until there are 600 steps."""

    adapters: tuple[str, ...] = ("eta",)
    """How to adapt; the first one's flips count. See the documentation for the names."""
    learning_rate: float = 2e-2
    """Of SGD on scales and shifts, for the adapters that use it."""
    steps: int = 200
    """Batches to adapt on; the images are visited as often as that takes."""
    every: int = 50
    """Steps between two looks at the held images; a divisor of `steps`."""
    batch_size: int = 64
    """Images a batch."""

    estimate: Target = "batch_statistics"
    """Whose accuracy the printed table is about: the source network's, the same with batch
    statistics, or the adapted network's. The files hold all three."""
    form: Form = "quadratic"
    """Form of the curve from flips to accuracy."""
    temperature: bool = True
    """Scale the logits by a temperature, fitted on the clean validation images, before confidences
    are compared."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.run_dir is not None:
            object.__setattr__(self, "run_dir", Path(self.run_dir))  # a string does as well
        object.__setattr__(self, "weights", tuple(map(Path, self.weights)))
        for name in ("learning_rate", "steps", "every", "batch_size"):
            if not getattr(self, name) > 0:
                raise ValueError(f"`{name}` must be positive, got {getattr(self, name)}.")
        if self.epochs is not None and self.epochs < 1:
            raise ValueError(f"`epochs` must be positive, got {self.epochs}.")
        if self.steps % self.every:
            raise ValueError(
                f"`every` must divide `steps`, got {self.every} for {self.steps} steps."
            )
        for name, known in (("adapters", METHODS), ("networks", ARCHITECTURES)):
            chosen = getattr(self, name)
            unknown = [each for each in chosen if each not in known]
            if unknown or not chosen or len(set(chosen)) < len(chosen):
                raise ValueError(
                    f"`{name}` must be different ones of {', '.join(known)}, got {chosen}."
                )
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(f"`seeds` must be different whole numbers from 0, got {self.seeds}.")
        if len({path.stem for path in self.weights}) < len(self.weights):
            raise ValueError(f"`weights` must have different names, got {self.weights}.")
