"""Every estimator on what was observed of a network and an adapter."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from entropax import estimation, tta
from entropax.estimation import Estimator, FlipCurve, fit_flip_curve, fit_stack
from entropax.estimation.flip_curve import Form, Target
from entropax.experiments.tta_benchmark.observations import Observed
from entropax.types import Array
from entropax.uncertainty.temperature import fit_temperature

# Fitted on the clean validation images.
FROM_CLEAN: Mapping[str, Callable[[], Estimator]] = {
    "AC": estimation.mean_confidence,
    "DoC": estimation.difference_of_confidences,
    "IM": estimation.importance_weighting,
    "ATC-MC": lambda: estimation.average_thresholded_confidence(score="confidence"),
    "ATC-NE": lambda: estimation.average_thresholded_confidence(score="entropy"),
    "COT": estimation.confidence_transport,
    "COTT": estimation.thresholded_transport,
}
# What the stack is made of besides the rate of unweighted flips: one of each kind, chosen on
# digits and Fashion-MNIST.
MEMBERS = ("ATC-NE", "COT", "nuclear norm", "MaNo", "GDE")
# Fitted on all validation splits, the corrupted ones as well.
FROM_SPLITS: Mapping[str, Callable[[], Estimator]] = {
    "nuclear norm": estimation.nuclear_norm,
    "MaNo": estimation.mano,
}
TARGETS: tuple[Target, ...] = ("source", "batch_statistics", "adapted")


class Row(NamedTuple):
    """An estimate beside the truth; rates are in [0, 1].

    Attributes:
      network: name of the architecture or file.
      seed: of the network.
      adapter: whose flips count, and what `adapted` means.
      target: whose accuracy.
      family: calibration, test or target.
      corruption: its name.
      severity: 1 to 5; 0 for images as they are.
      estimator: its name.
      accuracy: the truth; NaN without labels.
      value: the estimate.
      lower: lower end of its interval.
      upper: upper end.
      extrapolated: what the estimator says of itself.
    """

    network: str
    seed: int
    adapter: str
    target: Target
    family: str
    corruption: str
    severity: int
    estimator: str
    accuracy: float
    value: float
    lower: float
    upper: float
    extrapolated: bool


class Numbers(NamedTuple):
    """Estimates of several splits; every field is an array `[s]`."""

    value: Float[np.ndarray, " s"]
    lower: Float[np.ndarray, " s"]
    upper: Float[np.ndarray, " s"]
    extrapolated: Any


def accuracies(observed: Sequence[Observed], target: Target) -> Float[np.ndarray, " s"]:
    """The truth for each split; NaN without labels."""
    found = []
    for each in observed:
        right = logits_of(each, target).argmax(-1) == each.labels
        found.append(np.nan if each.labels is None else float(np.mean(right)))
    return np.array(found)


def logits_of(observed: Observed, target: Target) -> Float[np.ndarray, "n c"]:
    """The logits of the network in question."""
    if target == "adapted":
        return observed.after.adapted
    return {
        "source": observed.before.source,
        "batch_statistics": observed.before.batch_statistics,
    }[target]


def flip_counts(
    observed: Observed, *, stretch: int = -1, held: int | None = None
) -> dict[str, tuple[float, float]]:
    """Flip rate and standard error, weighted and unweighted.

    Args:
      observed: network, adapter and split.
      stretch: which look at the held images, from 0; by default the last.
      held: count flips among so many images, drawn at random, the same ones every time: images may
        be sorted by class. By default among all.
    """
    before, labels = observed.before.batch_statistics, observed.after.labels[stretch]
    if held is not None:
        drawn = np.sort(np.random.default_rng(0).permutation(len(labels))[:held])
        before, labels = before[drawn], labels[drawn]
    logits, later = jnp.asarray(before), jnp.asarray(labels, jnp.int32)
    first = jnp.argmax(logits, axis=-1)
    rank = tta.confidence_rank(jnp.max(jax.nn.softmax(logits), axis=-1))
    found = {}
    for name, weight in (("weighted", rank), ("unweighted", None)):
        rate = tta.flip_rate(first, later, weight=weight)
        stderr = tta.flip_rate_stderr(first, later, weight=weight)
        found[name] = (float(rate), float(stderr))
    return found


def estimate_all(
    observed: Sequence[Observed],
    target: Target,
    *,
    key: Array,
    source_labels: Int[np.ndarray, " m"],
    form: Form,
    temperature: bool,
    level: float,
) -> dict[str, Numbers]:
    """The estimates of every estimator for every split.

    Args:
      observed: all splits of a network and an adapter.
      target: whose accuracy.
      key: of the bootstrap.
      source_labels: of other images of the source, whose frequencies COT takes for the target's.
        Those of the validation images would be exact for the calibration splits, and for no other.
      form: of the flip curves.
      temperature: whether logits are scaled first.
      level: nominal coverage of the intervals.
    """
    calibration = [each for each in observed if each.split.family == "calibration"]
    clean = next(each for each in calibration if each.split.severity == 0)
    assert clean.labels is not None
    labels = jnp.asarray(clean.labels, jnp.int32)
    scale = 1.0
    if temperature:
        fitted = fit_temperature(jnp.asarray(logits_of(clean, target)), labels)
        scale = float(fitted.inverse_temperature)
    logits = [jnp.asarray(logits_of(each, target)) * scale for each in observed]
    of_calibration = jnp.stack(
        [jnp.asarray(logits_of(each, target)) * scale for each in calibration]
    )

    found = {}
    for name, build in FROM_CLEAN.items():
        known, known_labels = jnp.asarray(logits_of(clean, target)) * scale, labels
        if name == "COT":  # it looks at the labels alone
            known_labels = jnp.asarray(source_labels, jnp.int32)
            known = jnp.zeros((len(known_labels), known.shape[-1]))
        fitted_to = build().fit(known, known_labels)
        found[name] = _numbers(name, key, fitted_to, logits, level)
    for name, build in FROM_SPLITS.items():
        fitted_to = build().fit(of_calibration, jnp.tile(labels, (len(calibration), 1)))
        found[name] = _numbers(name, key, fitted_to, logits, level)
    if target != "adapted" and _has_partner(clean):
        others = [getattr(each.before, f"partner_{target}") for each in observed]
        pairs = [(own, jnp.asarray(other)) for own, other in zip(logits, others, strict=True)]
        found["GDE"] = _numbers("GDE", key, (), pairs, level)
    if target != "source":
        stored = [getattr(each, _BEFORE_OR_AFTER[target]).dropout for each in observed]
        columns = np.array(stored, float).T
    if target != "source" and not np.isnan(columns[0]).all():  # a teacher has no passes
        found["AETTA"] = Numbers(columns[0], columns[1], columns[2], columns[3] > 0)
    truth = accuracies(calibration, target)
    constant = np.full(len(observed), truth.mean())
    found["constant"] = Numbers(constant, constant, constant, np.zeros(len(observed), bool))
    for kind in ("weighted", "unweighted"):
        found[f"flips, {kind}"] = flip_estimates(
            observed, target, kind=kind, form=form, level=level
        )
    found["stack"] = stacked(observed, target, found, level=level)
    return found


def stacked(
    observed: Sequence[Observed], target: Target, found: Mapping[str, Numbers], *, level: float
) -> Numbers:
    """One estimate from several, fitted on the calibration splits, corruptions left out whole."""
    # Of flips the rate itself: a curve through the calibration splits has seen them.
    rates = np.array([flip_counts(each)["unweighted"][0] for each in observed])
    members = [found[name].value for name in MEMBERS if name in found]
    estimates = np.stack([*members, 1 - rates], axis=-1)
    fitted = np.array([each.split.family == "calibration" for each in observed])
    calibration = [each for each, use in zip(observed, fitted, strict=True) if use]
    stack = fit_stack(
        estimates[fitted],
        accuracies(calibration, target),
        groups=[each.split.name for each in calibration],
        target=target,
    )
    numbers = stack.estimate(estimates, level=level)
    return Numbers(
        np.asarray(numbers.value),
        np.asarray(numbers.lower),
        np.asarray(numbers.upper),
        np.asarray(numbers.extrapolated),
    )


def flip_estimates(
    observed: Sequence[Observed],
    target: Target,
    *,
    kind: str = "weighted",
    form: Form = "quadratic",
    level: float = 0.9,
    stretch: int = -1,
    held: int | None = None,
    curve: FlipCurve | None = None,
) -> Numbers:
    """Estimates from label flips, by a curve fitted on the calibration splits unless it is given.

    Where no step learnt from anything nothing could flip: the interval is all of [0, 1] then.
    """
    counts = [flip_counts(each, stretch=stretch, held=held)[kind] for each in observed]
    rates, stderrs = np.array(counts).T
    fitted = np.array([each.split.family == "calibration" for each in observed])
    if curve is None:
        of_calibration = [each for each, use in zip(observed, fitted, strict=True) if use]
        truth = accuracies(of_calibration, target)
        curve = fit_flip_curve(rates[fitted], truth, target=target, form=form)
    found = curve.estimate(rates, stderr=stderrs, level=level)
    idle = np.array([each.after.selected.sum() == 0 for each in observed])
    return Numbers(
        np.asarray(found.value),
        np.where(idle, 0, found.lower),
        np.where(idle, 1, found.upper),
        np.asarray(found.extrapolated) | idle,
    )


def _has_partner(observed: Observed) -> bool:
    """Whether there is a second network to disagree; a network alone is its own partner."""
    return not np.array_equal(observed.before.source, observed.before.partner_source)


_BEFORE_OR_AFTER = {"batch_statistics": "before", "adapted": "after"}


@cache
def _compiled(name: str, level: float) -> Callable[..., Any]:
    build = {**FROM_CLEAN, **FROM_SPLITS, "GDE": estimation.disagreement}[name]
    estimator = build()
    return jax.jit(
        lambda key, fitted, outputs: estimator.estimate(key, fitted, outputs, level=level)
    )


def _numbers(name: str, key: Array, fitted: Any, outputs: Sequence[Any], level: float) -> Numbers:
    estimate = _compiled(name, level)
    found = [jax.tree.map(np.asarray, estimate(key, fitted, each)) for each in outputs]
    return Numbers(
        *(np.array([getattr(each, field) for each in found]) for field in Numbers._fields)
    )
