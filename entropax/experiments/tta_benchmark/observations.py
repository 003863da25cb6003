"""Measure every network, adapter and split that is wanted, and keep it in the run folder."""

import itertools
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from entropax.data.streams import one_pass, shuffled_stream
from entropax.experiments.run_folder import RunFolder
from entropax.experiments.shifted_images import ImageSets, Split, shifted_images
from entropax.experiments.tta_benchmark.config import Config
from entropax.experiments.tta_benchmark.measure import (
    After,
    Before,
    build_observe_after,
    build_observe_before,
    fisher_information,
)
from entropax.experiments.tta_benchmark.networks import Network


class Observed(NamedTuple):
    """One network, adapter and split.

    Attributes:
      split: which images.
      labels: `[n]` their classes, or None.
      before: without adaptation; arrays as in `Before`, without the leading axis.
      after: under the adapter; arrays as in `After`, without the leading axis.
      stream: `[t, b]` which images the steps saw; -1 for padding.
    """

    split: Split
    labels: Int[np.ndarray, " n"] | None
    before: Before
    after: After
    stream: Int[np.ndarray, "t b"]

    def right_along_stream(self) -> Float[np.ndarray, " t"]:
        """Share of right predictions in each batch of the stream; NaN without labels."""
        if self.labels is None:
            return np.full(len(self.stream), np.nan)
        right = (self.after.online == self.labels[self.stream]) & (self.stream >= 0)
        return np.asarray(right.sum(-1) / (self.stream >= 0).sum(-1))


