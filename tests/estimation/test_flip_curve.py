import numpy as np
import pytest
import scipy.optimize
from oracles import golden

from entropax.estimation import fit_flip_curve, published_accuracy

FORMS = ("logistic", "linear", "quadratic", "cubic", "isotonic")
POLYNOMIALS = golden("tta/flips.json")["f_polynomials"]
RATES = np.array([0.0, 0.0, 0.002, 0.01, 0.02, 0.04, 0.06, 0.09, 0.15, 0.2])


def splits(seed, n=12):
    """Noisy calibration splits around a falling curve."""
    rng = np.random.default_rng(seed)
    rates = np.sort(rng.uniform(0, 0.3, n) ** 2)
    return rates, np.clip(1 / (1 + np.exp(-3 + 20 * rates)) + rng.normal(0, 0.05, n), 0, 1)


@pytest.mark.parametrize(
    "name", ["weighted_quadratic", "unweighted_linear", "unweighted_quadratic"]
)
def test_published_polynomials(name):
    rates = np.array(POLYNOMIALS["x"]) / 1000
    reference = published_accuracy(rates, name, compat="reference")
    np.testing.assert_allclose(100 * reference, POLYNOMIALS[name], atol=1e-9)
    corrected = 100 * published_accuracy(rates, name)
    clipped = np.array(POLYNOMIALS[f"{name}_clipped_0_100"])
    rises = np.array(POLYNOMIALS["x"]) > 452.04 if name == "weighted_quadratic" else rates < 0
    np.testing.assert_allclose(corrected[~rises], clipped[~rises], atol=1e-9)
    # beyond its lowest point the quadratic would rise again; it stays there instead
    np.testing.assert_allclose(corrected[rises], clipped.min(), atol=1e-6)
    assert np.all(np.diff(corrected) <= 0)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("seed", range(4))
def test_curves_fall_and_stay_in_the_unit_interval(form, seed):
    curve = fit_flip_curve(*splits(seed), target="adapted", form=form)
    estimate = curve.estimate(np.linspace(0, 1, 300))
    assert np.all(np.diff(estimate.value) <= 1e-12)
    for bound in (estimate.value, estimate.lower, estimate.upper):
        assert np.all((bound >= 0) & (bound <= 1))
    assert np.all((estimate.lower <= estimate.value) & (estimate.value <= estimate.upper))


def test_logistic_curve_is_recovered():
    accuracies = 1 / (1 + np.exp(-2.5 + 12 * RATES**0.7))
    curve = fit_flip_curve(RATES, accuracies, target="adapted", form="logistic")
    new = np.array([0.005, 0.03, 0.12])
    np.testing.assert_allclose(
        curve.estimate(new).value, 1 / (1 + np.exp(-2.5 + 12 * new**0.7)), atol=1e-5
    )


def test_quadratic_is_recovered_when_it_falls():
    accuracies = 0.9 - 4 * RATES + 9 * RATES**2
    curve = fit_flip_curve(RATES, accuracies, target="adapted", form="quadratic")
    new = np.array([0.005, 0.03, 0.12])
    np.testing.assert_allclose(curve.estimate(new).value, 0.9 - 4 * new + 9 * new**2, atol=1e-9)


def test_polynomial_is_the_best_that_falls():
    """Against a general optimiser with the derivative constrained on a grid."""
    rates, accuracies = splits(1)
    grid = np.linspace(0, rates.max(), 50)

    def loss(c):
        return np.sum((np.polyval(c, rates) - accuracies) ** 2)

    falling = {"type": "ineq", "fun": lambda c: -np.polyval(np.polyder(c), grid)}
    best = scipy.optimize.minimize(
        loss, [0, -1, 0.9], constraints=falling, method="SLSQP", options={"ftol": 1e-14}
    )
    curve = fit_flip_curve(rates, accuracies, target="adapted", form="quadratic")
    fitted = np.sum((curve.estimate(rates).value - accuracies) ** 2)
    assert fitted == pytest.approx(best.fun, rel=1e-4)


def test_isotonic_averages_equal_rates():
    curve = fit_flip_curve(
        [0, 0, 0.1, 0.2], [1.0, 0.8, 0.5, 0.6], target="adapted", form="isotonic"
    )
    np.testing.assert_allclose(curve.estimate([0, 0.05, 0.1, 0.3]).value, [0.9, 0.725, 0.55, 0.55])


def test_extrapolation_is_flagged():
    curve = fit_flip_curve([0.01, 0.02, 0.05, 0.1], [0.9, 0.8, 0.7, 0.5], target="source")
    estimate = curve.estimate([0.0, 0.01, 0.05, 0.1, 0.11])
    assert estimate.extrapolated.tolist() == [True, False, False, False, True]
    assert estimate.target == "source"


