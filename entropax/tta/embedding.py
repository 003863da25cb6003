r"""What entropy minimisation does to the embeddings: clusters tighten, then everything moves away.

In a first phase the embeddings of one predicted class come closer together and the accuracy rises:
the silhouette grows. In a second the embeddings leave the places where the source network put them
and the accuracy falls: the shift grows. Neither needs a label. For a ResNet-50 on ImageNet-C the
paper reports rank correlations with the accuracy of 0.70 (silhouette, first phase) and -0.79
(shift, second phase).

Reference: O. Press et al., "The entropy enigma: success and failure of entropy minimization"
(2024), section 3.
"""

from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from entropax.kernels import squared_distances
from entropax.tta.base import Adapter, State
from entropax.types import ApplyFn, Array, Batch, forward

# Rows whose distances to all others are in memory at a time.
_BLOCK = 1024


class EmbeddingShift(NamedTuple):
    """How far embeddings have moved.

    Attributes:
      distance: mean Euclidean distance, in the units of the features.
      relative: the same, divided by the mean distance of the embeddings from their mean before:
        1 is as far as they were apart. NaN if they were all in one place.
    """

    distance: Float[Array, ""]
    relative: Float[Array, ""]


class EmbeddingTrack(NamedTuple):
    """Embeddings of the held images along a stream.

    Attributes:
      steps: `[k]` numbers of steps, the first of which is 0.
      silhouette: `[k]` with respect to the labels predicted at that time.
      shift: `[k]` each from step 0; all rows of one image, not by classes.
      labels: `[k, n]` predicted classes; -1 where the logits were not finite.
      selected: `[t]` number of examples that each step learnt from.
      finite: `[t]` whether each step was free of NaN and infinity.
    """

    steps: Int[Array, " k"]
    silhouette: Float[Array, " k"]
    shift: EmbeddingShift
    labels: Int[Array, "k n"]
    selected: Int[Array, " t"]
    finite: Bool[Array, " t"]


_Measured: TypeAlias = tuple[Array, EmbeddingShift, Array]


