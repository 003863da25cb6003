"""Entropies of many subsets of the same examples, in few compiled programs."""

import functools
import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, PyTree

from entropax.kernels.base import num_examples
from entropax.types import Array

# A subset grows to a multiple of 32 rows, or of a sixteenth to an eighth of its size where that is
# more: eight sizes from any size to its double, so that many sizes share few programs.
_STEP = 32
# Rows of all subsets that are solved at a time. A CPU gains nothing by more; other backends wait
# for each step of a batch.
_ROWS_ON_CPU, _ROWS_ELSEWHERE = 512, 16_384


def subset_entropies(
    entropy_fn: Callable[..., Float[Array, ""]],
    x: PyTree[Any],
    subsets: Sequence[Int[np.ndarray, " _"]],
    *,
    batch_size: int | None = None,
) -> Float[np.ndarray, " s"]:
    r"""The entropy of each of many subsets of rows.

    $$H_s = H\big(\{x_i : i \in s\}\big).$$

    Subsets are padded to one of a few sizes, those of a size solved a batch at a time by one
    compiled program, and subsets with the same members solved once. Programs are kept for the next
    call with the same `entropy_fn`: pass the same function, not a new one that does the same.

    Args:
      entropy_fn: `(rows, where=[k]) -> []`, the entropy of the rows where `where` holds, or of all
        if it is None; whatever is in the others must not count. It is traced.
      x: `[n, ...]` examples, or several arrays of that length.
      subsets: row numbers of each subset. Their order makes no difference.
      batch_size: subsets to solve at a time; by default as many as have 512 rows together on a
        CPU, and 16,384 elsewhere.

    Returns:
      `[s]` entropies, computed in the precision of `entropy_fn`; 0 for an empty subset.

    Raises:
      ValueError: if a row number is out of range or comes twice, or the batch size is not positive.

    >>> def spread(x, where):
    ...     return jnp.sum(x if where is None else jnp.where(where[:, None], x, 0))
    >>> x = np.arange(4.0).reshape(4, 1)
    >>> subset_entropies(spread, x, [np.array([3, 1]), np.array([0]), np.array([1, 3])]).tolist()
    [4.0, 0.0, 4.0]
    """
    n = num_examples(x)
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")
    members = [np.sort(np.asarray(subset, np.int32)) for subset in subsets]
    for subset in members:
        if len(subset) and (subset[0] < 0 or subset[-1] >= n or np.any(np.diff(subset) == 0)):
            raise ValueError(f"Subsets must be different rows from 0 to {n - 1}, got {subset}.")
    distinct = {subset.tobytes(): subset for subset in members if len(subset)}
    sizes: dict[int, list[bytes]] = {}
    for name, subset in distinct.items():
        sizes.setdefault(padded_size(len(subset)), []).append(name)

    x = jax.tree.map(jnp.asarray, x)
    total = _ROWS_ON_CPU if jax.default_backend() == "cpu" else _ROWS_ELSEWHERE
    parts: list[tuple[list[bytes], Array]] = []
    for _, names in sorted(sizes.items()):
        # No farther than need be: classes of one size are not padded at all.
        size = max(len(distinct[name]) for name in names)
        padded = any(len(distinct[name]) < size for name in names)
        batch = batch_size or max(1, total // size)
        for start in range(0, len(names), batch):
            now = names[start : start + batch]
            rows = np.zeros((batch, size), np.int32)
            for row, name in zip(rows, now, strict=False):
                row[: len(distinct[name])] = distinct[name]
            counts = [len(distinct[name]) for name in now] + [size] * (batch - len(now))
            # Not waited for: the next batch is put together meanwhile.
            chosen = _chosen(x, rows)
            solved = _solve(entropy_fn, chosen, np.array(counts, np.int32) if padded else None)
            parts.append((now, solved))
    found: dict[Hashable, float] = {b"": 0.0}
    for names, entropies in parts:
        found.update(zip(names, np.asarray(entropies, np.float64).tolist(), strict=False))
    return np.array([found[subset.tobytes()] for subset in members], np.float64)


def entropies_by_size(
    subsets: Sequence[Int[np.ndarray, " _"]],
    *,
    largest: int | None,
    batched: Callable[[list[Int[np.ndarray, " _"]]], Float[np.ndarray, " s"]],
    single: Callable[[Int[np.ndarray, " _"]], tuple[float, float]],
) -> tuple[Float[np.ndarray, " s"], Float[np.ndarray, " s"]]:
    """Entropies of subsets, small ones together and large ones one by one, and standard errors.

    Args:
      subsets: row numbers of each subset.
      largest: size of the largest subset that is small; None if all are.
      batched: small subsets to their entropies, which are exact.
      single: a large subset to its entropy and its standard error.

    Returns:
      `[s]` entropies and `[s]` standard errors, 0 for small subsets.
    """
    values, errors = np.zeros(len(subsets)), np.zeros(len(subsets))
    small = [i for i, rows in enumerate(subsets) if largest is None or len(rows) <= largest]
    if small:
        values[small] = batched([subsets[i] for i in small])
    for i in set(range(len(subsets))).difference(small):
        values[i], errors[i] = single(subsets[i])
    return values, errors


def padded_size(size: int) -> int:
    """How many rows a subset is padded to at most; those with the same number are solved together.

    >>> [padded_size(size) for size in (1, 17, 100, 500, 1000, 5000)]
    [32, 32, 128, 512, 1024, 5120]
    """
    step = max(_STEP, 2 ** (math.floor(math.log2(size)) - 3))
    return math.ceil(size / step) * step


@jax.jit
def _chosen(x: PyTree[Any], rows: Int[Array, "b k"]) -> PyTree[Any]:
    """Apart from what is computed with them, which then compiles for any number of examples."""
    return jax.tree.map(lambda leaf: leaf[rows], x)


@functools.partial(jax.jit, static_argnames="entropy_fn")
def _solve(
    entropy_fn: Callable[..., Array], chosen: PyTree[Any], counts: Int[Array, " b"] | None
) -> Float[Array, " b"]:
    def solve_one(rows: PyTree[Any], count: Array | None) -> Array:
        where = None if count is None else jnp.arange(num_examples(rows)) < count
        return entropy_fn(rows, where=where)

    return jax.vmap(solve_one)(chosen, counts)
