"""Label flips with the face of every estimator: the curve of `fit_flip_curve`, compiled.

The curve is fitted on the host in float64. What goes into compiled code is a table of it, and of
the curves that each leave one split out, fine enough to be exact to 2e-6.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple, cast, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from entropax.estimation.base import Estimator, Evidence, correctness
from entropax.estimation.flip_curve import Curve, Form, fit_flip_curve
from entropax.estimation.jackknife import SMALLEST_ERROR
from entropax.tta import confidence_rank, flip_rate
from entropax.types import Array
from entropax.uncertainty import Sample

Pair = tuple[Float[Array, "n c"], Float[Array, "n c"]]

# Of the straight lines between the entries of the table; as much again is for float32.
_TOLERANCE = 1e-6


class FlipTable(NamedTuple):
    """A `FlipCurve` as arrays.

    Attributes:
      rates: `[g]` flip rates, rising from 0 to 1.
      curve: `[g]` accuracies there.
      left_out: `[s, g]` the same, by the curves that were fitted without one split.
      residuals: `[s]` as those of `FlipCurve`.
      lowest: smallest rate of the splits.
      highest: largest.
    """

    rates: Float[Array, " g"]
    curve: Float[Array, " g"]
    left_out: Float[Array, "s g"]
    residuals: Float[Array, " s"]
    lowest: Float[Array, ""]
    highest: Float[Array, ""]


def label_flips(*, weighted: bool = True, form: str = "quadratic") -> Estimator:
    r"""Estimator by the labels that flip while a network adapts; see `tta.flip_rate`.

    `fit` takes labelled splits, several corruptions of a set: logits before and after adaptation
    `([s, m, c], [s, m, c])` and labels `[s, m]`, 4 splits or more, and whose accuracy is wanted:
    `of="before"`, `of="after"`, or other logits `[s, m, c]` of the same examples, such as those of
    the source network with running statistics. It runs on the host and cannot be compiled.
    `estimate` takes a pair `([n, c], [n, c])`, before and after as many steps by the same adapter.

    To the bootstrap over the examples, which carries the error of the rate through the curve, the
    interval adds on both sides the wider side of the jackknife+ of `FlipCurve.estimate`; so it
    contains that of the curve at the rate that was found. Beyond the rates of the splits, which is
    flagged, the wider side is the whole way down to 0, or up to 1. An interval of level l takes at
    least 1 / (1 - l) - 1 splits, or it is [0, 1].

    Args:
      weighted: weigh each flip by the rank of the confidence before.
      form: of the curve, as for `fit_flip_curve`.

    Returns:
      The estimator. Its `fit` raises a ValueError for fewer than 4 splits, a split without
      examples, logits or labels that are not valid, and when it is compiled.

    Raises:
      ValueError: an unknown form.

    Reference: O. Press et al., "The entropy enigma: success and failure of entropy minimization"
    (2024), section 4.

    >>> before = jnp.stack([jnp.eye(4)] * 5)
    >>> after = jnp.stack([jnp.eye(4).at[:, 0].add(2.0 * (jnp.arange(4) < k)) for k in range(5)])
    >>> labels = jnp.stack([jnp.where(jnp.arange(4) < k, 0, jnp.arange(4)) for k in range(5)])
    >>> flips = label_flips(weighted=False, form="linear")
    >>> fitted = flips.fit((before, after), labels)  # as accurate as labels have not flipped
    >>> pair = before[2], after[2]
    >>> found = flips.estimate(jax.random.key(0), fitted, pair, num_replicates=20)
    >>> round(float(found.value), 3)
    0.75
    """
    if form not in get_args(Form):
        raise ValueError(f"`form` must be one of {', '.join(get_args(Form))}, got {form!r}.")

    def fit(
        outputs: tuple[Float[Array, "s m c"], Float[Array, "s m c"]],
        labels: Int[Array, "s m"],
        *,
        of: str | Float[Array, "s m c"] = "before",
        where: Bool[Array, "s m"] | None = None,
    ) -> FlipTable:
        before, after = outputs
        if isinstance(of, str) and of not in ("before", "after"):
            raise ValueError(f"`of` must be 'before', 'after' or logits, got {of!r}.")
        truth = {"before": before, "after": after}[of] if isinstance(of, str) else of
        before, after, truth = map(_in_float32, (before, after, truth))
        where = jnp.ones(labels.shape, bool) if where is None else where
        if any(isinstance(a, jax.core.Tracer) for a in (before, after, labels, truth, where)):
            raise ValueError(
                "The curve of `label_flips` is fitted on the host: call `fit` outside of jit and "
                "vmap, and pass what it returns."
            )
        if not bool(jnp.all(jnp.any(where, axis=-1))):
            raise ValueError("Every calibration split needs an example that counts.")
        flipped = _flipped(before, after)
        right = correctness(truth, labels)
        if bool(jnp.any(jnp.isnan(jnp.where(where, flipped + right, 0)))):
            raise ValueError(
                "The calibration splits hold a logit that is NaN, or a label that is not one of "
                f"the {before.shape[-1]} classes."
            )
        rates = np.asarray(jax.vmap(_rate)(before, after, where), float)
        accuracies = np.asarray(jnp.mean(right, axis=-1, where=where), float)
        # The curve's own name of its target is for people; here it is whatever `of` says.
        curve = fit_flip_curve(rates, accuracies, target="batch_statistics", form=cast(Form, form))
        curves = (curve.curve, *curve.left_out)
        grid = _grid(curves, rates)
        table = jnp.asarray(np.stack([f(grid) for f in curves]), before.dtype)
        return FlipTable(
            jnp.asarray(grid, before.dtype),
            table[0],
            table[1:],
            jnp.asarray(curve.residuals, before.dtype),
            *(jnp.asarray(rate, before.dtype) for rate in curve.fitted_range),
        )

    def _rate(before: Array, after: Array, where: Array) -> Float[Array, ""]:
        rank = confidence_rank(_confidence(before, where), where=where) if weighted else None
        labels0, labels = jnp.argmax(before, axis=-1), jnp.argmax(after, axis=-1)
        return flip_rate(labels0, labels, weight=rank, where=where)

    def evidence(
        fitted: FlipTable,
        outputs: Pair,
        *,
        where: Bool[Array, " n"] | None = None,
    ) -> Evidence:
        before, after = map(_in_float32, outputs)
        where = jnp.ones(len(before), bool) if where is None else where
        confidence = _confidence(before, where)
        order = jnp.argsort(confidence)
        first, last = (
            jnp.searchsorted(confidence[order], confidence, side=side) for side in ("left", "right")
        )

        def statistic(data: Sample) -> Float[Array, ""]:
            weights = data.weights
            number = jnp.sum(weights)
            # Copies of an example tie with it, so that they share the average of their ranks.
            up_to = jnp.concatenate([jnp.zeros(1, weights.dtype), jnp.cumsum(weights[order])])
            rank = (up_to[first] + up_to[last] + 1) / (2 * number) if weighted else 1.0
            terms = jnp.where(weights != 0, weights * rank * data.values, 0)
            return jnp.interp(jnp.sum(terms) / number, fitted.rates, fitted.curve)

        rate = _rate(before, after, where)
        # Rounding does not put a split outside of its own range.
        beyond = rate > fitted.highest + _TOLERANCE
        short = rate < fitted.lowest - _TOLERANCE

        def margin(level: float) -> Float[Array, ""] | float:
            splits = len(fitted.residuals)
            tail = math.floor((1 - level) * (splits + 1) + 1e-9)
            if tail == 0:
                return 1.0
            value = jnp.interp(rate, fitted.rates, fitted.curve)
            centre = jax.vmap(lambda curve: jnp.interp(rate, fitted.rates, curve))(fitted.left_out)
            spread = fitted.residuals * jnp.maximum(1 - centre, SMALLEST_ERROR)
            lower = jnp.sort(centre - spread)[tail - 1]
            upper = jnp.sort(centre + spread)[-tail]
            lower, upper = jnp.where(beyond, 0, lower), jnp.where(short, 1, upper)
            return jnp.maximum(0, jnp.maximum(value - lower, upper - value))

        return Evidence(_flipped(before, after), statistic, beyond | short, margin)

    return Estimator(fit, evidence)


def _in_float32(logits: Float[Array, "*batch n c"]) -> Float[Array, "*batch n c"]:
    """At least: a share of 60 examples is not a number in half precision."""
    return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))


def _confidence(logits: Float[Array, "n c"], where: Bool[Array, " n"]) -> Float[Array, " n"]:
    """Padding goes to the end of the order, where it is below nobody."""
    return jnp.where(where, jnp.max(jax.nn.softmax(logits), axis=-1), jnp.inf)


def _flipped(
    before: Float[Array, "*batch n c"], after: Float[Array, "*batch n c"]
) -> Float[Array, "*batch n"]:
    differs = jnp.argmax(before, axis=-1) != jnp.argmax(after, axis=-1)
    invalid = jnp.any(jnp.isnan(before) | jnp.isnan(after), axis=-1)
    return jnp.where(invalid, jnp.nan, differs.astype(before.dtype))


def _grid(curves: Sequence[Curve], rates: np.ndarray) -> np.ndarray:
    """Rates between which straight lines follow every curve to the tolerance.

    Intervals are halved where the middle of a curve is further from the line, until it is not or
    float32 knows no rate between their ends.
    """
    grid = np.union1d(np.linspace(0, 1, 257), rates).astype(np.float32)
    values = np.stack([curve(grid.astype(float)) for curve in curves])
    while True:
        middle = grid[:-1] / 2 + grid[1:] / 2
        found = np.stack([curve(middle.astype(float)) for curve in curves])
        share = (middle - grid[:-1].astype(float)) / np.diff(grid.astype(float))
        line = values[:, :-1] + share * np.diff(values)
        split = np.max(np.abs(found - line), axis=0) > _TOLERANCE
        split &= (middle > grid[:-1]) & (middle < grid[1:])
        if not split.any():
            return grid.astype(float)
        places = np.flatnonzero(split) + 1
        grid = np.insert(grid, places, middle[split])
        values = np.insert(values, places, found[:, split], axis=1)
