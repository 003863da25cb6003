r"""Accuracy from label flips: a falling curve fitted on corrupted images whose labels are known.

Corrupt a labelled validation set in ways that have nothing to do with the shift of interest, adapt
on each of these splits, and note flip rate and accuracy. The curve through these points turns the
flip rate of an unlabelled set into its accuracy, with an interval.

Three things make an estimate uncertain, and the interval contains all of them: the curve is fitted
to a few splits; a new shift does not lie exactly on it; the flip rate is measured on a few images.
The first two are a jackknife+ over the calibration splits, with residuals in proportion to the
error rate; the third is an error of the rate that is carried through the curve.

Everything here is float64 on the host: some dozens of points, fitted once.

References:
  O. Press et al., "The entropy enigma: success and failure of entropy minimization" (2024):
    the idea, and the polynomials of its published code.
  R. F. Barber et al., "Predictive inference with the jackknife+" (2021), equation 1.4.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike
from scipy import optimize, special

from entropax.estimation.jackknife import error_rate, jackknife_interval

Form = Literal["logistic", "linear", "quadratic", "cubic", "isotonic"]
Target = Literal["source", "batch_statistics", "adapted"]
Curve = Callable[[np.ndarray], np.ndarray]

_DEGREES = {"linear": 1, "quadratic": 2, "cubic": 3}
# These standard normal values, one for each twentieth of the mass, stand for the error of a rate.
_NORMAL = special.ndtri((np.arange(20) + 0.5) / 20)


class Estimate(NamedTuple):
    """An accuracy without labels.

    Attributes:
      value: the accuracy, in [0, 1].
      lower: lower end of its interval.
      upper: upper end.
      extrapolated: the flip rate is smaller or larger than any that the curve was fitted on, so
        that neither value nor interval is backed by data.
      target: whose accuracy it is: `"source"`, the network as it was trained;
        `"batch_statistics"`, the same weights with the statistics of the batch, before the first
        step; `"adapted"`, the network after the last step.
    """

    value: Float[np.ndarray, "*splits"]
    lower: Float[np.ndarray, "*splits"]
    upper: Float[np.ndarray, "*splits"]
    extrapolated: Bool[np.ndarray, "*splits"]
    target: Target


class FlipCurve(NamedTuple):
    """A fitted curve from flip rate to accuracy; make one with `fit_flip_curve`.

    Attributes:
      curve: flip rates to accuracies, never rising, in [0, 1].
      left_out: for every calibration split, the curve fitted on the others.
      residuals: how far each split lies from the curve fitted without it, as a fraction of the
        error rate that this curve gives it.
      fitted_range: smallest and largest calibration rate.
      target: whose accuracy was fitted.
    """

    curve: Curve
    left_out: tuple[Curve, ...]
    residuals: Float[np.ndarray, " splits"]
    fitted_range: tuple[float, float]
    target: Target

    def estimate(self, rate: ArrayLike, *, stderr: ArrayLike = 0.0, level: float = 0.9) -> Estimate:
        r"""Accuracy at a flip rate, with an interval of nominal coverage `level`.

        $$\big[\,q_{\alpha}\{f_{-j}(x') - r_j e(f_{-j}(x'))\},\;
              q_{1-\alpha}\{f_{-j}(x') + r_j e(f_{-j}(x'))\}\big], \qquad
          e(f) = \max(1 - f, 0.02), \quad \alpha = 1 - \mathrm{level},$$

        with quantiles over calibration splits $j$ and rates $x'$ spread around $x$ with its
        standard error; the rank of $q$ among $m$ splits is $\lfloor \alpha (m + 1) \rfloor$, from
        below or from above. If that is 0, the interval is [0, 1]. Beyond the calibration rates the
        interval is one-sided: it reaches to 0 above the largest, to 1 below the smallest.

        The calibration rates have errors of their own, which the residuals contain already, so that
        `stderr` makes the interval a little too wide rather than too narrow.

        Args:
          rate: `[...]` flip rates, measured as those of the calibration were: same adapter, same
            number of steps, same weighting.
          stderr: `[...]` their standard errors (`tta.Flips.weighted_stderr`); 0 for none.
          level: nominal coverage. For a shift that is exchangeable with the calibration splits the
            jackknife+ covers at least 2 `level` - 1, and usually about `level`. Severities of one
            corruption resemble each other, so that they are fewer splits than they seem.

        Raises:
          ValueError: a rate that is not in [0, 1], a negative `stderr`, a `level` not in (0, 1).
        """
        rate, stderr = np.broadcast_arrays(np.asarray(rate, float), np.asarray(stderr, float))
        _check_rates(rate)
        if not np.all(stderr >= 0):
            raise ValueError(f"`stderr` must not be negative, got {stderr.min()}.")
        rates = np.clip(rate[..., None] + stderr[..., None] * _NORMAL, 0, 1)
        centre = np.stack([curve(rates) for curve in self.left_out], axis=-1)
        shape = (*rate.shape, -1)
        value = np.asarray(self.curve(rate))
        # Outside the fitted range a falling curve is known to be below or above, and no more.
        smallest, largest = self.fitted_range
        lower, upper = jackknife_interval(
            value,
            centre.reshape(shape),
            np.broadcast_to(self.residuals, centre.shape).reshape(shape),
            splits=len(self.left_out),
            level=level,
            below=np.asarray(rate > largest),
            above=np.asarray(rate < smallest),
        )
        return Estimate(
            value=value,
            lower=lower,
            upper=upper,
            extrapolated=np.asarray((rate < smallest) | (rate > largest)),
            target=self.target,
        )


def fit_flip_curve(
    rates: ArrayLike,
    accuracies: ArrayLike,
    *,
    target: Target,
    form: Form = "quadratic",
) -> FlipCurve:
    r"""Fit a curve through the flip rates and accuracies of calibration splits.

    The default is the published quadratic, kept from rising: the least-squares solution of

    $$f(x) = \sum_{i=0}^{2} \beta_i \binom{2}{i} u^i (1 - u)^{2-i}, \qquad
      u = \min(x / x_{\max}, 1), \quad \beta_0 \ge \beta_1 \ge \beta_2 \ge 0.$$

    Args:
      rates: `[m]` flip rates in [0, 1]; a number of flips divided by the number of images.
      accuracies: `[m]` in [0, 1].
      target: whose accuracies these are; estimates carry the name.
      form: `"linear"`, `"quadratic"`, `"cubic"`: the polynomial with falling Bernstein coefficients
        as above, constant beyond the largest calibration rate; `"logistic"`:
        $1 / (1 + \exp(-a + b x^p))$ with $b \ge 0$, which goes on falling there; `"isotonic"`: the
        best falling sequence of points, joined by straight lines. All are clipped to [0, 1].

    Returns:
      The curve, with what its intervals need. If all rates are equal, it is the constant mean.

    Raises:
      ValueError: fewer than 4 splits, lengths that differ, values outside [0, 1] or NaN, an unknown
        form or target.

    >>> curve = fit_flip_curve([0, 0.01, 0.05, 0.1], [0.95, 0.9, 0.7, 0.5], target="adapted")
    >>> round(float(curve.estimate(0.07).value), 2)
    0.61
    """
    rates, accuracies = np.asarray(rates, float), np.asarray(accuracies, float)
    if rates.ndim != 1 or rates.shape != accuracies.shape or len(rates) < 4:
        raise ValueError(
            "A flip curve needs the rates and accuracies of 4 splits or more, one of each a split, "
            f"got shapes {rates.shape} and {accuracies.shape}."
        )
    _check_rates(rates)
    if not np.all((accuracies >= 0) & (accuracies <= 1)):
        raise ValueError(
            f"Accuracies must be in [0, 1], got {accuracies.min()} to {accuracies.max()}; "
            "divide percent by 100."
        )
    if form not in get_args(Form):
        raise ValueError(f"`form` must be one of {', '.join(get_args(Form))}, got {form!r}.")
    if target not in get_args(Target):
        raise ValueError(f"`target` must be one of {', '.join(get_args(Target))}, got {target!r}.")

    fit = partial(_fit, form)
    others = [np.arange(len(rates)) != j for j in range(len(rates))]
    left_out = tuple(fit(rates[kept], accuracies[kept]) for kept in others)
    missed = np.concatenate([curve(rates[[j]]) for j, curve in enumerate(left_out)])
    return FlipCurve(
        curve=fit(rates, accuracies),
        left_out=left_out,
        residuals=np.abs(accuracies - missed) / error_rate(missed),
        fitted_range=(float(rates.min()), float(rates.max())),
        target=target,
    )


def published_accuracy(rate: ArrayLike, name: str, *, compat: str | None = None) -> np.ndarray:
    """Accuracy by one of the polynomials published for a ResNet-50 on ImageNet.

    Their target is the source network, with its running statistics. They were fitted on ImageNet
    validation images under 4 corruptions with RDumb after 990 steps, for weighted flips
    (`"weighted_quadratic"`) and unweighted ones (`"unweighted_linear"`, `"unweighted_quadratic"`).
    For any other network or data set fit your own.

    Args:
      rate: `[...]` flip rates.
      name: which polynomial.
      compat: `"reference"` returns the polynomial itself, as the published code does. By default
        it is clipped to [0, 1], and constant beyond 452 weighted flips in 1,000, where the
        weighted one would rise again.

    Returns:
      `[...]` accuracies.

    Raises:
      ValueError: an unknown name or mode, a rate that is not in [0, 1].

    Reference: O. Press et al. (2024), published code.

    >>> float(published_accuracy(0.1, "unweighted_linear").round(4))
    0.7323
    """
    if name not in PUBLISHED_POLYNOMIALS:
        known = ", ".join(PUBLISHED_POLYNOMIALS)
        raise ValueError(f"`name` must be one of {known}, got {name!r}.")
    if compat not in (None, "reference"):
        raise ValueError(f"`compat` must be None or 'reference', got {compat!r}.")
    rate = np.asarray(rate, float)
    _check_rates(rate)
    coefficients, flips = PUBLISHED_POLYNOMIALS[name], 1000 * rate
    if compat == "reference":
        return np.asarray(np.polyval(coefficients, flips) / 100)
    if len(coefficients) == 3 and coefficients[0] > 0:
        flips = np.minimum(flips, -coefficients[1] / (2 * coefficients[0]))
    return np.asarray(np.clip(np.polyval(coefficients, flips) / 100, 0, 1))


# Percent as a function of flips among 1,000 images, highest power first.
PUBLISHED_POLYNOMIALS = {
    "weighted_quadratic": (3.55553868e-4, -0.321445023, 75.661858),
    "unweighted_linear": (-0.10318227, 83.55158891),
    "unweighted_quadratic": (-1.01165493e-5, -9.59406999e-2, 82.5756446),
}


def _fit(form: Form, rates: np.ndarray, accuracies: np.ndarray) -> Curve:
    if np.ptp(rates) == 0:
        mean = accuracies.mean()
        return lambda x: np.full(np.shape(x), mean)
    if form == "logistic":
        return _fit_logistic(rates, accuracies)
    if form == "isotonic":
        return _fit_isotonic(rates, accuracies)
    return _fit_polynomial(rates, accuracies, _DEGREES[form])


def _fit_logistic(rates: np.ndarray, accuracies: np.ndarray) -> Curve:
    def curve(parameters: np.ndarray, x: np.ndarray) -> np.ndarray:
        a, log_b, log_p = parameters
        return np.asarray(special.expit(a - np.exp(log_b) * x ** np.exp(log_p)))

    bounds = np.array([(-7.0, 7.0), (-7.0, 7.0), (np.log(0.2), np.log(3.0))]).T
    fits = [
        optimize.least_squares(
            lambda p: curve(p, rates) - accuracies, (2.0, 2.0, np.log(power)), bounds=bounds
        )
        for power in (0.5, 1.0)  # the sum of squares can have two valleys
    ]
    return partial(curve, min(fits, key=lambda fit: fit.cost).x)


def _fit_polynomial(rates: np.ndarray, accuracies: np.ndarray, degree: int) -> Curve:
    """Least squares in the Bernstein basis, where falling coefficients make a falling curve."""
    largest = rates.max()
    powers = np.arange(degree + 1)

    def basis(x: np.ndarray) -> np.ndarray:
        u = np.clip(np.asarray(x)[..., None] / largest, 0, 1)
        return special.comb(degree, powers) * u**powers * (1 - u) ** (degree - powers)

    # Coefficient i is the sum of the non-negative drops i, i + 1, ...
    drops, _ = optimize.nnls(np.cumsum(basis(rates), axis=-1), accuracies)
    coefficients = np.cumsum(drops[::-1])[::-1]
    return lambda x: np.clip(basis(x) @ coefficients, 0, 1)


def _fit_isotonic(rates: np.ndarray, accuracies: np.ndarray) -> Curve:
    places, inverse, counts = np.unique(rates, return_inverse=True, return_counts=True)
    means = np.bincount(inverse, accuracies) / counts
    steps = optimize.isotonic_regression(means, weights=counts, increasing=False).x
    return lambda x: np.interp(x, places, steps)


def _check_rates(rates: np.ndarray) -> None:
    if not np.all((rates >= 0) & (rates <= 1)):
        raise ValueError(
            f"Flip rates must be in [0, 1], got {rates.min()} to {rates.max()}; "
            "divide a number of flips by the number of images."
        )
