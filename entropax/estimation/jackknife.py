"""Intervals from what calibration splits are off when they are left out.

Host-level and float64, for what is fitted to some dozens of points: `FlipCurve` and `Stack`.
"""

import math

import numpy as np
from jaxtyping import Bool, Float

# Error rates below this are compared as if they were this large.
SMALLEST_ERROR = 0.02


def error_rate(accuracies: Float[np.ndarray, "*batch"]) -> Float[np.ndarray, "*batch"]:
    """What residuals are in proportion to: 1 - accuracy, and at least 0.02.

    >>> error_rate(np.array([0.7, 1.0])).round(2).tolist()
    [0.3, 0.02]
    """
    return np.asarray(np.maximum(1 - accuracies, SMALLEST_ERROR))


def jackknife_interval(
    value: Float[np.ndarray, "*batch"],
    centre: Float[np.ndarray, "*batch n"],
    residuals: Float[np.ndarray, "*batch n"],
    *,
    splits: int,
    level: float,
    below: Bool[np.ndarray, "*batch"],
    above: Bool[np.ndarray, "*batch"],
) -> tuple[Float[np.ndarray, "*batch"], Float[np.ndarray, "*batch"]]:
    r"""Ends of the jackknife+ interval of an accuracy.

    $$\big[\,q_{\alpha}\{c_j - r_j e(c_j)\},\; q_{1-\alpha}\{c_j + r_j e(c_j)\}\big], \qquad
      e(c) = \max(1 - c, 0.02), \quad \alpha = 1 - \mathrm{level}.$$

    The rank of $q$ among m splits is $\lfloor \alpha (m + 1) \rfloor$, from below or from above. If
    that is 0, the interval is [0, 1].

    Args:
      value: `[...]` the accuracy, which the interval contains in any case.
      centre: `[..., n]` the accuracy without each of the splits, which may be repeated, each as
        often.
      residuals: `[..., n]` what that split is off, as a fraction of the error rate.
      splits: m, of which n is a multiple.
      level: nominal coverage.
      below: `[...]` the accuracy is known to be low, and no more: the interval reaches to 0.
      above: `[...]` likewise, to 1.

    Returns:
      Lower and upper ends, in [0, 1].

    Raises:
      ValueError: a `level` not in (0, 1).

    Reference: R. F. Barber et al., "Predictive inference with the jackknife+" (2021), equation 1.4
    and, with groups of splits, section 3.

    >>> centre, residuals = np.full(9, 0.8), np.arange(9) / 10
    >>> inside = np.array(False)
    >>> lower, upper = jackknife_interval(
    ...     np.array(0.8), centre, residuals, splits=9, level=0.9, below=inside, above=inside)
    >>> round(float(lower), 2), round(float(upper), 2)
    (0.64, 0.96)
    """
    if not 0 < level < 1:
        raise ValueError(f"`level` must be between 0 and 1, got {level}.")
    spread = residuals * error_rate(centre)
    # 1 - 0.9 is a hair below 0.1.
    tail = math.floor((1 - level) * (splits + 1) + 1e-9)
    if tail == 0:
        lower, upper = np.zeros_like(value), np.ones_like(value)
    else:
        rank = tail * (centre.shape[-1] // splits) - 1
        lower = np.sort(centre - spread, axis=-1)[..., rank]
        upper = np.sort(centre + spread, axis=-1)[..., -1 - rank]
    lower, upper = np.where(below, 0, lower), np.where(above, 1, upper)
    lower, upper = np.minimum(lower, value), np.maximum(upper, value)
    return np.asarray(np.clip(lower, 0, 1)), np.asarray(np.clip(upper, 0, 1))
