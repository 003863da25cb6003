"""Means over a stream: losses, and what the bins of a calibration error are made of.

Each sum is kept in two float32 numbers, the sum and what its rounding has left out, so that neither
the length of the stream nor the order of merging shows in float32 results.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, Num, PyTree, UInt32

from entropax.types import Array
from entropax.uncertainty.accumulators import FULL, Accumulator, add_counts, gather, psum_counts
from entropax.uncertainty.bins import Bins, equal_width_edges
from entropax.uncertainty.forecasts import is_probability


class Sum(NamedTuple):
    """A sum in twice the precision.

    Attributes:
      total: the sum, rounded.
      residue: what the rounding has left out.
    """

    total: Float[Array, "*shape"]
    residue: Float[Array, "*shape"]


class MeanState(NamedTuple):
    """Sums over a stream.

    Attributes:
      sums: the sum of each kind of term.
      num_examples: number of examples.
    """

    sums: PyTree[Sum]
    num_examples: UInt32[Array, ""]


class CalibrationState(NamedTuple):
    """Forecasts of a stream, by bin of confidence.

    Attributes:
      number: `[b]` number of forecasts.
      correct: `[b]` how many of them came true.
      confidence: `[b]` sum of their confidences.
      invalid: forecasts with a confidence outside [0, 1], NaN, or a `correct` that is not 0 or 1.
        The result is NaN unless this is 0.
    """

    number: UInt32[Array, " b"]
    correct: UInt32[Array, " b"]
    confidence: Sum
    invalid: Int[Array, ""]


class Calibration(NamedTuple):
    """Binned calibration errors of a stream.

    Attributes:
      bins: count, mean confidence and accuracy of each bin, for a reliability diagram.
      expected: expected calibration error (ECE).
      root_mean_square: root mean square calibration error.
      maximum: maximum calibration error (MCE).
    """

    bins: Bins
    expected: Float[Array, ""]
    root_mean_square: Float[Array, ""]
    maximum: Float[Array, ""]


def mean_accumulator(like: PyTree[Any] = 0.0) -> Accumulator:
    r"""Mean of terms that examples have: negative log-likelihood, Brier score, accuracy.

    `update(state, terms, where=None)` takes terms `[b]`, or a tree of such arrays; `compute` gives
    the means in float32, NaN before the first example and from 2**32 - 1 examples on, and NaN or
    infinite where a term is.

    Args:
      like: anything of the structure of the terms; a single array of them by default.

    >>> accumulator = mean_accumulator({"loss": 0, "hit": 0})
    >>> terms = {"loss": jnp.array([0.5, 1.0]), "hit": jnp.array([True, False])}
    >>> means = accumulator.compute(accumulator.update(accumulator.init(), terms))
    >>> float(means["loss"]), float(means["hit"])
    (0.75, 0.5)
    """

    def init() -> MeanState:
        return MeanState(jax.tree.map(lambda _: _zero(()), like), jnp.zeros((), jnp.uint32))

    def update(
        state: MeanState,
        terms: PyTree[Num[Array, " b"] | Bool[Array, " b"]],
        *,
        where: Bool[Array, " b"] | None = None,
    ) -> MeanState:
        if where is None:
            where = jnp.ones(jax.tree.leaves(terms)[0].shape, bool)

        def add(terms: Array, total: Sum) -> Sum:
            return _add(total, _sum(jnp.where(where, terms.astype(jnp.float32), 0)))

        sums = jax.tree.map(add, terms, state.sums)
        number = add_counts(state.num_examples, jnp.sum(where, dtype=jnp.uint32))
        return MeanState(sums, number)

    def merge(state: MeanState, other: MeanState) -> MeanState:
        sums = jax.tree.map(_add, state.sums, other.sums, is_leaf=_is_sum)
        return MeanState(sums, add_counts(state.num_examples, other.num_examples))

    def psum(state: MeanState, axis_name: str) -> MeanState:
        sums = jax.tree.map(lambda x: _psum(x, axis_name), state.sums, is_leaf=_is_sum)
        return MeanState(sums, psum_counts(state.num_examples, axis_name))

    def compute(state: MeanState) -> PyTree[Float[Array, ""]]:
        count = jnp.where(state.num_examples == FULL, jnp.nan, state.num_examples)
        return jax.tree.map(lambda x: (x.total + x.residue) / count, state.sums, is_leaf=_is_sum)

    return Accumulator(init, update, merge, psum, compute)


def calibration_accumulator(*, num_bins: int = 15) -> Accumulator:
    r"""Calibration errors of a stream, in bins of equal width, as `calibration_error` has them.

    `update(state, confidence, correct, where=None)` takes confidences `[b]` in [0, 1] and
    `correct` `[b]`, 0 or 1. `compute` gives a `Calibration`, of errors that are NaN once a bin has
    2**32 - 1 forecasts.

    Args:
      num_bins: number of bins.

    Raises:
      ValueError: if `num_bins` is not positive.

    >>> accumulator = calibration_accumulator(num_bins=10)
    >>> confidence, correct = jnp.array([0.9, 0.9, 0.6, 0.6]), jnp.array([1, 1, 1, 0])
    >>> state = accumulator.update(accumulator.init(), confidence, correct)
    >>> round(float(accumulator.compute(state).expected), 4)
    0.1
    """
    if num_bins < 1:
        raise ValueError(f"`num_bins` must be positive, got {num_bins}.")
    edges = equal_width_edges(num_bins)

    def init() -> CalibrationState:
        counts = jnp.zeros(num_bins, jnp.uint32)
        return CalibrationState(counts, counts, _zero((num_bins,)), jnp.zeros((), jnp.int32))

    def update(
        state: CalibrationState,
        confidence: Float[Array, " b"],
        correct: Num[Array, " b"] | Bool[Array, " b"],
        *,
        where: Bool[Array, " b"] | None = None,
    ) -> CalibrationState:
        where = jnp.ones(confidence.shape, bool) if where is None else where
        valid = is_probability(confidence) & ((correct == 0) | (correct == 1))
        confidence = jnp.clip(confidence, 0, 1).astype(jnp.float32)
        index = jnp.searchsorted(edges[1:-1], confidence, side="left", method="compare_all")
        inside = (index[:, None] == jnp.arange(num_bins)) & (where & valid)[:, None]
        sums = _sum(jnp.where(inside, confidence[:, None], 0))
        came_true = inside & (correct != 0)[:, None]
        return CalibrationState(
            add_counts(state.number, jnp.sum(inside, axis=0, dtype=jnp.uint32)),
            add_counts(state.correct, jnp.sum(came_true, axis=0, dtype=jnp.uint32)),
            _add(state.confidence, sums),
            state.invalid + jnp.sum(where & ~valid, dtype=jnp.int32),
        )

    def merge(state: CalibrationState, other: CalibrationState) -> CalibrationState:
        return CalibrationState(
            add_counts(state.number, other.number),
            add_counts(state.correct, other.correct),
            _add(state.confidence, other.confidence),
            state.invalid + other.invalid,
        )

    def psum(state: CalibrationState, axis_name: str) -> CalibrationState:
        return CalibrationState(
            psum_counts(state.number, axis_name),
            psum_counts(state.correct, axis_name),
            _psum(state.confidence, axis_name),
            jax.lax.psum(state.invalid, axis_name),
        )

    def compute(state: CalibrationState) -> Calibration:
        count, correct = (x.astype(jnp.float32) for x in (state.number, state.correct))
        strange = (state.invalid > 0) | jnp.any(state.number == FULL)
        total = jnp.where(strange, jnp.nan, jnp.sum(count))
        confidence = (state.confidence.total + state.confidence.residue) / count
        bins = Bins(
            jnp.asarray(edges[:-1]), jnp.asarray(edges[1:]), count, confidence, correct / count
        )
        # The numbers of correct ones are whole and exact: nothing is lost before the difference.
        excess = (state.confidence.total - correct) + state.confidence.residue
        gap = jnp.where(count > 0, excess / jnp.maximum(count, 1), 0)
        worst = jnp.where(total > 0, jnp.max(jnp.abs(gap)), jnp.nan)
        squares = jnp.sum(count / total * jnp.square(gap))
        return Calibration(bins, jnp.sum(jnp.abs(excess)) / total, jnp.sqrt(squares), worst)

    return Accumulator(init, update, merge, psum, compute)


def _is_sum(x: Any) -> bool:
    return isinstance(x, Sum)


def _zero(shape: tuple[int, ...]) -> Sum:
    return Sum(jnp.zeros(shape, jnp.float32), jnp.zeros(shape, jnp.float32))


def _add(a: Sum, b: Sum) -> Sum:
    """Add, and keep what rounding leaves out (Knuth's two-sum); infinite and NaN sums stay so."""
    total = a.total + b.total
    part = total - a.total
    residue = (a.total - (total - part)) + (b.total - part) + (a.residue + b.residue)
    rounded = total + residue
    finite = jnp.isfinite(total)
    return Sum(jnp.where(finite, rounded, total), jnp.where(finite, residue - (rounded - total), 0))


def _sum(terms: Float[Array, "b *shape"]) -> Sum:
    """Sum over the first axis, in pairs."""
    sums = Sum(terms, jnp.zeros_like(terms))
    while len(sums.total) > 1:
        if len(sums.total) % 2:
            sums = Sum(*(jnp.concatenate([x, jnp.zeros_like(x[:1])]) for x in sums))
        half = len(sums.total) // 2
        sums = _add(Sum(*(x[:half] for x in sums)), Sum(*(x[half:] for x in sums)))
    return jax.tree.map(lambda x: x[0], sums)


def _psum(x: Sum, axis_name: str) -> Sum:
    of_totals, of_residues = (_sum(gather(part, axis_name)) for part in x)
    return _add(of_totals, of_residues)
