"""Images per second from a folder of JPEG files, against torchvision's ImageFolder and DataLoader.

    python benchmarks/image_folder.py --folder FOLDER --peer-python PATH/TO/torch/bin/python

Every side decodes the files at their full size, resizes the shorter side to 256 and cuts out 224 x
224 pixels; what it reads again comes from the system's cache. No ratio is reported unless the first
batch has the same pixels on both sides.
"""

import argparse
import json
import sys
import zlib
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import harness
import measure
import numpy as np

from entropax.data.decoding import Preprocessing
from entropax.data.image_folder import index_folder
from entropax.data.loader import image_batches

PEER = Path(__file__).parent / "peers" / "torch_image_folder.py"
PEER_SIDES = ("uint8", "normalised")


def side(options: argparse.Namespace) -> dict[str, Any]:
    """Our side: passes over the folder, batch by batch."""
    measure.limit(options)
    folder = index_folder(options.folder)
    order = np.arange(options.images) % len(folder)

    def one_pass() -> tuple[int, int]:
        count, checksum = 0, 0
        for batch in image_batches(
            folder,
            Preprocessing(),
            batch_size=options.batch_size,
            order=order,
            workers=options.workers[0],
        ):
            if not count:
                checksum = zlib.crc32(batch.x)
            count += int(batch.where.sum())
        return count, checksum

    found, (count, checksum) = measure.calls(
        one_pass, repeats=options.repeats, seconds=options.seconds
    )
    versions = {name: version(name) for name in ("grain", "numpy", "pillow")}
    return {**found, "images": count, "checksum": checksum, "versions": versions}


def commands(options: argparse.Namespace, workers: int) -> dict[str, list[str]]:
    """The processes that take turns with this number of workers."""
    common = [f"--images={options.images}", f"--batch-size={options.batch_size}"]
    common += [
        f"--workers={workers}",
        f"--repeats={options.repeats}",
        f"--seconds={options.seconds}",
    ]
    sides = {"entropax": [sys.executable, __file__, "--side", "--folder", options.folder, *common]}
    if options.peer_python is not None:
        for what in PEER_SIDES:
            sides[f"torchvision {what}"] = [
                options.peer_python,
                str(PEER),
                what,
                options.folder,
                *common,
            ]
    return sides


def summary(outputs: Sequence[dict[str, Any]], images: int) -> dict[str, Any]:
    """Rates by the clock and by CPU time, of all rounds together."""
    cpu = [1e3 * used / images for output in outputs for used in output["cpu_seconds"]]
    kept = {
        "images_per_second": harness.rates(outputs, count=images),
        "cpu_milliseconds_per_image": harness.quartiles(cpu),
        "versions": outputs[0]["versions"],
    }
    if "peak_bytes" in outputs[0]:
        kept["peak_bytes"] = outputs[0]["peak_bytes"]
    return kept


def main() -> None:
    parser = harness.arguments(__doc__, repeats=3, rounds=3, peer="torch and torchvision")
    parser.add_argument("--folder", required=True, help="folder CLASS/*.JPEG")
    parser.add_argument("--images", type=int, default=960, help="in a pass, over and over again")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--side", action="store_true", help=argparse.SUPPRESS)
    measure.add_limits(parser)
    options = parser.parse_args()
    if options.side:
        print(json.dumps(side(options)))
        return
    results: dict[str, Any] = {}
    rows = []
    for workers in options.workers:
        outputs = harness.interleave(commands(options, workers), rounds=options.rounds)
        ours = outputs["entropax"][0]
        found = {name: summary(each, options.images) for name, each in outputs.items()}
        for name, kept in found.items():
            rate, cpu = kept["images_per_second"], kept["cpu_milliseconds_per_image"]
            theirs = outputs[name][0]
            if theirs["images"] != ours["images"]:
                raise RuntimeError(f"{name} read {theirs['images']} images, not {ours['images']}.")
            if name == "torchvision uint8" and theirs["checksum"] != ours["checksum"]:
                raise RuntimeError("The pixels differ, so that no time can be compared.")
            mine = found["entropax"]
            kept["rate_ratio"] = mine["images_per_second"]["median"] / rate["median"]
            kept["cpu_ratio"] = cpu["median"] / mine["cpu_milliseconds_per_image"]["median"]
            rows.append(
                [
                    str(workers),
                    name,
                    f"{rate['median']:.0f} ({rate['quartile_1']:.0f}-{rate['quartile_3']:.0f})",
                    f"{kept['rate_ratio']:.2f}",
                    f"{cpu['median']:.2f}",
                    f"{kept['cpu_ratio']:.2f}",
                ]
            )
        results[str(workers)] = found
    columns = ("workers", "side", "images/s (quartiles)", "ours / it", "CPU ms/image", "it / ours")
    print(harness.markdown(columns, rows))
    settings = {"images": options.images, "batch_size": options.batch_size}
    print(harness.write("image_folder", {**settings, "workers": results}, folder=options.folder))


if __name__ == "__main__":
    main()
