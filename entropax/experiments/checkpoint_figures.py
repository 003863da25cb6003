"""Figure of the program `checkpointing`: what the criteria chose, and what they looked at."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from entropax.experiments.figure_style import COLOURS, INK, STYLE

_ACCURACIES = {
    "test_accuracy": ("test accuracy, right labels", INK, "-"),
    "val_accuracy": ("validation accuracy", COLOURS[4], "--"),
}
_ENTROPIES = {
    "full": ("entropy of all classes", COLOURS[1], ":"),
    "top2": ("top-2 entropy", COLOURS[2], "-."),
}


def draw_checkpointing(
    path: Path,
    *,
    accuracy: Mapping[float, Mapping[str, Float[np.ndarray, " seeds"]]],
    means: Mapping[float, Mapping[str, tuple[float, float, float]]],
    curves: Mapping[float, Mapping[str, Float[np.ndarray, " steps"]]],
    chosen: Mapping[float, Mapping[str, int]],
    level: float,
    title: str,
) -> None:
    """Draw the accuracy of every criterion, and below the training of the first network.

    Args:
      path: PNG file to write.
      accuracy: for each share of wrong labels and each criterion, that of each network.
      means: their means with intervals.
      curves: what was measured along the training of one network; `step` is the epoch.
      chosen: the epochs that the criteria chose for that network.
      level: of the intervals.
      title: of the whole figure.
    """
    with mpl.rc_context(STYLE):
        columns = len(accuracy)
        figure = Figure(figsize=(4 * columns + 0.8, 9), layout="constrained", dpi=110)
        figure.suptitle(title)
        upper, middle, lower = figure.subplots(
            3, columns, squeeze=False, height_ratios=(3, 2.4, 2), sharey="row"
        )
        for axes, noise in zip(upper, accuracy, strict=True):
            _draw_criteria(axes, accuracy[noise], means[noise])
            axes.set_title(f"{noise:.0%} wrong labels", fontsize=10)
            axes.set_xlabel("test accuracy, right labels")
        upper[0].invert_yaxis()
        for above, below, noise in zip(middle, lower, accuracy, strict=True):
            _draw_curves(above, curves[noise], _ACCURACIES)
            _draw_chosen(above, chosen[noise])
            _draw_curves(below, curves[noise], _ENTROPIES)
            below.set_xlabel("epochs of the first network")
        middle[0].set(ylabel="accuracy", ylim=(0, 1))
        highest = max(float(each["full"].max()) for each in curves.values())
        lower[0].set(ylabel="validation entropy (nats)", ylim=(0, 1.05 * highest))
        for axes in (middle[0], lower[0]):
            axes.legend(frameon=False, fontsize=8)
        figure.text(
            0.99,
            0.995,
            f"small dots: networks; lines: {level:.0%} intervals of the mean",
            ha="right",
            va="top",
            fontsize=8,
            color=INK,
        )
        figure.savefig(path, format="png")


def _draw_criteria(
    axes: Axes,
    accuracy: Mapping[str, Float[np.ndarray, " seeds"]],
    means: Mapping[str, tuple[float, float, float]],
) -> None:
    for y, name in enumerate(accuracy):
        value, low, high = means[name]
        axes.plot(
            accuracy[name], np.full(len(accuracy[name]), y), ".", color="#bbbbbb", markersize=4
        )
        axes.plot([low, high], [y, y], color=INK, linewidth=1.6)
        axes.plot(value, y, "o", color=COLOURS[3] if "_max" in name else INK, markersize=5)
    axes.set_yticks(range(len(accuracy)), [name.replace("_", " ") for name in accuracy])
    axes.grid(axis="x", color="#eeeeee")
    axes.set_axisbelow(True)


def _draw_curves(
    axes: Axes,
    curves: Mapping[str, Float[np.ndarray, " steps"]],
    looks: Mapping[str, tuple[str, str, str]],
) -> None:
    for name, (label, colour, line) in looks.items():
        axes.plot(curves["step"], curves[name], color=colour, linestyle=line, label=label)
    axes.set_xlim(left=0)


def _draw_chosen(axes: Axes, chosen: Mapping[str, int]) -> None:
    """Mark the epochs of the checkpoints, with the names of those who chose them."""
    by_step: dict[int, list[str]] = {}
    for name, step in chosen.items():
        by_step.setdefault(step, []).append(name.replace("_", " "))
    for step in by_step:
        axes.axvline(step, color="#cccccc", linewidth=0.8, zorder=0)
    above = axes.secondary_xaxis("top")
    names = [", ".join(names) for names in by_step.values()]
    above.set_xticks(list(by_step), names, rotation=90, fontsize=6)
    above.spines["top"].set_visible(False)
