"""torchvision's ImageFolder with torch's DataLoader; a peer of `image_folder.py`.

    python torch_image_folder.py uint8|normalised PATH --images 960 --workers 2

It needs torch and torchvision. Worker processes are kept from one pass to the next; 0 reads in the
process itself. `uint8` ends with the pixels, as our side does; `normalised` is the usual chain of
an evaluation, with floats that lose ImageNet's mean and are divided by its deviation.
"""

import argparse
import json
import multiprocessing
import os
import sys
import time
import zlib
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import measure
import torch
from torch.utils.data import DataLoader, Subset
from torchvision import datasets, transforms

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
LAST = {
    "uint8": [transforms.PILToTensor()],
    "normalised": [transforms.ToTensor(), transforms.Normalize(*IMAGENET)],
}


def cpu_seconds() -> float:
    """CPU time of this process and of its workers, as far as they live."""
    ticks = 0
    for worker in multiprocessing.active_children():
        stat = Path(f"/proc/{worker.pid}/stat").read_text().rsplit(")", 1)[1].split()
        ticks += int(stat[11]) + int(stat[12])
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=LAST)
    parser.add_argument("path")
    parser.add_argument("--images", type=int, required=True)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--repeats", type=int, default=1)
    measure.add_limits(parser)
    options = parser.parse_args()
    measure.limit(options)
    torch.set_num_threads(1)
    chain = [transforms.Resize(256), transforms.CenterCrop(224), *LAST[options.what]]
    folder = datasets.ImageFolder(options.path, transforms.Compose(chain))
    visited = Subset(folder, [row % len(folder) for row in range(options.images)])
    loader = DataLoader(
        visited,
        options.batch_size,
        num_workers=options.workers,
        persistent_workers=options.workers > 0,
    )

    def one_pass() -> tuple[int, int]:
        count, checksum = 0, 0
        for images, _ in loader:
            if not count and options.what == "uint8":
                checksum = zlib.crc32(images.permute(0, 2, 3, 1).contiguous().numpy())
            count += len(images)
        return count, checksum

    one_pass()
    seconds, used = [], []
    while not seconds or (len(seconds) < options.repeats and sum(seconds) < options.seconds):
        start, start_cpu = time.perf_counter(), cpu_seconds()
        count, checksum = one_pass()
        seconds.append(time.perf_counter() - start)
        used.append(cpu_seconds() - start_cpu)
    versions = {name: version(name) for name in ("torch", "torchvision", "pillow")}
    found = {"seconds": seconds, "cpu_seconds": used, "images": count, "checksum": checksum}
    print(json.dumps({**found, "versions": versions}))


if __name__ == "__main__":
    main()
