"""Figures of the program `diffusion_training`: curves over the epochs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import matplotlib as mpl
import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, ScalarFormatter

from entropax.experiments.figure_style import INK, STYLE

_OBJECTIVES = ("#0072b2", "#e69f00", INK, "#d55e00", "#009e73", "#cc79a7")
_DASHES: tuple[Any, ...] = ("-", "--", ":", "-.", (0, (5, 1)), (0, (1, 1)))

_NAMES = {
    "dse": "DSE(Z) (nats)",
    "saturation": "DSE(Z) / ln n",
    "dsmi_labels": "DSMI(Z; Y) (nats)",
    "dsmi_inputs": "DSMI(Z; X) (nats)",
    "adjusted_labels": "adjusted DSMI(Z; Y)",
    "binned_entropy": "binned entropy of Z (nats)",
    "train_loss": "training loss (nats)",
    "train_accuracy": "training accuracy",
    "test_accuracy": "test accuracy",
    "linear_accuracy": "linear classifier, accuracy",
}

Curves: TypeAlias = Mapping[
    str, tuple[Int[np.ndarray, " epochs"], Float[np.ndarray, "seeds epochs"]]
]


def draw_curves(
    path: Path, *, panels: Sequence[Sequence[tuple[str, str, Curves]]], title: str
) -> None:
    """Draw quantities over the epochs: a line for each objective, with a band over its seeds.

    The line is the mean of the seeds, the band reaches from the lowest to the highest. The epochs
    are logarithmic from 1 on.

    Args:
      path: PNG file to write.
      panels: rows of panels, each the name of a quantity, a heading, and for each objective the
        epochs `[epochs]` and the values `[seeds, epochs]`, NaN where there is none.
      title: of the whole figure.
    """
    with mpl.rc_context(STYLE):
        shape = len(panels), max(map(len, panels))
        figure = Figure(
            figsize=(3 * shape[1] + 0.3, 2.5 * shape[0] + 0.9), layout="constrained", dpi=110
        )
        figure.suptitle(title)
        for row, places in zip(panels, figure.subplots(*shape, squeeze=False), strict=True):
            for (name, heading, curves), axes in zip(row, places, strict=False):
                _draw_panel(axes, curves)
                axes.set(ylabel=_NAMES[name], title=heading)
                axes.title.set_fontsize(9)
            for axes in places[len(row) :]:
                axes.axis("off")
            for axes in places[: len(row)]:
                if row is panels[-1]:
                    axes.set_xlabel("epochs")
        _legend(figure, list(panels[0][0][2]))
        figure.savefig(path, format="png")


def _draw_panel(axes: Axes, curves: Curves) -> None:
    for i, (epochs, values) in enumerate(curves.values()):
        kept = np.isfinite(values).all(axis=0)
        if not kept.any():
            continue
        epochs, values = epochs[kept], values[:, kept]
        look: dict[str, Any] = {"color": _OBJECTIVES[i % 6]}
        axes.fill_between(epochs, values.min(0), values.max(0), **look, alpha=0.2, linewidth=0)
        axes.plot(epochs, values.mean(0), **look, linestyle=_DASHES[i % 6], linewidth=1.4)
    axes.set_xscale("symlog", linthresh=1)
    axes.set_xlim(left=0)
    last = max(epochs[-1] for epochs, _ in curves.values())
    axes.set_xticks([0, *(x for x in (1, 3, 10, 30, 100, 300, 1000) if x <= last)])
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.minorticks_off()
    axes.yaxis.set_major_locator(MaxNLocator(5))


def _legend(figure: Figure, names: list[str]) -> None:
    handles = [
        Line2D(
            [],
            [],
            color=_OBJECTIVES[i % 6],
            linestyle=_DASHES[i % 6],
            label=name.replace("_", " "),
        )
        for i, name in enumerate(names)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(names), frameon=False)
