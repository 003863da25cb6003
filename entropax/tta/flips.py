r"""Label flips: how many predictions change while a network adapts, without looking at a label.

Some images are held aside, predicted before adaptation and again after it. The more labels have
flipped, and the more confident the flipped predictions had been, the less accurate the network was:

$$\mathrm{rate} = \frac1n \sum_{i=1}^n r_i\, \mathbf 1[\hat y_i^{(0)} \ne \hat y_i^{(t)}],$$

with $r_i = 1$ (unweighted) or $r_i$ = the rank of the first confidence, in $(0, 1]$ (weighted).
`estimation.FlipCurve` turns the rate into an accuracy.

Reference: O. Press et al., "The entropy enigma: success and failure of entropy minimization"
(2024), section 4.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from entropax.tta.base import Adapter, State
from entropax.types import Array, Batch


class Flips(NamedTuple):
    """Predictions on the held images before and during adaptation.

    Attributes:
      labels0: `[n]` predicted classes before the first step.
      confidence0: `[n]` their probabilities.
      labels: `[k, n]` predicted classes after `steps[k]` steps; -1 where the logits were not
        finite, which counts as a flip.
      steps: `[k]` numbers of steps.
      where: `[n]` False on padding.
      selected: `[t]` number of examples that each step learnt from. If it is 0 throughout, nothing
        could flip, and the rate says nothing about the accuracy.
      finite: `[t]` whether each step was free of NaN and infinity.
    """

    labels0: Int[Array, " n"]
    confidence0: Float[Array, " n"]
    labels: Int[Array, "k n"]
    steps: Int[Array, " k"]
    where: Bool[Array, " n"]
    selected: Int[Array, " t"]
    finite: Bool[Array, " t"]

    @property
    def rank(self) -> Float[Array, " n"]:
        """Weight of each image: the rank of its first confidence."""
        return confidence_rank(self.confidence0, where=self.where)

    @property
    def weighted(self) -> Float[Array, " k"]:
        """Weighted flip rate after `steps[k]` steps, in `[0, (n + 1) / 2n]`."""
        return flip_rate(self.labels0, self.labels, weight=self.rank, where=self.where)

    @property
    def weighted_stderr(self) -> Float[Array, " k"]:
        """Standard error of `weighted`, for a random choice of the held images."""
        return flip_rate_stderr(self.labels0, self.labels, weight=self.rank, where=self.where)

    @property
    def unweighted_stderr(self) -> Float[Array, " k"]:
        """Standard error of `unweighted`."""
        return flip_rate_stderr(self.labels0, self.labels, where=self.where)

    @property
    def unweighted(self) -> Float[Array, " k"]:
        """Share of the labels that differ after `steps[k]` steps, in `[0, 1]`."""
        return flip_rate(self.labels0, self.labels, where=self.where)


def count_flips(
    adapter: Adapter, state: State, batches: Batch, held: Batch, *, every: int | None = None
) -> tuple[State, Flips]:
    """Adapt on a stream and compare predictions on the held images with those before it.

    Args:
      adapter: a test-time adapter.
      state: where to start, usually `adapter.init(variables)`.
      batches: the stream, `x [t, b, ...]` and `where [t, b]`.
      held: the held images, `x [m, b', ...]` and `where [m, b']`, so that n = m b'. They are
        predicted in these batches. They may be part of the stream: no label is used.
      every: predict again after every so many steps; at the end only by default.

    Returns:
      The state after the stream, and the flips with `k = t / every`.

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

    def predict(state: State) -> tuple[Array, Array]:
        logits = jax.lax.map(lambda batch: adapter.predict(state, batch), held)
        logits = logits.reshape(-1, logits.shape[-1])
        finite = jnp.all(jnp.isfinite(logits), axis=-1)
        labels = jnp.where(finite, jnp.argmax(logits, axis=-1), -1)
        return labels, jnp.where(finite, jnp.max(jax.nn.softmax(logits), axis=-1), 0)

    def step(state: State, batch: Batch) -> tuple[State, tuple[Array, Array]]:
        state, info = adapter.step(state, batch)
        return state, (info.selected, info.finite)

    def stretch(state: State, part: Batch) -> tuple[State, tuple[Array, tuple[Array, Array]]]:
        state, seen = jax.lax.scan(step, state, part)
        return state, (predict(state)[0], seen)

    labels0, confidence0 = predict(state)
    parts = jax.tree.map(lambda a: a.reshape(-1, every, *a.shape[1:]), batches)
    state, (labels, (selected, finite)) = jax.lax.scan(stretch, state, parts)
    return state, Flips(
        labels0,
        confidence0,
        labels,
        every * (1 + jnp.arange(total // every)),
        held.where.reshape(-1),
        selected.reshape(-1),
        finite.reshape(-1),
    )


def confidence_rank(
    confidence: Float[Array, "*batch n"], *, where: Bool[Array, "*#batch n"] | None = None
) -> Float[Array, "*batch n"]:
    """Rank of each confidence divided by their number; ties share the average of their ranks.

    Args:
      confidence: `[..., n]`.
      where: entries that count; the others get rank 0 and do not move anybody's.

    Returns:
      `[..., n]` in `(0, 1]`: 1 for the most confident, `1 / n` for the least.

    >>> confidence_rank(jnp.array([0.3, 0.9, 0.5, 0.9])).tolist()
    [0.25, 0.875, 0.5, 0.875]
    """
    where = jnp.ones(confidence.shape, bool) if where is None else where
    where = jnp.broadcast_to(where, confidence.shape)
    # Padding goes to the end of the order, where it is below nobody.
    ordered = jnp.sort(jnp.where(where, confidence, jnp.inf), axis=-1)
    search = jnp.vectorize(jnp.searchsorted, signature="(n),(n)->(n)", excluded={"side"})
    below = search(ordered, confidence, side="left")
    not_above = search(ordered, confidence, side="right")
    # Twice the average rank is an integer, so the only rounding is that of the last division.
    number = jnp.sum(where, axis=-1, keepdims=True)
    return jnp.where(where, (below + not_above + 1) / (2 * jnp.maximum(number, 1)), 0)


def flip_rate(
    labels0: Int[Array, "*#batch n"],
    labels: Int[Array, "*batch n"],
    *,
    weight: Float[Array, "*#batch n"] | None = None,
    where: Bool[Array, "*#batch n"] | None = None,
) -> Float[Array, "*batch"]:
    """Mean of the weights of the images whose label changed.

    Multiply by 1,000 for the numbers of the paper, which are sums over 1,000 held images.

    Args:
      labels0: `[..., n]` predicted classes before.
      labels: `[..., n]` predicted classes now; -1 (not finite) counts as changed.
      weight: `[..., n]`, from `confidence_rank`; 1 by default.
      where: images that count.

    Returns:
      `[...]` rates; 0 when no image counts.

    >>> float(flip_rate(jnp.array([0, 1, 2, 3]), jnp.array([0, 1, 2, 0])))
    0.25
    """
    contribution, where = _contributions(labels0, labels, weight, where)
    return jnp.sum(contribution, axis=-1) / jnp.maximum(jnp.sum(where, axis=-1), 1)


def flip_rate_stderr(
    labels0: Int[Array, "*#batch n"],
    labels: Int[Array, "*batch n"],
    *,
    weight: Float[Array, "*#batch n"] | None = None,
    where: Bool[Array, "*#batch n"] | None = None,
) -> Float[Array, "*batch"]:
    r"""Standard error of `flip_rate` for a random choice of the images.

    $$\mathrm{se} = \sqrt{\frac{1}{n (n - 1)} \sum_i (w_i - \bar w)^2}, \qquad
      w_i = r_i\, \mathbf 1[\text{label } i \text{ changed}].$$

    If nothing flipped, it is what one flip of the smallest weight would give, $\min_i r_i / n$: no
    flip among ten images does not mean that there is none among all. Arguments are those of
    `flip_rate`.

    >>> float(flip_rate_stderr(jnp.array([0, 1, 2, 3]), jnp.array([0, 1, 2, 0])))
    0.25
    """
    contribution, where = _contributions(labels0, labels, weight, where)
    n = jnp.sum(where, axis=-1)
    mean = jnp.sum(contribution, axis=-1) / jnp.maximum(n, 1)
    squares = jnp.where(where, jnp.square(contribution - mean[..., None]), 0)
    stderr = jnp.sqrt(jnp.sum(squares, axis=-1) / jnp.maximum(n * (n - 1), 1))
    weights = jnp.where(where, 1.0 if weight is None else weight, jnp.inf)
    one_flip = jnp.where(n > 0, jnp.min(weights, axis=-1), 0) / jnp.maximum(n, 1)
    return jnp.where(mean > 0, stderr, one_flip)


def _contributions(
    labels0: Array, labels: Array, weight: Array | None, where: Array | None
) -> tuple[Array, Array]:
    changed = (labels0 != labels) | (labels < 0)
    where = jnp.broadcast_to(True if where is None else where, changed.shape)
    return jnp.where(changed & where, 1.0 if weight is None else weight, 0), where
