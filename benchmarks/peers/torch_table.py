"""A split, or some, as the published accuracy estimation goes through it, in PyTorch.

Source accuracy, predictions of the held images, adaptation by RDumb, predictions again, flips. With
`--images` the splits are in memory as tensors and follow a given order; with `--files` one split is
read from image files by a shuffling loader, and adaptation goes on to the end of its epoch, which
is what the published program does. It needs torch, numpy and, for files, pillow.

Reference: O. Press et al., "The entropy enigma: success and failure of entropy minimization"
(2024), section 4.
"""

import argparse
import itertools
import json
import time
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torch_tta import RDumb, network

HELD, BATCH, HELD_BATCH = 1000, 64, 100


class Files(Dataset):
    """Images in a folder a class, decoded whenever they are asked for."""

    def __init__(self, folder: str):
        classes = sorted(path.name for path in Path(folder).iterdir())
        self.items = [
            (path, label)
            for label, name in enumerate(classes)
            for path in sorted((Path(folder) / name).iterdir())
        ]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        from PIL import Image

        path, label = self.items[index]
        with path.open("rb") as file:
            pixels = np.array(Image.open(file).convert("L"))
        return as_tensor(pixels[None, ..., None])[0], label


def as_tensor(pixels: np.ndarray) -> Tensor:
    """Images `[n, h, w, 1]` in torch's layout, turned round like the network."""
    turned = pixels[:, ::-1, ::-1].transpose(0, 3, 1, 2).copy()
    return torch.from_numpy(turned).to(torch.get_default_dtype()) / 255


def source_model(arrays: dict[str, np.ndarray]) -> tuple[nn.Module, list[nn.BatchNorm2d]]:
    """The network with its running statistics."""
    model = network(arrays).to(torch.get_default_dtype()).eval()
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for i, norm in enumerate(norms):
        norm.track_running_stats = True
        norm.running_mean = torch.tensor(arrays[f"mean{i}"]).to(norm.weight.dtype)
        norm.running_var = torch.tensor(arrays[f"var{i}"]).to(norm.weight.dtype)
    return model, norms


@torch.no_grad()
def accuracy(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    correct = total = 0
    for x, labels in batches:
        correct += (model(x).argmax(1) == labels).sum().item()
        total += len(labels)
    return correct / total


@torch.no_grad()
def predict(model: nn.Module, held: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Classes of the held images and their probabilities, with batch statistics."""
    model.eval()
    found = [model(x).softmax(1).max(1) for x in held.split(HELD_BATCH)]
    model.train()
    return tuple(torch.cat(part).numpy() for part in zip(*((y, p) for p, y in found), strict=True))


def ranks(confidence: np.ndarray) -> np.ndarray:
    """Rank over number, from above 0 to 1, ties sharing the average."""
    _, which, counts = np.unique(confidence, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[which] / len(confidence)


def adapted_row(
    model: nn.Module,
    norms: list[nn.BatchNorm2d],
    source: float,
    held: Tensor,
    labels: np.ndarray,
    epochs: Iterable[Iterable[Tensor]],
    settings: argparse.Namespace,
) -> dict[str, Any]:
    """Adapt and count the flips; `epochs` may hold more batches than `settings.steps`."""
    for norm in norms:
        norm.track_running_stats = False
        norm.running_mean = norm.running_var = None
    method = RDumb(model, settings)
    method.reset()
    before, confidence = predict(model, held)
    selected: list[int] = []
    after = None
    for epoch in epochs:
        for x in epoch:
            if len(selected) == settings.steps:
                after, affine = look(model, held, method)
            selected.append(method.step(x)[1])
        if len(selected) >= settings.steps:
            break
    if after is None:
        after, affine = look(model, held, method)
    flipped = before != after
    return {
        "source": source,
        "before": float(np.mean(before == labels)),
        "adapted": float(np.mean(after == labels)),
        "weighted": float(np.mean(flipped * ranks(confidence))),
        "unweighted": float(np.mean(flipped)),
        "selected": selected[: settings.steps],
        "affine": affine,
    }


def look(model: nn.Module, held: Tensor, method: RDumb) -> tuple[np.ndarray, list[float]]:
    return predict(model, held)[0], torch.cat([p.detach() for p in method.affine]).tolist()


def in_memory(
    arrays: dict[str, np.ndarray], pixels: np.ndarray, labels: Tensor, settings: argparse.Namespace
) -> dict[str, Any]:
    images = as_tensor(pixels)
    model, norms = source_model(arrays)
    source = accuracy(model, zip(images.split(BATCH), labels.split(BATCH), strict=True))
    rows = torch.tensor(arrays["held"].ravel()).long()
    stream = [images[torch.tensor(batch).long()] for batch in arrays["stream"][: settings.steps]]
    return adapted_row(model, norms, source, images[rows], labels[rows].numpy(), [stream], settings)


def from_files(
    arrays: dict[str, np.ndarray], folder: str, settings: argparse.Namespace
) -> dict[str, Any]:
    warnings.filterwarnings("ignore", message="This DataLoader will create")
    torch.manual_seed(42)
    loader = DataLoader(
        Files(folder),
        batch_size=BATCH,
        shuffle=True,
        num_workers=settings.workers,
        drop_last=True,
    )
    model, norms = source_model(arrays)
    source = accuracy(model, loader)
    held, labels = [], []
    for x, y in loader:
        held.append(x)
        labels.append(y)
        if len(held) > HELD // BATCH:
            break
    epochs = ((x for x, _ in loader) for _ in itertools.count())
    first = torch.cat(labels)[:HELD].numpy()
    return adapted_row(model, norms, source, torch.cat(held)[:HELD], first, epochs, settings)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("network", help="npz with the network and the order of the images")
    parser.add_argument("--images", help="npz with all splits")
    parser.add_argument("--splits", type=int, nargs="+", help="which of them")
    parser.add_argument("--files", help="the folder of one split")
    parser.add_argument("--workers", type=int, default=4, help="of the loader of files")
    parser.add_argument("--double", action="store_true", help="compute in float64")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--learning-rate", type=float, required=True)
    parser.add_argument("--momentum", type=float, required=True)
    parser.add_argument("--period", type=int, required=True)
    parser.add_argument("--entropy-limit", type=float, required=True)
    parser.add_argument("--cosine-limit", type=float, required=True)
    settings = parser.parse_args()
    if settings.double:
        torch.set_default_dtype(torch.float64)
    with np.load(settings.network, allow_pickle=False) as file:
        arrays = dict(file)
    if settings.files:
        rows = [from_files(arrays, settings.files, settings)]
        times = {}
    else:
        with np.load(settings.images, allow_pickle=False) as file:
            images, labels = file["images"][settings.splits], torch.tensor(file["labels"]).long()
        start = time.perf_counter(), time.process_time()
        rows = [in_memory(arrays, pixels, labels, settings) for pixels in images]
        wall, cpu = time.perf_counter() - start[0], time.process_time() - start[1]
        times = {"seconds": wall, "cpu_seconds": cpu}
    table = {name: [row[name] for row in rows] for name in rows[0]}
    versions = {"torch": torch.__version__, "numpy": np.__version__}
    threads = torch.get_num_threads()
    print(json.dumps({"rows": table, "threads": threads, "versions": versions, **times}))


if __name__ == "__main__":
    main()
