"""The studies whose measurements are those of the benchmark: one function for each."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from entropax.estimation import FlipCurve, fit_flip_curve
from entropax.estimation.flip_curve import Form
from entropax.experiments.tta_ablations.config import Config
from entropax.experiments.tta_benchmark.estimates import (
    Numbers,
    accuracies,
    flip_counts,
    flip_estimates,
)
from entropax.experiments.tta_benchmark.networks import Network
from entropax.experiments.tta_benchmark.observations import Observations, Observed
from entropax.types import Array
from entropax.uncertainty.temperature import fit_temperature

_FORMS: tuple[Form, ...] = ("logistic", "linear", "quadratic", "cubic", "isotonic")


class Outcome(NamedTuple):
    """Estimates of the splits of one network under one setting.

    Attributes:
      setting: in words or as a number.
      network: its name.
      seed: its seed.
      observed: the splits.
      truth: `[s]` accuracies.
      numbers: the estimates.
    """

    setting: str | int
    network: str
    seed: int
    observed: Sequence[Observed]
    truth: Float[np.ndarray, " s"]
    numbers: Numbers


Study = Callable[[Config, Observations, Sequence[Network]], list[Outcome]]


def stop(config: Config, observations: Observations, networks: Sequence[Network]) -> list[Outcome]:
    """Count the flips after more and more steps, with a curve for each number of steps."""
    return [
        _outcome(config, observations, network, (stretch + 1) * config.every, stretch=stretch)
        for network in networks
        for stretch in range(config.steps // config.every)
    ]


def held(config: Config, observations: Observations, networks: Sequence[Network]) -> list[Outcome]:
    """Count them on few images of the target; the curve is fitted on all validation images."""
    found = []
    for network in networks:
        curve = _curve_of_first(config, observations, network)
        found += [
            _outcome(config, observations, network, number, held=number, curve=curve)
            for number in config.held
            if number <= len(observations.sets.test)
        ]
    if not found:
        raise ValueError(
            f"`held` must have a number up to that of the test images, "
            f"{len(observations.sets.test)}, got {config.held}."
        )
    return found


def form(config: Config, observations: Observations, networks: Sequence[Network]) -> list[Outcome]:
    """Fit curves of all forms to weighted and unweighted flips."""
    return [
        _outcome(config, observations, network, f"{shape}, {kind}", form=shape, kind=kind)
        for network in networks
        for shape in _FORMS
        for kind in ("weighted", "unweighted")
    ]


def adapter(
    config: Config, observations: Observations, networks: Sequence[Network]
) -> list[Outcome]:
    """Let each adapter flip the labels, with a curve of its own and with that of the first."""
    found = []
    for network in networks:
        curve = _curve_of_first(config, observations, network)
        for name in config.adapters:
            found.append(_outcome(config, observations, network, name, adapter=name))
            if name != config.adapters[0]:
                setting = f"{name}, curve of {config.adapters[0]}"
                found.append(
                    _outcome(config, observations, network, setting, adapter=name, curve=curve)
                )
    return found


class Tempered(nn.Module):
    """A network whose logits are scaled.

    Attributes:
      network: `[b, h, w, channels]` to logits.
      num_classes: number of logits.
    """

    network: nn.Module
    num_classes: int

    @nn.compact
    def __call__(self, x: Float[Array, "b h w channels"], train: bool = False) -> Array:
        """Return the logits `[b, c]` times the parameter `inverse_temperature`."""
        scale = self.param("inverse_temperature", nn.initializers.ones, ())
        return self.network(x, train) * scale


def temperature(
    config: Config, observations: Observations, networks: Sequence[Network]
) -> list[Outcome]:
    """Adapt once more from networks whose logits are scaled to fit the clean validation images."""
    found, tempered = [], []
    for network in networks:
        found.append(_outcome(config, observations, network, "as trained"))
        clean = next(
            each
            for each in observations.of(network, config.adapters[0])
            if each.split.family == "calibration" and each.split.severity == 0
        )
        assert clean.labels is not None
        logits, labels = clean.before.batch_statistics, jnp.asarray(clean.labels, jnp.int32)
        scale = fit_temperature(jnp.asarray(logits), labels).inverse_temperature
        variables = {
            collection: {"network": values} for collection, values in network.variables.items()
        }
        variables["params"]["inverse_temperature"] = scale
        classes = network.module.num_classes
        module = Tempered(network.module.clone(), classes)
        tempered.append(
            network._replace(name=f"{network.name}-tempered", module=module, variables=variables)
        )
    observations.measure(tempered, on_part=lambda what: None)
    for network, other in zip(networks, tempered, strict=True):
        outcome = _outcome(config, observations, other, "tempered")
        found.append(outcome._replace(network=network.name))
    return found


STUDIES: Mapping[str, Study] = {
    "stop": stop,
    "held": held,
    "form": form,
    "adapter": adapter,
    "temperature": temperature,
}


def _curve_of_first(config: Config, observations: Observations, network: Network) -> FlipCurve:
    """The curve of the first adapter's weighted flips, after the last step on all images."""
    observed = observations.of(network, config.adapters[0])
    calibration = [each for each in observed if each.split.family == "calibration"]
    return fit_flip_curve(
        [flip_counts(each)["weighted"][0] for each in calibration],
        accuracies(calibration, config.estimate),
        target=config.estimate,
        form=config.form,
    )


def _outcome(
    config: Config,
    observations: Observations,
    network: Network,
    setting: str | int,
    *,
    adapter: str | None = None,
    **options: Any,
) -> Outcome:
    observed = observations.of(network, adapter or config.adapters[0])
    options = {"form": config.form, "level": config.level, **options}
    return Outcome(
        setting,
        network.name,
        network.seed,
        observed,
        accuracies(observed, config.estimate),
        flip_estimates(observed, config.estimate, **options),
    )
