"""What a study found: rows, tables, figures."""

from collections.abc import Iterable
from typing import Any, NamedTuple, TypeAlias

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from rich.table import Table

from entropax import kernels
from entropax.experiments import figures
from entropax.experiments.intervals import Bootstrap, Estimate
from entropax.experiments.mnist_entropy.choose import Choice
from entropax.experiments.mnist_entropy.config import BASELINES, Config
from entropax.experiments.mnist_entropy.images import Images
from entropax.experiments.run_folder import RunFolder
from entropax.experiments.tables import csv_text, with_interval

_ENTROPIES = ("start_entropy", "final_entropy", "delta_entropy")
_OUTCOMES = ("min_test_loss", "accuracy", "final_test_loss", "final_accuracy")
_CURVES = ("test_loss", "test_accuracy", "entropy", "trace")

_Tables: TypeAlias = dict[str, dict[str, Float[np.ndarray, "_ _"]]]


class Report(NamedTuple):
    """What was measured, and what it amounts to.

    Attributes:
      config: of the run.
      rows: one dictionary for each network on each set, the columns of results.csv. Entropies are
        shares of the maximum ln n, losses in nats, accuracies in [0, 1]. `accuracy` is that at the
        lowest test loss.
      methods: one for each method and size, the columns of methods.csv: means, and differences from
        the baselines.
      correlations: one for each pair of an entropy and an outcome, the columns of correlations.csv.
      chosen: rows of the pool of every set.
      trained: the training records of every set.
    """

    config: Config
    rows: list[dict[str, Any]]
    methods: list[dict[str, Any]]
    correlations: list[dict[str, Any]]
    chosen: dict[Choice, list[int]]
    trained: dict[Choice, dict[str, Any]]

    def table(self, method: str, size: int, name: str) -> Float[np.ndarray, "sets networks"]:
        """One column of `rows` for one method and size."""
        return _table(self.rows, method, size, name)


def make_report(config: Config, records: list[dict[str, Any]]) -> Report:
    """Put the records of a finished run together."""
    sets = {Choice(*r["chosen"]): r for r in records if "chosen" in r}
    trained = {Choice(*r["trained"]): r for r in records if "trained" in r}
    rows = [
        row for choice, record in trained.items() for row in _rows(choice, sets[choice], record)
    ]
    methods, correlations = [], []
    for size in config.set_size:
        tables: _Tables = {
            name: {method: _table(rows, method, size, name) for method in config.methods}
            for name in _ENTROPIES + _OUTCOMES
        }
        bootstrap = Bootstrap(
            {method: len(table) for method, table in tables["accuracy"].items()},
            config.amounts.networks,
            resamples=config.resamples,
            level=config.level,
            seed=config.seed,
        )
        methods += [
            {"method": m, "size": size, **_method_row(bootstrap, tables, m)} for m in config.methods
        ]
        correlations += [{"size": size, **row} for row in _correlation_rows(bootstrap, tables)]
    chosen = {choice: record["rows"] for choice, record in sets.items()}
    return Report(config, rows, methods, correlations, chosen, trained)


