"""Figures of the programs: the only file that knows matplotlib."""

from pathlib import Path

import matplotlib as mpl
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from entropax.estimation import FlipCurve

_FLIPS, _CONFIDENCE, _INK = "#0072b2", "#e69f00", "#444444"


def draw_estimates(
    path: Path,
    *,
    curve: FlipCurve,
    calibration: Float[np.ndarray, "2 k"],
    test: Float[np.ndarray, "5 m"],
    confidence: Float[np.ndarray, " m"],
    targets: Float[np.ndarray, " t"],
    level: float,
    title: str,
) -> None:
    """Draw estimate against truth with intervals, beside the curve that the estimates come from.

    Args:
      path: PNG file to write.
      curve: flip rate to accuracy.
      calibration: flip rates and accuracies that it was fitted on.
      test: flip rate, accuracy, estimate, lower and upper end of each test split; there may be
        none.
      confidence: the average-confidence estimates of the test splits.
      targets: flip rates of the user's own images, if any.
      level: nominal coverage of the intervals.
      title: of the whole figure.
    """
    rates, truth, estimate, lower, upper = test
    with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(9.5, 4.6), layout="constrained", dpi=150)
        figure.suptitle(title)
        left, right = figure.subplots(1, 2)
        bottom = max(0.0, min([*truth, *lower, *calibration[1]]) - 0.03)

        left.plot([0, 1], [0, 1], color=_INK, linewidth=0.8, linestyle=":")
        bars = np.stack([estimate - lower, upper - estimate])
        left.errorbar(
            truth, estimate, yerr=bars, fmt="none", ecolor=_FLIPS, alpha=0.35, linewidth=1
        )
        label = f"label flips, {level:.0%} interval"
        left.plot(truth, estimate, "o", color=_FLIPS, markersize=4, label=label)
        left.plot(
            truth, confidence, "x", color=_CONFIDENCE, markersize=5, label="average confidence"
        )
        left.set(
            xlabel="true accuracy",
            ylabel="estimated accuracy",
            xlim=(bottom, 1.02),
            ylim=(bottom, 1.02),
            aspect="equal",
        )
        left.legend(loc="lower right", frameon=False)

        largest = max([*rates, *calibration[0], *targets, 1e-3])
        grid = np.linspace(0, min(1.0, 1.05 * largest), 200)
        band = curve.estimate(grid, level=level)
        right.fill_between(grid, band.lower, band.upper, color=_FLIPS, alpha=0.12, linewidth=0)
        right.plot(grid, band.value, color=_FLIPS, label="fitted curve")
        right.plot(*calibration, "s", color=_INK, markersize=4, label="calibration splits")
        right.plot(rates, truth, "o", color=_FLIPS, markersize=4, mfc="none", label="test splits")
        if len(targets):
            span = np.array([bottom, 1.02])[:, None] + np.zeros(len(targets))
            lines = right.plot(np.stack([targets, targets]), span, color=_CONFIDENCE, linewidth=1.2)
            lines[0].set_label("your images")
        right.set(xlabel="flip rate", ylabel="true accuracy", ylim=(bottom, 1.02))
        right.set_xlim(left=-0.01 * grid[-1])
        right.legend(loc="best", frameon=False)
        figure.savefig(path, format="png")
