"""Binned calibration errors against recorded values and brute force."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from uncertainty import recorded

from entropax.uncertainty.bins import bin_forecasts, equal_width_edges
from entropax.uncertainty.calibration_error import calibration_error
from entropax.uncertainty.kolmogorov_smirnov import ks_calibration_error
from entropax.uncertainty.ordering import rank
from entropax.uncertainty.proper_scores import (
    brier_decomposition,
    brier_score,
    negative_log_likelihood,
)

error = jax.jit(
    calibration_error, static_argnames=("num_bins", "binning", "norm", "classes", "debiased")
)
sort = jax.jit(rank)
NORMS = {"ece": "l1", "rmsce": "l2", "mce": "max"}
CASES = [name for name in recorded.names() if name != "maxlogit_scores"]
# Equal confidences share a bin here; the recorded values separate them by the order of the rows.
SPLIT_BY_ORDER = {"ties_grid20", "on_bin_edges_15"}


@jax.jit
def all_errors(confidence, correct, where):
    def of(**options):
        return calibration_error(confidence, correct, where=where, **options)

    errors = {
        f"{name}_{bins}": of(num_bins=bins, norm=norm)
        for bins in (5, 15, 50)
        for name, norm in NORMS.items()
    }
    return errors | {
        "l2ce_debiased_sq_15": of(norm="l2", debiased=True),
        "ece_equal_mass_15": of(binning="equal_mass"),
    }


def brute_force(confidence, correct, *, num_bins=15, binning="equal_width", norm="l1"):
    confidence, correct = np.float64(confidence), np.float64(correct)
    edges = np.float64(equal_width_edges(num_bins))
    if binning == "equal_mass":
        parts = np.array_split(np.sort(confidence), num_bins)
        edges = np.array([0, *(part[-1] for part in parts)])
    gaps, shares = [], []
    for b in range(num_bins):
        inside = (confidence > edges[b]) & (confidence <= edges[b + 1])
        if b == 0:
            inside |= confidence == 0
        if np.any(inside):
            gaps.append(abs(np.mean(confidence[inside]) - np.mean(correct[inside])))
            shares.append(np.mean(inside))
    gaps, shares = np.array(gaps), np.array(shares)
    if norm == "max":
        return gaps.max()
    return shares @ gaps if norm == "l1" else np.sqrt(shares @ gaps**2)


@pytest.mark.parametrize("name", CASES)
def test_recorded_values(name):
    confidence, correct, where = recorded.padded(name)
    errors = all_errors(confidence, correct, where)
    for key, value in errors.items():
        if key == "ece_equal_mass_15" and name in SPLIT_BY_ORDER:
            expected = brute_force(*recorded.case(name), binning="equal_mass")
        else:
            expected = recorded.correct_values(name)[key]
        # float32, relative to a float64 value; measured: 1e-7
        np.testing.assert_allclose(value, expected, atol=2e-6, rtol=0, err_msg=key)


# Not what lies on the edges in float32, which are others in float64.
@pytest.mark.parametrize("name", ["saturated_at_one"])
def test_recorded_values_in_float64(name):
    confidence, correct, where = recorded.padded(name)
    with jax.enable_x64(True):
        errors = all_errors(np.float64(confidence), correct, where)
        for key in set(errors) - {"ece_equal_mass_15"}:
            expected = recorded.correct_values(name)[key]
            np.testing.assert_allclose(errors[key], expected, atol=1e-12, rtol=0, err_msg=key)


@pytest.mark.parametrize("name", ["overconf_distinct", "imagenet_size"])
def test_is_that_of_the_published_code(name):
    """No confidence of 0 and no ties here, so that both follow the same rules."""
    confidence, correct, where = recorded.padded(name)
    ece = error(confidence, correct, where=where)
    mce = error(confidence, correct, norm="max", where=where)
    # float32 means there: 2e-6
    np.testing.assert_allclose([ece, mce], recorded.reference(name)["ECE_MCE_15"], atol=2e-6)


def test_torchmetrics_has_another_bin_for_one():
    ours = float(error(*map(jnp.asarray, recorded.case("saturated_at_one"))))
    assert ours == pytest.approx(0.0504163, abs=1e-6)
    assert recorded.others("saturated_at_one")["torchmetrics_ece_15"] == pytest.approx(0.0572677)


def test_edges():
    """In float32 each edge is rounded once. Ten bins: the edges that decimal fractions round to."""
    np.testing.assert_array_equal(
        equal_width_edges(10), np.array([i / 10 for i in range(11)], np.float32)
    )
    for num_bins in range(1, 400):
        edges = equal_width_edges(num_bins)
        assert edges.dtype == np.float32
        assert edges[0] == 0
        assert edges[-1] == 1
        assert np.all(np.diff(edges) > 0)
        np.testing.assert_allclose(edges, np.arange(num_bins + 1) / num_bins, atol=6e-8)
    # The recorded case has half of its confidences exactly on the published edges.
    confidence, _ = recorded.case("on_bin_edges_15")
    assert set(equal_width_edges(15)) <= set(confidence)


def test_a_confidence_on_an_edge_belongs_below_and_zero_to_the_first_bin():
    edges = equal_width_edges(15)
    for b in range(1, 16):
        # The pair shares a bin if the edge is in the bin below it: gap 0.5 at the mean.
        pair = jnp.array([edges[b], np.nextafter(edges[b - 1], np.float32(1))])
        assert float(error(pair, jnp.array([1, 0]))) == pytest.approx(
            abs(float(np.mean(np.float64(pair))) - 0.5), abs=1e-6
        )
    assert float(error(jnp.array([0.0, 0.05]), jnp.array([1, 0]))) == pytest.approx(0.475)
    assert float(error(jnp.array([1.0, 0.95]), jnp.array([1, 0]))) == pytest.approx(0.475)


seeds = st.integers(0, 2**32 - 1)


def draw(seed, n=64):
    rng = np.random.default_rng(seed)
    grid = rng.choice([4, 15, 2**20])
    confidence = np.float32(rng.integers(0, grid + 1, n) / grid)
    return confidence, rng.integers(0, 2, n)


@pytest.mark.parametrize("binning", ["equal_width", "equal_mass"])
@pytest.mark.parametrize("norm", ["l1", "l2", "max"])
@given(seed=seeds)
def test_brute_force_bounds_and_permutations(binning, norm, seed):
    confidence, correct = draw(seed)
    options = {"binning": binning, "norm": norm}
    value = float(error(confidence, correct, **options))
    assert 0 <= value <= 1
    assert value == pytest.approx(brute_force(confidence, correct, **options), abs=2e-6)
    order = np.random.default_rng(seed).permutation(64)
    assert float(error(confidence[order], correct[order], **options)) == pytest.approx(
        value, abs=1e-6
    )


@pytest.mark.parametrize("binning", ["equal_width", "equal_mass"])
@given(seed=seeds)
def test_masked_rows_change_nothing(binning, seed):
    confidence, correct = draw(seed)
    where = np.random.default_rng(seed).random(64) < 0.6
    where[0] = True
    confidence[~where], correct[~where] = np.nan, 9
    value = error(confidence, correct, binning=binning, where=where)
    expected = (
        brute_force(confidence[where], correct[where], binning=binning)
        if (binning == "equal_width" or where.sum() >= 15)
        else value
    )
    np.testing.assert_allclose(value, expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize("binning", ["equal_width", "equal_mass"])
@given(seed=seeds)
def test_weights_of_a_ranking_count_examples(binning, seed):
    confidence, correct = draw(seed)
    times = np.random.default_rng(seed).integers(0, 4, 64)
    times[0] = 1
    ranking = sort(confidence, correct)
    value = error(ranking, binning=binning)
    np.testing.assert_allclose(value, error(confidence, correct, binning=binning), atol=1e-6)
    repeated = ranking._replace(weights=jnp.asarray(times, jnp.float32))
    scores, rights = (np.repeat(np.array(x), times) for x in ranking[:2])
    if len(scores) >= 15:
        expected = brute_force(scores, rights, binning=binning)
        np.testing.assert_allclose(error(repeated, binning=binning), expected, atol=2e-6)


def test_calibrated_bins_are_zero():
    confidence = jnp.repeat(jnp.array([0.25, 0.5, 0.75]), 4)
    correct = jnp.array([1, 0, 0, 0, 1, 1, 0, 0, 1, 1, 1, 0])
    for norm in NORMS.values():
        assert float(error(confidence, correct, norm=norm)) == pytest.approx(0, abs=1e-7)
    # and then the debiased estimate is minus the chance: a (1 - a) / 3 in each bin
    debiased = error(confidence, correct, norm="l2", debiased=True)
    assert float(debiased) == pytest.approx(-(3 / 16 + 1 / 4 + 3 / 16) / 9, abs=1e-7)


def test_debiased_is_unbiased():
    """Of calibrated forecasts in one bin it is 0 on average, and the plain error is not."""
    rng = np.random.default_rng(0)
    correct = rng.random((4000, 40)) < 0.7
    confidence = jnp.full(correct.shape, 0.7)
    debiased = error(confidence, correct, norm="l2", debiased=True)
    # standard error of the mean: 0.0074 * 1.4 / sqrt(4000)
    assert abs(float(jnp.mean(debiased))) < 5e-4
    plain = error(confidence, correct, norm="l2")
    assert float(jnp.mean(plain**2)) == pytest.approx(0.21 / 40, rel=0.1)


def random_probs(shape, seed=0):
    rng = np.random.default_rng(seed)
    return np.float32(rng.dirichlet(np.ones(shape[-1]), shape[:-1])), rng


def test_top_class_and_each_class():
    probs, rng = random_probs((2, 300, 4))
    labels = rng.integers(0, 4, (2, 300))
    where = rng.random((2, 300)) < 0.9
    for binning in ("equal_width", "equal_mass"):
        top = error(probs, labels, binning=binning, where=where)
        each = error(probs, labels, binning=binning, classes="each", where=where)
        for i in range(2):
            p, y = probs[i, where[i]], labels[i, where[i]]
            expected = brute_force(p.max(-1), p.argmax(-1) == y, binning=binning)
            assert float(top[i]) == pytest.approx(expected, abs=2e-6)
            expected = np.mean([brute_force(p[:, k], y == k, binning=binning) for k in range(4)])
            assert float(each[i]) == pytest.approx(expected, abs=2e-6)


def test_long_constant_columns_keep_their_digits():
    """A running float32 sum of 50,000 times 0.7 is off by 3e-4 of its mean."""
    correct = jnp.arange(50000) % 10 < 7
    for binning in ("equal_width", "equal_mass"):
        value = error(jnp.full(50000, 0.7, jnp.float32), correct, binning=binning)
        assert float(value) == pytest.approx(0, abs=1e-6)


def test_undefined_and_refused():
    nothing = jnp.zeros(0), jnp.zeros(0, int)
    masked = jnp.ones(3), jnp.ones(3, int)
    for binning in ("equal_width", "equal_mass"):
        for norm in NORMS.values():
            if binning == "equal_width":
                assert np.isnan(error(*nothing, binning=binning, norm=norm))
            none = error(*masked, binning=binning, norm=norm, where=jnp.zeros(3, bool))
            assert np.isnan(none)
    for bad in (1.1, -0.1, np.nan):
        confidence = jnp.array([0.5, bad, 0.2])
        for norm in NORMS.values():
            assert np.isnan(error(confidence, jnp.array([1, 0, 1]), norm=norm))
        if not np.isnan(bad):
            with pytest.raises(ValueError, match=f"got {bad}"):
                calibration_error(confidence, jnp.array([1, 0, 1]))
    scores, correct = map(jnp.asarray, recorded.case("maxlogit_scores"))
    with pytest.raises(ValueError, match="must be a probability"):
        calibration_error(scores, correct)
    probs = jnp.array([[0.5, 0.5], [0.1, 0.9]])
    with pytest.raises(ValueError, match="from 0 to 1, got 2"):
        calibration_error(probs, jnp.array([0, 2]))
    assert np.isnan(error(probs, jnp.array([0, 2])))
    assert float(error(jnp.array([1.0000005]), jnp.array([1]))) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": "l3"}, 'got "l3"'),
        ({"binning": "quantile"}, 'got "quantile"'),
        ({"classes": "all"}, 'got "all"'),
        ({"num_bins": 0}, "must be positive, got 0"),
        ({"debiased": True}, 'got norm="l1"'),
        ({"classes": "each"}, "needs probabilities"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        calibration_error(jnp.array([0.5]), jnp.array([1]), **options)


def test_double_precision_has_edges_of_its_own():
    """0.7 is the upper edge of the seventh of ten bins, in either precision."""
    for i in range(1, 11):
        with jax.enable_x64(True):
            bins, index, _ = bin_forecasts(
                jnp.array([i / 10]), jnp.array([1]), num_bins=10, binning="equal_width"
            )
            assert bins.upper.dtype == jnp.float64
            assert int(index[0]) == i - 1
        single = jnp.array([i / 10], jnp.float32)
        _, index, _ = bin_forecasts(single, jnp.array([1]), num_bins=10, binning="equal_width")
        assert int(index[0]) == i - 1


@pytest.mark.parametrize("binning", ["equal_width", "equal_mass"])
def test_no_example_at_all(binning):
    nothing, none = jnp.zeros(0), jnp.zeros(0, int)
    assert np.isnan(calibration_error(nothing, none, binning=binning))
    assert np.isnan(calibration_error(jnp.zeros((0, 3)), none, binning=binning))
    parts = brier_decomposition(nothing, none, binning=binning)
    assert np.isnan(parts).all()


def test_one_hot_labels_are_refused():
    probs = jnp.array([[0.7, 0.3], [0.4, 0.6], [0.1, 0.9]])
    one_hot = jnp.array([[1, 0], [1, 0], [0, 1]])
    for metric in (brier_score, calibration_error):
        with pytest.raises(ValueError, match=r"look like one-hot code of shape \(3, 2\)"):
            metric(probs, one_hot)
        # several sets of confidences, of which not all rows are distributions
        assert metric(probs.at[0].set(0.9), one_hot).shape == (3,)


def test_numpy_and_lists_give_no_warning():
    """The annotations promise JAX arrays; without their check other arrays do as well."""
    confidence, correct = np.array([0.9, 0.6, 0.2]), np.array([1, 0, 0])
    probs, labels = np.array([[0.7, 0.3], [0.4, 0.6]]), np.array([0, 1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jaxtyping.config, "jaxtyping_disable", True)
        for metric in (calibration_error, brier_score, ks_calibration_error):
            expected = metric(jnp.asarray(confidence, jnp.float32), jnp.asarray(correct))
            assert float(metric(confidence, correct)) == float(expected)
            assert float(metric(confidence.tolist(), correct.tolist())) == float(expected)
        for metric in (calibration_error, brier_score, negative_log_likelihood):
            expected = metric(jnp.asarray(probs, jnp.float32), jnp.asarray(labels))
            assert float(metric(probs, labels)) == float(expected)
            assert float(metric(probs.tolist(), labels.tolist())) == float(expected)
