"""What a study found: means with intervals, a table, a figure."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from rich.table import Table
from scipy import stats

from entropax.experiments import adaptation_figures
from entropax.experiments.intervals import clustered_mean
from entropax.experiments.run_folder import RunFolder
from entropax.experiments.tables import csv_text, with_interval
from entropax.experiments.tta_ablations.config import Config
from entropax.experiments.tta_ablations.studies import Outcome

_PERCENT = 100.0


class Report(NamedTuple):
    """A finished study.

    Attributes:
      config: of the run.
      summary: one dictionary for each network and setting, the columns of ablation-NAME.csv.
    """

    config: Config
    summary: list[dict[str, Any]]

    def of(self, network: str, setting: str | int) -> dict[str, Any]:
        """One row of `summary`."""
        wanted = (network, setting)
        (found,) = (r for r in self.summary if (r["network"], r["setting"]) == wanted)
        return found


def flip_report(config: Config, outcomes: Sequence[Outcome]) -> Report:
    """Errors and coverage of the estimates over the test splits of all seeds."""
    summary = []
    groups: dict[tuple[str, str | int], list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault((outcome.network, outcome.setting), []).append(outcome)
    for (network, setting), group in groups.items():
        errors, inside, widths, corruptions, seeds = [], [], [], [], []
        for outcome in group:
            numbers = outcome.numbers
            for i, each in enumerate(outcome.observed):
                if each.split.family == "test":
                    errors.append(abs(numbers.value[i] - outcome.truth[i]))
                    inside.append(numbers.lower[i] <= outcome.truth[i] <= numbers.upper[i])
                    widths.append(numbers.upper[i] - numbers.lower[i])
                    corruptions.append(each.split.name)
                    seeds.append(outcome.seed)
        mean = clustered_mean(np.array(errors), corruptions, seeds, level=config.level)
        summary.append(
            {
                "ablation": config.ablation,
                "network": network,
                "setting": setting,
                "target": config.estimate,
                "seeds": len(group),
                "splits": len(errors),
                "mean_error": mean.value,
                "mean_error_lower": mean.lower,
                "mean_error_upper": mean.upper,
                "median_error": float(np.median(errors)),
                "worst_error": float(np.max(errors)),
                "coverage": float(np.mean(inside)),
                "mean_width": float(np.mean(widths)),
                "level": config.level,
            }
        )
    return Report(config, summary)


def phase_report(config: Config, records: Sequence[Mapping[str, Any]]) -> Report:
    """Rank correlations over the test splits, step by step, averaged over the seeds.

    Each of the change of the silhouette and of the relative shift, from step 0 on, with the
    accuracy before adaptation.
    """
    summary = []
    for network in dict.fromkeys(record["network"] for record in records):
        own = [record for record in records if record["network"] == network]
        seeds = sorted({record["seed"] for record in own})
        for k, step in enumerate(own[0]["steps"]):
            row: dict[str, Any] = {"ablation": "phases", "network": network, "setting": step}
            per_seed: dict[str, list[float]] = {"silhouette": [], "relative_shift": []}
            for seed in seeds:
                of_seed = [record for record in own if record["seed"] == seed]
                before = [record["accuracy"][0] for record in of_seed]
                for name, values in per_seed.items():
                    change = [
                        _number(record[name][k]) - _number(record[name][0]) for record in of_seed
                    ]
                    values.append(_spearman(change, before))
            row |= {
                "seeds": len(seeds),
                "splits": len(own),
                "accuracy": float(np.mean([record["accuracy"][k] for record in own])),
            }
            for name in per_seed:
                there = [record[name][k] for record in own if record[name][k] is not None]
                row[name] = float(np.mean(there)) if there else float("nan")
            for name, values in per_seed.items():
                row[f"{name}_correlation"] = float(np.mean(values))
                row[f"{name}_correlation_lowest"] = float(np.min(values))
                row[f"{name}_correlation_highest"] = float(np.max(values))
            summary.append(row)
    return Report(config, summary)


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def _spearman(x: Sequence[float], y: Sequence[float]) -> float:
    points = np.array([x, y])
    points = points[:, np.isfinite(points).all(0)]
    if points.shape[1] < 3 or np.any(np.ptp(points, axis=1) == 0):
        return float("nan")
    return float(stats.spearmanr(*points).statistic)


def write_results(folder: RunFolder, report: Report) -> None:
    """Write ablation-NAME.csv and ablation-NAME.png."""
    config = report.config
    name = f"ablation-{config.ablation}"
    folder.write(f"{name}.csv", csv_text(report.summary))
    title = f"{config.data}, {len(config.seeds)} seeds, {config.adapters[0]}"
    with folder.replacing(f"{name}.png") as partial:
        if config.ablation == "phases":
            adaptation_figures.draw_phases(
                partial, rows=report.summary, title=f"{title}: embeddings along the stream"
            )
        else:
            adaptation_figures.draw_settings(
                partial,
                rows=report.summary,
                title=f"{title}: error of the accuracy estimated from flips "
                f"({config.estimate.replace('_', ' ')})",
            )


def summary_table(report: Report) -> Table:
    """One line for each network and setting."""
    if report.config.ablation == "phases":
        return _phase_table(report)
    config = report.config
    table = Table(
        title=f"{config.data}, ablation {config.ablation}: absolute error in points",
        caption=f"brackets: {config.level:.0%} intervals for other corruptions and seeds; coverage "
        f"of the {config.level:.0%} intervals",
        caption_justify="left",
    )
    for heading in ("network", "setting"):
        table.add_column(heading)
    for heading in ("mean", "median", "worst", "coverage", "width"):
        table.add_column(heading, justify="right")
    for row in report.summary:
        mean = (row["mean_error"], row["mean_error_lower"], row["mean_error_upper"])
        table.add_row(
            row["network"],
            str(row["setting"]),
            with_interval(mean, scale=_PERCENT),
            f"{_PERCENT * row['median_error']:.2f}",
            f"{_PERCENT * row['worst_error']:.1f}",
            f"{row['coverage']:.0%}",
            f"{_PERCENT * row['mean_width']:.1f}",
        )
    return table


def _phase_table(report: Report) -> Table:
    table = Table(
        title=f"{report.config.data}: embeddings along the stream, test splits of all seeds",
        caption="rank correlation over the splits with the accuracy before adaptation, mean of "
        "the seeds",
        caption_justify="left",
    )
    table.add_column("network")
    for heading in ("step", "accuracy", "silhouette", "correlation", "shift", "correlation"):
        table.add_column(heading, justify="right")
    for row in report.summary:
        table.add_row(
            row["network"],
            str(row["setting"]),
            f"{_PERCENT * row['accuracy']:.1f}",
            f"{row['silhouette']:.3f}",
            _signed(row["silhouette_correlation"]),
            f"{row['relative_shift']:.3f}",
            _signed(row["relative_shift_correlation"]),
        )
    return table


def _signed(correlation: float) -> str:
    return "-" if np.isnan(correlation) else f"{correlation:+.2f}"
