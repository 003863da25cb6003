"""Figures of the programs `tta_benchmark`, `tta_streams` and `tta_ablations`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from entropax.experiments.figure_style import COLOURS, MARKERS, STYLE

_WIDTH, _HEIGHT = 4.4, 3.9


def draw_flips(path: Path, *, rows: Sequence[Mapping[str, Any]], target: str, title: str) -> None:
    """Draw accuracy against flip rate, a panel for each network, a colour for each seed.

    Args:
      path: PNG file to write.
      rows: of accuracies.csv, of one adapter.
      target: the column with the accuracy.
      title: of the whole figure.
    """
    networks = list(dict.fromkeys(row["network"] for row in rows))
    with mpl.rc_context(STYLE):
        figure = _figure(len(networks), title)
        panels = figure.subplots(1, len(networks), squeeze=False, sharey=True)[0]
        for axes, network in zip(panels, networks, strict=True):
            of_network = [row for row in rows if row["network"] == network]
            seeds = list(dict.fromkeys(row["seed"] for row in of_network))
            for colour, seed in zip(_cycled(COLOURS[1:]), seeds, strict=False):
                for family, style in (("calibration", "s"), ("test", "o"), ("target", "*")):
                    points = [
                        (row["weighted_flips"], row[target])
                        for row in of_network
                        if row["seed"] == seed
                        and row["family"] == family
                        and np.isfinite(row[target])  # a set without labels has no place
                    ]
                    if points:
                        hollow = "none" if family == "test" else colour
                        label = f"{family}, seed {seed}"
                        axes.plot(
                            *np.array(points).T,
                            style,
                            color=colour,
                            mfc=hollow,
                            markersize=9 if family == "target" else 4,
                            label=label,
                        )
            axes.set(title=network, xlabel="weighted flip rate")
            axes.xaxis.set_major_locator(MaxNLocator(5))
        panels[0].set(ylabel=f"accuracy ({target.replace('_', ' ')})", ylim=(None, 1.02))
        panels[-1].legend(frameon=False, fontsize=7)
        figure.savefig(path, format="png")


def draw_errors(
    path: Path, *, errors: Mapping[str, Mapping[str, Mapping[int, float]]], title: str
) -> None:
    """Draw the mean absolute error by severity, a panel for each network.

    Args:
      path: PNG file to write.
      errors: for each network, estimator and severity.
      title: of the whole figure.
    """
    with mpl.rc_context(STYLE):
        figure = _figure(max(1, len(errors)), title, legend=1.9)
        panels = figure.subplots(1, max(1, len(errors)), squeeze=False, sharey=True)[0]
        for axes, (network, by_estimator) in zip(panels, errors.items(), strict=False):
            for i, (name, by_severity) in enumerate(by_estimator.items()):
                severities = sorted(by_severity)
                axes.plot(
                    severities,
                    [100 * by_severity[severity] for severity in severities],
                    color=COLOURS[i % len(COLOURS)],
                    marker=MARKERS[i % len(MARKERS)],
                    linestyle="-" if i < len(COLOURS) else "--",
                    markersize=4,
                    linewidth=2 if name in ("stack", "flips, weighted") else 1,
                    label=name,
                )
            axes.set(title=network, xlabel="severity", xticks=severities, ylim=(0, None))
        panels[0].set(ylabel="mean absolute error (points)")
        panels[-1].legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
        figure.savefig(path, format="png")


def draw_online(
    path: Path, *, online: Mapping[tuple[str, str], Float[np.ndarray, " t"]], title: str
) -> None:
    """Draw the accuracy of the predictions along the stream, a line for each adapter.

    Args:
      path: PNG file to write.
      online: for each network's name and adapter, `[t]` accuracies of the batches.
      title: of the whole figure.
    """
    networks = list(dict.fromkeys(network for network, _ in online))
    adapters = list(dict.fromkeys(adapter for _, adapter in online))
    width = min((20, *(max(1, len(curve) // 5) for curve in online.values())))
    with mpl.rc_context(STYLE):
        figure = _figure(max(1, len(networks)), title, legend=1.4)
        panels = figure.subplots(1, max(1, len(networks)), squeeze=False, sharey=True)[0]
        for axes, network in zip(panels, networks, strict=False):
            for i, adapter in enumerate(adapters):
                if (network, adapter) in online:
                    steps, curve = _smoothed(online[network, adapter], width)
                    axes.plot(
                        steps,
                        curve,
                        color=COLOURS[i % len(COLOURS)],
                        linestyle="-" if i < len(COLOURS) else "--",
                        label=adapter,
                    )
            axes.set(title=network, xlabel="step")
        panels[0].set(ylabel=f"accuracy (running mean of {width})" if width > 1 else "accuracy")
        panels[-1].legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
        figure.savefig(path, format="png")


def draw_streams(
    path: Path, *, curves: Mapping[tuple[str, str, str], Float[np.ndarray, " t"]], title: str
) -> None:
    """Draw the accuracy along every stream, a panel for each network and stream.

    Args:
      path: PNG file to write.
      curves: for each network, stream and adapter, `[t]` accuracies of the batches.
      title: of the whole figure.
    """
    panels = list(dict.fromkeys((network, stream) for network, stream, _ in curves))
    adapters = list(dict.fromkeys(adapter for *_, adapter in curves))
    columns = min(4, len(panels))
    rows = -(-len(panels) // columns)
    with mpl.rc_context(STYLE):
        figure = Figure(
            figsize=(3.6 * columns + 1.4, 2.9 * rows + 0.4), layout="constrained", dpi=120
        )
        figure.suptitle(title, fontsize=10)
        grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
        for axes in grid.flat[len(panels) :]:
            axes.set_visible(False)
        for axes, (network, stream) in zip(grid.flat, panels, strict=False):
            for i, adapter in enumerate(adapters):
                curve = curves[network, stream, adapter]
                width = max(min(20, len(curve) // 5), len(curve) // 50, 1)
                axes.plot(
                    *_smoothed(curve, width),
                    color=COLOURS[i % len(COLOURS)],
                    linestyle="-" if i < len(COLOURS) else "--",
                    linewidth=1.1,
                    label=adapter,
                )
            axes.set_title(f"{stream} ({network})", fontsize=9)
            axes.set(ylim=(0, 1))
        for axes in grid[-1]:
            axes.set_xlabel("batch")
        for axes in grid[:, 0]:
            axes.set_ylabel("accuracy (running mean)")
        handles, labels = grid[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=8)
        figure.savefig(path, format="png")


def draw_settings(path: Path, *, rows: Sequence[Mapping[str, Any]], title: str) -> None:
    """Draw the mean error with its interval, and the median, for every setting.

    Args:
      path: PNG file to write.
      rows: of ablation-NAME.csv.
      title: of the whole figure.
    """
    networks = list(dict.fromkeys(row["network"] for row in rows))
    settings = list(dict.fromkeys(str(row["setting"]) for row in rows))
    with mpl.rc_context(STYLE):
        figure = Figure(
            figsize=(4.6 * len(networks) + 1.4, 1.6 + 0.27 * len(settings)),
            layout="constrained",
            dpi=130,
        )
        figure.suptitle(title, fontsize=9)
        panels = figure.subplots(1, len(networks), squeeze=False, sharey=True)[0]
        for axes, network in zip(panels, networks, strict=True):
            own = [row for row in rows if row["network"] == network]
            places = [settings.index(str(row["setting"])) for row in own]
            mean = np.array([row["mean_error"] for row in own])
            ends = np.array(
                [[row[f"mean_error_{end}"] for row in own] for end in ("lower", "upper")]
            )
            bars = 100 * np.abs(ends - mean)
            style = {"color": COLOURS[2], "markersize": 5, "linewidth": 1.2}
            axes.errorbar(100 * mean, places, xerr=bars, fmt="o", label="mean", **style)
            median = [100 * row["median_error"] for row in own]
            axes.plot(median, places, "|", color=COLOURS[1], markersize=9, label="median")
            axes.set(title=network, xlabel="absolute error (points)", xlim=(0, None))
            axes.set_yticks(range(len(settings)), settings)
        panels[0].set_ylim(len(settings) - 0.5, -0.5)
        panels[-1].legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
        figure.savefig(path, format="png")


def draw_phases(path: Path, *, rows: Sequence[Mapping[str, Any]], title: str) -> None:
    """Draw accuracy, silhouette and shift along the stream, and their correlations.

    Args:
      path: PNG file to write.
      rows: of ablation-phases.csv.
      title: of the whole figure.
    """
    networks = list(dict.fromkeys(row["network"] for row in rows))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.5, 3.1 * len(networks) + 0.4), layout="constrained", dpi=130)
        figure.suptitle(title, fontsize=10)
        grid = figure.subplots(len(networks), 2, squeeze=False)
        for (left, right), network in zip(grid, networks, strict=True):
            own = [row for row in rows if row["network"] == network]
            steps = [row["setting"] for row in own]
            names = {
                "accuracy": ("accuracy", COLOURS[0], "-"),
                "silhouette": ("silhouette", COLOURS[1], "--"),
                "relative_shift": ("shift / spread", COLOURS[2], "-."),
            }
            for name, (label, colour, line) in names.items():
                values = [row[name] for row in own]
                left.plot(steps, values, color=colour, linestyle=line, label=label)
            for name in ("silhouette", "relative_shift"):
                label, colour, line = names[name]
                column = f"{name}_correlation"
                values = [row[column] for row in own]
                right.plot(steps, values, color=colour, linestyle=line, label=label)
                low, high = (
                    [row[f"{column}_{end}"] for row in own] for end in ("lowest", "highest")
                )
                right.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0)
            left.set(title=f"{network}: mean of the splits", xlabel="step", ylim=(None, None))
            right.set(
                title="rank correlation with the accuracy before (band: seeds)",
                xlabel="step",
                ylim=(-1, 1),
            )
            right.axhline(0, color=COLOURS[0], linewidth=0.6)
            left.legend(frameon=False, fontsize=8)
            right.legend(frameon=False, fontsize=8)
        figure.savefig(path, format="png")


def _figure(panels: int, title: str, *, legend: float = 0.0) -> Figure:
    figure = Figure(figsize=(_WIDTH * panels + legend, _HEIGHT), layout="constrained", dpi=130)
    figure.suptitle(title, fontsize=10)
    return figure


def _cycled(colours: Sequence[str]) -> list[str]:
    return [*colours] * 10


def _smoothed(
    values: Float[np.ndarray, " t"], width: int
) -> tuple[Float[np.ndarray, " t2"], Float[np.ndarray, " t2"]]:
    """Running means of so many batches, and where the middle of each is; the first batch is 1."""
    means = np.convolve(values, np.full(width, 1 / width), mode="valid")
    return np.arange(len(means)) + (width + 1) / 2, means
