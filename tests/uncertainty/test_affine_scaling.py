"""Vector, matrix and Dirichlet scaling against the conditions of their optimum and one another."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from uncertainty import recorded

from entropax.uncertainty.affine_scaling import (
    fit_dirichlet_scaling,
    fit_matrix_scaling,
    fit_vector_scaling,
)
from entropax.uncertainty.proper_scores import negative_log_likelihood
from entropax.uncertainty.temperature import FitStatus, fit_temperature

with np.load(recorded.GOLDEN / "logit_inputs.npz", allow_pickle=False) as arrays:
    LOGITS, LABELS = (jnp.asarray(arrays[f"overconf_s2__{x}"]) for x in ("logits", "labels"))
FITS = [fit_vector_scaling, fit_matrix_scaling, fit_dirichlet_scaling]
# One shape for all, lest each compiles.
WHERE = jnp.arange(2000) % 4 != 3


@pytest.mark.parametrize("fit", FITS)
def test_optimum(fit):
    scaling = fit(LOGITS, LABELS, where=WHERE)
    assert int(scaling.status) == FitStatus.CONVERGED
    before = negative_log_likelihood(LOGITS, LABELS, where=WHERE)
    assert float(scaling.loss_before) == pytest.approx(float(before), rel=1e-6)
    scaled = scaling.apply(LOGITS)
    after = negative_log_likelihood(scaled, LABELS, where=WHERE)
    assert float(scaling.loss_after) == pytest.approx(float(after), rel=2e-6)
    best = fit_temperature(LOGITS, LABELS, where=WHERE)
    assert float(after) < float(best.loss_after)
    np.testing.assert_allclose(scaling.apply(LOGITS[0]), scaled[0], atol=1e-4)

    # Where the gradient is 0, and for the shift without a penalty that means: every class is
    # predicted as often as it comes.
    probs = np.float64(jax.nn.softmax(scaled))[np.array(WHERE)]
    labels = np.array(LABELS)[np.array(WHERE)]
    misses = probs - np.eye(10)[labels]
    inputs = np.float64(LOGITS)[np.array(WHERE)]
    # The solver stops at 1e-5 in coordinates of unit variance; that of the logits is about 4.
    if fit is fit_vector_scaling:
        np.testing.assert_allclose(misses.mean(0), 0, atol=3e-5)
        np.testing.assert_allclose((misses * inputs).mean(0), 0, atol=2e-4)
    else:
        penalty = 1e-3 if fit is fit_dirichlet_scaling else 0
        if fit is fit_dirichlet_scaling:
            inputs = np.float64(jax.nn.log_softmax(LOGITS))[np.array(WHERE)]
        weight, shift = np.float64(scaling.weight), np.float64(scaling.shift)
        off_diagonal = weight * (1 - np.eye(10))
        slope = misses.mean(0) + 2 * penalty / 10 * shift
        np.testing.assert_allclose(slope, 0, atol=5e-5)
        slope = misses.T @ inputs / len(labels) + 2 * penalty / 90 * off_diagonal
        np.testing.assert_allclose(slope, 0, atol=3e-4)


@pytest.mark.parametrize("fit", FITS)
def test_rows_that_do_not_count_change_nothing(fit):
    expected = fit(LOGITS, LABELS, where=WHERE)
    padded = jnp.where(WHERE[:, None], LOGITS, jnp.nan)
    found = fit(padded, jnp.where(WHERE, LABELS, 99), where=WHERE)
    for ours, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("fit", FITS)
def test_never_worse_than_before(fit):
    """Not on a set that is calibrated already, not out of steps, and not where it is hopeless."""
    calibrated = fit_temperature(LOGITS, LABELS).apply(LOGITS)
    for logits, labels in (
        (calibrated, LABELS),
        (LOGITS, jnp.argmin(LOGITS, axis=-1)),
        (LOGITS * 100, LABELS),
    ):
        scaling = fit(logits, labels, where=WHERE)
        assert float(scaling.loss_after) <= float(scaling.loss_before) + 1e-6


@pytest.mark.parametrize("fit", FITS)
def test_invalid(fit):
    for logits, labels, where in (
        (LOGITS.at[0, 0].set(jnp.nan), LABELS, WHERE),
        (LOGITS.at[0, 0].set(-jnp.inf), LABELS, WHERE),
        (LOGITS, LABELS.at[0].set(10), WHERE),
        (LOGITS, LABELS, jnp.zeros(2000, bool)),
    ):
        scaling = fit(logits, labels, where=where)
        assert int(scaling.status) == FitStatus.INVALID
        assert np.all(np.isnan(scaling.shift))
        assert np.isnan(scaling.loss_after)


@pytest.mark.parametrize("fit", [fit_vector_scaling, fit_matrix_scaling])
def test_separable(fit):
    scaling = fit(LOGITS, jnp.argmax(LOGITS, axis=-1), where=WHERE)
    assert int(scaling.status) == FitStatus.SEPARABLE
    assert float(scaling.loss_after) < 0.01
    assert np.all(np.isfinite(scaling.shift))


@pytest.mark.parametrize("fit", [fit_matrix_scaling, fit_dirichlet_scaling])
@pytest.mark.parametrize("penalties", [(1e-3, 1e-3), (1.0, 0.0), (0.0, 1.0)])
def test_a_free_diagonal_is_separable(fit, penalties):
    """No penalty keeps the diagonal from growing, and with it the likelihood."""
    off_diagonal, offset = penalties
    labels = jnp.argmax(LOGITS, axis=-1)
    scaling = fit(LOGITS, labels, off_diagonal=off_diagonal, offset=offset, where=WHERE)
    assert int(scaling.status) == FitStatus.SEPARABLE
    assert np.all(np.isfinite(scaling.weight))


def test_what_a_penalty_holds_is_not_separable():
    """Wrong by the logits as they are: only penalised entries of the matrix could separate."""
    labels = (jnp.argmax(LOGITS, axis=-1) + 1) % 10
    scaling = fit_matrix_scaling(LOGITS, labels, off_diagonal=1.0, offset=1.0, where=WHERE)
    assert int(scaling.status) == FitStatus.CONVERGED
    free = fit_matrix_scaling(LOGITS, labels, where=WHERE)
    assert int(free.status) == FitStatus.SEPARABLE


def test_a_large_penalty_leaves_the_diagonal():
    scaling = fit_matrix_scaling(LOGITS, LABELS, off_diagonal=1e4, offset=1e4, where=WHERE)
    off_diagonal = scaling.weight * (1 - jnp.eye(10))
    np.testing.assert_allclose(off_diagonal, 0, atol=1e-3)
    np.testing.assert_allclose(scaling.shift, 0, atol=1e-3)
    assert float(scaling.loss_after) <= float(scaling.loss_before)


def test_several_at_once():
    logits, labels = jnp.stack([LOGITS, LOGITS * 2]), jnp.stack([LABELS, LABELS])
    scaling = fit_vector_scaling(logits, labels)
    assert scaling.apply(logits).shape == logits.shape
    np.testing.assert_allclose(scaling.scale[0], 2 * scaling.scale[1], rtol=2e-3)
    np.testing.assert_allclose(*scaling.loss_after, rtol=1e-5)


def test_options_are_checked():
    with pytest.raises(ValueError, match="must be positive, got 0"):
        fit_vector_scaling(LOGITS, LABELS, max_steps=0)
    for fit in (fit_matrix_scaling, fit_dirichlet_scaling):
        with pytest.raises(ValueError, match=r"must not be negative, got -1"):
            fit(LOGITS, LABELS, off_diagonal=-1.0)
