"""An example of weight w counts as w examples of weight 1, for every metric of a `Ranking`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from entropax.uncertainty import (
    calibration_error,
    gini,
    kolmogorov_smirnov,
    ordering,
    proper_scores,
    reliability,
    risk_coverage,
    roc,
    selective,
    smooth_calibration,
)

METRICS = {
    "auroc": roc.auroc,
    "average_precision": roc.average_precision,
    "fpr_at_tpr": functools.partial(roc.fpr_at_tpr, tpr=0.8),
    "aurc": risk_coverage.aurc,
    "excess_aurc": risk_coverage.excess_aurc,
    "augrc": risk_coverage.augrc,
    "coverage_at_accuracy": functools.partial(selective.coverage_at_accuracy, accuracy=0.7),
    "accuracy_at_coverage": functools.partial(selective.accuracy_at_coverage, coverage=0.4),
    "gini": gini,
    "ece": functools.partial(calibration_error, num_bins=5),
    "adaptive": functools.partial(calibration_error, num_bins=4, binning="equal_mass"),
    "mce": functools.partial(calibration_error, num_bins=5, norm="max"),
    "debiased": functools.partial(calibration_error, num_bins=5, norm="l2", debiased=True),
    "smooth": smooth_calibration.smooth_calibration_error,
    "ks": kolmogorov_smirnov.ks_calibration_error,
    "brier": proper_scores.brier_score,
    "brier_parts": functools.partial(proper_scores.brier_decomposition, num_bins=5),
    "reliability": functools.partial(reliability.reliability_curve, num_bins=5),
}


compiled = {name: jax.jit(metric) for name, metric in METRICS.items()}


def cases():
    """Many ties among few scores, with rows of weight 0 between and inside the blocks of them."""
    rng = np.random.default_rng(0)
    for _ in range(12):
        weights = rng.multinomial(12, np.full(12, 1 / 12))
        yield rng.integers(1, 5, 12).astype(np.float32) / 4, rng.integers(0, 2, 12), weights
    yield (
        np.full(12, 0.5, np.float32),
        np.arange(12) % 3 > 0,
        np.array([3, 0, 2, 0, 0, 7] + [0] * 6),
    )


@pytest.mark.parametrize("name", METRICS)
def test_integer_weights_are_repeated_rows(name):
    metric = compiled[name]
    for scores, correct, weights in cases():
        ranking = ordering.rank(jnp.array(scores), jnp.array(correct), ties="input")
        order = np.argsort(-scores, kind="stable")
        weighted = ranking._replace(weights=jnp.array(weights[order], jnp.float32))
        rows = np.repeat(np.arange(12), weights)
        repeated = ordering.rank(jnp.array(scores[rows]), jnp.array(correct[rows]))
        values, expected = metric(weighted), metric(repeated)
        # sums of twelve terms up to 1 in float32; the smooth error is found to 1e-7 of them
        for value, right in zip(jax.tree.leaves(values), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(value, right, atol=3e-6)


@pytest.mark.parametrize("name", METRICS)
def test_other_weights_are_not_counts(name):
    scores, correct, _ = next(cases())
    ranking = ordering.rank(jnp.array(scores), jnp.array(correct))
    for weight in (0.5, -1.0):
        value = compiled[name](ranking._replace(weights=ranking.weights.at[3].set(weight)))
        confidence = getattr(value, "confidence", jax.tree.leaves(value)[0])
        assert np.isnan(confidence).all()


def test_a_row_of_weight_0_does_not_part_equal_confidences():
    ranking = ordering.Ranking(
        jnp.array([0.5] * 3), jnp.array([1.0, 1.0, 0.0]), jnp.array([1.0, 0.0, 1.0])
    )
    assert float(kolmogorov_smirnov.ks_calibration_error(ranking)) == 0