def silhouette(
    features: Float[Array, "n d"],
    labels: Int[Array, " n"],
    *,
    where: Bool[Array, " n"] | None = None,
) -> Float[Array, ""]:
    r"""Mean silhouette: how much closer points are to their own cluster than to the next one.

    $$\frac1n \sum_i \frac{b_i - a_i}{\max(a_i, b_i)}, \qquad
      a_i = \frac{1}{n_{c(i)} - 1} \sum_{j \in c(i)} \lVert x_i - x_j \rVert, \quad
      b_i = \min_{c \ne c(i)} \frac{1}{n_c} \sum_{j \in c} \lVert x_i - x_j \rVert,$$

    where the term of a point that is alone in its cluster, or for which $a_i = b_i = 0$, is 0. The
    work is n^2 d; at most 1,024 n distances are in memory at a time.

    Args:
      features: `[n, d]` embeddings.
      labels: `[n]` clusters, any integers, predicted classes for instance.
      where: `[n]` points that count.

    Returns:
      A number in [-1, 1]; NaN when there are not two clusters, or a feature that counts is not
      finite.

    Reference: P. J. Rousseeuw, "Silhouettes" (1987).

    >>> x = jnp.array([[0.0], [1.0], [10.0], [11.0]])
    >>> round(float(jax.jit(silhouette)(x, jnp.array([0, 0, 1, 1]))), 4)
    0.8997
    """
    n = len(features)
    where = jnp.ones(n, bool) if where is None else where
    features = _cleared(features, where)
    # Clusters as 0, 1, ..., so that any integers will do; there are n at most.
    _, cluster = jnp.unique(labels, return_inverse=True, size=n)
    cluster = cluster.reshape(n)
    sizes = jax.ops.segment_sum(where.astype(features.dtype), cluster, n)

    def term(
        distances: Float[Array, " n"], own: Int[Array, ""], alone: Bool[Array, ""]
    ) -> Float[Array, ""]:
        sums = jax.ops.segment_sum(jnp.where(where, distances, 0), cluster, n)
        a = sums[own] / jnp.maximum(sizes[own] - 1, 1)
        others = (sizes > 0) & (jnp.arange(n) != own)
        b = jnp.min(jnp.where(others, sums / jnp.maximum(sizes, 1), jnp.inf))
        larger = jnp.maximum(a, b)
        return jnp.where(alone | (larger == 0), 0, (b - a) / jnp.where(larger == 0, 1, larger))

    def terms(distances: Float[Array, "m n"], rows: Int[Array, " m"]) -> Float[Array, " m"]:
        # A point is at no distance from itself, whatever rounding says.
        distances = jnp.where(rows[:, None] == jnp.arange(n), 0, distances)
        return jax.vmap(term)(distances, cluster[rows], sizes[cluster[rows]] == 1)

    if n <= _BLOCK:
        found = terms(jnp.sqrt(squared_distances(features, where=where)), jnp.arange(n))
    else:
        blocks = -(-n // _BLOCK)
        rows = jnp.minimum(jnp.arange(blocks * _BLOCK).reshape(blocks, _BLOCK), n - 1)

        def block(rows: Int[Array, " m"]) -> Float[Array, " m"]:
            squares = squared_distances(features, features[rows], where=where)
            return terms(jnp.sqrt(squares).T, rows)

        found = jax.lax.map(block, rows).reshape(-1)[:n]
    mean = jnp.sum(jnp.where(where, found, 0)) / jnp.maximum(jnp.sum(where), 1)
    valid = (jnp.sum(sizes > 0) > 1) & jnp.all(jnp.isfinite(features))
    return jnp.where(valid, mean, jnp.nan)


def embedding_shift(
    before: Float[Array, "n d"],
    after: Float[Array, "n d"],
    *,
    labels: Int[Array, " n"] | None = None,
    where: Bool[Array, " n"] | None = None,
) -> EmbeddingShift:
    r"""How far embeddings of the same images have moved.

    $$\mathrm{distance} = \frac1n \sum_i \lVert x_i' - x_i \rVert, \qquad
      \mathrm{relative} = \mathrm{distance} \Big/
      \frac1n \sum_i \lVert x_i - \bar x \rVert.$$

    With labels, the distance is that of the means of the classes, each class counting once:

    $$\mathrm{distance} = \frac{1}{\#c} \sum_c \lVert \bar x_c' - \bar x_c \rVert.$$

    What spreads without leaving its place counts there no longer.

    Args:
      before: `[n, d]` embeddings by the source network.
      after: `[n, d]` of the same images, by the adapted one.
      labels: `[n]` any integers, for the shift of the class means.
      where: `[n]` images that count.

    Returns:
      Both numbers; NaN when a feature that counts is not finite or no image counts.

    >>> before, after = jnp.array([[0.0], [2.0]]), jnp.array([[0.5], [3.5]])
    >>> [float(number) for number in embedding_shift(before, after)]
    [1.0, 1.0]
    """
    n = len(before)
    where = jnp.ones(n, bool) if where is None else where
    before, after = _cleared(before, where), _cleared(after, where)
    number = jnp.sum(where)
    # In two steps: a mean in float32 of numbers far from 0 is not accurate.
    centre = before[jnp.argmax(where)]
    centre = centre + jnp.sum(jnp.where(where[:, None], before - centre, 0), axis=0) / number
    spread = jnp.sum(jnp.where(where, _length(before - centre), 0)) / number
    if labels is None:
        distance = jnp.sum(_length(after - before)) / number
    else:
        _, cluster = jnp.unique(labels, return_inverse=True, size=n)
        cluster = cluster.reshape(n)
        sizes = jax.ops.segment_sum(where.astype(before.dtype), cluster, n)
        sums = jax.ops.segment_sum(after - before, cluster, n)
        moved = _length(sums / jnp.maximum(sizes, 1)[:, None])
        distance = jnp.sum(moved) / jnp.sum(sizes > 0)
    distance = jnp.where(jnp.all(jnp.isfinite(before) & jnp.isfinite(after)), distance, jnp.nan)
    relative = distance / jnp.where(spread == 0, jnp.nan, spread)
    return EmbeddingShift(distance, relative)


def track_embeddings(
    adapter: Adapter,
    state: State,
    batches: Batch,
    held: Batch,
    features_fn: ApplyFn,
    *,
    every: int | None = None,
) -> tuple[State, EmbeddingTrack]:
    """Adapt on a stream and look at the embeddings of the held images along it.

    Args:
      adapter: a test-time adapter.
      state: where to start, usually `adapter.init(variables)`.
      batches: the stream, `x [t, b, ...]` and `where [t, b]`.
      held: the held images, `x [m, b', ...]` and `where [m, b']`, so that n = m b', predicted and
        embedded in these batches. They may be part of the stream.
      features_fn: `(variables, x) -> features [b, d]` or `(variables, x, where=...)`, with the
        statistics that the adapter uses: the input of the last layer, for instance
        (`models.layer_features`). It gets `x` as it is in `held`, before any `map_inputs`.
      every: look again after every so many steps; at the end only by default.

    Returns:
      The state after the stream, and what was seen, with `k = 1 + t / every`.

    Raises:
      ValueError: `every` does not divide the number of steps, or there are no steps.
    """
    total = batches.where.shape[0]
    every = total if every is None else every
    if every < 1 or total < 1 or total % every:
        raise ValueError(
            f"`every` must be a positive divisor of the number of steps, got {every} for {total} "
            "steps."
        )
    embed = forward(features_fn)
    where = held.where.reshape(-1)

    def look(state: State) -> tuple[Array, Array]:
        def one(batch: Batch) -> tuple[Array, Array]:
            logits = adapter.predict(state, batch)
            finite = jnp.all(jnp.isfinite(logits), axis=-1)
            labels = jnp.where(finite, jnp.argmax(logits, axis=-1), -1)
            return embed(state.variables, batch), labels

        features, labels = jax.lax.map(one, held)
        return features.reshape(-1, features.shape[-1]), labels.reshape(-1)

    def measure(first: Array, seen: tuple[Array, Array]) -> _Measured:
        features, labels = seen
        shift = embedding_shift(first, features, where=where)
        return silhouette(features, labels, where=where), shift, labels

    def step(state: State, batch: Batch) -> tuple[State, tuple[Array, Array]]:
        state, info = adapter.step(state, batch)
        return state, (info.selected, info.finite)

    def stretch(state: State, part: Batch) -> tuple[State, tuple[_Measured, tuple[Array, Array]]]:
        state, seen = jax.lax.scan(step, state, part)
        return state, (measure(first[0], look(state)), seen)

    first = look(state)
    start = measure(first[0], first)
    parts = jax.tree.map(lambda a: a.reshape(-1, every, *a.shape[1:]), batches)
    state, (later, (selected, finite)) = jax.lax.scan(stretch, state, parts)
    silhouettes, shifts, labels = jax.tree.map(
        lambda a, b: jnp.concatenate([a[None], b]), start, later
    )
    steps = every * jnp.arange(1 + total // every)
    selected, finite = selected.reshape(-1), finite.reshape(-1)
    return state, EmbeddingTrack(steps, silhouettes, shifts, labels, selected, finite)


def _cleared(features: Float[Array, "n d"], where: Bool[Array, " n"]) -> Float[Array, "n d"]:
    """Zeros in place of padding, in float32 at least: counts and sums need it."""
    features = features.astype(jnp.promote_types(features.dtype, jnp.float32))
    return jnp.where(where[:, None], features, 0)


def _length(x: Float[Array, "n d"]) -> Float[Array, " n"]:
    return jnp.sqrt(jnp.sum(jnp.square(x), axis=-1))
