import numpy as np
import pytest
import scipy.optimize
import scipy.special
from hypothesis import given
from hypothesis import strategies as st

from entropax.estimation.stacking import fit_stack

logit, expit = scipy.special.logit, scipy.special.expit
GROUPS = np.array(["clean"] + [name for name in ("fog", "snow", "blur", "noise") for _ in range(5)])


def splits(seed, groups=GROUPS, scatter=0.3, k=4):
    """Accuracies, and estimates that err in common and by themselves, each with its own bias."""
    rng = np.random.default_rng(seed)
    names = np.unique(groups)
    difficulty = rng.uniform(0, 4, len(groups))
    truth = 3 - difficulty
    own = scatter * rng.normal(size=(len(names), k))[np.searchsorted(names, groups)]
    own = own + 0.05 * rng.normal(size=(len(groups), k))
    stretch, bias = rng.uniform(0.5, 1.0, k), rng.uniform(0, 1, k)
    return expit(truth[:, None] * stretch + bias + own), expit(truth)


def fitted(seed=0, **options):
    return fit_stack(*splits(seed), groups=GROUPS, target="source", **options)


def test_the_best_that_is_not_negative():
    """Against a general optimiser of the formula as it stands."""
    estimates, accuracies = splits(1)
    x, y = logit(np.clip(estimates, 0.01, 0.99)), logit(np.clip(accuracies, 0.01, 0.99))
    z = (x - x.mean(0)) / x.std(0)

    def loss(beta):
        return np.mean((y.mean() + z @ beta - y) ** 2) + 0.7 / 4 * beta @ beta

    best = scipy.optimize.minimize(loss, np.ones(4), bounds=[(0, None)] * 4, tol=1e-14)
    found = fitted(1, penalty=0.7).combination
    np.testing.assert_allclose(found.coefficients * x.std(0), best.x, atol=1e-5)
    new = splits(2)[0]
    z = (logit(np.clip(new, 0.01, 0.99)) - x.mean(0)) / x.std(0)
    np.testing.assert_allclose(found.sum(new), y.mean() + z @ best.x, atol=1e-4)


def test_shifts_and_stretches_are_corrected():
    truth = np.linspace(-2, 3, 21)
    estimates = expit(np.stack([0.5 * truth + 1, 0.8 * truth - 0.3], axis=-1))
    stack = fit_stack(estimates, expit(truth), groups=GROUPS, target="adapted", penalty=1e-9)
    found = stack.estimate(expit(np.array([[1.25, 0.1]])))
    np.testing.assert_allclose(found.value, expit(0.5), atol=1e-6)
    assert found.target == "adapted"


def test_better_than_its_parts():
    """Errors of its own in each estimate partly cancel: at least a quarter less than the best."""
    together, alone = [], []
    for seed in range(20):
        groups = np.concatenate([GROUPS, [f"test{i}" for i in range(30)]])
        estimates, accuracies = splits(seed, groups)
        train, test = np.arange(21), np.arange(21, 51)

        def error(columns, estimates=estimates, accuracies=accuracies, train=train, test=test):
            stack = fit_stack(
                estimates[train][:, columns], accuracies[train], groups=GROUPS, target="source"
            )
            return np.mean(np.abs(stack.estimate(estimates[test][:, columns]).value
                                  - accuracies[test]))  # fmt: skip

        together.append(error([0, 1, 2, 3]))
        alone.append([error([i]) for i in range(4)])
    assert np.mean(together) < 0.75 * np.min(np.mean(alone, axis=0))


def test_intervals_cover_new_groups():
    """80 % of splits of new groups; each run has few groups, so that runs differ."""
    covered = []
    for seed in range(60):
        groups = np.concatenate([GROUPS, [f"test{i}" for i in range(20)]])
        estimates, accuracies = splits(seed, groups)
        stack = fit_stack(estimates[:21], accuracies[:21], groups=GROUPS, target="source")
        found = stack.estimate(estimates[21:], level=0.8)
        covered.append(np.mean((found.lower <= accuracies[21:]) & (accuracies[21:] <= found.upper)))
    assert 0.75 < np.mean(covered) < 0.95


