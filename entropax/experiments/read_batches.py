"""Batches of a folder of images, whole on one device or split among those of a mesh."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, Int, Shaped, UInt8

from entropax.data.decoding import Preprocessing
from entropax.data.image_folder import ImageFolder
from entropax.data.loader import ImageBatch, image_batches
from entropax.distributed import gather, join_rows, shard_rows
from entropax.experiments.published_networks import InputOptions
from entropax.types import Array


class ReadBatch(NamedTuple):
    """Images on the devices, and what is known of them on the host of every process.

    Attributes:
      x: `[b, h, w, c]` uint8; black where `where` is False.
      where: `[b]` False where the row only fills up the batch, or the image is unreadable.
      places: `[b]` where in the order an image stands; beyond its end where a row fills up.
      labels: `[b]` int32; None for a folder without labels.
    """

    x: UInt8[Array, "b h w c"]
    where: Bool[np.ndarray, " b"]
    places: Int[np.ndarray, " b"]
    labels: Int[np.ndarray, " b"] | None


def read_batches(
    folder: ImageFolder,
    preprocessing: Preprocessing,
    options: InputOptions,
    order: Int[np.ndarray, " n"],
    *,
    batch_size: int,
    mesh: Mesh | None,
    change: Callable[[ImageBatch], ImageBatch] | None = None,
) -> Iterator[ReadBatch]:
    """Read chosen images; of several processes each reads its share of every batch.

    A batch holds the same images whatever the number of processes; only their order in it differs.

    Args:
      folder: where they are.
      preprocessing: how they come to one size.
      options: threads, and what becomes of unreadable images.
      order: rows of the folder.
      batch_size: of all processes together, a multiple of the devices.
      mesh: the devices, or None for one.
      change: applied to what this process has read.
    """
    process, processes = (0, 1) if mesh is None else (jax.process_index(), jax.process_count())
    share = batch_size // processes
    batches = image_batches(
        folder,
        preprocessing,
        batch_size=share,
        order=order,
        process_index=process,
        process_count=processes,
        workers=options.workers,
        on_error=options.on_error,
    )
    for i, batch in enumerate(batches if change is None else map(change, batches)):
        places = i * batch_size + process + processes * np.arange(share, dtype=np.int32)
        if mesh is None:
            yield ReadBatch(jnp.asarray(batch.x), batch.where, places, batch.labels)
        else:
            labels = np.zeros(share, np.int32) if batch.labels is None else batch.labels
            known = np.stack([batch.where, places, labels], axis=1)
            (x, known), _ = join_rows([batch.x, known], mesh, rows=share)
            where, places, labels = gather(known).T
            yield ReadBatch(x, where == 1, places, None if batch.labels is None else labels)


def on_devices(
    rows: Shaped[np.ndarray, "b *shape"], mesh: Mesh | None
) -> Shaped[Array, "b *shape"]:
    """Rows that every process has, beside those of a batch."""
    return jnp.asarray(rows) if mesh is None else shard_rows(rows, mesh)[0]
