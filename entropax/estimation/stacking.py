r"""Several estimates of one accuracy made into one, fitted on corrupted images with known labels.

Estimators err in their own ways. On the log-odds scale most of these errors are about a shift and a
stretch, which some labelled splits suffice to correct; and what is left of them is not the same for
all, so that a sum is better than most of its terms.

There are few splits and they resemble each other, as the severities of one corruption do. Hence
coefficients that cannot be negative (an estimate may not count against itself) and that are shrunk
towards each other by a fixed amount: choosing the amount by leaving out one of a handful of
corruptions was worse than not choosing it. And hence intervals that leave out whole corruptions.

What no split tells is which estimates fail under another shift. When they fail, they believe too
much: a network that is sure of a wrong class looks right to everything that reads confidences, be
they ten estimates. So the sum may exceed the most pessimistic of them by no more than on most of
the splits; where it would, the estimates disagree as they have hardly done before, the interval
reaches down to 0, and the estimate is flagged.

Everything here is float64 on the host: some dozens of points, fitted once.

References:
  L. Breiman, "Stacked regressions" (1996): estimates as regressors, non-negative coefficients.
  R. F. Barber et al., "Predictive inference with the jackknife+" (2021), section 3 (CV+).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple, get_args

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from scipy import optimize, special

from entropax.estimation.flip_curve import Estimate, Target
from entropax.estimation.jackknife import error_rate, jackknife_interval

# Log-odds of estimates and accuracies nearer to 0 or 1 than this are those of this.
_CLIP = 0.01
# Estimates whose log-odds vary less than this over the splits cannot be calibrated, and are left
# out: what they would be multiplied with is anybody's guess.
_LEAST_SPREAD = 0.01
# The pessimists are this quantile of the estimates, each by its own line.
_PESSIMISTS = 0.2
# The sum exceeds them by no more than on this share of the splits.
_USUAL = 0.9
# The same split gives numbers that differ by this at most, alone or among others.
_ROUNDING = 1e-9


class Combination(NamedTuple):
    """A sum of log-odds, and what it may not exceed.

    Attributes:
      centre: mean log-odds of each estimate over the splits.
      coefficients: of the log-odds of each in the sum, 0 or more.
      slopes: of the line through the splits by each alone; NaN for one that is left out.
      level: mean log-odds of the accuracies.
      excess: by how much the sum may exceed the pessimists.
    """

    centre: Float[np.ndarray, " k"]
    coefficients: Float[np.ndarray, " k"]
    slopes: Float[np.ndarray, " k"]
    level: float
    excess: float

    def sum(self, estimates: Float[np.ndarray, "*splits k"]) -> Float[np.ndarray, "*splits"]:
        """Log-odds of the accuracy, by the sum."""
        sums = (_log_odds(estimates) - self.centre) @ self.coefficients
        return np.asarray(self.level + sums)

    def limit(self, estimates: Float[np.ndarray, "*splits k"]) -> Float[np.ndarray, "*splits"]:
        """Log-odds that the sum should not exceed."""
        kept = ~np.isnan(self.slopes)
        if not kept.any():
            return np.full(estimates.shape[:-1], self.level)
        alone = (_log_odds(estimates) - self.centre)[..., kept] * self.slopes[kept]
        pessimists = np.quantile(alone, _PESSIMISTS, axis=-1)
        return np.asarray(self.level + pessimists + self.excess)

    def __call__(self, estimates: Float[np.ndarray, "*splits k"]) -> Float[np.ndarray, "*splits"]:
        """Accuracies, in (0, 1)."""
        return np.asarray(special.expit(np.minimum(self.sum(estimates), self.limit(estimates))))


class Stack(NamedTuple):
    """Fitted estimates; make one with `fit_stack`.

    Attributes:
      combination: of all splits.
      left_out: for every group, the combination fitted on the other groups.
      group: `[s]` which of `left_out` was fitted without each split.
      residuals: `[s]` how far each split lies from that, as a fraction of the error rate that it
        gives.
      fitted_range: smallest and largest accuracy that `combination` gives a split.
      target: whose accuracy was fitted.
    """

    combination: Combination
    left_out: tuple[Combination, ...]
    group: Int[np.ndarray, " s"]
    residuals: Float[np.ndarray, " s"]
    fitted_range: tuple[float, float]
    target: Target

    def estimate(self, estimates: ArrayLike, *, level: float = 0.9) -> Estimate:
        r"""Accuracy from several estimates, with an interval of nominal coverage `level`.

        $$\big[\,q_{\alpha}\{f_{-g(j)}(x) - r_j e(f_{-g(j)}(x))\},\;
              q_{1-\alpha}\{f_{-g(j)}(x) + r_j e(f_{-g(j)}(x))\}\big], \qquad
          e(f) = \max(1 - f, 0.02), \quad \alpha = 1 - \mathrm{level},$$

        over the calibration splits $j$, of group $g(j)$; the rank of $q$ among $s$ splits is
        $\lfloor \alpha (s + 1) \rfloor$, from below or from above. If that is 0, the interval is
        [0, 1]. For the upper end, $f_{-g(j)}$ is the sum without its limit. Beyond the accuracies
        that the splits were given the interval is one-sided: it reaches to 0 below the smallest, to
        1 above the largest. It reaches to 0, too, where the limit holds the sum back. All of these
        are flagged as extrapolated.

        Args:
          estimates: `[..., k]` in [0, 1], in the order of `fit_stack`.
          level: nominal coverage, for a shift that is exchangeable with the groups. They are few,
            and not drawn at random, so that it is reached on average over shifts at best.

        Raises:
          ValueError: another number of estimates, one that is not in [0, 1], a `level` not in
            (0, 1).
        """
        estimates = np.asarray(estimates, float)
        known = len(self.combination.coefficients)
        if estimates.ndim < 1 or estimates.shape[-1] != known:
            raise ValueError(
                f"`estimates` must be [..., {known}], as those of the fit, got shape "
                f"{estimates.shape}."
            )
        _check_unit(estimates, "Estimates")
        value = self.combination(estimates)
        smallest, largest = self.fitted_range
        limit = self.combination.limit(estimates)
        held_back = self.combination.sum(estimates) > limit + _ROUNDING
        low = np.asarray((value < smallest - _ROUNDING) | held_back)
        high = np.asarray(value > largest + _ROUNDING)
        limited = np.stack([f(estimates) for f in self.left_out], axis=-1)
        sums = special.expit(np.stack([f.sum(estimates) for f in self.left_out], axis=-1))
        lower, upper = (
            jackknife_interval(
                value,
                centre[..., self.group],
                np.broadcast_to(self.residuals, (*value.shape, len(self.residuals))),
                splits=len(self.residuals),
                level=level,
                below=low,
                above=high,
            )[end]
            for end, centre in enumerate((limited, sums))
        )
        return Estimate(value, lower, upper, low | high, self.target)


def fit_stack(
    estimates: ArrayLike,
    accuracies: ArrayLike,
    *,
    groups: Sequence[str] | Sequence[int] | np.ndarray,
    target: Target,
    penalty: float = 1.0,
) -> Stack:
    r"""Fit one estimate to several on calibration splits.

    $$\mathrm{logit}\, f(x) = \min\{z(x),\ p(x) + d\}, \qquad
      z(x) = \bar y + \sum_i \beta_i \frac{\mathrm{logit}\, x_i - \mu_i}{\sigma_i}, \qquad
      \min_{\beta \ge 0}\ \frac1s \sum_j (z(x_j) - \mathrm{logit}\, y_j)^2
        + \frac\lambda k \lVert \beta \rVert^2,$$

    with mean $\mu_i$ and standard deviation $\sigma_i$ over the splits. The pessimists $p(x)$ are
    the 0.2 quantile of what the estimates say alone, each by its least-squares line (of slope 0 or
    more), and d is the 0.9 quantile of $z(x_j) - p(x_j)$ over the splits. Numbers nearer to 0 or 1
    than 0.01 count as 0.01 or 0.99.

    Args:
      estimates: `[s, k]` in [0, 1]: estimates of accuracy that were not fitted on these splits, or
        anything else that rises with it, such as 1 minus a rate of label flips or a nuclear norm.
        What they are off is corrected here. One of each kind (thresholded confidence, transport,
        nuclear norm, disagreement, flips) is better than many alike, which outvote the others when
        they fail together. What was fitted on these splits may be used if it is
        nothing but a rising function of one score. Estimators that know the source should know it
        from other images than those of the splits: `confidence_transport`, for one, would know the
        frequencies of their labels exactly, as it never does those of a target.
      accuracies: `[s]` in [0, 1].
      groups: `[s]` the corruption of each split, by name or number: groups are left out as a whole.
      target: whose accuracies these are; estimates carry the name.
      penalty: $\lambda$; the larger, the nearer the coefficients are to each other and to 0.

    Returns:
      The fitted stack.

    Raises:
      ValueError: fewer than 4 splits or 2 groups, lengths that differ, numbers outside [0, 1] or
        NaN, a `penalty` that is not positive, an unknown target.

    >>> accuracies = np.array([0.9, 0.8, 0.6, 0.9, 0.7, 0.5])
    >>> confidence = 0.5 + accuracies / 2  # believes too much
    >>> stack = fit_stack(
    ...     np.stack([confidence, accuracies], axis=-1), accuracies,
    ...     groups=["fog", "fog", "fog", "snow", "snow", "snow"], target="source", penalty=1e-6)
    >>> round(float(stack.estimate([0.825, 0.65]).value), 2)
    0.65
    """
    estimates, accuracies = np.asarray(estimates, float), np.asarray(accuracies, float)
    labels, group = np.unique(np.asarray(groups), return_inverse=True)
    if estimates.ndim != 2 or accuracies.shape != group.shape or len(accuracies) < 4 or (
        len(estimates) != len(accuracies) or estimates.shape[1] < 1
    ):  # fmt: skip
        raise ValueError(
            "A stack needs estimates [s, k], accuracies [s] and groups [s] of 4 splits or more, "
            f"got shapes {estimates.shape}, {accuracies.shape} and {group.shape}."
        )
    if len(labels) < 2:
        raise ValueError(f"A stack needs 2 groups of splits or more, got only {labels[0]}.")
    _check_unit(estimates, "Estimates")
    _check_unit(accuracies, "Accuracies")
    if not 0 < penalty < np.inf:
        raise ValueError(f"`penalty` must be positive and finite, got {penalty}.")
    if target not in get_args(Target):
        raise ValueError(f"`target` must be one of {', '.join(get_args(Target))}, got {target!r}.")

    combination = _combine(estimates, accuracies, penalty)
    kept = [group != g for g in range(len(labels))]
    left_out = tuple(_combine(estimates[k], accuracies[k], penalty) for k in kept)
    missed = np.array([left_out[g](x) for g, x in zip(group, estimates, strict=True)])
    fitted = combination(estimates)
    return Stack(
        combination=combination,
        left_out=left_out,
        group=group,
        residuals=np.abs(accuracies - missed) / error_rate(missed),
        fitted_range=(float(fitted.min()), float(fitted.max())),
        target=target,
    )


def _combine(estimates: np.ndarray, accuracies: np.ndarray, penalty: float) -> Combination:
    x, y = _log_odds(estimates), _log_odds(accuracies)
    splits, number = x.shape
    centre, spread = x.mean(axis=0), x.std(axis=0)
    varies = spread >= _LEAST_SPREAD
    scale = np.where(varies, 1 / np.where(varies, spread, 1), 0)
    # The penalty as rows of the least squares.
    rows = np.concatenate(
        [(x - centre) * scale / math.sqrt(splits), math.sqrt(penalty / number) * np.eye(number)]
    )
    right = np.concatenate([(y - y.mean()) / math.sqrt(splits), np.zeros(number)])
    coefficients, _ = optimize.nnls(rows, right)
    slopes = np.maximum(0, (x - centre).T @ (y - y.mean()) / splits * scale**2)
    unlimited = Combination(
        centre, coefficients * scale, np.where(varies, slopes, np.nan), float(y.mean()), 0.0
    )
    excess = np.quantile(unlimited.sum(estimates) - unlimited.limit(estimates), _USUAL)
    return unlimited._replace(excess=float(excess))


def _log_odds(rates: np.ndarray) -> np.ndarray:
    return np.asarray(special.logit(np.clip(rates, _CLIP, 1 - _CLIP)))


def _check_unit(numbers: np.ndarray, name: str) -> None:
    if not np.all((numbers >= 0) & (numbers <= 1)):
        raise ValueError(f"{name} must be in [0, 1], got {numbers.min()} to {numbers.max()}.")
