"""The baseline of classical information theory: Shannon entropy of binned coordinates."""

import math
from collections import Counter

import jax
import numpy as np
from jaxtyping import Shaped

# Rows are binned so many numbers at a time, which bounds the memory at a few times 8 bytes each.
_CHUNK = 2**20


def binned_entropy(
    x: Shaped[jax.Array, "n d"] | Shaped[np.ndarray, "n d"], *, num_bins: int
) -> float:
    r"""Shannon entropy of points whose coordinates are cut into bins, in nats.

    $$H = -\sum_b \frac{n_b}{n} \ln \frac{n_b}{n},$$

    where `n_b` counts the points in a cell of the grid that divides the range of each coordinate
    into `num_bins` equal intervals. Each holds its left end, the last one both. In more than a few
    dimensions every point has a cell to itself and the entropy is `ln n` whatever the data: this is
    a baseline, not a recommendation.

    It runs on the host in float64. Only cells that hold a point take memory. 50,000 points in 512
    dimensions took 0.9 s.

    Args:
      x: `[n, d]` points. A coordinate that is the same for all points is left out.
      num_bins: intervals for each coordinate.

    Returns:
      The entropy, from 0 to `ln n`.

    Raises:
      ValueError: if `num_bins` is less than 1, `x` is empty, or not all of it, and of its range,
        is finite.

    Reference: the baseline in section 4 of D. Liao et al., "Assessing neural network
    representations during training using noise-resilient diffusion spectral entropy" (2023).

    >>> binned_entropy(np.array([[0.0, 0.0], [0.1, 0.0], [1.0, 5.0], [0.9, 5.0]]), num_bins=2)
    0.6931471805599453
    """
    if num_bins < 1:
        raise ValueError(f"`num_bins` must be at least 1, got {num_bins}.")
    values = np.asarray(x)
    if values.ndim != 2 or values.size == 0:
        raise ValueError(f"`x` must be points [n, d], at least one, got shape {values.shape}.")
    lowest, highest = (f(values, axis=0).astype(np.float64) for f in (np.min, np.max))
    with np.errstate(over="ignore", invalid="ignore"):
        width = highest - lowest
    if not np.all(np.isfinite(width)):
        raise ValueError(
            f"`x` must be finite, and so must its range; that of coordinate "
            f"{int(np.argmin(np.isfinite(width)))} is not."
        )
    varying = width > 0
    lowest, width = lowest[varying], width[varying]
    edges = np.linspace(0, 1, num_bins + 1)
    smallest = np.min_scalar_type(num_bins)

    counts: Counter[bytes] = Counter()
    for rows in np.array_split(values, math.ceil(values.size / _CHUNK)):
        share = (rows[:, varying].astype(np.float64) - lowest) / width
        cells = np.minimum((share * num_bins).astype(np.int64), num_bins - 1)
        # The product may round to the other side of an edge.
        cells -= share < edges[cells]
        cells += (share >= edges[cells + 1]) & (cells < num_bins - 1)
        counts.update(row.tobytes() for row in cells.astype(smallest))
    shares = np.fromiter(counts.values(), np.float64) / len(values)
    return max(0.0, -float(np.sum(shares * np.log(shares))))
