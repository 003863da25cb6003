r"""Temperature scaling: the one number that makes a network's logits say what they should.

The mean negative log-likelihood is convex in the inverse temperature b = 1/T. Its two derivatives
are means over the examples,

$$\frac{dL}{db} = \overline{E_p z - z_y}, \qquad \frac{d^2L}{db^2} = \overline{\mathrm{Var}_p z},
\qquad p = \mathrm{softmax}(b z),$$

so that Newton's method needs one pass over the logits a step, and a handful of steps. In T the
same function is not convex, and a descent can end at a negative temperature.
"""

import enum
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from entropax.types import Array

# A logit of minus infinity, for which 0 times it is still 0, and so is 0 times its square.
_LOWEST = -1e18


class FitStatus(enum.IntEnum):
    """How a fit ended; `FitStatus(int(result.status)).name` puts the code into a word.

    Attributes:
      CONVERGED: at the optimum, to rounding.
      AT_UPPER: the inverse temperature is at its upper bound: sharper is better, as it is when
        the largest logit is always the right one.
      AT_LOWER: the inverse temperature is at its lower bound: within the bounds flatter is better,
        because the logits say less than nothing about the labels or are very large.
      FLAT: the logits of every example are all equal, but for those more than 1e18 below the
        largest, which count as minus infinity; nothing depends on the temperature, which stays 1.
      NOT_CONVERGED: out of steps; the best parameters that were found.
      SEPARABLE: those of the fitted parameters that have no penalty classify every example right,
        so that larger ones would always be better; they are those with which the solver stopped.
      INVALID: no example counts, a label is not a class, a logit is NaN or plus infinity, or a
        right one minus infinity. The parameters are NaN.
    """

    CONVERGED = 0
    AT_UPPER = 1
    AT_LOWER = 2
    FLAT = 3
    NOT_CONVERGED = 4
    SEPARABLE = 5
    INVALID = 6


class TemperatureScaling(NamedTuple):
    """A fitted temperature.

    Attributes:
      temperature: `[...]` T; NaN if the data are not valid.
      inverse_temperature: `[...]` b = 1/T, which is what was fitted.
      status: `[...]` a `FitStatus` as an integer.
      loss_before: `[...]` mean negative log-likelihood at T = 1, in nats.
      loss_after: `[...]` the same at the temperature that was found.
      num_steps: `[...]` Newton steps.
    """

    temperature: Float[Array, "*batch"]
    inverse_temperature: Float[Array, "*batch"]
    status: Int[Array, "*batch"]
    loss_before: Float[Array, "*batch"]
    loss_after: Float[Array, "*batch"]
    num_steps: Int[Array, "*batch"]

    def apply(self, logits: Float[Array, "*examples c"]) -> Float[Array, "*examples c"]:
        """Divide logits by the temperature.

        Args:
          logits: `[..., c]` for one temperature; `[..., n, c]` with the leading axes of the fit
            for several.

        Returns:
          Logits of the same shape. The order of the classes stays.
        """
        inverse = self.inverse_temperature
        return logits * (inverse[..., None, None] if inverse.ndim else inverse)


def fit_temperature(
    logits: Float[Array, "*batch n c"],
    labels: Int[Array, "*batch n"],
    *,
    bounds: tuple[float, float] = (1e-3, 1e3),
    max_steps: int = 50,
    where: Bool[Array, "*#batch #n"] | None = None,
) -> TemperatureScaling:
    r"""Fit the temperature by the likelihood of held-out labels.

    $$T = \arg\min_T \; -\frac1n \sum_i \ln \mathrm{softmax}(z_i / T)_{y_i}.$$

    Newton's method in b = 1/T, kept inside a bracket. It takes 4 to 11 steps, each a pass over the
    logits, and one more pass for `loss_after`. In float32 T is within 1e-6 of the optimum,
    relatively. Compiled inside, and may itself be under `jit` and `vmap`.

    Args:
      logits: `[..., n, c]`; `-inf` is a class of probability 0.
      labels: `[..., n]` the right class of each example.
      bounds: smallest and largest b that may be returned. Where the likelihood has its optimum at
        b = 0 or at infinity, or beyond a bound, the bound is returned, and `status` says so.
      max_steps: where to stop in any case.
      where: `[..., n]` examples that count.

    Returns:
      A `TemperatureScaling`; apply it with its method `apply`. T is never negative, and
      `loss_after` never above `loss_before` by more than rounding if `bounds` contain 1.

    Raises:
      ValueError: `bounds` are not two positive numbers in ascending order, or `max_steps` is not
        positive.

    Reference: C. Guo et al., "On calibration of modern neural networks" (2017), section 4.2.

    >>> logits = jnp.array([[2.0, 0.0], [2.0, 0.0], [2.0, 0.0], [0.0, 2.0]])
    >>> scaling = fit_temperature(logits, jnp.array([0, 0, 1, 1]))  # right 3 times of 4
    >>> round(float(scaling.temperature), 5)  # 2 / ln 3
    1.82048
    """
    lower, upper = bounds
    if not 0 < lower < upper < math.inf:
        raise ValueError(
            f"`bounds` must be two positive inverse temperatures in ascending order, got {bounds}."
        )
    if max_steps < 1:
        raise ValueError(f"`max_steps` must be positive, got {max_steps}.")
    logits, labels = jnp.asarray(logits), jnp.asarray(labels)
    counts = jnp.broadcast_to(True if where is None else jnp.asarray(where), labels.shape)
    fit = functools.partial(_fit, bounds=(float(lower), float(upper)), max_steps=max_steps)
    for _ in labels.shape[:-1]:
        fit = jax.vmap(fit)
    return fit(logits, labels, counts)


