"""Memory of the mean entropy of 50,000 x 1,000 logits: a sum on the go, or all logits first.

    python benchmarks/entropy_memory.py

Each side is a process of its own that draws the same logits on the host, batch by batch; what
counts is by how much its resident memory grows beyond what it was after ten batches. `concatenated`
does what the published scheme does: a list of all logits, then one softmax.
"""

import argparse
import json
import sys
from collections.abc import Iterator

import harness
import jax
import jax.numpy as jnp
import measure
import numpy as np

from entropax.checkpoint import entropy_accumulator, top2_entropy

SIDES = ("accumulator", "concatenated")


def side(name: str, images: int, classes: int, batch: int) -> dict[str, float]:
    accumulator = entropy_accumulator()
    update = jax.jit(accumulator.update)

    def draw(batches: int) -> Iterator[np.ndarray]:
        rng = np.random.default_rng(0)
        for _ in range(batches):
            yield 4 * rng.standard_normal((batch, classes), np.float32)

    def stream(batches: int) -> jax.Array:
        if name == "accumulator":
            sums = accumulator.init()
            for logits in draw(batches):
                sums = jax.block_until_ready(update(sums, logits))
            return accumulator.value(sums)
        return jnp.mean(top2_entropy(jnp.asarray(np.concatenate(list(draw(batches))))))

    jax.block_until_ready(stream(10))
    before = measure.resident("VmRSS", reset=True)
    value = float(stream(images // batch))
    return {"value": value, "peak_bytes": measure.resident("VmHWM") - before}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", choices=SIDES, help="one side, in this process")
    parser.add_argument("--images", type=int, nargs="+", default=[5_000, 50_000, 500_000])
    parser.add_argument("--classes", type=int, default=1_000)
    parser.add_argument("--batch", type=int, default=500)
    options = parser.parse_args()
    if options.side:
        found = side(options.side, options.images[0], options.classes, options.batch)
        print(json.dumps(found))
        return
    rows = []
    for name in SIDES:
        for images in options.images:
            sizes = [f"--images={images}", f"--classes={options.classes}"]
            command = [sys.executable, __file__, f"--side={name}", *sizes]
            found = harness.run([*command, f"--batch={options.batch}"])
            rows.append({"side": name, "images": images, **found})
    print(harness.write("entropy_memory", {"classes": options.classes, "rows": rows}))
    table = [
        [r["side"], f"{r['images']:,}", f"{r['peak_bytes'] / 2**20:.1f}", f"{r['value']:.7f}"]
        for r in rows
    ]
    print(harness.markdown(["side", "images", "growth MB", "top-2 entropy"], table))


if __name__ == "__main__":
    main()
