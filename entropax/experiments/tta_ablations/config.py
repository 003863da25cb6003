"""Options of `python -m entropax.experiments.tta_ablations`."""

import dataclasses
from dataclasses import dataclass
from typing import Literal

from entropax.experiments import tta_benchmark


@dataclass(frozen=True)
class Config(tta_benchmark.Config):
    """What the estimate from label flips depends on."""

    ablation: Literal["stop", "held", "form", "adapter", "temperature", "phases"] = "stop"
    """Which study."""
    held: tuple[int, ...] = (50, 100, 250, 500, 1000)
    """Numbers of held images of the study held; those beyond what there is are left out."""
    steps: int = 1000
    """Batches to adapt on; the images are visited as often as that takes."""
    networks: tuple[str, ...] = ("convnet",)
    """Architectures to train: convnet, convnet-group, resnet, mlp."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.held or min(self.held) < 2:
            raise ValueError(f"`held` must be numbers of at least 2 images, got {self.held}.")
        if self.ablation == "adapter" and len(self.adapters) < 2:
            raise ValueError(f"The study adapter compares several `adapters`, got {self.adapters}.")

    @property
    def benchmark(self) -> tta_benchmark.Config:
        """What has to be measured for the study."""
        fields = {field.name for field in dataclasses.fields(tta_benchmark.Config)}
        values = {name: getattr(self, name) for name in fields}
        return tta_benchmark.Config(**values)
