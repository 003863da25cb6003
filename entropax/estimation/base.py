r"""What every estimator of accuracy without labels is: pure functions of a source and a target.

    fitted = estimator.fit(logits, labels)             # a labelled set of the source
    found = estimator.estimate(key, fitted, outputs)   # an unlabelled set of the target
    found.value, found.lower, found.upper, found.extrapolated

`outputs` are logits `[n, c]` unless the estimator says otherwise (two networks, dropout passes).
Both functions take `where`, the examples that count, and may be compiled and vmapped; the bootstrap
is compiled anew in each call of an `estimate` that is not.

The interval is a bootstrap over the target's examples: where the estimate would lie on another
`n` examples of the same target. It does not know how far the estimator is off on that target, which
under a shift is usually more, nor that the labelled set was finite. Only shifts with labels tell
(`fit_flip_curve`, `score_line`).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, Key, Num, PyTree, UInt32

from entropax.types import Array
from entropax.uncertainty import Sample, bootstrap, sample


class AccuracyEstimate(NamedTuple):
    """An accuracy without labels; the fields are those of `Estimate`, as JAX arrays.

    Attributes:
      value: the accuracy, in [0, 1]; NaN where logits or labels that count are not valid.
      lower: lower end of its interval.
      upper: upper end.
      extrapolated: neither value nor interval is backed by data; each estimator says when.
    """

    value: Float[Array, "..."]
    lower: Float[Array, "..."]
    upper: Float[Array, "..."]
    extrapolated: Bool[Array, "..."]


class Evidence(NamedTuple):
    """What an estimate is computed from, example by example.

    Attributes:
      values: arrays `[n, ...]`, one row an example.
      statistic: function of these with weights to the accuracy. Rows of weight 0 may be anything.
      extrapolated: neither value nor interval is backed by data.
      margin: `level -> half-width` that is added to both sides of the bootstrap's interval, for an
        estimator that knows how far it is off on other targets.
    """

    values: PyTree[Num[Array, "n ..."]]
    statistic: Callable[[Sample], Float[Array, ""]]
    extrapolated: Bool[Array, ""]
    margin: Callable[[float], Float[Array, ""] | float] = lambda level: 0.0


class Estimator(NamedTuple):
    """A method that estimates accuracy without labels.

    Attributes:
      fit: `(logits, labels, *, where=None) -> fitted`: what is to be known of the source.
      evidence: `(fitted, outputs, *, where=None) -> Evidence`: what the target's examples say.
    """

    fit: Callable[..., Any]
    evidence: Callable[..., Evidence]

    def estimate(
        self,
        key: Key[Array, ""] | UInt32[Array, "2"],
        fitted: Any,
        outputs: PyTree[Float[Array, "..."]],
        *,
        level: float = 0.9,
        num_replicates: int = 200,
        where: Bool[Array, " n"] | None = None,
    ) -> AccuracyEstimate:
        r"""The accuracy on a target, with a percentile bootstrap over its examples.

        The interval is never narrower than what `n` examples can exclude,

        $$\big[(1 - \epsilon) v,\ (1 - \epsilon) v + \epsilon\big], \qquad
          \epsilon = 1 - (\alpha / 2)^{1/n}, \quad \alpha = 1 - \mathrm{level},$$

        the share of the target that may look like none of them: if all examples say the same,
        every replicate does too. For a proportion of 0 or 1 this is Clopper and Pearson's interval.

        Args:
          key: random key of the bootstrap; the value does not depend on it.
          fitted: from `fit`.
          outputs: what the networks say of the target, usually logits `[n, c]`.
          level: probability that the interval shall cover, of another draw of the examples.
          num_replicates: bootstrap replicates.
          where: `[n]` examples that count.

        Returns:
          The estimate, clipped to [0, 1]; NaN where something that counts is not valid, and when no
          example counts.

        Raises:
          ValueError: a level not in (0, 1), fewer than 2 replicates.
        """
        found = self.evidence(fitted, outputs, where=where)
        data = sample(found.values, where=where)
        drawn = bootstrap(key, found.statistic, data, level=level, num_replicates=num_replicates)
        number, margin = jnp.sum(data.weights), found.margin(level)
        value = jnp.where(number > 0, jnp.clip(drawn.value, 0, 1), jnp.nan)
        seen = ((1 - level) / 2) ** (1 / number)
        lower = jnp.minimum(drawn.lower - margin, seen * value)
        upper = jnp.maximum(drawn.upper + margin, seen * value + (1 - seen))
        lower, upper = jnp.clip(lower, 0, 1), jnp.clip(upper, 0, 1)
        return AccuracyEstimate(value, lower, upper, found.extrapolated)


def nothing_to_fit(
    logits: Float[Array, "m c"],
    labels: Int[Array, " m"],
    *,
    where: Bool[Array, " m"] | None = None,
) -> tuple[()]:
    """The `fit` of an estimator that has to know nothing of the source."""
    return ()


def correctness(
    logits: Float[Array, "*batch n c"], labels: Int[Array, "*#batch n"]
) -> Float[Array, "*batch n"]:
    """Whether the largest logit is that of the label: 1 or 0, NaN where that means nothing.

    Args:
      logits: `[..., n, c]`.
      labels: `[..., n]` classes.

    Returns:
      `[..., n]`, NaN where a logit is NaN or the label is not one of the classes.

    >>> correctness(jnp.array([[2.0, 1.0], [2.0, 1.0]]), jnp.array([0, 1])).tolist()
    [1.0, 0.0]
    """
    valid = ~jnp.any(jnp.isnan(logits), axis=-1) & (labels >= 0) & (labels < logits.shape[-1])
    return jnp.where(valid, (jnp.argmax(logits, axis=-1) == labels).astype(logits.dtype), jnp.nan)
