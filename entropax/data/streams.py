"""Orders in which images are visited, as arrays of indices with a fixed shape.

Indices are small, so a long stream costs nothing; look the images up inside the compiled step
(`tta.map_inputs`).
"""

import jax.numpy as jnp
import numpy as np

from entropax.types import Batch


def shuffled_stream(n: int, *, batch_size: int, steps: int, seed: int) -> Batch:
    """Indices of `steps` batches from as many shuffled passes over `n` images as it takes.

    Passes follow each other without a gap, so that every batch is full and none is dropped. With
    fewer images than a batch, each batch is one whole pass, padded.

    Args:
      n: number of images.
      batch_size: rows of a batch.
      steps: number of batches.
      seed: the same seed gives the same order.

    Returns:
      `x [steps, batch_size]` int32 indices and `where`.

    Raises:
      ValueError: no images, or a size that is not positive.

    >>> stream = shuffled_stream(5, batch_size=2, steps=5, seed=0)
    >>> sorted(stream.x.ravel().tolist())  # two passes over five images
    [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    """
    check_positive(n=n, batch_size=batch_size, steps=steps)
    rng = np.random.default_rng(seed)
    taken = min(n, batch_size)
    passes = -(-steps * taken // n)
    order = np.concatenate([rng.permutation(n) for _ in range(passes)])
    indices = np.zeros((steps, batch_size), np.int32)
    indices[:, :taken] = order[: steps * taken].reshape(steps, taken)
    where = np.broadcast_to(np.arange(batch_size) < taken, indices.shape)
    return Batch(jnp.asarray(indices), jnp.asarray(where))


def one_pass(n: int, *, batch_size: int, seed: int | None = None) -> Batch:
    """Indices of one pass over `n` images; the last batch is padded.

    Args:
      n: number of images.
      batch_size: rows of a batch.
      seed: shuffles; in the given order when None. Batch statistics need shuffled images: a folder
        sorted by class would fill whole batches with one class.

    Returns:
      `x [ceil(n / batch_size), batch_size]` int32 indices and `where`.

    Raises:
      ValueError: no images, or a size that is not positive.

    >>> one_pass(3, batch_size=2).x.tolist(), one_pass(3, batch_size=2).where.tolist()
    ([[0, 1], [2, 0]], [[True, True], [True, False]])
    """
    check_positive(n=n, batch_size=batch_size)
    order = np.arange(n) if seed is None else np.random.default_rng(seed).permutation(n)
    batches = -(-n // batch_size)
    indices = np.zeros(batches * batch_size, np.int32)
    indices[:n] = order
    where = np.arange(batches * batch_size) < n
    shape = (batches, batch_size)
    return Batch(jnp.asarray(indices.reshape(shape)), jnp.asarray(where.reshape(shape)))


def check_positive(**sizes: int) -> None:
    """Raise a ValueError with the name of a size that is not positive."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"`{name}` must be at least 1, got {size}.")
