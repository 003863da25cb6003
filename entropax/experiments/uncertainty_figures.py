"""Figures of the program `uncertainty`: risk against coverage, and reliability."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from entropax.experiments.figure_style import COLOURS, INK, STYLE


def draw_risk_coverage(
    path: Path,
    *,
    curves: Mapping[str, tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"]]],
    accuracy: Float[np.ndarray, "m 3"],
    auroc: Float[np.ndarray, "m 3"],
    names: Sequence[str],
    level: float,
    title: str,
) -> None:
    """Draw risk-coverage curves, and the AUROC of all models against their accuracy.

    Args:
      path: PNG file to write.
      curves: coverage and risk of some models, the best one first.
      accuracy: of all models, with the ends of its interval.
      auroc: the same.
      names: of all models.
      level: nominal coverage of the intervals.
      title: of the whole figure.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11, 4.6), layout="constrained", dpi=120)
        figure.suptitle(_words(title))
        left, right = figure.subplots(1, 2)
        colours = dict(zip(curves, _colours(len(curves)), strict=True))
        for name, (coverage, risk) in curves.items():
            left.plot(coverage, risk, color=colours[name], linewidth=1.4, label=_words(name))
        left.set(xlabel="coverage", ylabel="error rate of what is kept", xlim=(0, 1))
        left.set_ylim(bottom=0)
        left.legend(frameon=False, fontsize=8, loc="upper left")
        for name, x, y in zip(names, accuracy, auroc, strict=True):
            if not np.isfinite([x[0], y[0]]).all():
                continue
            colour = colours.get(name, "#a0a0a0")
            right.hlines(y[0], x[1], x[2], color=colour, linewidth=0.8, alpha=0.5)
            right.vlines(x[0], y[1], y[2], color=colour, linewidth=0.8, alpha=0.5)
            right.plot(x[0], y[0], "o", color=colour, markersize=5, mew=0)
        right.set(xlabel=f"accuracy, {level:.0%} intervals", ylabel="AUROC, right against wrong")
        figure.savefig(path, format="png")


def _colours(number: int) -> list[Any]:
    """From the best, dark, to the worst, light."""
    return list(mpl.colormaps["viridis"](np.linspace(0, 0.92, max(number, 2))))[:number]


def draw_reliability(
    path: Path,
    *,
    models: Mapping[str, Mapping[str, Mapping[str, Float[np.ndarray, " k"]]]],
    errors: Mapping[str, tuple[float, float]],
    level: float,
    title: str,
) -> None:
    """Draw accuracy against confidence, before and after temperature scaling, a panel a model.

    Args:
      path: PNG file to write.
      models: for each model, plain (`""`) and scaled (`"_ts"`), `confidence`, `bin_accuracy` from
        `bin_lower` to `bin_upper`, and `bin_count` of the bins; NaN where a bin is empty.
      errors: of each model, the calibration error before and after.
      level: nominal coverage of the intervals.
      title: of the whole figure.
    """
    columns = min(4, len(models))
    rows = -(-len(models) // columns)
    with mpl.rc_context(STYLE):
        figure = Figure(
            figsize=(2.9 * columns + 0.4, 2.9 * rows + 0.7), layout="constrained", dpi=120
        )
        figure.suptitle(_words(title))
        figure.get_layout_engine().set(hspace=0.06)  # type: ignore[union-attr, call-arg]
        panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for axes in panels.ravel()[len(models) :]:
            axes.axis("off")
        for axes, (name, of) in zip(panels.ravel(), models.items(), strict=False):
            _draw_bins(axes, of)
            before, after = (100 * error for error in errors[name])
            axes.set_title(f"{_words(name)}\nECE {before:.1f} %, scaled {after:.1f} %", fontsize=8)
        for axes in panels[-1]:
            axes.set_xlabel("confidence")
        for axes in panels[:, 0]:
            axes.set_ylabel(f"accuracy, {level:.0%} intervals")
        panels[0, 0].legend(frameon=False, fontsize=8, loc="upper left")
        figure.savefig(path, format="png")


def _draw_bins(axes: Axes, of: Mapping[str, Mapping[str, Float[np.ndarray, " k"]]]) -> None:
    axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=":")
    for suffix, colour, label in (("", COLOURS[3], "plain"), ("_ts", COLOURS[2], "scaled")):
        kept = of[suffix]["bin_count"] > 0
        names = ("confidence", "bin_accuracy", "bin_lower", "bin_upper", "bin_count")
        x, y, lower, upper, count = (of[suffix][name][kept] for name in names)
        axes.vlines(x, lower, upper, color=colour, linewidth=0.9, alpha=0.6)
        # The area of a point is the share of the examples in its bin.
        size = 4 + 120 * count / count.sum()
        axes.scatter(x, y, s=size, color=colour, alpha=0.7, lw=0, label=label)
    axes.set(xlim=(0, 1.02), ylim=(0, 1.02), aspect="equal")


def _words(name: str) -> str:
    """A name as it is: matplotlib reads dollars as mathematics, and hides what begins with `_`."""
    words = name.replace("$", r"\$")
    return f" {words}" if words.startswith("_") else words
