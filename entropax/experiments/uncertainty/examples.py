"""A model example by example: what all metrics need to know, before and after scaling."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from entropax.experiments.uncertainty.config import Config
from entropax.experiments.uncertainty.sources import Outputs
from entropax.types import Array
from entropax.uncertainty import scores
from entropax.uncertainty.ordering import Ranking
from entropax.uncertainty.temperature import FitStatus, fit_temperature

# Logits that are looked at together: at 1,000 classes, 4,194 examples.
_BLOCK = 2**22


class Examples(NamedTuple):
    """The examples that are measured, for `k` temperatures.

    Their order is that of the labels, so that a weight belongs to the same example whatever the
    model; `scores[i, j]` is that of the example `by_score[i, j]`.

    Attributes:
      correct: 1 where the prediction is the label.
      nll: minus the log-probability of the label, in nats.
      brier: squared distance of the probabilities from those of the label.
      scores: falling.
      by_score: which example each is.
      confidences: largest probabilities, falling.
      by_confidence: which example each is.
    """

    correct: Float[Array, "n k"]
    nll: Float[Array, "n k"]
    brier: Float[Array, "n k"]
    scores: Float[Array, "n k"]
    by_score: Int[Array, "n k"]
    confidences: Float[Array, "n k"]
    by_confidence: Int[Array, "n k"]

    def ranking(self, weights: Float[Array, " n"], *, by: str) -> Ranking:
        """All `[k, n]`, by `"score"` or by `"confidence"`."""
        values, order = {
            "score": (self.scores, self.by_score),
            "confidence": (self.confidences, self.by_confidence),
        }[by]
        correct = jnp.take_along_axis(self.correct, order, axis=0)
        return Ranking(values.T, correct.T, weights[order.T])


class Prepared(NamedTuple):
    """A model on the examples that are measured.

    Attributes:
      examples: by the logits as they are, and by the logits over the temperature.
      temperature: fitted on the other examples.
      status: a word for how the fit ended.
    """

    examples: Examples
    temperature: float
    status: str


def split(labels: Int[np.ndarray, " n"], share: float, seed: int) -> Bool[np.ndarray, " n"]:
    """True for the examples that the temperature is fitted on: that share of every class.

    Every class gives its share to within one example, and all together theirs to within a half;
    the same for all models.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    # Of the examples in a row by class, one whenever another whole number is reached.
    steps = np.floor(share * np.arange(len(labels) + 1) + 0.5)
    chosen = np.zeros(len(labels), bool)
    chosen[order[np.diff(steps) > 0]] = True
    return chosen


def prepare(config: Config, outputs: Outputs) -> Prepared:
    """Fit the temperature on one part of the examples, and look at the others.

    Raises:
      ValueError: a part is empty.
    """
    logits, labels = outputs.logits, outputs.labels
    fitted = split(labels, config.validation, config.seed)
    if fitted.all() or not fitted.any():
        raise ValueError(
            f"`validation` {config.validation} of {len(labels)} examples leaves none for the "
            f"{'measurement' if fitted.any() else 'temperature'}."
        )
    found = fit_temperature(
        jnp.asarray(logits[fitted], jnp.float32), jnp.asarray(labels[fitted], jnp.int32)
    )
    options = {"p": config.p} if config.score == "p_norm_max_logit" else {}
    look = _looking(getattr(scores, config.score), **options)
    status = FitStatus(int(found.status))
    # A bound is no optimum: validation examples without an error say nothing of the temperature.
    applied = found.inverse_temperature if status is FitStatus.CONVERGED else jnp.ones(())
    inverse = jnp.stack([jnp.ones(()), applied])
    examples = _examples(look, logits, labels, np.flatnonzero(~fitted), inverse)
    return Prepared(examples, float(found.temperature), status.name.lower())


@functools.cache
def _looking(score: Callable[..., Array], **options: float) -> Callable[..., Any]:
    """The first five fields of `Examples`, in the order of the examples, compiled once."""

    @jax.jit
    def look(logits: Array, labels: Array, inverse: Array) -> list[Array]:
        # Centred, unless the score sees a constant: products of large logits are rounded more.
        if score not in (scores.max_logit, scores.energy_score):
            logits = logits - jnp.max(logits, axis=-1, keepdims=True)
        logits = logits[:, None] * inverse[:, None]
        log_probs = jax.nn.log_softmax(logits)
        own = jnp.take_along_axis(log_probs, labels[:, None, None], axis=-1)[..., 0]
        others = jnp.sum(jnp.exp(2 * log_probs), axis=-1) - jnp.exp(2 * own)
        return [
            (jnp.argmax(logits, axis=-1) == labels[:, None]).astype(jnp.float32),
            -own,
            others + jnp.expm1(own) ** 2,
            score(logits, **options),
            scores.max_softmax(logits),
        ]

    return look


def _examples(
    look: Callable[..., Any],
    logits: Float[np.ndarray, "n c"],
    labels: Int[np.ndarray, " n"],
    rows: Int[np.ndarray, " m"],
    inverse: Float[Array, " k"],
) -> Examples:
    """Look at some of the examples, a block at a time; the last is filled up, to compile once."""
    size = min(len(rows), max(1, _BLOCK // logits.shape[1]))
    blocks = []
    for start in range(0, len(rows), size):
        chosen = rows[start : start + size]
        padded = np.resize(chosen, size)
        found = look(np.float32(logits[padded]), np.int32(labels[padded]), inverse)
        blocks.append([np.asarray(part)[: len(chosen)] for part in found])
    correct, nll, brier, *values = map(np.concatenate, zip(*blocks, strict=True))
    ranked = []
    for value in values:
        order = np.argsort(-value, axis=0, kind="stable").astype(np.int32)
        ranked += [np.take_along_axis(value, order, axis=0), order]
    return Examples(*map(jnp.asarray, (correct, nll, brier, *ranked)))
