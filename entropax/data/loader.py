"""Batches from a folder of images at any size: decoded in threads, ahead of time, shard by shard.

grain does the reading: its threads decode images while the caller computes, and hand them over in
the order of their positions, so that neither the number of threads nor the timing changes a batch.
"""

import functools
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int, Int32, UInt8

from entropax.data.decoding import Preprocessing, UnreadableImageError, check_preprocessing
from entropax.data.image_folder import (
    ImageFolder,
    available_cores,
    check_reading,
    checked_rows,
    image_shape,
    read_image,
    report,
)


class ImageBatch(NamedTuple):
    """Images of one process, with what is known about them.

    Attributes:
      x: `[b, h, w, c]` uint8; black where `where` is False.
      where: `[b]` False where the row only fills up the batch, or the image is unreadable.
      rows: `[b]` which image of the folder it is; -1 where the row only fills up the batch.
      labels: `[b]` int32; -1 where the row only fills up the batch; None for a folder without
        labels.
    """

    x: UInt8[np.ndarray, "b h w c"]
    where: Bool[np.ndarray, " b"]
    rows: Int32[np.ndarray, " b"]
    labels: Int32[np.ndarray, " b"] | None


@runtime_checkable
class ImageBatches(Iterator[ImageBatch], Protocol):
    """Batches to come: an iterator that can be left, and taken up again where it was left."""

    def get_state(self) -> dict[str, Any]:
        """Where it stands, as numbers that can be saved as JSON."""

    def set_state(self, state: dict[str, Any]) -> None:
        """Go to where another with the same arguments stood."""

    def close(self) -> None:
        """Stop the threads; no batch can be had any more."""


def image_batches(
    folder: ImageFolder,
    preprocessing: Preprocessing,
    *,
    batch_size: int,
    order: Int[np.ndarray, " k"] | Sequence[int] | None = None,
    seed: int | None = None,
    epochs: int | None = 1,
    process_index: int = 0,
    process_count: int = 1,
    workers: int | None = None,
    prefetch: int = 2,
    on_error: str = "stop",
) -> ImageBatches:
    r"""Read a folder batch by batch.

    With $P$ processes and batches of $b$, position $i$ of an epoch goes to process $i \bmod P$.
    An epoch is filled up to a multiple of $P b$ positions, so that every process gets equally many
    batches of one shape; together they hold every image of `order` exactly once. At the end of an
    epoch a process may get a batch in which nothing is left.

    Memory: `(prefetch + 2) * batch_size` images of the final size, and one decoded file a worker.

    Args:
      folder: where the images are.
      preprocessing: how they come to one size.
      batch_size: $b$, of one process.
      order: rows of the folder in the order of their visit, perhaps several times; all by default.
      seed: shuffles, differently in each epoch and alike in every process; None keeps the order.
      epochs: how often; None goes on for ever.
      process_index: number of this process, in `[0, P)`; `jax.process_index()`.
      process_count: $P$; `jax.process_count()`.
      workers: threads that decode; by default one for each core that this process may use.
      prefetch: how many batches are decoded ahead.
      on_error: what becomes of an unreadable image: `"stop"`, or `"skip"`, where it is black, has
        `where` False, and a warning for its batch names it.

    Returns:
      An iterator. Its threads end with it, or with `close()`.

    Raises:
      ValueError: an option out of range, or no images; from the iterator, an unreadable image that
        is not skipped, or images of several sizes.
    """
    import grain

    positive = {"batch_size": batch_size, "process_count": process_count, "prefetch": prefetch}
    for name, value in (positive | ({} if epochs is None else {"epochs": epochs})).items():
        if value < 1:
            raise ValueError(f"`{name}` must be at least 1, got {value}.")
    if not 0 <= process_index < process_count:
        raise ValueError(
            f"`process_index` must lie in [0, {process_count}), the processes there are, got "
            f"{process_index}."
        )
    if seed is not None and seed < 0:
        raise ValueError(f"`seed` must not be negative, got {seed}.")
    check_preprocessing(preprocessing)
    check_reading(workers, on_error)
    rows = checked_rows(folder, np.arange(len(folder)) if order is None else order)
    reader = _Reader(folder, preprocessing, image_shape(folder, rows, preprocessing), on_error)
    threads = workers or available_cores()
    positions = _Positions(rows, seed, epochs, multiple=batch_size * process_count)
    options = grain.ReadOptions(
        num_threads=threads, prefetch_buffer_size=max(threads, prefetch * batch_size)
    )
    return iter(
        grain.MapDataset.source(positions)[process_index::process_count]
        .map(reader.read)
        .to_iter_dataset(options)
        .batch(batch_size, batch_fn=reader.batch)
    )


class _Positions:
    """Which row of the folder is visited at a position, counted over all epochs; -1 for none.

    grain's own shuffle starts epoch `i` of seed `s` like epoch `i + 1` of seed `s - 1`, and it has
    no padding.
    """

    def __init__(
        self, rows: np.ndarray, seed: int | None, epochs: int | None, *, multiple: int
    ) -> None:
        padded = -(-len(rows) // multiple) * multiple
        self._padded = padded
        self._length = sys.maxsize if epochs is None else epochs * padded

        def order(epoch: int) -> np.ndarray:
            visited = np.full(padded, -1, np.int32)
            generator = None if seed is None else np.random.default_rng((seed, epoch))
            visited[: len(rows)] = rows if generator is None else generator.permutation(rows)
            return visited

        # Two, since the next epoch is decoded before the last one is over.
        self._order = functools.lru_cache(maxsize=2)(order)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, position: int) -> int:
        epoch, place = divmod(position, self._padded)
        return int(self._order(epoch)[place])


class _Decoded(NamedTuple):
    """One image, or what is wrong with it."""

    row: int
    pixels: np.ndarray | None
    message: str | None = None


class _Reader:
    """Reads single images in grain's threads, and puts batches together in the caller's."""

    def __init__(
        self,
        folder: ImageFolder,
        preprocessing: Preprocessing,
        shape: tuple[int, int, int],
        on_error: str,
    ) -> None:
        self._folder = folder
        self._preprocessing = preprocessing
        self._shape = shape
        self._on_error = on_error

    def read(self, row: int) -> _Decoded:
        if row < 0:
            return _Decoded(row, None)
        try:
            return _Decoded(
                row, read_image(self._folder, row, self._preprocessing, shape=self._shape)
            )
        except UnreadableImageError as error:
            return _Decoded(row, None, str(error))

    def batch(self, decoded: Sequence[_Decoded]) -> ImageBatch:
        rows = np.array([each.row for each in decoded], np.int32)
        failures = [each.message for each in decoded if each.message is not None]
        if failures:
            report(self._folder, failures, of=int((rows >= 0).sum()), on_error=self._on_error)
        x = np.zeros((len(decoded), *self._shape), np.uint8)
        for place, each in enumerate(decoded):
            if each.pixels is not None:
                x[place] = each.pixels
        labels = self._folder.labels
        return ImageBatch(
            x,
            np.array([each.pixels is not None for each in decoded]),
            rows,
            None if labels is None else np.where(rows >= 0, labels[rows], np.int32(-1)),
        )