def test_intervals_by_definition():
    estimates, accuracies = splits(3)
    stack, new = fitted(3), splits(4)[0][7]
    lower, upper = [], []
    for j in range(21):
        others = np.not_equal(GROUPS, GROUPS[j])
        f = fit_stack(estimates[others], accuracies[others], groups=GROUPS[others], target="source")
        f = f.combination
        r = abs(accuracies[j] - f(estimates[j])) / max(1 - f(estimates[j]), 0.02)
        high = expit(f.sum(new))
        lower.append(f(new) - r * max(1 - f(new), 0.02))
        upper.append(high + r * max(1 - high, 0.02))
    found = stack.estimate(new, level=0.8)
    assert not found.extrapolated
    # The rank is floor(0.2 * 22) = 4.
    np.testing.assert_allclose(found.lower, max(0, sorted(lower)[3]), atol=1e-12)
    np.testing.assert_allclose(found.upper, min(1, sorted(upper)[-4]), atol=1e-12)


@given(st.integers(0, 1000), st.floats(0.5, 0.99))
def test_ordered_and_in_the_unit_interval(seed, level):
    new = np.random.default_rng(seed).uniform(0, 1, (3, 5, 4))
    new[0, 0], new[0, 1] = 0, 1
    found = fitted().estimate(new, level=level)
    assert found.value.shape == (3, 5)
    assert np.all((found.lower >= 0) & (found.lower <= found.value))
    assert np.all((found.value <= found.upper) & (found.upper <= 1))


@given(st.integers(0, 1000), st.integers(0, 3))
def test_rises_with_every_estimate(seed, column):
    new = np.random.default_rng(seed).uniform(0.1, 0.9, 4)
    more = new.copy()
    more[column] += 0.05
    found = fitted().estimate(np.stack([new, more]))
    assert found.value[1] >= found.value[0]


def test_beyond_the_splits_the_interval_is_one_sided():
    found = fitted().estimate([[0.01] * 4, [0.7] * 4, [0.999] * 4])
    assert found.extrapolated.tolist() == [True, False, True]
    assert found.lower[0] == 0
    assert found.upper[0] < 1
    assert 0 < found.lower[1] < found.upper[1] < 1
    assert found.upper[2] == 1
    assert found.lower[2] > 0


def test_the_splits_themselves_are_not_beyond():
    """Computed one by one they differ from all at once by rounding, which is no extrapolation."""
    for seed in range(30):
        stack, estimates = fitted(seed), splits(seed)[0]
        found = stack.combination(estimates)
        for i in (found.argmin(), found.argmax()):
            excess = stack.combination.sum(estimates[i]) - stack.combination.limit(estimates[i])
            assert bool(stack.estimate(estimates[i]).extrapolated) == (excess > 1e-6)


def test_the_sum_does_not_leave_the_pessimists_behind():
    """Many estimates that all believe too much are held back by a few that do not."""
    rng = np.random.default_rng(0)
    truth = np.linspace(-2, 3, 21)
    noise = 0.1 * rng.normal(size=(21, 10))
    estimates = expit(truth[:, None] + noise)
    stack = fit_stack(estimates, expit(truth), groups=GROUPS, target="source")
    agreed = stack.estimate(np.full(10, 0.7))
    assert not agreed.extrapolated
    fooled = np.where(np.arange(10) < 7, 0.9, 0.3)
    found = stack.estimate(fooled)
    assert found.extrapolated
    assert found.value < 0.45
    assert found.lower == 0
    # It cannot know who is right, so the optimists decide about the upper end.
    assert found.upper > expit(stack.combination.sum(fooled))
    # Other noise of the same size is no disagreement; on most splits nothing is held back.
    calm = stack.estimate(expit(truth[5:-5, None] + 0.1 * rng.normal(size=(11, 10))))
    assert np.mean(calm.extrapolated) < 0.4