def validate_examples(
    logits: Float[Array, "n c"], labels: Int[Array, " n"], counts: Bool[Array, " n"]
) -> tuple[Float[Array, "n c"], Float[Array, " n"], Bool[Array, ""]]:
    """Logits relative to the largest of their row, those of the labels, and whether all is valid.

    Rows that do not count are 0.
    """
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    highest = jnp.max(logits, axis=-1, keepdims=True)
    known = (labels >= 0) & (labels < logits.shape[-1])
    own = jnp.take_along_axis(logits, jnp.where(known, labels, 0)[:, None], axis=-1)
    fine = known & jnp.isfinite(highest[:, 0]) & jnp.isfinite(own[:, 0])
    centred = logits - highest
    centred = jnp.where(centred < _LOWEST, _LOWEST, centred)
    fine &= ~jnp.isnan(jnp.sum(centred, axis=-1))  # a maximum may lose NaN, a sum does not
    valid = jnp.any(counts) & jnp.all(fine | ~counts)
    centred = jnp.where(counts[:, None], centred, 0)
    return centred, jnp.where(counts, (own - highest)[:, 0], 0), valid


class _Slope(NamedTuple):
    """The mean negative log-likelihood at one b, and its two derivatives."""

    loss: Float[Array, ""]
    first: Float[Array, ""]
    second: Float[Array, ""]


class _Search(NamedTuple):
    """Where Newton's method stands; `low` and `high` are points between which the optimum lies."""

    inverse: Float[Array, ""]
    at: _Slope
    low: Float[Array, ""]
    high: Float[Array, ""]
    status: Int[Array, ""]
    running: Bool[Array, ""]
    step: Int[Array, ""]


@functools.partial(jax.jit, static_argnames=("bounds", "max_steps"))
def _fit(
    logits: Float[Array, "n c"],
    labels: Int[Array, " n"],
    counts: Bool[Array, " n"],
    *,
    bounds: tuple[float, float],
    max_steps: int,
) -> TemperatureScaling:
    centred, own, valid = validate_examples(logits, labels, counts)
    dtype = centred.dtype
    lower, upper = bounds
    weights = counts / jnp.maximum(jnp.sum(counts), 1).astype(dtype)
    tolerance = float(jnp.finfo(dtype).eps) ** 0.75  # the last step squares it

    def evaluate(inverse: Float[Array, ""]) -> _Slope:
        # The barrier keeps XLA from computing the exponentials once for each of the three sums.
        powers = jax.lax.optimization_barrier(jnp.exp(inverse * centred))
        total = jnp.sum(powers, axis=-1)
        mean = jnp.sum(powers * centred, axis=-1) / total
        variance = jnp.sum(powers * centred * centred, axis=-1) / total - mean * mean
        return _Slope(
            jnp.sum(weights * (jnp.log(total) - inverse * own)),
            jnp.sum(weights * (mean - own)),
            jnp.sum(weights * jnp.maximum(variance, 0)),
        )

    # The slopes at b = 0 and at infinity tell where there is no optimum in between.
    possible = centred > _LOWEST
    average = jnp.mean(centred, axis=-1, where=possible)
    flat = jnp.all(jnp.where(possible, centred, 0) == 0)
    sharpest = jnp.all(own == 0)
    flattest = jnp.sum(weights * (average - own)) >= 0

    def step(search: _Search) -> _Search:
        inverse, at = search.inverse, search.at
        newton = inverse - at.first / jnp.maximum(at.second, jnp.finfo(dtype).tiny)
        newton = jnp.where(flattest, lower, jnp.clip(newton, lower, upper))
        newton = jnp.where(sharpest, upper, newton)
        # Before the bracket: next to the optimum rounding decides on which side of it a point is.
        converged = jnp.abs(newton - inverse) <= tolerance * inverse
        low = jnp.where(at.first > 0, search.low, inverse)
        high = jnp.where(at.first > 0, inverse, search.high)
        middle = jnp.sqrt(low) * jnp.sqrt(high)
        inside = converged | ((newton > low) & (newton < high))
        inverse = jnp.where(inside, newton, middle)
        status = jnp.where(
            inverse >= upper,
            FitStatus.AT_UPPER,
            jnp.where(inverse <= lower, FitStatus.AT_LOWER, FitStatus.CONVERGED),
        )
        status = jnp.where(converged, status, FitStatus.NOT_CONVERGED)
        return _Search(inverse, evaluate(inverse), low, high, status, ~converged, search.step + 1)

    before = evaluate(jnp.ones((), dtype))
    start = jnp.asarray(min(max(1.0, lower), upper), dtype)
    search = _Search(
        inverse=start,
        at=before if lower <= 1 <= upper else evaluate(start),
        low=jnp.zeros((), dtype),
        high=jnp.full((), jnp.inf, dtype),
        status=jnp.where(
            valid, jnp.where(flat, FitStatus.FLAT, FitStatus.NOT_CONVERGED), FitStatus.INVALID
        ),
        running=valid & ~flat,
        step=jnp.zeros((), int),
    )
    search = jax.lax.while_loop(lambda s: s.running & (s.step < max_steps), step, search)
    inverse = jnp.where(valid, search.inverse, jnp.nan)
    return TemperatureScaling(
        temperature=1 / inverse,
        inverse_temperature=inverse,
        status=search.status,
        loss_before=jnp.where(valid, before.loss, jnp.nan),
        loss_after=jnp.where(valid, search.at.loss, jnp.nan),
        num_steps=search.step,
    )
