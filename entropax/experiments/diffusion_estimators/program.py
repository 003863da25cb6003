"""The program from top to bottom."""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

import entropax
from entropax.diffusion.baseline_information import binned_mutual_information
from entropax.diffusion.mutual_information import dsmi
from entropax.experiments import diffusion_estimators
from entropax.experiments.command_line import run_command
from entropax.experiments.diffusion_estimators.blobs import Problem, make_problem
from entropax.experiments.diffusion_estimators.config import Config
from entropax.experiments.diffusion_estimators.report import (
    Report,
    make_report,
    summary_table,
    write_results,
)
from entropax.experiments.run_folder import RunFolder, open_run
from entropax.experiments.tables import make_console, make_progress

# Options that change no estimate: a finished run can be reported anew with them.
_OMITTED = ("run_dir", "level", "resamples", "problems", "peers")

Estimator = Callable[[np.ndarray, np.ndarray], float]


def run(config: Config) -> Report:
    """Make every data set, estimate, report.

    Raises:
      ValueError: the run folder or the peers' results do not fit the settings.
    """
    settings = {k: v for k, v in dataclasses.asdict(config).items() if k not in _OMITTED}
    path = config.run_dir or Path("runs") / f"estimators-seed{config.seed}"
    folder = open_run(path, {**settings, "entropax": entropax.__version__})

    records = {(r["dims"], r["seed"]): r for r in folder.records()}
    plan = [(dims, config.seed + i) for i in range(config.seeds) for dims in config.dims]
    with make_progress() as progress:
        each = len(config.corruption)
        task = progress.add_task("", total=each * len(plan), completed=each * len(records))
        for dims, seed in plan:
            if (dims, seed) in records and config.problems is None:
                continue
            progress.update(task, description=f"{dims:,} dimensions, seed {seed}")
            problem = make_problem(
                seed,
                config.n,
                dims,
                num_classes=config.classes,
                corruption=config.corruption,
                separation=config.separation,
            )
            if config.problems is not None:
                _save(RunFolder(config.problems), config, dims, seed, problem)
            if (dims, seed) not in records:
                found = _estimate(config, problem, lambda: progress.advance(task))
                records[dims, seed] = {"dims": dims, "seed": seed, **found}
                folder.append(records[dims, seed])
        progress.update(task, description="Estimated")

    report = make_report(config, [records[choice] for choice in plan])
    write_results(folder, report)
    console = make_console()
    console.print(summary_table(report))
    console.print(folder.listing(), soft_wrap=True, highlight=False)
    return report


def estimators(config: Config, dims: int) -> dict[str, Estimator]:
    """The estimators by name, `(x, labels) -> nats`."""
    options: dict[str, Any] = {
        "sigma": math.sqrt(dims) if config.sigma is None else config.sigma,
        "num_repetitions": config.repetitions,
    }

    def holevo(x: np.ndarray, labels: np.ndarray) -> float:
        found = dsmi(jnp.asarray(x), labels, scheme="holevo", **options)
        shares = np.bincount(labels) / len(labels)
        shares = shares[shares > 0]
        return float(found.adjusted * -np.sum(shares * np.log(shares)))

    def binned(bins: int) -> Estimator:
        return lambda x, labels: float(binned_mutual_information(x, labels, num_bins=bins).value)

    return {
        "dsmi": lambda x, labels: float(dsmi(jnp.asarray(x), labels, **options).value),
        "holevo": holevo,
        **{f"binned {bins}": binned(bins) for bins in config.bins},
    }


def _estimate(config: Config, problem: Problem, on_labels: Callable[[], None]) -> dict[str, Any]:
    """A line of metrics.jsonl: lists over the shares of corrupted labels."""
    of_name = estimators(config, problem.x.shape[1])
    estimates: dict[str, list[float]] = {name: [] for name in of_name}
    seconds: dict[str, list[float]] = {name: [] for name in of_name}
    for labels in problem.labels:
        for name, estimator in of_name.items():
            start = time.perf_counter()
            estimates[name].append(estimator(problem.x, labels))
            seconds[name].append(time.perf_counter() - start)
        on_labels()
    return {"truth": problem.truth.tolist(), "estimates": estimates, "seconds": seconds}


def _save(folder: RunFolder, config: Config, dims: int, seed: int, problem: Problem) -> None:
    folder.path.mkdir(parents=True, exist_ok=True)
    with folder.replacing(f"blobs-d{dims}-seed{seed}.npz") as partial, partial.open("wb") as file:
        arrays: dict[str, Any] = {"dims": dims, "seed": seed, "corruption": config.corruption}
        np.savez(file, allow_pickle=False, **arrays, **problem._asdict())


def main(args: Sequence[str] | None = None) -> None:
    """Run from the command line; wrong input ends with one sentence and exit code 2."""
    run_command(run, Config, diffusion_estimators, args)
