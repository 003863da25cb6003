"""The program from top to bottom."""

import dataclasses
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Int
from rich.progress import Progress

import entropax
from entropax import kernels
from entropax.distributed import make_mesh
from entropax.experiments import mnist_entropy
from entropax.experiments.command_line import run_command
from entropax.experiments.mnist_entropy.choose import (
    Choice,
    Selector,
    build_chooser,
    effective_entropy,
    planned_choices,
)
from entropax.experiments.mnist_entropy.config import BASELINES, Config
from entropax.experiments.mnist_entropy.images import Images, load_images
from entropax.experiments.mnist_entropy.measure import Measure, build_measure, record_epochs
from entropax.experiments.mnist_entropy.networks import Networks, build_networks
from entropax.experiments.mnist_entropy.report import (
    Report,
    correlation_table,
    make_report,
    method_table,
    write_results,
)
from entropax.experiments.run_folder import RunFolder, open_run
from entropax.experiments.tables import make_console, make_progress

# Options that change no measurement: a finished run can be reported anew with them.
_OF_THE_REPORT = ("run_dir", "level", "resamples", "mesh", "workers")
# Images in a tile of the kernel of the pool.
_TILE = 100
# Where the data are; what they are is told by their checksums.
_OF_THE_DATA = ("data_dir", "path", "size")


def run(config: Config) -> Report:
    """Choose the sets, train the networks on each, report.

    Raises:
      FileNotFoundError: the data are not there; the message says where to put them.
      FloatingPointError: a network diverged; finished sets are kept.
      ValueError: the data or the run folder do not fit the settings.
    """
    images = load_images(config)
    networks = build_networks(config, images)
    choices = list(planned_choices(config))
    path = config.run_dir or Path("runs") / f"entropy-{config.data}-seed{config.seed}"
    folder = open_run(path, _settings(config, images))
    console = make_console()
    with make_progress() as progress:
        # Baselines need no selector, but the first one's kernel is what the figures show.
        needed = config.amounts.selectors if set(config.methods) - set(BASELINES) else 1
        selectors = [
            _selector(config, networks, images, folder, number, progress)
            for number in range(needed)
        ]
        sets = _choose_sets(config, networks, images, folder, selectors, choices, progress)
        _train_on_sets(config, networks, images, folder, sets, progress)
    report = make_report(config, folder.records())
    write_results(folder, report, images, selectors[0].kernel)
    for size in config.set_size:
        console.print(method_table(report, size))
    for size in config.set_size:
        console.print(correlation_table(report, size))
    files = ", ".join(sorted(file.name for file in folder.path.iterdir() if file.suffix != ".npy"))
    console.print(f"{path}: {files}", soft_wrap=True, highlight=False)
    return report


def _settings(config: Config, images: Images) -> dict[str, Any]:
    """All that the measurements depend on: options, and data by their content."""
    settings = {**dataclasses.asdict(config), **config.amounts._asdict()}
    for name in _OF_THE_REPORT + _OF_THE_DATA:
        del settings[name]
    settings["checksums"] = [images.pool.checksum(), images.test.checksum()]
    settings["entropax"] = entropax.__version__
    return settings


