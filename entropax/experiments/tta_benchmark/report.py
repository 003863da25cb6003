"""What the comparison found: every estimate, summaries with intervals, tables, figures."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int
from rich.table import Table

from entropax.experiments import adaptation_figures
from entropax.experiments.intervals import Estimate, clustered_mean
from entropax.experiments.run_folder import RunFolder
from entropax.experiments.tables import csv_text, with_interval
from entropax.experiments.tta_benchmark.config import Config
from entropax.experiments.tta_benchmark.estimates import (
    TARGETS,
    Row,
    accuracies,
    estimate_all,
    flip_counts,
)
from entropax.experiments.tta_benchmark.networks import Network
from entropax.experiments.tta_benchmark.observations import Observations, Observed

_PERCENT = 100.0


class Report(NamedTuple):
    """Everything that the files of the run folder say.

    Attributes:
      config: of the run.
      estimates: one for each network, adapter, target, split and estimator; of adapters after
        the first only those whose target is the adapted network.
      accuracies: one dictionary for each network, adapter and split: the columns of accuracies.csv.
      estimators: their errors over the test splits, the columns of estimators.csv.
      adapters: mean accuracies over the test splits, the columns of adapters.csv.
      online: for each network's name and adapter, the mean accuracy along the streams of the test
        splits.
    """

    config: Config
    estimates: list[Row]
    accuracies: list[dict[str, Any]]
    estimators: list[dict[str, Any]]
    adapters: list[dict[str, Any]]
    online: dict[tuple[str, str], Float[np.ndarray, " t"]]

    def of(self, network: str, adapter: str, target: str, estimator: str) -> dict[str, Any]:
        """One row of `estimators`."""
        wanted = (network, adapter, target, estimator)
        names = ("network", "adapter", "target", "estimator")
        (found,) = (r for r in self.estimators if tuple(r[name] for name in names) == wanted)
        return found


def make_report(
    config: Config,
    observations: Observations,
    networks: Sequence[Network],
    *,
    on_part: Callable[[str], None],
) -> Report:
    """Estimate everything from what was observed, and sum it up."""
    estimates: list[Row] = []
    measured: list[dict[str, Any]] = []
    online: dict[tuple[str, str], list[np.ndarray]] = {}
    source = observations.sets.train or observations.sets.validation
    assert source.labels is not None
    source_labels = source.labels
    for network in networks:
        for adapter in config.adapters:
            on_part(f"{network.name}, seed {network.seed}: {adapter}")
            observed = observations.of(network, adapter)
            measured += [_accuracies(network, adapter, each) for each in observed]
            for target in TARGETS:
                if adapter != config.adapters[0] and target != "adapted":
                    continue  # nothing of it but the flips would be another
                estimates += _rows(config, network, adapter, observed, target, source_labels)
            online.setdefault((network.name, adapter), []).extend(
                each.right_along_stream() for each in observed if each.split.family == "test"
            )
    return Report(
        config,
        estimates,
        measured,
        _estimator_summary(config, estimates),
        _adapter_summary(config, measured),
        {which: np.mean(curves, axis=0) for which, curves in online.items() if curves},
    )


def _rows(
    config: Config,
    network: Network,
    adapter: str,
    observed: Sequence[Observed],
    target: Any,
    source_labels: Int[np.ndarray, " m"],
) -> list[Row]:
    found = estimate_all(
        observed,
        target,
        key=jax.random.key(network.seed),
        source_labels=source_labels,
        form=config.form,
        temperature=config.temperature,
        level=config.level,
    )
    truth = accuracies(observed, target)
    return [
        Row(
            network.name,
            network.seed,
            adapter,
            target,
            each.split.family,
            each.split.name,
            each.split.severity,
            estimator,
            float(truth[i]),
            float(numbers.value[i]),
            float(numbers.lower[i]),
            float(numbers.upper[i]),
            bool(numbers.extrapolated[i]),
        )
        for estimator, numbers in found.items()
        for i, each in enumerate(observed)
    ]


def _accuracies(network: Network, adapter: str, observed: Observed) -> dict[str, Any]:
    flips, after = flip_counts(observed), observed.after
    row = {
        "network": network.name,
        "seed": network.seed,
        "adapter": adapter,
        "family": observed.split.family,
        "corruption": observed.split.name,
        "severity": observed.split.severity,
    }
    for target in TARGETS:
        row[target] = float(accuracies([observed], target)[0])
    return row | {
        "online": float(np.mean(observed.right_along_stream())),
        "weighted_flips": flips["weighted"][0],
        "unweighted_flips": flips["unweighted"][0],
        "selected": float(after.selected.mean()),
        "resets": int(after.reset.sum()),
        "not_finite": int((~after.finite).sum()),
    }


def _estimator_summary(config: Config, estimates: Iterable[Row]) -> list[dict[str, Any]]:
    """Mean, median and worst error, wins and coverage over all test splits and seeds."""
    groups: dict[tuple[str, str, str], dict[str, list[Row]]] = {}
    for row in estimates:
        if row.family == "test":
            group = groups.setdefault((row.network, row.adapter, row.target), {})
            group.setdefault(row.estimator, []).append(row)
    summary = []
    for (network, adapter, target), by_estimator in groups.items():
        errors = {
            name: np.array([abs(row.value - row.accuracy) for row in rows])
            for name, rows in by_estimator.items()
        }
        rivals = [error for name, error in errors.items() if name != "constant"]
        least = np.fmin.reduce(rivals)  # an estimate that is NaN beats none
        for name, rows in by_estimator.items():
            mean = _mean_with_interval(config, [row._asdict() for row in rows], errors[name])
            inside = [row.lower <= row.accuracy <= row.upper for row in rows]
            summary.append(
                {
                    "network": network,
                    "adapter": adapter,
                    "target": target,
                    "estimator": name,
                    "seeds": len({row.seed for row in rows}),
                    "splits": len(rows),
                    "mean_error": mean.value,
                    "mean_error_lower": mean.lower,
                    "mean_error_upper": mean.upper,
                    "median_error": float(np.median(errors[name])),
                    "worst_error": float(np.max(errors[name])),
                    "wins": float(np.mean(errors[name] <= least)),
                    "coverage": float(np.mean(inside)),
                    "mean_width": float(np.mean([row.upper - row.lower for row in rows])),
                    "extrapolated": float(np.mean([row.extrapolated for row in rows])),
                    "level": config.level,
                }
            )
    return summary


def _adapter_summary(config: Config, measured: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in measured:
        if row["family"] == "test":
            groups.setdefault((row["network"], row["adapter"]), []).append(row)
    summary = []
    for (network, adapter), rows in groups.items():
        found: dict[str, Any] = {
            "network": network,
            "adapter": adapter,
            "seeds": len({row["seed"] for row in rows}),
            "splits": len(rows),
        }
        for name in (*TARGETS, "online"):
            values = np.array([row[name] for row in rows])
            mean = _mean_with_interval(config, rows, values)
            found |= {name: mean.value, f"{name}_lower": mean.lower, f"{name}_upper": mean.upper}
        found["worst_adapted"] = min(row["adapted"] for row in rows)
        found["worse_than_before"] = float(
            np.mean([row["adapted"] < row["batch_statistics"] for row in rows])
        )
        found["level"] = config.level
        summary.append(found)
    return summary


def _mean_with_interval(
    config: Config, rows: Sequence[Mapping[str, Any]], values: Float[np.ndarray, " rows"]
) -> Estimate:
    """The mean, with an interval for other corruptions, all severities together, and seeds."""
    corruptions = [row["corruption"] for row in rows]
    seeds = [row["seed"] for row in rows]
    return clustered_mean(values, corruptions, seeds, level=config.level)


def write_results(folder: RunFolder, report: Report) -> None:
    """Write the tables and the figures."""
    config = report.config
    folder.write("estimates.csv", csv_text(row._asdict() for row in report.estimates))
    for name in ("accuracies", "estimators", "adapters"):
        folder.write(f"{name}.csv", csv_text(getattr(report, name)))
    title = f"{config.data}, {len(config.seeds)} seeds"
    first = config.adapters[0]
    with folder.replacing("flips.png") as partial:
        adaptation_figures.draw_flips(
            partial,
            rows=[row for row in report.accuracies if row["adapter"] == first],
            target=config.estimate,
            title=f"{title}: label flips under {first} and accuracy",
        )
    chosen = [row for row in report.estimates if row.family == "test" and row.adapter == first]
    with folder.replacing("errors.png") as partial:
        adaptation_figures.draw_errors(
            partial,
            errors=_errors_by_severity(config, chosen),
            title=f"{title}: mean absolute error of the estimated accuracy "
            f"({config.estimate.replace('_', ' ')})",
        )
    with folder.replacing("online.png") as partial:
        adaptation_figures.draw_online(
            partial,
            online=report.online,
            title=f"{title}: accuracy along the stream, mean of the test splits",
        )


def _errors_by_severity(
    config: Config, rows: Iterable[Row]
) -> dict[str, dict[str, dict[int, float]]]:
    """Mean absolute error for each network, estimator and severity."""
    found: dict[str, dict[str, dict[int, list[float]]]] = {}
    for row in rows:
        if row.target == config.estimate and row.severity and row.estimator != "constant":
            by_severity = found.setdefault(row.network, {}).setdefault(row.estimator, {})
            by_severity.setdefault(row.severity, []).append(abs(row.value - row.accuracy))
    return {
        network: {
            name: {severity: float(np.mean(errors)) for severity, errors in by_severity.items()}
            for name, by_severity in by_estimator.items()
        }
        for network, by_estimator in found.items()
    }


def estimator_table(report: Report) -> Table:
    """Errors of the estimators, networks one below the other, best first."""
    config = report.config
    whose = config.estimate.replace("_", " ")
    table = Table(
        title=f"{config.data}, {whose}: error of the estimates in points",
        caption="absolute errors over the test splits of all seeds; brackets: "
        f"{config.level:.0%} intervals for other corruptions and seeds; wins: share of the splits "
        f"where it is nearest; coverage of its own {config.level:.0%} intervals",
        caption_justify="left",
    )
    for heading in ("network", "estimator"):
        table.add_column(heading)
    for heading in ("mean", "median", "worst", "wins", "coverage", "width"):
        table.add_column(heading, justify="right")
    wanted = [
        row
        for row in report.estimators
        if row["target"] == config.estimate and row["adapter"] == config.adapters[0]
    ]
    names = list(dict.fromkeys(row["network"] for row in wanted))
    for network in names:
        rows = sorted(
            (row for row in wanted if row["network"] == network), key=lambda r: r["mean_error"]
        )
        for row in rows:
            mean = tuple(row[f"mean_error{end}"] for end in ("", "_lower", "_upper"))
            constant = row["estimator"] == "constant"
            table.add_row(
                network,
                row["estimator"],
                with_interval(mean, scale=_PERCENT, digits=2),
                f"{_PERCENT * row['median_error']:.2f}",
                f"{_PERCENT * row['worst_error']:.1f}",
                "" if constant else f"{row['wins']:.0%}",
                "" if constant else f"{row['coverage']:.0%}",
                "" if constant else f"{_PERCENT * row['mean_width']:.1f}",
                end_section=row is rows[-1],
            )
    return table


def adapter_table(report: Report) -> Table:
    """Accuracies under the adapters, in the order of the options."""
    config = report.config
    table = Table(
        title=f"{config.data}: accuracy in percent, mean of the test splits of all seeds",
        caption=f"brackets: {config.level:.0%} intervals for other corruptions and seeds; worse: "
        "share of the splits that adaptation made worse than batch statistics alone",
        caption_justify="left",
    )
    for heading in ("network", "adapter"):
        table.add_column(heading)
    for heading in ("source", "batch statistics", "online", "adapted", "worst", "worse"):
        table.add_column(heading, justify="right")
    for i, row in enumerate(report.adapters):
        last = i + 1 == len(report.adapters) or report.adapters[i + 1]["network"] != row["network"]
        table.add_row(
            row["network"],
            row["adapter"],
            f"{_PERCENT * row['source']:.1f}",
            f"{_PERCENT * row['batch_statistics']:.1f}",
            *(
                with_interval(
                    (row[name], row[f"{name}_lower"], row[f"{name}_upper"]),
                    scale=_PERCENT,
                    digits=1,
                )
                for name in ("online", "adapted")
            ),
            f"{_PERCENT * row['worst_adapted']:.1f}",
            f"{row['worse_than_before']:.0%}",
            end_section=last,
        )
    return table


def target_table(report: Report) -> Table:
    """What every estimator says of the user's own images."""
    config = report.config
    assert config.target is not None
    table = Table(
        title=f"{config.target.name}: accuracy in percent, with {config.level:.0%} intervals"
    )
    for heading in ("network", "seed", "estimator"):
        table.add_column(heading)
    for heading in ("of the", "estimate", "by its labels"):
        table.add_column(heading, justify="right")
    for row in report.estimates:
        wanted = ("target", config.adapters[0], config.estimate)
        if (row.family, row.adapter, row.target) == wanted and row.estimator != "constant":
            table.add_row(
                row.network,
                str(row.seed),
                row.estimator + (" *" if row.extrapolated else ""),
                row.target.replace("_", " "),
                with_interval((row.value, row.lower, row.upper), scale=_PERCENT, digits=1),
                "-" if np.isnan(row.accuracy) else f"{_PERCENT * row.accuracy:.1f}",
            )
    table.caption = "* not backed by data, as the estimator says itself"
    return table
