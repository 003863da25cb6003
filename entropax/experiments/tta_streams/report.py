"""What the streams showed: rows, means with intervals, a table, a figure."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from rich.table import Table

from entropax.experiments import adaptation_figures
from entropax.experiments.intervals import mean_over_seeds
from entropax.experiments.run_folder import RunFolder
from entropax.experiments.tables import csv_text
from entropax.experiments.tta_streams.config import Config

_PERCENT = 100.0
Curves = Mapping[tuple[str, str, str], Float[np.ndarray, "seeds t"]]


class Report(NamedTuple):
    """What was measured, and what it amounts to.

    Attributes:
      config: of the run.
      rows: one dictionary for each network, seed, stream and adapter, the columns of results.csv.
      summary: one for each network, stream and adapter: means over the seeds with intervals.
      curves: for each of these the accuracies batch by batch, `[seeds, t]`, seeds as in `config`.
    """

    config: Config
    rows: list[dict[str, Any]]
    summary: list[dict[str, Any]]
    curves: Curves

    def of(self, network: str, stream: str, adapter: str) -> dict[str, Any]:
        """One row of `summary`."""
        wanted = (network, stream, adapter)
        names = ("network", "stream", "adapter")
        (found,) = (r for r in self.summary if tuple(r[name] for name in names) == wanted)
        return found


def make_report(config: Config, records: Sequence[Mapping[str, Any]], curves: Curves) -> Report:
    """Put the records of a finished run together."""
    summary = []
    for network in config.networks:
        for stream in config.streams:
            for adapter in config.adapters:
                wanted = (network, stream, adapter)
                rows = [r for r in records if (r["network"], r["stream"], r["adapter"]) == wanted]
                found: dict[str, Any] = dict(
                    zip(("network", "stream", "adapter"), wanted, strict=True)
                )
                found["seeds"] = len(rows)
                for name in ("accuracy", "last_tenth"):
                    mean = mean_over_seeds([row[name] for row in rows], level=config.level)
                    # Of three seeds Student's interval may be wider than all there is.
                    found |= {
                        name: mean.value,
                        f"{name}_lower": max(mean.lower, 0.0),
                        f"{name}_upper": min(mean.upper, 1.0),
                    }
                alarms = [row["first_alarm"] for row in rows if row["first_alarm"] is not None]
                found |= {
                    "resets": float(np.mean([row["resets"] for row in rows])),
                    "alarms": len(alarms),
                    "first_alarm": float(np.median(alarms)) if alarms else None,
                    "not_finite": sum(row["not_finite"] for row in rows),
                    "level": config.level,
                }
                summary.append(found)
    return Report(config, [dict(record) for record in records], summary, curves)


def write_results(folder: RunFolder, report: Report) -> None:
    """Write results.csv, summary.csv and streams.png."""
    folder.write("results.csv", csv_text(report.rows))
    folder.write("summary.csv", csv_text(report.summary))
    with folder.replacing("streams.png") as partial:
        adaptation_figures.draw_streams(
            partial,
            curves={which: curve.mean(0) for which, curve in report.curves.items()},
            title=f"{report.config.data}: accuracy along the streams, mean of "
            f"{len(report.config.seeds)} seeds",
        )


def summary_table(report: Report) -> Table:
    """Mean accuracy of each adapter on each stream; the intervals are in summary.csv."""
    config = report.config
    table = Table(
        title=f"{config.data}: accuracy of predictions made before each update, in percent",
        caption=f"mean over {config.steps} batches and {len(config.seeds)} seeds, intervals in "
        "summary.csv; !: the collapse alarm rang in so many of the seeds",
        caption_justify="left",
    )
    table.add_column("network")
    table.add_column("adapter")
    for stream in config.streams:
        table.add_column(stream, justify="right")
    for network in config.networks:
        for adapter in config.adapters:
            cells = []
            for stream in config.streams:
                row = report.of(network, stream, adapter)
                alarms = f" !{row['alarms']}" if row["alarms"] else ""
                cells.append(f"{_PERCENT * row['accuracy']:.1f}{alarms}")
            table.add_row(network, adapter, *cells, end_section=adapter == config.adapters[-1])
    return table