def _selector(
    config: Config,
    networks: Networks,
    images: Images,
    folder: RunFolder,
    number: int,
    progress: Progress,
) -> Selector:
    """An untrained network that is none of the trained ones, with its kernel of the pool."""
    root = jax.random.fold_in(jax.random.key(config.seed), number + 1)
    params, predictor = (networks.init(key) for key in jax.random.split(root))
    file = folder.path / f"kernel{number}.npy"
    if not file.exists():
        task = progress.add_task(f"Kernel of the pool, network {number}", total=None)
        mesh = make_mesh() if config.mesh else None
        devices = 1 if mesh is None else mesh.size
        kernel = kernels.gram(
            networks.kernel_fn,
            params,
            images.pool.x,
            tile_size=-(-_TILE // devices) * devices,
            mesh=mesh,
            on_tile=lambda done, total: progress.update(task, completed=done, total=total),
        )
        with folder.replacing(file.name) as partial:
            np.save(partial, kernel)
    return Selector(params, predictor, np.load(file, allow_pickle=False))


def _choose_sets(
    config: Config,
    networks: Networks,
    images: Images,
    folder: RunFolder,
    selectors: list[Selector],
    choices: list[Choice],
    progress: Progress,
) -> dict[Choice, Int[np.ndarray, " n"]]:
    """Every set, from the run folder if it is there."""
    choose = build_chooser(config, networks, images)
    chosen = {
        Choice(*record["chosen"]): np.array(record["rows"])
        for record in folder.records()
        if "chosen" in record
    }
    task = progress.add_task("Choosing", total=len(choices))
    for choice in choices:
        if choice not in chosen:
            progress.update(task, description=f"Choosing: {choice}")
            rows = choose(choice, selectors[choice.number % len(selectors)])
            chosen[choice] = rows
            classes = np.bincount(images.pool.labels[rows], minlength=len(images.class_names))
            folder.append(
                {
                    "chosen": list(choice),
                    "rows": rows.tolist(),
                    "classes": classes.tolist(),
                    "selector_entropy": [
                        effective_entropy(each.kernel[np.ix_(rows, rows)]) for each in selectors
                    ],
                }
            )
        progress.advance(task)
    progress.update(task, description="Chosen")
    return {choice: chosen[choice] for choice in choices}


def _train_on_sets(
    config: Config,
    networks: Networks,
    images: Images,
    folder: RunFolder,
    sets: dict[Choice, Int[np.ndarray, " n"]],
    progress: Progress,
) -> None:
    """Train the networks on every set that has no record yet, and append their records in order."""
    trained = {Choice(*r["trained"]) for r in folder.records() if "trained" in r}
    total = {choice: len(record_epochs(config, choice.size)[0]) for choice in sets}
    done = sum(total[choice] for choice in sets if choice in trained)
    task = progress.add_task("Training", total=sum(total.values()), completed=done)
    left = [choice for choice in sets if choice not in trained]
    measure: Measure = build_measure(config, networks, images)

    stopping = threading.Event()

    def on_record() -> None:
        progress.advance(task)
        if stopping.is_set():
            raise KeyboardInterrupt

    def train(choice: Choice) -> dict[str, Any]:
        progress.update(task, description=f"Training: {choice}")
        return {"trained": list(choice), **measure(sets[choice], on_record)}

    # The first set of each size by itself: the others find everything compiled.
    firsts: dict[int, Choice] = {}
    for choice in left:
        firsts.setdefault(choice.size, choice)
    rest = [choice for choice in left if choice not in firsts.values()]
    for choice in firsts.values():
        folder.append(train(choice))
    workers = config.workers or _default_workers()
    for record in _in_parallel(train, rest, workers=workers, stopping=stopping):
        folder.append(record)
    progress.update(task, description="Trained")


def _in_parallel(
    function: Callable[[Choice], dict[str, Any]],
    choices: Iterable[Choice],
    *,
    workers: int,
    stopping: threading.Event,
) -> Iterator[dict[str, Any]]:
    """`map` on threads, in order; sets `stopping` for those that are left when one fails."""
    # XLA leaves Python to the other threads while it computes, and one network is too small a
    # piece of work to be divided among cores without loss.
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[dict[str, Any]]] = deque(pool.submit(function, c) for c in choices)
        try:
            while waiting:
                yield waiting.popleft().result()
        finally:
            stopping.set()
            pool.shutdown(wait=False, cancel_futures=True)


def _default_workers() -> int:
    return (os.cpu_count() or 1) if jax.default_backend() == "cpu" else 1


def main(args: Sequence[str] | None = None) -> None:
    """Run from the command line; wrong input ends with one sentence and exit code 2."""
    run_command(run, Config, mnist_entropy, args)
