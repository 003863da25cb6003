"""The metrics of a model with their intervals, and of one model less another."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from entropax.experiments.uncertainty.config import Config
from entropax.experiments.uncertainty.examples import Examples, prepare
from entropax.experiments.uncertainty.sources import Outputs
from entropax.types import Array
from entropax.uncertainty.bootstrap import Difference, Sample, bootstrap, compare, mean, sample
from entropax.uncertainty.calibration_error import calibration_error
from entropax.uncertainty.reliability import reliability_curve
from entropax.uncertainty.risk_coverage import augrc, aurc, excess_aurc, risk_coverage_curve
from entropax.uncertainty.roc import auroc
from entropax.uncertainty.selective import coverage_at_accuracy

# As they are, after temperature scaling, and what scaling changes.
SUFFIXES = ("", "_ts", "_change")
# Points of the stored risk-coverage curves.
_POINTS = 200


def metrics(
    examples: Sample, *, accuracies: tuple[float, ...], min_count: int
) -> dict[str, Float[Array, " k"]]:
    """All metrics but the calibration error, of `Examples` with weights."""
    of: Examples = examples.values
    ranking = of.ranking(examples.weights, by="score")
    correct, nll, brier = mean(Sample((of.correct, of.nll, of.brier), examples.weights))
    coverages = {
        f"coverage_at_{accuracy:g}": coverage_at_accuracy(
            ranking, accuracy=accuracy, min_count=min_count
        )
        for accuracy in accuracies
    }
    return {
        "accuracy": correct,
        "auroc": auroc(ranking),
        "aurc": aurc(ranking),
        "excess_aurc": excess_aurc(ranking),
        "augrc": augrc(ranking),
        **coverages,
        "nll": nll,
        "brier": brier,
    }


def error(examples: Sample, *, bins: int) -> dict[str, Float[Array, " k"]]:
    """The calibration error of `Examples` with weights."""
    ranking = examples.values.ranking(examples.weights, by="confidence")
    return {"ece": calibration_error(ranking, num_bins=bins)}


def _methods(
    accuracies: tuple[float, ...], min_count: int, bins: int
) -> list[tuple[Callable[[Sample], dict[str, Array]], str]]:
    """Metrics with the kind of interval they have: every resample has more calibration error."""
    return [
        (functools.partial(metrics, accuracies=accuracies, min_count=min_count), "percentile"),
        (functools.partial(error, bins=bins), "basic"),
    ]


# Compiled once for all models.
@functools.partial(
    jax.jit, static_argnames=("accuracies", "min_count", "bins", "level", "resamples")
)
def _intervals(
    key: Array, pair: Sample, *, level: float, resamples: int, **options: Any
) -> list[Any]:
    def with_change(metric: Callable[..., Any], examples: Sample) -> dict[str, Array]:
        return {
            name: jnp.append(values, values[1] - values[0])
            for name, values in metric(examples).items()
        }

    return [
        bootstrap(
            key,
            functools.partial(with_change, metric),
            pair,
            num_replicates=resamples,
            level=level,
            method=method,
        )
        for metric, method in _methods(**options)
    ]


def measure(config: Config, outputs: Outputs) -> dict[str, Any]:
    """All metrics of a model with intervals, and its curves.

    Returns:
      JSON values: the fitted temperature, `values` by metric, each with the `SUFFIXES`, as
      `[value, lower, upper]`; and `curves`. What does not exist is None.
    """
    model = prepare(config, outputs)
    found = _intervals(jax.random.key(config.seed), sample(model.examples), **_options(config))
    values = {
        name + suffix: [_number(end[name][i]) for end in (part.value, part.lower, part.upper)]
        for part in found
        for i, suffix in enumerate(SUFFIXES)
        for name in part.value
    }
    # An interval that mirrors the resamples may reach below 0, which no error does.
    for name in ("ece", "ece_ts"):
        values[name] = [None if end is None else max(end, 0.0) for end in values[name]]
    n = len(model.examples.correct)
    return {
        "classes": outputs.logits.shape[1],
        "fitted": len(outputs.labels) - n,
        "measured": n,
        "temperature": _number(model.temperature),
        "temperature_status": model.status,
        "values": values,
        "curves": _curves(config, model.examples),
    }


def _options(config: Config) -> dict[str, Any]:
    names = ("accuracies", "min_count", "bins", "level", "resamples")
    return {name: getattr(config, name) for name in names}


def _number(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None


def _curves(config: Config, examples: Examples) -> dict[str, dict[str, list[float | None]]]:
    """The risk at equally spaced coverages, and the bins of the reliability diagram."""
    n = len(examples.correct)
    risk, reliability = _compiled_curves(examples, bins=config.bins, level=config.level)
    places = np.unique(np.ceil(np.linspace(0, n, _POINTS + 1)[1:]).astype(int) - 1)
    columns = {
        "coverage": risk.coverage[:, places],
        "risk": risk.risk[:, places],
        "confidence": reliability.confidence,
        "bin_accuracy": reliability.accuracy,
        "bin_lower": reliability.accuracy_lower,
        "bin_upper": reliability.accuracy_upper,
        "bin_count": reliability.weight,
    }
    return {
        suffix: {name: [_number(x) for x in np.asarray(v)[i]] for name, v in columns.items()}
        for i, suffix in enumerate(("", "_ts"))
    }


@functools.partial(jax.jit, static_argnames=("bins", "level"))
def _compiled_curves(examples: Examples, *, bins: int, level: float) -> tuple[Any, Any]:
    weights = jnp.ones(len(examples.correct))
    confidence = examples.ranking(weights, by="confidence")
    return (
        risk_coverage_curve(examples.ranking(weights, by="score")),
        reliability_curve(confidence, num_bins=bins, level=level),
    )


def difference(config: Config, column: str, first: Outputs, second: Outputs) -> Difference:
    """A column of the results, of one model less that of another, on the same resamples."""
    name = column.removesuffix("_ts")
    sides = [sample(prepare(config, outputs).examples) for outputs in (first, second)]
    found = _differences(jax.random.key(config.seed), *sides, name=name, **_options(config))
    version = int(name != column)
    return jax.tree.map(lambda x: x[version] if x.ndim else x, found)


@functools.partial(
    jax.jit, static_argnames=("name", "accuracies", "min_count", "bins", "level", "resamples")
)
def _differences(
    key: Array,
    first: Sample,
    second: Sample,
    *,
    name: str,
    level: float,
    resamples: int,
    **options: Any,
) -> Difference:
    metric, method = _methods(**options)[name == "ece"]
    return compare(
        key,
        lambda examples: metric(examples)[name],
        first,
        second,
        num_replicates=resamples,
        level=level,
        method=method,
    )
