"""How far the confidence of a network can be trusted.

A score is higher where the network is more confident, `correct` says where it is right. Functions
work on the last axis, take leading batch axes and `where`, and can be jitted.

- scores of logits: `max_softmax`, `log_odds`, `entropy_score`, `margin`, `max_logit`,
  `energy_score`, `p_norm_max_logit`; `odin`, which needs the network; `ensemble_uncertainty`,
  `monte_carlo_dropout`.
- ranking: `auroc`, `average_precision`, `fpr_at_tpr`, `risk_coverage_curve`, `aurc`,
  `excess_aurc`, `augrc`, `coverage_at_accuracy`, `accuracy_at_coverage`, `gini`. All take a
  `Ranking`, the result of `rank`, in place of scores: one sort for all of them.
- calibration: `calibration_error`, `smooth_calibration_error`, `ks_calibration_error`,
  `negative_log_likelihood`, `brier_score`, `brier_decomposition`, `reliability_curve`.
- scaling: `fit_temperature`, `fit_vector_scaling`, `fit_matrix_scaling`, `fit_dirichlet_scaling`.
- intervals: `bootstrap` for any of these, `compare` for two models on the same examples;
  `brier_terms` and `negative_log_likelihood_terms` are what a `sample` of these scores consists of.
- streams: `ranking_accumulator`, `histogram_accumulator`, `calibration_accumulator`,
  `mean_accumulator`; they merge, also across devices.
- `entropax.uncertainty.compat`: the published values of Galil et al. (2023), quirks included.
"""

from entropax.uncertainty.accumulators import Accumulator, gather, ranking_accumulator
from entropax.uncertainty.affine_scaling import (
    MatrixScaling,
    VectorScaling,
    fit_dirichlet_scaling,
    fit_matrix_scaling,
    fit_vector_scaling,
)
from entropax.uncertainty.bootstrap import (
    Difference,
    Interval,
    Sample,
    bootstrap,
    compare,
    mean,
    sample,
)
from entropax.uncertainty.calibration_error import calibration_error
from entropax.uncertainty.ensembles import (
    EnsembleUncertainty,
    ensemble_uncertainty,
    monte_carlo_dropout,
)
from entropax.uncertainty.gini import gini
from entropax.uncertainty.histogram import histogram_accumulator
from entropax.uncertainty.kolmogorov_smirnov import ks_calibration_error
from entropax.uncertainty.odin import odin
from entropax.uncertainty.ordering import Ranking, rank
from entropax.uncertainty.proper_scores import (
    BrierDecomposition,
    brier_decomposition,
    brier_score,
    brier_terms,
    negative_log_likelihood,
    negative_log_likelihood_terms,
)
from entropax.uncertainty.reliability import ReliabilityCurve, reliability_curve
from entropax.uncertainty.risk_coverage import (
    RiskCoverage,
    augrc,
    aurc,
    excess_aurc,
    risk_coverage_curve,
)
from entropax.uncertainty.roc import auroc, average_precision, fpr_at_tpr
from entropax.uncertainty.running_means import calibration_accumulator, mean_accumulator
from entropax.uncertainty.scores import (
    energy_score,
    entropy_score,
    log_odds,
    margin,
    max_logit,
    max_softmax,
    p_norm_max_logit,
)
from entropax.uncertainty.selective import accuracy_at_coverage, coverage_at_accuracy
from entropax.uncertainty.smooth_calibration import smooth_calibration_error
from entropax.uncertainty.temperature import FitStatus, TemperatureScaling, fit_temperature

__all__ = [
    "Accumulator",
    "BrierDecomposition",
    "Difference",
    "EnsembleUncertainty",
    "FitStatus",
    "Interval",
    "MatrixScaling",
    "Ranking",
    "ReliabilityCurve",
    "RiskCoverage",
    "Sample",
    "TemperatureScaling",
    "VectorScaling",
    "accuracy_at_coverage",
    "augrc",
    "aurc",
    "auroc",
    "average_precision",
    "bootstrap",
    "brier_decomposition",
    "brier_score",
    "brier_terms",
    "calibration_accumulator",
    "calibration_error",
    "compare",
    "coverage_at_accuracy",
    "energy_score",
    "ensemble_uncertainty",
    "entropy_score",
    "excess_aurc",
    "fit_dirichlet_scaling",
    "fit_matrix_scaling",
    "fit_temperature",
    "fit_vector_scaling",
    "fpr_at_tpr",
    "gather",
    "gini",
    "histogram_accumulator",
    "ks_calibration_error",
    "log_odds",
    "margin",
    "max_logit",
    "max_softmax",
    "mean",
    "mean_accumulator",
    "monte_carlo_dropout",
    "negative_log_likelihood",
    "negative_log_likelihood_terms",
    "odin",
    "p_norm_max_logit",
    "rank",
    "ranking_accumulator",
    "reliability_curve",
    "risk_coverage_curve",
    "sample",
    "smooth_calibration_error",
]
