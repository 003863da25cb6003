"""The published values, to the tolerances that their own arithmetic allows."""

import jax.numpy as jnp
import numpy as np
import pytest
from uncertainty import recorded

from entropax.uncertainty import compat

ACCURACIES = [0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.999]
# The permutation of the ties is kept for the small cases alone.
known_order = pytest.mark.parametrize(
    "name",
    [
        name
        for name in recorded.names()
        if not recorded.has_ties(name) or recorded.order(name) is not None
    ],
)
every_case = pytest.mark.parametrize("name", recorded.names())


def same(actual, expected, **tolerance):
    expected = float(expected)  # "nan" is a string in the records
    np.testing.assert_allclose(actual, expected, rtol=0, **tolerance)


@known_order
def test_auroc_and_aurc_in_the_order_that_the_published_sort_gave(name):
    data, values = recorded.case(name), recorded.reference(name)
    # AUROC is a ratio of whole numbers; AURC is added in the same order: the last digit at most.
    for order, suffix in (
        (recorded.order(name), "_presorted"),
        (recorded.order(name, "ref_order_resorted"), ""),
    ):
        same(compat.auroc(*data, order=order), values[f"AUROC{suffix}"], atol=1e-15)
        aurc = compat.aurc(*data, order=order)
        same(aurc, values[f"AURC{suffix}"], atol=1e-15)
    percent = compat.accuracy_percent(data[1])
    same(percent, values["accuracy_percent"], atol=1e-5)  # a mean in float32
    same(compat.eaurc(aurc, values["accuracy_percent"]), values["EAURC"], atol=1e-15)


@known_order
@pytest.mark.parametrize("start_index", [0, 200])
def test_coverage_is_the_published_rational_number(name, start_index):
    confidence, correct = recorded.case(name)
    for accuracy in ACCURACIES:
        expected = recorded.reference(name)[f"SAC_{accuracy}_start{start_index}"]

        def coverage(accuracy=accuracy):
            return compat.coverage_for_desired_accuracy(
                confidence,
                correct,
                accuracy=accuracy,
                start_index=start_index,
                order=recorded.order(name),
            )

        if isinstance(expected, dict):
            with pytest.raises(ValueError, match=f"more examples than .* {start_index}, got"):
                coverage()
        else:
            assert coverage() == expected


@every_case
def test_calibration_errors_are_the_published_ones(name):
    data = recorded.case(name)
    for num_bins in (5, 10, 15, 30, 50):
        expected = recorded.reference(name)[f"ECE_MCE_{num_bins}"]
        # its means are sums in float32
        np.testing.assert_allclose(
            compat.calibration_errors(*data, num_bins=num_bins), expected, atol=2e-6, rtol=0
        )


@every_case
@pytest.mark.parametrize("num_bins", [10, 15])
def test_adaptive_bins_are_the_published_ones(name, num_bins):
    confidence, correct = recorded.case(name)
    values = recorded.reference(name)
    expected = values[f"adaptive_ECE_MCE_{num_bins}"]
    if isinstance(expected, dict):
        with pytest.raises(ValueError, match=f"{num_bins} needs at least {num_bins - 1} examples"):
            compat.adaptive_boundaries(confidence, num_bins=num_bins)
        return
    boundaries = compat.adaptive_boundaries(confidence, num_bins=num_bins)
    assert len(boundaries) - 1 == values[f"adaptive_n_bins_actual_{num_bins}"]
    actual = compat.calibration_errors(confidence, correct, boundaries=boundaries)
    # relative as well, for scores up to 16
    np.testing.assert_allclose(actual, expected, atol=2e-6, rtol=1e-6)


@every_case
def test_gini_and_median_are_the_published_ones_and_the_caller_keeps_its_array(name):
    confidence, _ = recorded.case(name)
    before = confidence.copy()
    values = recorded.reference(name)
    same(compat.gini(confidence), values["gini"], atol=2e-6)  # sums in float32
    assert compat.confidence_median(confidence) == values["conf_median"]
    np.testing.assert_array_equal(confidence, before)


def test_ties_depend_on_the_order_of_the_rows():
    """What the correct mode repairs: 0.5 for a constant confidence."""
    confidence, correct = np.ones(10), np.arange(10) < 5
    assert compat.auroc(confidence, correct) == 1
    assert compat.auroc(confidence, correct[::-1]) == 0
    assert compat.aurc(confidence, correct) < 0.2 < 0.8 < compat.aurc(confidence, correct[::-1])


def test_nothing_at_all_raises():
    nothing = np.zeros(0), np.zeros(0)
    for function in (compat.auroc, compat.aurc, compat.calibration_errors):
        with pytest.raises(ZeroDivisionError, match="no example"):
            function(*nothing)


def test_confidences_outside_of_all_bins_count_in_the_number_of_examples():
    confidence, correct = np.array([0, 0.6, 5, np.nan]), np.array([1, 1, 0, 0])
    expected, largest = compat.calibration_errors(confidence, correct)
    assert expected == pytest.approx(0.1, abs=1e-6)
    assert largest == pytest.approx(0.4, abs=1e-6)
    assert compat.calibration_errors(np.zeros(3), np.ones(3)) == (0, -1)


def test_csv_is_byte_for_byte_the_published_file():
    values = recorded.csv_format()
    kinds = {"float": float, "float64": np.float64, "float32 tensor": np.float32}

    def cell(text):
        kind, _, number = text.rpartition(" ")
        return kinds[kind](number) if kind else text

    headers = values["bytes"].splitlines()[0].split(",")
    rows = [{name: cell(text) for name, text in row.items()} for row in values["rows"]]
    lines = [",".join(headers)] + [compat.csv_line(headers, row) for row in rows]
    assert "".join(f"{line}\n" for line in lines) == values["bytes"]


def test_csv_writes_jax_scalars_as_it_writes_tensors():
    row = {"ECE": jnp.float32(0.1)}
    assert compat.csv_line(["ECE", "AURC"], row) == "0.10000000149011612,None"
