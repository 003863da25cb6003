r"""Means, differences and correlations over sets and networks, with bootstrap intervals.

A study of one method is a table with a row for each set and a column for each network. Networks
are the same initial weights in every row, and any further row or column would do as well: both are
resampled, rows within each method, columns for all methods together. This is on the wide side of
the truth, since it counts the noise of a single cell with the rows as well as with the columns.

Reference: A. Owen, "The pigeonhole bootstrap" (2007).
"""

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy import stats


class Estimate(NamedTuple):
    """A number with its interval; all NaN if the number does not exist."""

    value: float
    lower: float
    upper: float


class Bootstrap:
    """Resamples of tables `[sets, networks]`, the same ones whenever they are asked for.

    Args:
      sets: number of sets of each method.
      networks: number of networks, the same ones on every set.
      resamples: number of replicates.
      level: nominal coverage of the intervals.
      seed: of the replicates.
    """

    def __init__(
        self, sets: dict[str, int], networks: int, *, resamples: int, level: float, seed: int
    ) -> None:
        rng = np.random.default_rng(seed)
        self._columns = rng.integers(networks, size=(resamples, networks))
        self._rows = {
            name: rng.integers(number, size=(resamples, number)) for name, number in sets.items()
        }
        self._tails = (0.5 - level / 2, 0.5 + level / 2)

    def mean(self, name: str, table: Float[np.ndarray, "sets networks"]) -> Estimate:
        """Mean of one method."""
        return self._estimate(float(table.mean()), self._resample(name, table).mean((1, 2)))

    def difference(
        self,
        names: tuple[str, str],
        tables: tuple[Float[np.ndarray, "sets1 networks"], Float[np.ndarray, "sets2 networks"]],
    ) -> Estimate:
        """Mean of the first method minus that of the second, network by network."""
        first, second = (
            self._resample(name, table).mean((1, 2))
            for name, table in zip(names, tables, strict=True)
        )
        return self._estimate(float(tables[0].mean() - tables[1].mean()), first - second)

    def correlations(
        self,
        x: dict[str, Float[np.ndarray, "_ networks"]],
        y: dict[str, Float[np.ndarray, "_ networks"]],
        *,
        of_means: bool,
    ) -> tuple[Estimate, Estimate]:
        """Pearson's and Spearman's correlation over the sets of all methods in `x`.

        Args:
          x: a table for each method.
          y: tables of the same shapes.
          of_means: correlate the means over the networks of each set, instead of single networks.
        """

        def flat(tables: list[Float[np.ndarray, "*r _ _"]]) -> Float[np.ndarray, "*r points"]:
            if of_means:
                return np.concatenate([table.mean(-1) for table in tables], axis=-1)
            return np.concatenate(
                [table.reshape(*table.shape[:-2], -1) for table in tables], axis=-1
            )

        points = [flat([tables[name] for name in x]) for tables in (x, y)]
        resampled = [flat([self._resample(name, tables[name]) for name in x]) for tables in (x, y)]
        return (
            self._estimate(float(pearson(*points)), pearson(*resampled)),
            self._estimate(float(spearman(*points)), spearman(*resampled)),
        )

    def _resample(
        self, name: str, table: Float[np.ndarray, "sets networks"]
    ) -> Float[np.ndarray, "resamples sets networks"]:
        return table[self._rows[name][:, :, None], self._columns[:, None, :]]

    def _estimate(self, value: float, replicates: Float[np.ndarray, " resamples"]) -> Estimate:
        # A replicate that draws one set again and again has no correlation.
        kept = replicates[np.isfinite(replicates)]
        if not np.isfinite(value) or len(kept) == 0:
            return Estimate(np.nan, np.nan, np.nan)
        lower, upper = np.quantile(kept, self._tails)
        return Estimate(value, float(lower), float(upper))


def mean_over_seeds(values: ArrayLike, *, level: float) -> Estimate:
    """Mean with Student's interval for further seeds; one seed alone has none.

    Args:
      values: a number for each seed.
      level: nominal coverage.
    """
    numbers = np.asarray(values, float)
    mean = float(numbers.mean())
    if len(numbers) < 2:
        return Estimate(mean, np.nan, np.nan)
    half = stats.t.ppf(0.5 + level / 2, len(numbers) - 1) * stats.sem(numbers)
    return Estimate(mean, float(mean - half), float(mean + half))


def clustered_mean(
    values: Float[np.ndarray, " n"],
    rows: Sequence[Hashable],
    columns: Sequence[Hashable],
    *,
    level: float,
    resamples: int = 2000,
) -> Estimate:
    """Mean of numbers that come in rows and columns, both of which are drawn again.

    Of a single row or column nothing is learnt about others: the interval is then for other columns
    or rows alone. A single cell has none.

    Args:
      values: a number for each pair, any number of times each.
      rows: of each number, such as its corruption.
      columns: of each number, such as its seed.
      level: nominal coverage of the interval.
      resamples: replicates; the same ones every time.
    """
    row, column = (
        np.unique(np.array(names, str), return_inverse=True)[1] for names in (rows, columns)
    )
    shape = (row.max() + 1, column.max() + 1)
    if max(shape) == 1:
        return Estimate(float(values.mean()), np.nan, np.nan)
    sums, counts = np.zeros(shape), np.zeros(shape)
    np.add.at(sums, (row, column), values)
    np.add.at(counts, (row, column), 1)
    rng = np.random.default_rng(0)
    drawn = [rng.multinomial(size, np.full(size, 1 / size), resamples) for size in shape]
    totals, numbers = (np.einsum("rc,rs,cs->r", *drawn, table) for table in (sums, counts))
    # Of a table with empty cells, a replicate may have drawn nothing else.
    means = totals[numbers > 0] / numbers[numbers > 0]
    lower, upper = np.quantile(means, [0.5 - level / 2, 0.5 + level / 2])
    return Estimate(float(values.mean()), float(lower), float(upper))


def pearson(
    x: Float[np.ndarray, "*batch n"], y: Float[np.ndarray, "*batch n"]
) -> Float[np.ndarray, "*batch"]:
    """Linear correlation on the last axis; NaN where `x` or `y` is constant or has one entry."""
    varies = (np.ptp(x, axis=-1) > 0) & (np.ptp(y, axis=-1) > 0)
    x, y = x - x.mean(-1, keepdims=True), y - y.mean(-1, keepdims=True)
    norms = np.sqrt(np.sum(x**2, axis=-1) * np.sum(y**2, axis=-1))
    defined = varies & (norms > 0)
    ratio = np.sum(x * y, axis=-1) / np.where(defined, norms, 1)
    return np.asarray(np.where(defined, np.clip(ratio, -1, 1), np.nan))


def spearman(
    x: Float[np.ndarray, "*batch n"], y: Float[np.ndarray, "*batch n"]
) -> Float[np.ndarray, "*batch"]:
    """Correlation of ranks on the last axis, ties given their mean rank."""
    return pearson(stats.rankdata(x, axis=-1), stats.rankdata(y, axis=-1))
