"""Points whose mutual information with their labels is known."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import special


class Problem(NamedTuple):
    """One data set with several sets of labels.

    Attributes:
      x: `[n, d]` points.
      labels: `[q, n]` classes, for each share of corrupted labels.
      truth: `[q]` mutual information of a point and its label, in nats.
    """

    x: Float[np.ndarray, "n d"]
    labels: Int[np.ndarray, "q n"]
    truth: Float[np.ndarray, " q"]


def make_problem(
    seed: int,
    n: int,
    dims: int,
    *,
    num_classes: int,
    corruption: tuple[float, ...],
    separation: float | None,
) -> Problem:
    """Draw the blobs of one seed, classes in turn.

    Args:
      seed: of everything; labels that are corrupted stay so, to the same class, at a larger share.
      n: points.
      dims: dimensions.
      num_classes: blobs.
      corruption: shares of labels drawn anew.
      separation: typical distance of two centres; None for centres uniform in [-10, 10].
    """
    rng = np.random.default_rng((seed, dims))
    if separation is None:
        centres = rng.uniform(-10, 10, (num_classes, dims))
    else:
        centres = rng.normal(0, separation / np.sqrt(2 * dims), (num_classes, dims))
    blobs = np.arange(n) % num_classes
    x = rng.standard_normal((n, dims), np.float32) + centres[blobs].astype(np.float32)
    fate, drawn = rng.random(n), rng.integers(num_classes, size=n)
    labels = np.stack([np.where(fate < share, drawn, blobs) for share in corruption])
    posterior = special.softmax(
        x.astype(np.float64) @ centres.T - np.square(centres).sum(1) / 2, axis=1
    )
    truth = [mutual_information(posterior, share) for share in corruption]
    return Problem(x, labels, np.array(truth))


def mutual_information(posterior: Float[np.ndarray, "n c"], corruption: float) -> float:
    r"""Mutual information of points and corrupted labels of equally likely classes, in nats.

    $$I = \ln C - \frac1n \sum_i H\Big((1 - q)\, p(c \mid x_i) + \frac{q}{C}\Big).$$

    Args:
      posterior: `[n, c]` probabilities of the classes given each point. If they are all 0 or 1, the
        mean over points is exact, otherwise an average over the points at hand.
      corruption: the share `q` of labels that are drawn anew, from all classes.

    >>> round(mutual_information(np.eye(10), 0.0), 4), mutual_information(np.eye(10), 1.0)
    (2.3026, 0.0)
    """
    classes = posterior.shape[1]
    mixed = (1 - corruption) * posterior + corruption / classes
    return max(0.0, float(np.log(classes) - special.entr(mixed).sum(1).mean()))