def test_the_limit_by_definition():
    estimates, accuracies = splits(2)
    x, y = logit(np.clip(estimates, 0.01, 0.99)), logit(np.clip(accuracies, 0.01, 0.99))

    def pessimists(new):
        alone = [np.polyval(np.polyfit(x[:, i], y, 1), new[:, i]) for i in range(4)]
        return np.quantile(alone, 0.2, axis=0)

    found = fitted(2).combination
    excess = np.quantile(found.sum(estimates) - pessimists(x), 0.9)
    new = splits(3)[0]
    expected = pessimists(logit(np.clip(new, 0.01, 0.99))) + excess
    np.testing.assert_allclose(found.limit(new), expected, atol=1e-9)


def test_order_of_splits_and_estimates_does_not_matter():
    estimates, accuracies = splits(5)
    rng = np.random.default_rng(0)
    order, columns = rng.permutation(21), rng.permutation(4)
    shuffled = fit_stack(
        estimates[order][:, columns], accuracies[order], groups=GROUPS[order], target="source"
    )
    new = splits(6)[0]
    a, b = fitted(5).estimate(new), shuffled.estimate(new[:, columns])
    for name in ("value", "lower", "upper"):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), atol=1e-10)


def test_an_estimate_that_says_nothing_is_left_out():
    estimates, accuracies = splits(0)
    flat = np.concatenate([estimates, np.full((21, 1), 0.7)], axis=-1)
    flat[0, -1] += 1e-9
    stack = fit_stack(flat, accuracies, groups=GROUPS, target="source", penalty=1.25)
    assert stack.combination.coefficients[-1] == 0
    # The penalty is shared by five instead of four.
    np.testing.assert_allclose(
        stack.combination.coefficients[:4], fitted().combination.coefficients, atol=1e-9
    )


def test_estimates_that_all_say_nothing_give_the_mean():
    stack = fit_stack(np.full((4, 2), 0.5), [0.6] * 4, groups=[0, 0, 1, 1], target="source")
    found = stack.estimate([[0.5, 0.5], [0.9, 0.1]])
    np.testing.assert_allclose(found.value, 0.6)


def test_the_larger_the_penalty_the_nearer_to_the_mean():
    estimates, accuracies = splits(0)
    spreads = [np.ptp(fitted(penalty=p).combination.sum(estimates)) for p in (0.1, 1, 10, 1e6)]
    assert np.all(np.diff(spreads) < 0)
    mean = np.mean(logit(np.clip(accuracies, 0.01, 0.99)))
    np.testing.assert_allclose(fitted(penalty=1e9).combination.sum(estimates), mean, atol=1e-5)


def test_few_splits_give_wide_intervals():
    found = fitted().estimate(splits(1)[0], level=0.99)
    assert np.all(found.lower == 0)
    assert np.all(found.upper == 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"estimates": splits(0)[0][:3], "accuracies": [0.5] * 3, "groups": [0, 1, 1]}, "4 splits"),
        ({"accuracies": [0.5] * 20}, r"got shapes \(21, 4\), \(20,\) and \(21,\)"),
        ({"estimates": splits(0)[0][:, :0]}, r"got shapes \(21, 0\)"),
        ({"groups": ["fog"] * 21}, "2 groups of splits or more, got only fog"),
        ({"estimates": 100 * splits(0)[0]}, r"Estimates must be in \[0, 1\]"),
        ({"accuracies": np.full(21, np.nan)}, r"Accuracies must be in \[0, 1\], got nan"),
        ({"penalty": 0.0}, "`penalty` must be positive and finite, got 0.0"),
    ],
)
def test_bad_arguments(change, message):
    estimates, accuracies = splits(0)
    arguments = {"estimates": estimates, "accuracies": accuracies, "groups": GROUPS, **change}
    with pytest.raises(ValueError, match=message):
        fit_stack(**arguments, target="source")


@pytest.mark.parametrize(
    ("estimates", "level", "message"),
    [
        (np.full(3, 0.5), 0.9, r"must be \[\.\.\., 4\], as those of the fit, got shape \(3,\)"),
        (0.5, 0.9, r"got shape \(\)"),
        (np.full(4, np.nan), 0.9, r"Estimates must be in \[0, 1\], got nan"),
        (np.full(4, 0.5), 1.0, "`level` must be between 0 and 1, got 1.0"),
    ],
)
def test_bad_targets(estimates, level, message):
    with pytest.raises(ValueError, match=message):
        fitted().estimate(estimates, level=level)
