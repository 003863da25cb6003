"""Metrics of a stream: a state of bounded size that takes batches, and merges with other states.

An accumulator is a NamedTuple of pure functions. `update` is the body of a scan, `merge` joins what
two streams have seen, `psum` what all devices have, and `compute` gives the result:

    accumulator = ranking_accumulator(capacity=50_000)
    state = accumulator.init()
    for scores, correct in batches:
        state = accumulator.update(state, scores, correct)
    ranking = accumulator.compute(state)  # for auroc(ranking), aurc(ranking) and so on

Which one: `ranking_accumulator` keeps one word an example and loses nothing;
`histogram_accumulator` has a fixed size for ever longer streams and is off by a few millionths;
`calibration_accumulator` and `mean_accumulator` are sums.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, Num, UInt32

from entropax.types import Array
from entropax.uncertainty.ordering import Ranking

# No score has this word: the lowest, 0 and correct, is 0xFF800001.
_EMPTY = np.uint32(0xFFFFFFFF)
_NAN_BITS = np.uint32(0x7FC00000)
# A number of examples that has reached it is not known any more.
FULL = np.uint32(0xFFFFFFFF)


class Accumulator(NamedTuple):
    """Pure functions that gather a result from a stream, safe under jit, scan, vmap and shard_map.

    Attributes:
      init: `init() -> state`, of nothing seen.
      update: `update(state, *arrays, where=None) -> state`, of one more batch `[b]`; rows where
        `where` is False change nothing, whatever they hold.
      merge: `merge(state, other) -> state`, of both streams. Any order gives the same result; of
        rankings with different capacities it has the larger one.
      psum: `psum(state, axis_name) -> state`, of the streams of all devices along a mapped axis.
      compute: `compute(state) -> result`.
    """

    init: Callable[[], Any]
    update: Callable[..., Any]
    merge: Callable[[Any, Any], Any]
    psum: Callable[[Any, str], Any]
    compute: Callable[[Any], Any]


class RankingState(NamedTuple):
    """Scores that a stream has brought, each with whether the prediction was correct.

    Attributes:
      words: `[capacity]` examples, those seen first; the bits of a float32 score, reversed in
        order, and one bit for correct.
      filled: how many words hold an example.
      dropped: examples that did not fit any more. The result is NaN unless this is 0.
    """

    words: UInt32[Array, " capacity"]
    filled: Int[Array, ""]
    dropped: Int[Array, ""]


def ranking_accumulator(capacity: int) -> Accumulator:
    r"""Everything that a ranking metric depends on, exactly, in four bytes an example.

    A float32 score that is not negative has 31 bits that are ordered as the scores are; the last
    bit of a word tells whether the prediction was correct. So one sort of one array restores the
    order.

    `update(state, scores, correct, where=None)` takes scores `[b]`, higher where the network is
    more confident, and `correct` `[b]`, 0 or 1. `compute` gives a `Ranking`. `psum` gives a state
    with the capacity of all devices together.

    Scores have to be 0 or more, as probabilities are; take the exponential of others. After a
    negative score, NaN, or a `correct` that is not 0 or 1, all scores of the ranking are NaN, and
    so is every metric. They are as well once more than `capacity` examples have come, which the
    state counts in `dropped`.

    Args:
      capacity: number of examples that fit.

    Raises:
      ValueError: if `capacity` is not positive.

    >>> accumulator = ranking_accumulator(4)
    >>> state = accumulator.update(accumulator.init(), jnp.array([0.5, 0.9]), jnp.array([1, 0]))
    >>> ranking = accumulator.compute(accumulator.update(state, jnp.array([0.7]), jnp.array([1])))
    >>> ranking.correct.tolist(), ranking.weights.tolist()
    ([0.0, 1.0, 1.0, 0.0], [1.0, 1.0, 1.0, 0.0])
    """
    if capacity < 1:
        raise ValueError(f"`capacity` must be positive, got {capacity}.")

    def init() -> RankingState:
        return RankingState(
            jnp.full(capacity, _EMPTY, jnp.uint32),
            jnp.zeros((), jnp.int32),
            jnp.zeros((), jnp.int32),
        )

    def update(
        state: RankingState,
        scores: Float[Array, " b"],
        correct: Num[Array, " b"] | Bool[Array, " b"],
        *,
        where: Bool[Array, " b"] | None = None,
    ) -> RankingState:
        words = _pack(scores, correct)
        return _append(state, words, jnp.ones(words.shape, bool) if where is None else where)

    def merge(state: RankingState, other: RankingState) -> RankingState:
        if len(other.words) > len(state.words):
            state, other = other, state
        joined = _append(state, other.words, jnp.arange(len(other.words)) < other.filled)
        return joined._replace(dropped=joined.dropped + other.dropped)

    def psum(state: RankingState, axis_name: str) -> RankingState:
        # Empty words are the largest, so that the filled ones come first again.
        words = jax.lax.sort(gather(state.words, axis_name).reshape(-1))
        return RankingState(words, *jax.lax.psum((state.filled, state.dropped), axis_name))

    def compute(state: RankingState) -> Ranking:
        words = jax.lax.sort(state.words)
        filled = words != _EMPTY
        bits = _NAN_BITS - (words >> 1)
        scores = jax.lax.bitcast_convert_type(bits, jnp.float32)
        scores = jnp.where(filled, scores, -jnp.inf)
        strange = jnp.isnan(scores[0]) | (state.dropped > 0)
        correct = jnp.where(filled, words & 1, 0).astype(jnp.float32)
        return Ranking(jnp.where(strange, jnp.nan, scores), correct, filled.astype(jnp.float32))

    return Accumulator(init, update, merge, psum, compute)


def add_counts(a: UInt32[Array, "*shape"], b: UInt32[Array, "*shape"]) -> UInt32[Array, "*shape"]:
    """Add numbers of examples; what does not fit stays at `FULL`, and never starts from 0 again.

    >>> add_counts(jnp.array([7, FULL - 1], jnp.uint32), jnp.array([1, 9], jnp.uint32)).tolist()
    [8, 4294967295]
    """
    total = a + b
    return jnp.where(total < a, FULL, total)


def psum_counts(counts: UInt32[Array, "*shape"], axis_name: str) -> UInt32[Array, "*shape"]:
    """Add the numbers of examples of all devices along a mapped axis, as `add_counts` does."""
    total, size = jax.lax.psum((counts, counts.astype(jnp.float32)), axis_name)
    return jnp.where(size >= FULL * (1 - 1e-6), FULL, total)  # float32 rounds by less


def gather(x: Array, axis_name: str) -> Array:
    """The arrays of all devices along a mapped axis, stacked, and the same on every device.

    A sum of arrays that are 0 except in one row, since of a sum it is known that all devices have
    the same, which `shard_map` wants to know.
    """
    rows = jnp.zeros((jax.lax.axis_size(axis_name), *x.shape), x.dtype)
    return jax.lax.psum(rows.at[jax.lax.axis_index(axis_name)].set(x), axis_name)


def _pack(
    scores: Float[Array, " b"], correct: Num[Array, " b"] | Bool[Array, " b"]
) -> UInt32[Array, " b"]:
    scores = scores.astype(jnp.float32)
    bits = jax.lax.bitcast_convert_type(jnp.abs(scores), jnp.uint32)
    # NaN comes first among sorted words.
    bits = jnp.where((scores >= 0) & ((correct == 0) | (correct == 1)), bits, _NAN_BITS)
    return ((_NAN_BITS - bits) << 1) | (correct != 0).astype(jnp.uint32)


def _append(
    state: RankingState, words: UInt32[Array, " b"], where: Bool[Array, " b"]
) -> RankingState:
    places = state.filled + jnp.cumsum(where.astype(jnp.int32)) - 1
    capacity = len(state.words)
    # What does not count, or does not fit, goes to a place that there is not.
    kept = state.words.at[jnp.where(where, places, capacity)].set(words, mode="drop")
    total = state.filled + jnp.sum(where, dtype=jnp.int32)
    count = jnp.minimum(total, capacity)
    return RankingState(kept, count, state.dropped + total - count)