@dataclass(frozen=True)
class Observations:
    """The arrays of a run folder, one file for each network, adapter and split."""

    folder: RunFolder
    config: Config
    sets: ImageSets
    splits: Sequence[Split]

    def name(self, network: Network, part: str, split: Split) -> str:
        """Name of the file, in the run folder."""
        words = "-".join([split.family, split.name, str(split.severity)])
        return f"observations/{network.name}-seed{network.seed}/{part}/{words}.npz"

    def missing(self, network: Network, part: str, splits: Sequence[Split]) -> bool:
        """Whether some of the files are not there."""
        return not all(
            (self.folder.path / self.name(network, part, split)).exists() for split in splits
        )

    def write(self, network: Network, part: str, split: Split, arrays: dict[str, Any]) -> None:
        """Keep arrays, the whole file or nothing."""
        name = self.name(network, part, split)
        (self.folder.path / name).parent.mkdir(parents=True, exist_ok=True)
        with self.folder.replacing(name) as partial, partial.open("wb") as file:
            np.savez(file, **arrays)

    def read(self, network: Network, part: str, split: Split) -> dict[str, np.ndarray]:
        """Arrays by name.

        Raises:
          ValueError: the file is damaged.
        """
        path = self.folder.path / self.name(network, part, split)
        try:
            # Opened here: NumPy leaves a file open that turns out to be no archive.
            with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                return {key: archive[key] for key in archive.files}
        except (ValueError, zipfile.BadZipFile, EOFError) as error:
            raise ValueError(f"{path} is damaged, remove it: {error}") from error

    def of(self, network: Network, adapter: str) -> list[Observed]:
        """Everything that was measured of a network and an adapter, split by split."""
        return [
            Observed(
                split,
                self.images_of(split).labels,
                Before(**self.read(network, "before", split)),
                After(**self.read(network, adapter, split)),
                self.stream(network, split),
            )
            for split in self.splits
        ]

    def images_of(self, split: Split) -> Any:
        """The images of a split, before they are corrupted."""
        return {
            "calibration": self.sets.validation,
            "test": self.sets.test,
            "target": self.sets.target,
        }[split.family]

    def stream(self, network: Network, split: Split) -> Int[np.ndarray, "t b"]:
        """Which images the steps see, the same for all splits of a network."""
        batches = self._batches(network, len(self.images_of(split)))
        return np.where(np.asarray(batches.where), np.asarray(batches.x), -1)

    def _batches(self, network: Network, n: int) -> Any:
        config = self.config
        return shuffled_stream(
            n, batch_size=config.batch_size, steps=config.steps, seed=network.seed + 1
        )

    def measure(self, networks: Sequence[Network], *, on_part: Callable[[str], None]) -> None:
        """Measure what is missing.

        Args:
          networks: all of them, since the partner of a network is the next one of its name.
          on_part: called with what comes next, for each network, group of splits and adapter.
        """
        compiled: dict[tuple[str, str], Callable[..., Any]] = {}
        for network in networks:
            fisher = None
            for group in self._groups():
                images = None
                for part in ("before", *self.config.adapters):
                    on_part(f"{network.name}, seed {network.seed}: {part} on {group[0]} ...")
                    if not self.missing(network, part, group) and not (
                        part == "before" and self._was_alone(networks, network, group)
                    ):
                        continue
                    if images is None:
                        images = self._images(network, group)
                    if fisher is None:
                        fisher = fisher_information(network, self.sets.validation)
                    which = (network.name, part)
                    if which not in compiled:
                        compiled[which] = self._compile(network, part)
                    self._measure(compiled[which], networks, network, part, group, images, fisher)

    def _was_alone(
        self, networks: Sequence[Network], network: Network, splits: Sequence[Split]
    ) -> bool:
        """Whether there was no partner yet when the files were written, and there is one now."""
        if _partner(networks, network).variables is network.variables:
            return False
        found = (self.read(network, "before", split) for split in splits)
        return any(np.array_equal(each["source"], each["partner_source"]) for each in found)

    def groups(self) -> int:
        """How many calls it takes for each network and adapter."""
        return sum(1 for _ in self._groups())

    def _groups(self) -> Iterator[list[Split]]:
        """Splits of one number of images, as many at a time as there are severities."""
        size = len(self.config.severities)
        for _, splits in itertools.groupby(self.splits, lambda s: len(self.images_of(s))):
            chosen = list(splits)
            for first in range(0, len(chosen), size):
                yield chosen[first : first + size]

    def _images(self, network: Network, group: Sequence[Split]) -> jax.Array:
        """The images of the group; the last split is repeated to make up the number."""
        shifted = [
            shifted_images(self.config, self.sets, split, seed=network.seed).images
            for split in group
        ]
        shifted += [shifted[-1]] * (len(self.config.severities) - len(shifted))
        return jnp.asarray(np.stack(shifted))

    def _compile(self, network: Network, part: str) -> Callable[..., Any]:
        if part == "before":
            return build_observe_before(network)
        return build_observe_after(
            network,
            part,
            learning_rate=self.config.learning_rate,
            every=self.config.every,
        )

    def _measure(
        self,
        observe: Callable[..., Any],
        networks: Sequence[Network],
        network: Network,
        part: str,
        group: Sequence[Split],
        images: jax.Array,
        fisher: Any,
    ) -> None:
        n = images.shape[1]
        key = jax.random.key(network.seed)
        # Shuffled, or the batches of a folder sorted by class would hold one class each.
        order = one_pass(n, batch_size=self.config.batch_size, seed=network.seed + 2)
        if part == "before":
            partner = _partner(networks, network).variables
            found = observe(network.variables, partner, key, images, order)
        else:
            stream = self._batches(network, n)
            found = observe(network.variables, fisher, key, images, stream, order)
        fields = (Before if part == "before" else After)._fields
        arrays = dict(zip(fields, map(np.asarray, found), strict=True))
        for i, split in enumerate(group):
            self.write(network, part, split, {name: a[i] for name, a in arrays.items()})


def _partner(networks: Sequence[Network], network: Network) -> Network:
    """The next network of the same name; the same one if it is alone or published."""
    alike = [each for each in networks if each.name == network.name]
    place = [each.seed for each in alike].index(network.seed)
    return alike[(place + 1) % len(alike)]
