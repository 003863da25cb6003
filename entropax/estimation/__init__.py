"""Accuracy without labels.

- `fit_flip_curve`, `FlipCurve`: from label flips (`tta.count_flips`), with intervals.
- `published_accuracy`: the polynomials published for ImageNet.
- `average_confidence`: the baseline.
"""

from entropax.estimation.confidence import average_confidence
from entropax.estimation.flip_curve import (
    PUBLISHED_POLYNOMIALS,
    Estimate,
    FlipCurve,
    fit_flip_curve,
    published_accuracy,
)

__all__ = [
    "PUBLISHED_POLYNOMIALS",
    "Estimate",
    "FlipCurve",
    "average_confidence",
    "fit_flip_curve",
    "published_accuracy",
]
