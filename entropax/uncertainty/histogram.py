"""Ranking metrics of an endless stream, from a histogram with narrow bins where networks are sure.

Sharp networks put most of their confidences within a thousandth of 1. Bins of equal width put all
of these into one, and with 200 of them an AUROC is off by 0.02. The leading bits of a
floating-point number divide every interval from one power of 2 to the next into 128 bins: those of
the confidence below one half, and of what it lacks to 1 above.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, Num, UInt32

from entropax.types import Array
from entropax.uncertainty.accumulators import FULL, Accumulator, add_counts, psum_counts
from entropax.uncertainty.forecasts import is_probability
from entropax.uncertainty.ordering import Ranking

# Sign, exponent and seven bits of the fraction of a float32 number.
_SHIFT = 16
# Bins from a confidence of 1 down to one half, which has a bin of its own; then those down to 0.
_NUM_UPPER = (0x3F000000 >> _SHIFT) + 1
_NUM_BINS = 2 * _NUM_UPPER - 1
_LARGEST_TOTAL = 2.0**31


class HistogramState(NamedTuple):
    """How many predictions a stream has brought, by confidence and by whether they were correct.

    Attributes:
      counts: `[2, 32257]` wrong and correct predictions by bin, from a confidence of 1 to 0; one
        that does not fit stays at the largest number.
      invalid: predictions with a confidence outside [0, 1], NaN, or a `correct` that is not 0 or 1.
        The result is NaN unless this is 0.
    """

    counts: UInt32[Array, "2 b"]
    invalid: Int[Array, ""]


def histogram_accumulator() -> Accumulator:
    r"""Ranking metrics of a stream of any length, in 260 kB.

    `update(state, confidence, correct, where=None)` takes confidences `[b]` in [0, 1] and
    `correct` `[b]`, 0 or 1. `compute` gives a `Ranking` with two rows a bin, correct and wrong,
    whose weights are the counts: whole numbers, exact up to two thousand million predictions, and
    NaN scores beyond. Confidences of a bin count as equal. On 24 simulated sets of 50,000
    predictions AUROC and AURC were off by up to 1e-5 (1e-6 for sharp networks), AUGRC by 2e-6, and
    the calibration error by 3e-4. A coverage at an accuracy was off by up to 5e-3, and may be by
    more where the accuracy hardly depends on the coverage, since only whole bins are kept.

    A row stands for many examples, so that the bootstrap of this ranking has no interval.

    >>> from entropax.uncertainty.roc import auroc
    >>> accumulator = histogram_accumulator()
    >>> confidence, correct = jnp.array([0.9, 0.8, 0.3, 0.3]), jnp.array([1, 0, 1, 0])
    >>> state = accumulator.update(accumulator.init(), confidence, correct)
    >>> float(auroc(accumulator.compute(state)))
    0.625
    """
    return Accumulator(_init, _update, _merge, _psum, _compute)


def _init() -> HistogramState:
    return HistogramState(jnp.zeros((2, _NUM_BINS), jnp.uint32), jnp.zeros((), jnp.int32))


def _update(
    state: HistogramState,
    confidence: Float[Array, " b"],
    correct: Num[Array, " b"] | Bool[Array, " b"],
    *,
    where: Bool[Array, " b"] | None = None,
) -> HistogramState:
    where = jnp.ones(confidence.shape, bool) if where is None else where
    valid = is_probability(confidence) & ((correct == 0) | (correct == 1))
    index = _bin(jnp.where(valid, jnp.clip(confidence, 0, 1), 0))
    counts = state.counts.at[(correct != 0).astype(jnp.int32), index].add(
        (where & valid).astype(jnp.uint32), mode="promise_in_bounds"
    )
    counts = jnp.where(counts < state.counts, FULL, counts)
    return HistogramState(counts, state.invalid + jnp.sum(where & ~valid, dtype=jnp.int32))


def _merge(state: HistogramState, other: HistogramState) -> HistogramState:
    return HistogramState(add_counts(state.counts, other.counts), state.invalid + other.invalid)


def _psum(state: HistogramState, axis_name: str) -> HistogramState:
    invalid = jax.lax.psum(state.invalid, axis_name)
    return HistogramState(psum_counts(state.counts, axis_name), invalid)


def _compute(state: HistogramState) -> Ranking:
    strange = (state.invalid > 0) | (jnp.sum(state.counts, dtype=jnp.float32) >= _LARGEST_TOTAL)
    scores = jnp.where(strange, jnp.nan, jnp.repeat(_bin_confidences(), 2))
    correct = jnp.tile(jnp.array([1.0, 0.0]), _NUM_BINS)
    # Of each bin the correct predictions first; the order of equal scores makes no difference.
    return Ranking(scores, correct, state.counts[::-1].T.reshape(-1).astype(jnp.int32))


def _bin(confidence: Float[Array, " b"]) -> Int[Array, " b"]:
    confidence = confidence.astype(jnp.float32)
    upper = confidence >= 0.5
    # Above one half the difference is exact.
    small = jnp.where(upper, 1 - confidence, confidence)
    key = (jax.lax.bitcast_convert_type(small, jnp.uint32) >> _SHIFT).astype(jnp.int32)
    return jnp.where(upper, key, _NUM_BINS - 1 - key)


def _bin_confidences() -> Float[np.ndarray, " b"]:
    """A confidence in each bin, falling; different ones for any two bins that can be filled.

    In the middle of the bin, or just before: halfway between two float32 numbers it would be
    rounded, to one that belongs to the next bin.
    """
    bits = (np.arange(_NUM_UPPER, dtype=np.uint32) << _SHIFT) | ((1 << (_SHIFT - 1)) - 1)
    small = bits.view(np.float32)
    small[0], small[-1] = 0, 0.5
    return np.concatenate([1 - small, small[-2::-1]])
