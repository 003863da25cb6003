"""Figures of the programs: the only file that knows matplotlib."""

from pathlib import Path

import matplotlib as mpl
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
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
    with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        panels = 2 if test.shape[1] else 1
        figure = Figure(figsize=(4.75 * panels, 4.6), layout="constrained", dpi=150)
        figure.suptitle(title if panels == 2 else title.replace(": ", ":\n"))
        *left, right = figure.subplots(1, panels, squeeze=False)[0]
        bottom = max(0.0, min([*test[1], *test[3], *calibration[1]]) - 0.03)
        for axes in left:
            _draw_against_truth(axes, test, confidence, level, bottom)
        _draw_curve(right, curve, calibration, test, targets, level, bottom)
        figure.savefig(path, format="png")


def _draw_against_truth(
    axes: Axes,
    test: Float[np.ndarray, "5 m"],
    confidence: Float[np.ndarray, " m"],
    level: float,
    bottom: float,
) -> None:
    _, truth, estimate, lower, upper = test
    axes.plot([0, 1], [0, 1], color=_INK, linewidth=0.8, linestyle=":")
    bars = np.stack([estimate - lower, upper - estimate])
    axes.errorbar(truth, estimate, yerr=bars, fmt="none", ecolor=_FLIPS, alpha=0.35, linewidth=1)
    label = f"label flips, {level:.0%} interval"
    axes.plot(truth, estimate, "o", color=_FLIPS, markersize=4, label=label)
    axes.plot(truth, confidence, "x", color=_CONFIDENCE, markersize=5, label="average confidence")
    limits = (bottom, 1.02)
    axes.set(xlabel="true accuracy", ylabel="estimated accuracy", xlim=limits, ylim=limits)
    axes.set_aspect("equal")
    axes.legend(loc="lower right", frameon=False)


def _draw_curve(
    axes: Axes,
    curve: FlipCurve,
    calibration: Float[np.ndarray, "2 k"],
    test: Float[np.ndarray, "5 m"],
    targets: Float[np.ndarray, " t"],
    level: float,
    bottom: float,
) -> None:
    rates, truth = test[:2]
    largest = max([*rates, *calibration[0], *targets, 1e-3])
    grid = np.linspace(0, min(1.0, 1.05 * largest), 200)
    band = curve.estimate(grid, level=level)
    axes.fill_between(grid, band.lower, band.upper, color=_FLIPS, alpha=0.12, linewidth=0)
    fitted = grid <= curve.fitted_range[1]
    axes.plot(grid[fitted], band.value[fitted], color=_FLIPS, label="fitted curve")
    axes.plot(grid[~fitted], band.value[~fitted], color=_FLIPS, linestyle=":")
    axes.plot(*calibration, "s", color=_INK, markersize=4, label="calibration splits")
    if len(rates):
        axes.plot(rates, truth, "o", color=_FLIPS, markersize=4, mfc="none", label="test splits")
    if len(targets):
        span = np.array([bottom, 1.02])[:, None] + np.zeros(len(targets))
        lines = axes.plot(np.stack([targets, targets]), span, color=_CONFIDENCE, linewidth=1.2)
        lines[0].set_label("your images")
    axes.set(xlabel="flip rate", ylabel="true accuracy", ylim=(bottom, 1.02))
    axes.set_xlim(left=-0.01 * grid[-1])
    axes.legend(loc="best", frameon=False)
