"""How the sets are chosen."""

import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jaxtyping import Float, Int

from entropax import entropy, selection, spectra
from entropax.experiments.mnist_entropy.config import BASELINES, Config, Method
from entropax.experiments.mnist_entropy.images import Images
from entropax.experiments.mnist_entropy.networks import Networks
from entropax.types import Params

# Those that see the images; the others see the kernel of the pool.
_SEE_IMAGES = (*BASELINES, "k_means", "distillation")


class Choice(NamedTuple):
    """A set to be chosen.

    Attributes:
      method: one of `Config.methods`.
      size: number of images.
      number: of this choice among those of the same method and size, from 0; for a method that is
        no baseline, that of the selector as well.
    """

    method: Method
    size: int
    number: int

    def __str__(self) -> str:
        return f"{self.method} {self.size}, {self.number}"


class Selector(NamedTuple):
    """An untrained network, and the pool as it sees it.

    Attributes:
      params: of the network.
      predictor: parameters of a second one, for distillation.
      kernel: of the pool, by the first.
    """

    params: Params
    predictor: Params
    kernel: Float[np.ndarray, "m m"]


Choose = Callable[[Choice, Selector], Int[np.ndarray, " n"]]


def planned_choices(config: Config) -> Iterator[Choice]:
    """All sets of a run; the first of every method come first."""
    for size in config.set_size:
        for number in range(max(config.amounts.sets, config.amounts.selectors)):
            for method in config.methods:
                if number < number_of_sets(config, method):
                    yield Choice(method, size, number)


def number_of_sets(config: Config, method: str) -> int:
    """Sets of one size that a method chooses."""
    return config.amounts.sets if method in BASELINES else config.amounts.selectors


def build_chooser(config: Config, networks: Networks, images: Images) -> Choose:
    """`(choice, selector) -> rows of the pool`."""
    labels = images.pool.labels
    agents: dict[str, selection.Agent] = {
        "random": selection.random(),
        "class_balanced": selection.class_balanced(labels),
        "approximate_entropy": selection.approximate_entropy(config.candidates),
        "greedy_entropy": selection.greedy_entropy(),
        "greedy_renyi": selection.greedy_entropy(order=2),
        "greedy_determinant": selection.greedy_determinant(),
        "local_search": selection.local_search(selection.greedy_entropy()),
        "k_means": selection.k_means(),
        "kernel_herding": selection.kernel_herding(),
    }

    def choose(choice: Choice, selector: Selector) -> Int[np.ndarray, " n"]:
        if choice.method == "distillation":
            agent = selection.distillation(
                networks.differentiable,
                networks.differentiable,
                selector.params,
                selector.predictor,
                optax.adam(config.amounts.learning_rate),
                batch_size=min(100, len(labels)),
            )
        else:
            agent = agents[choice.method]
        pool: Any = images.pool.x if choice.method in _SEE_IMAGES else selector.kernel
        number = zlib.crc32(str(choice).encode()) >> 1
        key = jax.random.fold_in(jax.random.key(config.seed), number)
        return np.sort(selection.select(key, agent, pool, choice.size).indices)

    return choose


def effective_entropy(kernel: Float[np.ndarray, "n n"]) -> float:
    """Von Neumann entropy of a kernel as a share of its maximum, in float64."""
    eigvals = spectra.density(kernel.astype(np.float64))
    return float(entropy.effective_von_neumann(eigvals))
