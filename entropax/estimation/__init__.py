"""Accuracy without labels.

- `fit_flip_curve`, `FlipCurve`: from label flips (`tta.count_flips`), with intervals;
  `published_accuracy`, the polynomials published for ImageNet.
- `average_confidence`: the baseline; `mean_confidence`: the same as an estimator.
- estimators with one face, `fit(logits, labels)` on a labelled set of the source and
  `estimate(key, fitted, outputs)` on an unlabelled set: `average_thresholded_confidence` (ATC),
  `difference_of_confidences`, `importance_weighting`, `confidence_transport` (COT),
  `thresholded_transport` (COTT), `disagreement` of two networks, `aetta` of dropout passes.
- estimators that are fitted on several labelled splits, by a line through a score: `nuclear_norm`,
  `mano`, or any other by `score_line`.
- `label_flips`: the curve of `fit_flip_curve` with that face, fitted on labelled splits as well.
- `fit_stack`, `Stack`: several estimates made into one, with intervals that leave out whole groups
  of splits.
- what they are made of: `agreement`, `transport`, `label_distribution`, `nuclear_norm_score`,
  `mano_score`, `uniform_cross_entropy`, `aetta_error`.
"""

from entropax.estimation.aetta import aetta, aetta_error
from entropax.estimation.agreement import agreement, disagreement
from entropax.estimation.atc import average_thresholded_confidence
from entropax.estimation.base import AccuracyEstimate, Estimator, Evidence
from entropax.estimation.confidence import average_confidence, mean_confidence
from entropax.estimation.confidence_transport import confidence_transport
from entropax.estimation.difference import difference_of_confidences
from entropax.estimation.flip_curve import (
    PUBLISHED_POLYNOMIALS,
    Estimate,
    FlipCurve,
    fit_flip_curve,
    published_accuracy,
)
from entropax.estimation.importance import importance_weighting
from entropax.estimation.label_flips import label_flips
from entropax.estimation.mano import mano, mano_score, uniform_cross_entropy
from entropax.estimation.nuclear_norm import nuclear_norm, nuclear_norm_score
from entropax.estimation.score_line import Score, score_line
from entropax.estimation.stacking import Stack, fit_stack
from entropax.estimation.thresholded_transport import thresholded_transport
from entropax.estimation.transport import label_distribution, transport

__all__ = [
    "PUBLISHED_POLYNOMIALS",
    "AccuracyEstimate",
    "Estimate",
    "Estimator",
    "Evidence",
    "FlipCurve",
    "Score",
    "Stack",
    "aetta",
    "aetta_error",
    "agreement",
    "average_confidence",
    "average_thresholded_confidence",
    "confidence_transport",
    "difference_of_confidences",
    "disagreement",
    "fit_flip_curve",
    "fit_stack",
    "importance_weighting",
    "label_distribution",
    "label_flips",
    "mano",
    "mano_score",
    "mean_confidence",
    "nuclear_norm",
    "nuclear_norm_score",
    "published_accuracy",
    "score_line",
    "thresholded_transport",
    "transport",
    "uniform_cross_entropy",
]