def _rows(choice: Choice, chosen: dict[str, Any], record: dict[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for network, losses in enumerate(record["test_loss"]):
        best = int(np.argmin(losses))
        entropies, accuracies = record["entropy"][network], record["test_accuracy"][network]
        selectors = chosen["selector_entropy"]
        rows.append(
            {
                **choice._asdict(),
                "network": network,
                "selector_entropy": selectors[choice.number % len(selectors)],
                "classes": sum(count > 0 for count in chosen["classes"]),
                "start_entropy": entropies[0],
                "final_entropy": entropies[-1],
                "delta_entropy": entropies[0] - entropies[-1],
                "min_test_loss": losses[best],
                "best_epoch": record["tested"][best],
                "accuracy": accuracies[best],
                "final_test_loss": losses[-1],
                "final_accuracy": accuracies[-1],
                "final_train_loss": record["train_loss"][network][-1],
                "start_trace": record["trace"][network][0],
                "final_trace": record["trace"][network][-1],
            }
        )
    return rows


def _table(
    rows: Iterable[dict[str, Any]], method: str, size: int, name: str
) -> Float[np.ndarray, "sets networks"]:
    found = sorted(
        (row["number"], row["network"], row[name])
        for row in rows
        if (row["method"], row["size"]) == (method, size)
    )
    networks = 1 + max(network for _, network, _ in found)
    return np.array([value for _, _, value in found], float).reshape(-1, networks)


def _method_row(bootstrap: Bootstrap, tables: _Tables, method: str) -> dict[str, Any]:
    row: dict[str, Any] = {"sets": len(tables["accuracy"][method])}
    for name, of_methods in tables.items():
        row |= _columns(name, bootstrap.mean(method, of_methods[method]))
        for baseline in BASELINES:
            if baseline in of_methods and baseline != method:
                difference = bootstrap.difference(
                    (method, baseline), (of_methods[method], of_methods[baseline])
                )
                row |= _columns(f"{name}_minus_{baseline}", difference)
    return row


def _correlation_rows(bootstrap: Bootstrap, tables: _Tables) -> list[dict[str, Any]]:
    everything = list(tables["accuracy"])
    groups = {"random": ["random"]} if "random" in everything else {}
    if len(everything) > 1:
        groups["all"] = everything
    rows = []
    for group, methods in groups.items():
        for of_means in (True, False):
            for entropy in _ENTROPIES:
                for outcome in _OUTCOMES:
                    x, y = ({m: tables[name][m] for m in methods} for name in (entropy, outcome))
                    pearson, spearman = bootstrap.correlations(x, y, of_means=of_means)
                    rows.append(
                        {
                            "methods": group,
                            "points": "sets" if of_means else "networks",
                            "entropy": entropy,
                            "outcome": outcome,
                            **_columns("pearson", pearson),
                            **_columns("spearman", spearman),
                        }
                    )
    return rows


def _columns(name: str, estimate: Estimate) -> dict[str, float]:
    return {
        name: estimate.value,
        f"{name}_lower": estimate.lower,
        f"{name}_upper": estimate.upper,
    }


def write_results(
    folder: RunFolder, report: Report, images: Images, kernel: Float[np.ndarray, "m m"]
) -> None:
    """Write the tables and draw the figures.

    Args:
      folder: of the run.
      report: of the run.
      images: the pool that sets were chosen from.
      kernel: of the pool, by the first selector.
    """
    for name in ("results", "methods", "correlations"):
        rows = report.rows if name == "results" else getattr(report, name)
        folder.write(f"{name}.csv", csv_text(rows))
    config = report.config
    map_of_pool = _embedding(kernel, config.seed)
    for size in config.set_size:
        title = f"{config.data}, seed {config.seed}, sets of {size} images"
        with folder.replacing(f"entropy-n{size}.png") as partial:
            figures.draw_entropy_scatter(
                partial,
                entropies=_by_method(report, size, _ENTROPIES),
                outcomes=_by_method(report, size, ("min_test_loss", "final_accuracy")),
                title=title,
            )
        with folder.replacing(f"training-n{size}.png") as partial:
            figures.draw_training(partial, curves=_curves(report, size), title=title)
        with folder.replacing(f"chosen-n{size}.png") as partial:
            figures.draw_chosen(
                partial,
                positions=map_of_pool,
                labels=images.pool.labels,
                chosen={m: np.array(report.chosen[Choice(m, size, 0)]) for m in config.methods},
                title=f"{title}: the pool by t-SNE of its NTK (one untrained network)",
            )
    if len(config.set_size) > 1:
        with folder.replacing("sizes.png") as partial:
            figures.draw_sizes(
                partial, means=_sizes(report), level=config.level, title=f"{config.data}"
            )


def _embedding(kernel: Float[np.ndarray, "m m"], seed: int) -> Float[np.ndarray, "m 2"]:
    """The pool in the plane, by the angles between its gradients."""
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    cosine = np.asarray(kernels.cosine(jnp.asarray(kernel)))
    distances = np.sqrt(np.maximum(2 - 2 * cosine, 0))
    np.fill_diagonal(distances, 0)
    tsne = TSNE(
        metric="precomputed",
        init="random",
        perplexity=min(30.0, (len(kernel) - 1) / 3),
        random_state=seed,
    )
    # On a busy machine its threads would spend most of their time waiting for each other.
    with threadpool_limits(1):
        return np.asarray(tsne.fit_transform(distances))


def _by_method(
    report: Report, size: int, names: tuple[str, ...]
) -> dict[str, dict[str, Float[np.ndarray, "_ _"]]]:
    return {name: {m: report.table(m, size, name) for m in report.config.methods} for name in names}


def _curves(
    report: Report, size: int
) -> dict[str, dict[str, tuple[list[int], Float[np.ndarray, " epochs"]]]]:
    """Means over sets and networks, as `(epochs, values)` of each method."""
    curves: dict[str, dict[str, Any]] = {name: {} for name in _CURVES}
    for method in report.config.methods:
        records = [r for c, r in report.trained.items() if (c.method, c.size) == (method, size)]
        for name in _CURVES:
            epochs = records[0]["measured" if name in ("entropy", "trace") else "tested"]
            values = np.mean([record[name] for record in records], axis=(0, 1))
            curves[name][method] = epochs, values
    return curves


def _sizes(report: Report) -> dict[str, dict[str, Float[np.ndarray, "4 sizes"]]]:
    """Size, mean, lower and upper end of each method, for the panels of the figure."""
    return {
        name: {
            method: np.array(
                [
                    [row["size"], row[name], row[f"{name}_lower"], row[f"{name}_upper"]]
                    for row in report.methods
                    if row["method"] == method
                ]
            ).T
            for method in report.config.methods
        }
        for name in ("start_entropy", "min_test_loss", "final_accuracy")
    }


def method_table(report: Report, size: int) -> Table:
    """Means by method, and differences of the final accuracy from the baselines."""
    config = report.config
    amounts = config.amounts
    table = Table(
        title=f"{config.data}, seed {config.seed}: sets of {size} images, {amounts.networks} "
        "networks on each",
        caption=f"[{config.level:.0%} intervals] from resampling sets and networks. Entropies are "
        "shares of ln n; delta is start minus final. Accuracies and their differences are in "
        "percent; differences are between the same networks.",
        caption_justify="left",
    )
    table.add_column("method")
    baselines = [name for name in BASELINES if name in config.methods]
    headings = [
        "sets",
        "start\nentropy",
        "final\nentropy",
        "delta",
        "lowest\ntest loss",
        "final\naccuracy",
    ]
    for heading in headings + [f"accuracy minus\n{_words(name)}" for name in baselines]:
        table.add_column(heading, justify="right")
    for row in report.methods:
        if row["size"] == size:
            table.add_row(
                _words(row["method"]),
                str(row["sets"]),
                *(f"{row[name]:.3f}" for name in _ENTROPIES),
                _with_interval(row, "min_test_loss", 1, 2, between="\n"),
                _with_interval(row, "final_accuracy", 100, 1, between="\n"),
                *(
                    _with_interval(
                        row, f"final_accuracy_minus_{name}", 100, 1, sign="+", between="\n"
                    )
                    if name != row["method"]
                    else ""
                    for name in baselines
                ),
            )
    return table


def correlation_table(report: Report, size: int) -> Table:
    """Spearman's correlations of entropies with outcomes, over sets."""
    config = report.config
    table = Table(
        title=f"Rank correlation over sets of {size} (means over their networks)",
        caption=f"[{config.level:.0%} intervals]; Pearson's, and single networks: correlations.csv",
        caption_justify="left",
    )
    for heading in ("sets", "entropy"):
        table.add_column(heading)
    for outcome in _OUTCOMES:
        table.add_column(_words(outcome), justify="right")
    rows = [r for r in report.correlations if (r["size"], r["points"]) == (size, "sets")]
    for group in dict.fromkeys(row["methods"] for row in rows):
        for entropy in _ENTROPIES:
            cells = [
                _with_interval(row, "spearman", 1, 2, sign="+")
                for row in rows
                if (row["methods"], row["entropy"]) == (group, entropy)
            ]
            table.add_row(group, _words(entropy), *cells, end_section=entropy == _ENTROPIES[-1])
    return table


def _with_interval(row: dict[str, Any], name: str, scale: float, digits: int, **look: str) -> str:
    estimate = row[name], row[f"{name}_lower"], row[f"{name}_upper"]
    return with_interval(estimate, scale=scale, digits=digits, **look)


def _words(name: str) -> str:
    return name.replace("_", " ")
