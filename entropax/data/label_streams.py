"""Orders that depend on the labels: classes that come in runs, and classes of other frequencies.

Like those of `data.streams` they are small arrays of indices with a fixed shape. An adapter never
sees the labels; they only decide when an image comes.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from entropax.data.streams import check_positive
from entropax.types import Batch

# As many slots as classes, but not more than this, as the published code.
_MOST_SLOTS = 100


def correlated_stream(
    labels: Int[np.ndarray, " n"],
    *,
    batch_size: int,
    steps: int,
    seed: int,
    delta: float = 0.1,
    slots: int | None = None,
) -> Batch:
    r"""Indices of shuffled passes in which images of one class come close to each other in time.

    A pass is divided into slots. The images of class $c$, in random order, are divided among them
    in proportions

    $$p_c \sim \mathrm{Dirichlet}(\delta, \dots, \delta),$$

    and within a slot the classes follow one another in random order. With small $\delta$ most of a
    class lies in one slot; with `delta=0`, the limit, all of it does, so that the pass goes class
    by class. With large $\delta$ every class is spread evenly, in as many runs as there are slots.

    Passes follow each other without a gap, so that every batch is full. With fewer images than a
    batch, each batch is one whole pass, padded.

    Args:
      labels: `[n]` classes of the images, any integers.
      batch_size: rows of a batch.
      steps: number of batches.
      seed: the same seed gives the same order.
      delta: concentration; 0.1 is the value of the paper.
      slots: of a pass; by default the number of classes, at most 100.

    Returns:
      `x [steps, batch_size]` int32 indices and `where`.

    Raises:
      ValueError: no images, a size that is not positive, a negative or NaN `delta`.

    Reference: L. Yuan et al., "Robust test-time adaptation in dynamic scenarios" (2023), section
    4.1 (RoTTA); T. Gong et al., "NOTE" (2022), has such streams too.

    >>> labels = np.array([0, 0, 0, 1, 1, 1])
    >>> stream = correlated_stream(labels, batch_size=3, steps=2, seed=0, delta=0.0)
    >>> labels[stream.x].tolist()
    [[0, 0, 0], [1, 1, 1]]
    """
    slots = min(len(np.unique(labels)), _MOST_SLOTS) if slots is None else slots
    check_positive(n=len(labels), batch_size=batch_size, steps=steps, slots=slots)
    if not delta >= 0:
        raise ValueError(f"`delta` must not be negative, got {delta}.")
    rng = np.random.default_rng(seed)
    n = len(labels)
    taken = min(n, batch_size)
    passes = -(-steps * taken // n)
    order = np.concatenate([_correlated_pass(rng, labels, delta, slots) for _ in range(passes)])
    indices = np.zeros((steps, batch_size), np.int32)
    indices[:, :taken] = order[: steps * taken].reshape(steps, taken)
    where = np.broadcast_to(np.arange(batch_size) < taken, indices.shape)
    return Batch(jnp.asarray(indices), jnp.asarray(where))


def label_shift_stream(
    labels: Int[np.ndarray, " n"],
    *,
    batch_size: int,
    steps: int,
    seed: int,
    proportions: Float[np.ndarray, " c"] | None = None,
    delta: float | None = None,
) -> Batch:
    r"""Indices of images whose classes have other frequencies than in the set.

    The class of every example is drawn from `proportions`, or from one draw of
    $\mathrm{Dirichlet}(\delta, \dots, \delta)$ over the classes that occur. Among the images of a
    class each comes up before any comes up again; rare images of a frequent class are repeated, in
    one batch if need be, so that every batch is full.

    Args:
      labels: `[n]` classes of the images, 0 to c - 1.
      batch_size: rows of a batch.
      steps: number of batches.
      seed: the same seed gives the same order, and with `delta` the same proportions.
      proportions: `[c]` how frequent each class shall be; they sum to 1.
      delta: concentration; the smaller, the more a few classes prevail.

    Returns:
      `x [steps, batch_size]` int32 indices and `where`, which is True.

    Raises:
      ValueError: both or none of `proportions` and `delta`, proportions that are negative, do not
        sum to 1 or name a class without images, a `delta` or a size that is not positive.

    >>> labels = np.array([0, 0, 0, 1])
    >>> stream = label_shift_stream(
    ...     labels, batch_size=4, steps=2, seed=0, proportions=np.array([0.0, 1.0]))
    >>> labels[stream.x].tolist()
    [[1, 1, 1, 1], [1, 1, 1, 1]]
    """
    check_positive(n=len(labels), batch_size=batch_size, steps=steps)
    if labels.min() < 0:
        raise ValueError(f"`labels` must be classes 0, 1, ..., got {labels.min()}.")
    rng = np.random.default_rng(seed)
    counts = np.bincount(labels)
    if (proportions is None) == (delta is None):
        raise ValueError("Pass either `proportions` or `delta`, and not both.")
    if delta is not None:
        if not 0 < delta < np.inf:
            raise ValueError(f"`delta` must be positive and finite, got {delta}.")
        present = np.flatnonzero(counts)
        proportions = np.zeros(len(counts))
        proportions[present] = rng.dirichlet(np.full(len(present), delta))
    assert proportions is not None
    if not (np.all(proportions >= 0) and np.isclose(proportions.sum(), 1)):
        raise ValueError(f"`proportions` must be at least 0 and sum to 1, got {proportions}.")
    wanted = np.flatnonzero(proportions)
    if missing := sorted(set(wanted.tolist()) - set(np.flatnonzero(counts).tolist())):
        raise ValueError(f"`proportions` ask for classes of which there is no image: {missing}.")
    classes = rng.choice(
        len(proportions), size=steps * batch_size, p=proportions / proportions.sum()
    )
    indices = np.zeros(classes.shape, np.int32)
    for c in wanted:
        places, images = np.flatnonzero(classes == c), np.flatnonzero(labels == c)
        passes = max(1, -(-len(places) // len(images)))
        order = np.concatenate([rng.permutation(images) for _ in range(passes)])
        indices[places] = order[: len(places)]
    shape = (steps, batch_size)
    return Batch(jnp.asarray(indices.reshape(shape)), jnp.ones(shape, bool))


def _correlated_pass(
    rng: np.random.Generator, labels: np.ndarray, delta: float, slots: int
) -> np.ndarray:
    parts: list[list[np.ndarray]] = [[] for _ in range(slots)]
    for c in np.unique(labels):
        images = rng.permutation(np.flatnonzero(labels == c))
        bounds = np.rint(np.cumsum(_proportions(rng, delta, slots)) * len(images)).astype(int)
        for part, chunk in zip(parts, np.split(images, bounds[:-1]), strict=True):
            part.append(chunk)
    return np.concatenate([part[i] for part in parts for i in rng.permutation(len(part))])


def _proportions(rng: np.random.Generator, delta: float, slots: int) -> np.ndarray:
    if delta == 0:
        return np.eye(slots)[rng.integers(slots)]
    if np.isinf(delta):
        return np.full(slots, 1 / slots)
    return rng.dirichlet(np.full(slots, delta))
