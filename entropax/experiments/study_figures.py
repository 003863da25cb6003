"""Figures of the studies of diffusion entropies: initialisation, models, estimators."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from entropax.experiments.figure_style import COLOURS, INK, MARKERS, STYLE


def draw_initialisation(
    path: Path,
    *,
    std: Float[np.ndarray, " s"],
    before: Mapping[str, Float[np.ndarray, "s k"]],
    accuracy: Mapping[str, Mapping[float, Float[np.ndarray, "epochs k"]]],
    largest: float,
    sigma: float,
    title: str,
) -> None:
    """Draw entropies and the scale of the features against std, and how the networks train.

    Args:
      path: PNG file to write.
      std: of the weights.
      before: measured before training, by the names in the report, for each std and network.
      accuracy: for each kind of statistics and each std the accuracy after every epoch, of each
        network; may be empty.
      largest: the entropy that cannot be exceeded.
      sigma: the constant bandwidth.
      title: of the whole figure.
    """
    with mpl.rc_context(STYLE):
        panels = 2 + len(accuracy)
        figure = Figure(figsize=(3.9 * panels, 3.9), layout="constrained", dpi=130)
        figure.suptitle(title)
        entropies, distances, *rest = figure.subplots(1, panels)
        looks = {
            "running": ("evaluation mode", "o", "-"),
            "batch": ("statistics of the batch", "s", "--"),
        }
        for kind, (words, marker, line) in looks.items():
            for name, colour, bandwidth in (
                ("dse", COLOURS[3], f"sigma {sigma:g}"),
                ("dse_median", COLOURS[2], "sigma median"),
            ):
                values = before[f"{kind}_{name}"].mean(1)
                look: dict[str, Any] = {"color": colour, "marker": marker, "linestyle": line}
                entropies.plot(std, values, **look, markersize=4, label=f"{bandwidth}, {words}")
            look = {"color": COLOURS[4], "marker": marker, "linestyle": line}
            values = before[f"{kind}_distance"].mean(1)
            distances.plot(std, values, **look, markersize=4, label=words)
        entropies.axhline(largest, color=INK, linewidth=0.8, linestyle=":")
        entropies.annotate("ln n", (std.min(), largest), va="bottom", color=INK)
        entropies.set(ylabel="DSE before training (nats)", yscale="log", ylim=(1e-7, 3 * largest))
        distances.axhline(sigma, color=COLOURS[3], linewidth=0.8, linestyle=":")
        distances.annotate(f"sigma {sigma:g}", (std.min(), sigma), va="bottom", color=COLOURS[3])
        distances.set(ylabel="median distance of two features", yscale="log")
        for axes in (entropies, distances):
            axes.set(xscale="log", xlabel="std of the weights")
        entropies.legend(frameon=False, fontsize=8, loc="center left")
        distances.legend(frameon=False, fontsize=8, loc="lower right")
        for axes, (words, curves) in zip(rest, accuracy.items(), strict=True):
            _draw_accuracies(axes, curves, words)
        figure.savefig(path, format="png")


def _draw_accuracies(
    axes: Axes, curves: Mapping[float, Float[np.ndarray, "epochs k"]], words: str
) -> None:
    colours = mpl.colormaps["viridis"](np.linspace(0, 0.9, len(curves)))
    for colour, (std, values) in zip(colours, curves.items(), strict=True):
        epochs = np.arange(1, len(values) + 1)
        axes.plot(epochs, values, color=colour, linewidth=0.6, alpha=0.4)
        axes.plot(epochs, values.mean(1), color=colour, marker="o", markersize=3, label=f"{std:g}")
    axes.set(xlabel="epochs", ylabel=f"test accuracy, {words}", ylim=(0, 1))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(title="std", frameon=False, fontsize=8, ncols=2)


def draw_correlations(
    path: Path,
    *,
    groups: Mapping[str, Mapping[str, Float[np.ndarray, "3 "]]],
    scatter: Mapping[str, tuple[Float[np.ndarray, " m"], Float[np.ndarray, " m"]]],
    level: float,
    title: str,
) -> None:
    """Draw rank correlations with intervals, and a few of the scatters behind them.

    Args:
      path: PNG file to write.
      groups: for each group of models and each quantity the correlation, lower and upper end.
      scatter: values of a quantity and the accuracies, of the first group, for the panels.
      level: nominal coverage of the intervals.
      title: of the whole figure.
    """
    names = list(next(iter(groups.values())))
    with mpl.rc_context(STYLE):
        figure = Figure(
            figsize=(12, max(4.5, 0.2 * len(names) + 1.6)), layout="constrained", dpi=120
        )
        figure.suptitle(title)
        halves: Any = figure.subfigures(1, 2, width_ratios=(1.1, 1))
        left, right = halves
        axes = left.subplots()
        places = np.arange(len(names))[::-1]
        for i, (group, of_names) in enumerate(groups.items()):
            value, lower, upper = np.array([of_names[name] for name in names]).T
            shifted = places + 0.3 * (0.5 - (i + 0.5) / len(groups))
            look: dict[str, Any] = {"color": COLOURS[(2, 3, 4, 5)[i % 4]]}
            axes.hlines(shifted, lower, upper, **look, linewidth=1, alpha=0.6)
            marker = MARKERS[i % len(MARKERS)]
            axes.plot(value, shifted, marker, **look, markersize=4, label=group)
        axes.axvline(0, color=INK, linewidth=0.8, linestyle=":")
        axes.set_yticks(places, names, fontsize=8)
        axes.set(xlim=(-1, 1), xlabel=f"rank correlation with accuracy, {level:.0%} intervals")
        axes.set_ylim(-0.7, len(names) - 0.3)
        axes.legend(loc="lower left", frameon=False, fontsize=8)
        columns = 2
        rows = -(-len(scatter) // columns)
        panels = right.subplots(rows, columns, sharey=True, squeeze=False).ravel()
        for axes in panels[len(scatter) :]:
            axes.axis("off")
        for axes, (name, (x, y)) in zip(panels, scatter.items(), strict=False):
            axes.plot(x, y, "o", color=COLOURS[2], markersize=3, alpha=0.7, mew=0)
            axes.set_xlabel(name, fontsize=8)
        for axes in panels[::columns]:
            axes.set_ylabel("accuracy")
        figure.savefig(path, format="png")


def draw_estimators(
    path: Path,
    *,
    dims: Float[np.ndarray, " d"],
    corruption: Float[np.ndarray, " q"],
    truth: Float[np.ndarray, "d q"],
    estimates: Mapping[str, Float[np.ndarray, "d q 3"]],
    seconds: Mapping[str, Float[np.ndarray, " d"]],
    title: str,
) -> None:
    """Draw estimates of mutual information against the truth, and what they cost.

    Args:
      path: PNG file to write.
      dims: numbers of dimensions.
      corruption: shares of labels that are drawn anew.
      truth: the mutual information in nats; estimates far above it are cut off.
      estimates: for each estimator the mean, least and largest estimate over the seeds; NaN where
        there is none.
      seconds: for each estimator, for each number of dimensions; NaN where unknown.
      title: of the whole figure.
    """
    with mpl.rc_context(STYLE):
        columns = min(4, len(dims) + 1)
        rows = -(-(len(dims) + 1) // columns)
        size = (3.1 * columns, 3.1 * rows + 0.9)
        figure = Figure(figsize=size, layout="constrained", dpi=130)
        figure.suptitle(title)
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes in panels[len(dims) + 1 :]:
            axes.axis("off")
        # Some estimators leave the picture in high dimensions; the others should be told apart.
        highest = 1.3 * max(float(np.max(truth)), 0.1)
        for i, axes in enumerate(panels[: len(dims)]):
            axes.plot(corruption, truth[i], color="black", linewidth=2.5, alpha=0.35, label="truth")
            for j, (name, values) in enumerate(estimates.items()):
                mean, least, most = values[i].T
                look: dict[str, Any] = {"color": COLOURS[(j + 1) % len(COLOURS)]}
                axes.fill_between(corruption, least, most, **look, alpha=0.15, linewidth=0)
                marker = MARKERS[j % len(MARKERS)]
                axes.plot(corruption, mean, **look, marker=marker, markersize=4, label=name)
            axes.set_title(f"{dims[i]:g} dimensions", fontsize=9)
            axes.set(xlabel="labels drawn anew", ylim=(-0.05 * highest, highest))
        panels[0].set_ylabel("mutual information (nats)")
        timing = panels[len(dims)]
        for j, name in enumerate(estimates):
            look = {"color": COLOURS[(j + 1) % len(COLOURS)], "marker": MARKERS[j % 10]}
            timing.plot(dims, seconds[name], **look, markersize=4)
        timing.set_title("seconds for one estimate", fontsize=9)
        timing.set(xscale="log", yscale="log", xlabel="dimensions")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=8, frameon=False)
        figure.savefig(path, format="png")
