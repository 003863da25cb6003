"""What the comparison found: rows, a summary, a table, a figure."""

import json
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from rich.table import Table

from entropax.experiments import study_figures
from entropax.experiments.diffusion_estimators.config import Config
from entropax.experiments.intervals import Bootstrap
from entropax.experiments.run_folder import RunFolder
from entropax.experiments.tables import csv_text, with_interval


class Report(NamedTuple):
    """What was estimated, and how well.

    Attributes:
      config: of the run.
      rows: one dictionary for each estimate, the columns of results.csv: nats and seconds.
      summary: one for each estimator and number of dimensions, the columns of summary.csv: the mean
        estimate of labels that are not corrupted and of those that are most, the mean absolute
        error over all labels with an interval, the median of the seconds, and how many times those
        of `dsmi` it is.
    """

    config: Config
    rows: list[dict[str, Any]]
    summary: list[dict[str, Any]]

    def estimators(self) -> list[str]:
        """Their names, ours first."""
        return list(dict.fromkeys(row["estimator"] for row in self.rows))

    def table(self, estimator: str, dims: int, name: str) -> Float[np.ndarray, "q seeds"]:
        """One column of `rows` for each share of corrupted labels and each seed; NaN for none."""
        config = self.config
        found = {
            (row["corruption"], row["seed"]): row[name]
            for row in self.rows
            if (row["estimator"], row["dims"]) == (estimator, dims)
        }
        seeds = range(config.seed, config.seed + config.seeds)
        return np.array([[found.get((q, s), np.nan) for s in seeds] for q in config.corruption])


def make_report(config: Config, records: list[dict[str, Any]]) -> Report:
    """Put the records of a finished run and the results of peers together."""
    rows = [
        {
            "dims": record["dims"],
            "corruption": share,
            "seed": record["seed"],
            "estimator": name,
            "truth": record["truth"][i],
            "estimate": record["estimates"][name][i],
            "seconds": record["seconds"][name][i],
        }
        for record in records
        for name in record["estimates"]
        for i, share in enumerate(config.corruption)
    ]
    if config.peers is not None:
        rows += _of_peers(config, rows)
    report = Report(config, rows, [])
    bootstrap = Bootstrap(
        {"seeds": config.seeds},
        1,
        resamples=config.resamples,
        level=config.level,
        seed=config.seed,
    )
    least, most = np.argmin(config.corruption), np.argmax(config.corruption)
    for dims in config.dims:
        reference = np.nanmedian(report.table("dsmi", dims, "seconds"))
        for name in report.estimators():
            estimate = report.table(name, dims, "estimate")
            error = np.abs(estimate - report.table(name, dims, "truth"))
            known = np.isfinite(error).all()
            seconds = np.nanmedian(report.table(name, dims, "seconds")) if known else np.nan
            of_error = bootstrap.mean("seeds", error.mean(0)[:, None])
            report.summary.append(
                {
                    "dims": dims,
                    "estimator": name,
                    "least_corrupted": float(estimate[least].mean()),
                    "most_corrupted": float(estimate[most].mean()),
                    **dict(zip(("error", "error_lower", "error_upper"), of_error, strict=True)),
                    "seconds": float(seconds),
                    "times_dsmi": float(seconds / reference),
                }
            )
    return report


def _of_peers(config: Config, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The estimates of peers for the problems of this run.

    Raises:
      ValueError: the file is not what the script prints, or of other problems.
    """
    assert config.peers is not None
    try:
        found = json.loads(config.peers.read_text())["estimates"]
        given = {
            (r["dims"], r["corruption"], r["seed"], r["estimator"]): (r["estimate"], r["seconds"])
            for r in found
        }
        truths = {(r["dims"], r["corruption"], r["seed"]): r["truth"] for r in found}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{config.peers}: this is not what benchmarks/peers/mutual_information_peers.py "
            f"prints: {error!r}."
        ) from error
    known = {(r["dims"], r["corruption"], r["seed"]): r["truth"] for r in rows}
    for problem, truth in truths.items():
        if problem not in known or not np.isclose(truth, known[problem], atol=1e-9):
            raise ValueError(
                f"{config.peers} is of other problems: {problem} (dimensions, corruption, seed) is "
                "none of this run, or has another truth."
            )
    return [
        {
            **dict(zip(("dims", "corruption", "seed", "estimator"), key, strict=True)),
            "truth": known[key[:3]],
            "estimate": estimate,
            "seconds": seconds,
        }
        for key, (estimate, seconds) in given.items()
    ]


def write_results(folder: RunFolder, report: Report) -> None:
    """Write the tables and draw the figure."""
    folder.write("results.csv", csv_text(report.rows))
    folder.write("summary.csv", csv_text(report.summary))
    config = report.config
    order = np.argsort(config.corruption)
    names = report.estimators()

    def spans(name: str) -> Float[np.ndarray, "d q 3"]:
        tables = np.array([report.table(name, dims, "estimate")[order] for dims in config.dims])
        return np.stack([tables.mean(-1), tables.min(-1), tables.max(-1)], axis=-1)

    seconds = {(row["estimator"], row["dims"]): row["seconds"] for row in report.summary}
    with folder.replacing("estimators.png") as partial:
        study_figures.draw_estimators(
            partial,
            dims=np.array(config.dims, float),
            corruption=np.array(config.corruption)[order],
            truth=np.array([report.table("dsmi", d, "truth")[order].mean(1) for d in config.dims]),
            estimates={name: spans(name) for name in names},
            seconds={n: np.array([seconds[n, dims] for dims in config.dims]) for n in names},
            title=_title(config),
        )


def _title(config: Config) -> str:
    apart = "far apart" if config.separation is None else f"{config.separation:g} apart"
    sets = "1 data set" if config.seeds == 1 else f"{config.seeds} data sets"
    return f"{config.n} points in {config.classes} blobs {apart}, {sets} for each dimension"


def summary_table(report: Report) -> Table:
    """Errors and seconds, for each number of dimensions."""
    config = report.config
    table = Table(
        title=f"Mutual information in nats: {_title(config)}",
        caption=f"Errors are means over labels, [{config.level:.0%} intervals] from resampling the "
        "seeds. Seconds: median for one estimate.",
        caption_justify="left",
    )
    table.add_column("dimensions", justify="right")
    table.add_column("estimator")
    shares = min(config.corruption), max(config.corruption)
    for heading in (
        *(f"{100 * share:g} % of\nlabels random" for share in shares),
        "mean absolute\nerror",
        "seconds",
        "times\ndsmi",
    ):
        table.add_column(heading, justify="right")
    for dims in config.dims:
        truth = report.table("dsmi", dims, "truth").mean(1)
        ends = (truth[f(config.corruption)] for f in (np.argmin, np.argmax))
        table.add_row(f"{dims:,}", "truth", *(f"{end:.3f}" for end in ends))
        rows = [row for row in report.summary if row["dims"] == dims]
        for row in rows:
            numbers = [row["least_corrupted"], row["most_corrupted"]]
            table.add_row(
                "",
                row["estimator"],
                *("-" if np.isnan(number) else f"{number:.3f}" for number in numbers),
                with_interval((row["error"], row["error_lower"], row["error_upper"]), digits=3),
                "-" if np.isnan(row["seconds"]) else f"{row['seconds']:.3f}",
                "-" if np.isnan(row["seconds"]) else f"{row['times_dsmi']:.2g}",
                end_section=row is rows[-1],
            )
    return table
