"""Figures of the programs `tta` and `mnist_entropy`."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl
import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from entropax.estimation import FlipCurve
from entropax.experiments.figure_style import COLOURS, INK, MARKERS, STYLE

_FLIPS, _CONFIDENCE = "#0072b2", "#e69f00"


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
    with mpl.rc_context(STYLE):
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
    axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=":")
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
    axes.plot(*calibration, "s", color=INK, markersize=4, label="calibration splits")
    if len(rates):
        axes.plot(rates, truth, "o", color=_FLIPS, markersize=4, mfc="none", label="test splits")
    if len(targets):
        span = np.array([bottom, 1.02])[:, None] + np.zeros(len(targets))
        lines = axes.plot(np.stack([targets, targets]), span, color=_CONFIDENCE, linewidth=1.2)
        lines[0].set_label("your images")
    axes.set(xlabel="flip rate", ylabel="true accuracy", ylim=(bottom, 1.02))
    axes.set_xlim(left=-0.01 * grid[-1])
    axes.legend(loc="best", frameon=False)


_NAMES = {
    "min_test_loss": "lowest test loss (nats)",
    "final_accuracy": "test accuracy after training",
    "start_entropy": "entropy before training",
    "final_entropy": "entropy after training",
    "delta_entropy": "entropy lost in training",
    "test_loss": "test loss (nats)",
    "test_accuracy": "test accuracy",
    "entropy": "NTK entropy / ln n",
    "trace": "NTK trace",
}

_Tables = Mapping[str, Mapping[str, Float[np.ndarray, "_ _"]]]


def draw_entropy_scatter(path: Path, *, entropies: _Tables, outcomes: _Tables, title: str) -> None:
    """Draw every outcome against every entropy.

    Args:
      path: PNG file to write.
      entropies: for each entropy and each method its values `[sets, networks]`. A large mark is the
        mean of a set, a small one a network.
      outcomes: likewise.
      title: of the whole figure.
    """
    with mpl.rc_context(STYLE):
        shape = len(outcomes), len(entropies)
        figure = Figure(figsize=(3.3 * shape[1], 3 * shape[0] + 0.8), layout="constrained", dpi=110)
        figure.suptitle(title)
        panels = figure.subplots(*shape, sharex="col", sharey="row", squeeze=False)
        for row, (outcome, y) in zip(panels, outcomes.items(), strict=True):
            row[0].set_ylabel(_NAMES[outcome])
            for axes, x in zip(row, entropies.values(), strict=True):
                for i, method in enumerate(x):
                    look = {
                        "color": COLOURS[i % 10],
                        "linestyle": "none",
                        "marker": MARKERS[i % 10],
                    }
                    small = {**look, "markersize": 2, "alpha": 0.3, "markeredgewidth": 0}
                    axes.plot(x[method].ravel(), y[method].ravel(), **small)
                    means = x[method].mean(1), y[method].mean(1)
                    axes.plot(*means, **look, markersize=5, alpha=0.9, mec="white", mew=0.4)
        for axes, entropy in zip(panels[-1], entropies, strict=True):
            axes.set_xlabel(_NAMES[entropy])
        _method_legend(figure, list(next(iter(entropies.values()))), lines=False)
        figure.savefig(path, format="png")


def draw_training(
    path: Path,
    *,
    curves: Mapping[str, Mapping[str, tuple[list[int], Float[np.ndarray, " epochs"]]]],
    title: str,
) -> None:
    """Draw curves over the epochs, a panel for each quantity and a line for each method.

    Args:
      path: PNG file to write.
      curves: for each quantity and each method the epochs and the values.
      title: of the whole figure.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3.1 * len(curves), 3.6), layout="constrained", dpi=110)
        figure.suptitle(title)
        for axes, (name, of_methods) in zip(
            figure.subplots(1, len(curves), squeeze=False)[0], curves.items(), strict=True
        ):
            for i, (epochs, values) in enumerate(of_methods.values()):
                marker = MARKERS[i % 10] if len(epochs) < 10 else ""
                axes.plot(epochs, values, color=COLOURS[i % 10], marker=marker, markersize=4)
            axes.set_xscale("symlog", linthresh=1)
            axes.set_xlim(left=0)
            if name in ("test_loss", "trace"):
                axes.set_yscale("log")
            axes.set(xlabel="epochs", ylabel=_NAMES[name])
        _method_legend(figure, list(next(iter(curves.values()))), lines=True)
        figure.savefig(path, format="png")


def draw_chosen(
    path: Path,
    *,
    positions: Float[np.ndarray, "m 2"],
    labels: Int[np.ndarray, " m"],
    chosen: Mapping[str, Int[np.ndarray, " n"]],
    title: str,
) -> None:
    """Draw a map of the pool for each method, with what it chose.

    Args:
      path: PNG file to write.
      positions: of the pool's examples in the plane.
      labels: their classes, as colours.
      chosen: rows of the pool, for each method.
      title: of the whole figure.
    """
    columns = min(4, len(chosen))
    rows = -(-len(chosen) // columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3 * columns, 3 * rows + 0.6), layout="constrained", dpi=110)
        figure.suptitle(title)
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes in panels:
            axes.axis("off")
        for axes, (method, picked) in zip(panels, chosen.items(), strict=False):
            classes = {"cmap": "tab10", "vmin": 0, "vmax": 9}
            axes.scatter(*positions.T, c=labels % 10, s=4, alpha=0.35, linewidths=0, **classes)
            axes.scatter(
                *positions[picked].T, c=labels[picked] % 10, s=32, ec="black", lw=0.9, **classes
            )
            found = len(np.unique(labels[picked]))
            axes.set_title(f"{method.replace('_', ' ')}: {found} classes", fontsize=9)
        figure.savefig(path, format="png")


def draw_sizes(
    path: Path,
    *,
    means: Mapping[str, Mapping[str, Float[np.ndarray, "4 sizes"]]],
    level: float,
    title: str,
) -> None:
    """Draw means against the number of examples, a panel for each quantity.

    Args:
      path: PNG file to write.
      means: for each quantity and method: size, mean, lower and upper end of the interval.
      level: nominal coverage of the intervals.
      title: of the whole figure.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3.6 * len(means), 3.8), layout="constrained", dpi=110)
        figure.suptitle(f"{title}: means with {level:.0%} intervals")
        for axes, (name, of_methods) in zip(
            figure.subplots(1, len(means), squeeze=False)[0], means.items(), strict=True
        ):
            for i, (size, mean, lower, upper) in enumerate(of_methods.values()):
                colour = COLOURS[i % 10]
                axes.fill_between(size, lower, upper, color=colour, alpha=0.1, linewidth=0)
                axes.plot(size, mean, color=colour, marker=MARKERS[i % 10], markersize=4)
            axes.set(xscale="log", xlabel="images in a set", ylabel=_NAMES[name])
        _method_legend(figure, list(next(iter(means.values()))), lines=True)
        figure.savefig(path, format="png")


def _method_legend(figure: Figure, methods: list[str], *, lines: bool) -> None:
    handles = [
        Line2D(
            [],
            [],
            color=COLOURS[i % 10],
            marker=MARKERS[i % 10],
            linestyle="-" if lines else "none",
            markersize=5,
            label=method.replace("_", " "),
        )
        for i, method in enumerate(methods)
    ]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=min(5, len(methods)), frameon=False
    )