def test_equal_rates_give_the_mean_and_flag_all_others():
    curve = fit_flip_curve([0.0] * 4, [0.9, 1.0, 0.8, 0.9], target="adapted")
    estimate = curve.estimate([0.0, 0.1])
    np.testing.assert_allclose(estimate.value, 0.9)
    assert estimate.extrapolated.tolist() == [False, True]


@pytest.mark.parametrize(("n", "rank"), [(9, 1), (10, 1), (15, 1), (19, 2), (21, 2), (29, 3)])
def test_interval_is_the_jackknife_plus(n, rank):
    """By hand, at no error of the rate: order statistics of f_-j(x) -+ r_j e(f_-j(x))."""
    rates, accuracies = splits(2, n=n)
    curve = fit_flip_curve(rates, accuracies, target="adapted", form="linear")
    at = 0.5 * (rates.min() + rates.max())
    estimate = curve.estimate(at, level=0.9)
    lower, upper = [], []
    for j in range(n):
        kept = np.arange(n) != j
        other = fit_flip_curve(rates[kept], accuracies[kept], target="adapted", form="linear")
        at_j, at_x = other.estimate([rates[j], at]).value
        spread = abs(accuracies[j] - at_j) / max(1 - at_j, 0.02) * max(1 - at_x, 0.02)
        lower.append(at_x - spread)
        upper.append(at_x + spread)
    assert float(estimate.lower) == pytest.approx(max(0, sorted(lower)[rank - 1]), abs=1e-12)
    assert float(estimate.upper) == pytest.approx(min(1, sorted(upper)[-rank]), abs=1e-12)


def test_intervals_are_one_sided_outside_the_fitted_range():
    rates, accuracies = splits(2, n=19)
    curve = fit_flip_curve(rates + 0.01, accuracies, target="adapted")
    estimate = curve.estimate([0.005, 0.5])
    assert estimate.upper[0] == 1
    assert estimate.lower[0] > 0
    assert estimate.lower[1] == 0


@pytest.mark.parametrize("form", ["logistic", "quadratic"])
def test_intervals_cover(form):
    """New points of the same kind lie in the 80 % interval about as often as that."""
    inside = []
    for seed in range(60):
        curve = fit_flip_curve(*splits(seed, n=15), target="adapted", form=form)
        rates, accuracies = splits(1000 + seed, n=20)
        estimate = curve.estimate(rates, level=0.8)
        inside.append((estimate.lower <= accuracies) & (accuracies <= estimate.upper))
    assert 0.72 < np.mean(inside) < 0.93


def test_uncertain_rates_widen_the_interval():
    curve = fit_flip_curve(*splits(3), target="adapted")
    sharp, blurred = (curve.estimate(0.03, stderr=stderr) for stderr in (0.0, 0.02))
    assert blurred.upper - blurred.lower > sharp.upper - sharp.lower


def test_too_few_splits_for_the_level_give_the_whole_interval():
    curve = fit_flip_curve([0, 0.01, 0.05, 0.1], [0.95, 0.9, 0.7, 0.5], target="adapted")
    estimate = curve.estimate(0.03, level=0.9)
    assert (float(estimate.lower), float(estimate.upper)) == (0, 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fit_flip_curve([0.1] * 3, [0.5] * 3, target="adapted"), "4 splits or more"),
        (lambda: fit_flip_curve([0.1] * 4, [0.5] * 5, target="adapted"), "4 splits or more"),
        (lambda: fit_flip_curve([5, 10, 20, 40], [0.5] * 4, target="adapted"), "must be in"),
        (lambda: fit_flip_curve([0.1] * 4, [50.0] * 4, target="adapted"), "divide percent by 100"),
        (lambda: fit_flip_curve([np.nan] * 4, [0.5] * 4, target="adapted"), "must be in"),
        (lambda: published_accuracy(120, "unweighted_linear"), "divide a number of flips"),
        (lambda: published_accuracy(0.1, "cubic"), "must be one of weighted_quadratic"),
        (lambda: published_accuracy(0.1, "unweighted_linear", compat="x"), "`compat` must be"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("rate", "options", "message"),
    [
        (40, {}, "divide a number of flips by the number of images"),
        (-0.1, {}, "must be in"),
        (np.nan, {}, "must be in"),
        (0.1, {"level": 90.0}, "`level` must be between 0 and 1"),
        (0.1, {"stderr": -1.0}, "`stderr` must not be negative"),
    ],
)
def test_bad_rates(rate, options, message):
    curve = fit_flip_curve(*splits(0), target="adapted")
    with pytest.raises(ValueError, match=message):
        curve.estimate(rate, **options)
