"""How fast this machine does what floors are made of, by the fastest implementation at hand.

A process of its own, bound to one core. Prints one JSON object; each rate is that of the fastest of
some calls by CPU time, so that other work on the machine does not lower the floors.
"""

import argparse
import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import floors
import jax
import jax.numpy as jnp
import numpy as np

SQUARE, SQUARE64, LARGE, MEDIUM, LIST = 2048, 1024, 2**26, 2**20, 50_000
SECONDS = 0.6  # for each way of doing each thing


def rate(amount: float, *ways: Callable[[], Any]) -> float:
    """What the fastest call of the fastest way does in a second of CPU time."""
    best = 0.0
    for way in ways:
        jax.block_until_ready(way())
        end = time.process_time() + SECONDS
        while (start := time.process_time()) < end:
            jax.block_until_ready(way())
            best = max(best, amount / (time.process_time() - start))
    return best


def product(size: int, dtype: str) -> Callable[[], Any]:
    a, b = np.random.default_rng(0).standard_normal((2, size, size)).astype(dtype)
    on_device = jnp.asarray(a), jnp.asarray(b)
    multiply = jax.jit(jnp.matmul)
    return lambda: multiply(*on_device)


def measured() -> floors.Rates:
    """All rates but that of images, for which files are needed."""
    rng = np.random.default_rng(0)
    large, medium = np.ones(LARGE, np.float32), rng.random(MEDIUM, np.float32)
    words = rng.integers(0, 2**32, LIST, np.uint32)
    target = np.empty_like(large)
    on_device, here = jnp.asarray(large), jnp.asarray(medium)
    add, exp = jax.jit(lambda x: x + 1), jax.jit(jnp.exp)
    bits = jax.jit(lambda key: jax.random.bits(key, (MEDIUM,)))
    key, numpy_bits = jax.random.key(0), np.random.Generator(np.random.SFC64(0))
    with jax.enable_x64(True):
        flops64 = rate(2 * SQUARE64**3, product(SQUARE64, "float64"))
    return floors.Rates(
        flops=rate(2 * SQUARE**3, product(SQUARE, "float32")),
        flops64=flops64,
        # Reading alone may be faster than a copy.
        bytes=max(
            rate(8 * LARGE, lambda: np.copyto(target, large), lambda: add(on_device)),
            rate(4 * LARGE, large.max),
        ),
        exponentials=rate(MEDIUM, lambda: np.exp(medium), lambda: exp(here)),
        sorted=rate(LIST, lambda: np.sort(words)),
        random=rate(MEDIUM, lambda: numpy_bits.bytes(4 * MEDIUM), lambda: bits(key)),
    )


def images(folder: Path, count: int) -> float:
    """Images a second of pillow in a bare loop: decode, shorter side to 256, the central 224."""
    from PIL import Image

    def pixels(encoded: bytes) -> np.ndarray:
        image = Image.open(io.BytesIO(encoded)).convert("RGB")
        width, height = (int(256 * side / min(image.size)) for side in image.size)
        left, top = (width - 224) // 2, (height - 224) // 2
        resized = image.resize((width, height), Image.Resampling.BILINEAR)
        return np.asarray(resized.crop((left, top, left + 224, top + 224)))

    files = [path.read_bytes() for path in sorted(folder.glob("*/*"))[:count]]
    return rate(len(files), lambda: [pixels(file) for file in files])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="measure the decoding of its images, too")
    options = parser.parse_args()
    found = measured()
    if options.folder is not None:
        found = found._replace(images=images(options.folder, 24))
    print(json.dumps(found._asdict()))


if __name__ == "__main__":
    main()
