"""Random classes to compare classes with: permuted labels, or subsets drawn as was published."""

import functools
import random

import jax
import numpy as np
from jaxtyping import Int, Key

from entropax.diffusion.classes import Classes
from entropax.types import Array

Rows = Int[np.ndarray, " _"]


def random_partitions(
    classes: Classes, num_repetitions: int, key: Key[Array, ""] | None
) -> list[list[Rows]]:
    """Random classes of the same sizes: the labels, permuted."""
    keys = jax.random.split(jax.random.key(0) if key is None else key, num_repetitions)
    orders = [np.asarray(jax.random.permutation(each, len(classes.labels))) for each in keys]
    return [Classes(classes.labels[order], classes.names).members() for order in orders]


def published_subsets(
    counts: Int[np.ndarray, " c"],
    *,
    num_repetitions: int,
    seed: int | None,
    max_points: int | None = None,
) -> list[list[Rows]]:
    """The subsets that the published code compares classes with, by repetition and class.

    Python's generator starts anew for every class. It also does, from 0, when a subset has more
    than `max_points` members and these are drawn from it, so that of such a class only the first
    two repetitions differ.

    >>> published_subsets(np.array([2, 2]), num_repetitions=1, seed=0)[0]
    [array([3, 1]), array([3, 1])]
    """
    n = int(counts.sum())

    def draw(count: int) -> list[Rows]:
        generator, subsets = random.Random(seed), []
        for _ in range(num_repetitions):
            rows, restarted = at_most(np.array(generator.sample(range(n), count)), max_points)
            generator = restarted or generator
            subsets.append(rows)
        return subsets

    if seed is not None:
        draw = functools.cache(draw)  # classes of the same size have the same
    return [list(drawn) for drawn in zip(*(draw(int(count)) for count in counts), strict=True)]


def at_most(rows: Rows, max_points: int | None) -> tuple[Rows, random.Random | None]:
    """At most so many rows, and the generator that has drawn them, if one had to."""
    if max_points is None or len(rows) <= max_points:
        return rows, None
    generator = random.Random(0)
    return rows[generator.sample(range(len(rows)), max_points)], generator
