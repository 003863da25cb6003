"""One step of RDumb on a residual network in PyTorch, in the way of its published loop.

It needs torch and numpy only. The network is built from the tensors of the problem, which have
torchvision's names and shapes.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch_tta import RDumb

sys.path.insert(0, str(Path(__file__).parent.parent))

import measure


class Block(nn.Module):
    """A basic block, or a bottleneck if there is a third convolution."""

    def __init__(self, tensors: dict[str, Tensor], name: str, stride: int):
        super().__init__()
        count = sum(f"{name}.conv{i}.weight" in tensors for i in (1, 2, 3))
        strides = (1, stride, 1) if count == 3 else (stride, 1)
        channels = tensors[f"{name}.conv1.weight"].shape[1]
        for i, step in enumerate(strides, start=1):
            convolution = convolved(tensors[f"{name}.conv{i}.weight"], step, channels)
            channels = convolution.out_channels
            self.add_module(f"conv{i}", convolution)
            self.add_module(f"bn{i}", nn.BatchNorm2d(channels, track_running_stats=False))
        shortcut = tensors.get(f"{name}.downsample.0.weight")
        self.downsample = nn.Sequential()
        if shortcut is not None:
            norm = nn.BatchNorm2d(channels, track_running_stats=False)
            self.downsample = nn.Sequential(convolved(shortcut, stride, shortcut.shape[1]), norm)
        self.count = count
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """The input added to what the convolutions make of it."""
        y = x
        for i in range(1, self.count + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            if i < self.count:
                y = self.relu(y)
        return self.relu(y + self.downsample(x))


def convolved(weight: Tensor, stride: int, channels: int) -> nn.Conv2d:
    """A convolution for that weight, with groups if it sees fewer than all channels."""
    width, seen, side, _ = weight.shape
    options = {"stride": stride, "padding": side // 2, "groups": channels // seen, "bias": False}
    return nn.Conv2d(channels, width, side, **options)


def network(tensors: dict[str, Tensor]) -> nn.Sequential:
    """The network to which the tensors belong, with statistics of the batch."""
    width = len(tensors["conv1.weight"])
    layers = {
        "conv1": convolved(tensors["conv1.weight"], 2, 3),
        "bn1": nn.BatchNorm2d(width, track_running_stats=False),
        "relu": nn.ReLU(inplace=True),
        "maxpool": nn.MaxPool2d(3, 2, 1),
    }
    for stage in (1, 2, 3, 4):
        names = {name.split(".")[1] for name in tensors if name.startswith(f"layer{stage}.")}
        blocks = (
            Block(tensors, f"layer{stage}.{i}", 2 if stage > 1 and i == 0 else 1)
            for i in range(len(names))
        )
        layers[f"layer{stage}"] = nn.Sequential(*blocks)
    layers |= {"avgpool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten()}
    classes, features = tensors["fc.weight"].shape
    model = nn.Sequential()
    for name, layer in {**layers, "fc": nn.Linear(features, classes)}.items():
        model.add_module(name, layer)
    statistics = ("running_mean", "running_var")
    model.load_state_dict({k: v for k, v in tensors.items() if not k.endswith(statistics)})
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("problem", help="npz with the tensors and the images `x`")
    parser.add_argument("what", choices=("forward", "step"))
    parser.add_argument("--channels-last", action="store_true", help="not as published")
    parser.add_argument("--double", action="store_true", help="compute in float64")
    parser.add_argument("--repeats", type=int, required=True)
    parser.add_argument("--learning-rate", type=float, required=True)
    parser.add_argument("--momentum", type=float, required=True)
    parser.add_argument("--entropy-limit", type=float, required=True)
    parser.add_argument("--cosine-limit", type=float, required=True)
    parser.add_argument("--period", type=int, default=1, help="return to the source so often")
    measure.add_limits(parser)
    settings = parser.parse_args()
    measure.limit(settings)

    dtype = torch.float64 if settings.double else torch.float32
    with np.load(settings.problem, allow_pickle=False) as file:
        tensors = {name: torch.tensor(file[name], dtype=dtype) for name in file.files}
    layout = torch.channels_last if settings.channels_last else torch.contiguous_format
    x = tensors.pop("x").permute(0, 3, 1, 2).contiguous(memory_format=layout)
    model = network(tensors).to(dtype).to(memory_format=layout)
    method = RDumb(model, settings)

    def forward() -> tuple[Tensor, int]:
        with torch.no_grad():
            return model(x), 0

    function: Callable[[], tuple[Tensor, int]]
    function = forward if settings.what == "forward" else lambda: method.step(x)
    found, (logits, selected) = measure.calls(
        function, repeats=settings.repeats, seconds=settings.seconds
    )
    report = {
        **found,
        "logits": logits.flatten().tolist(),
        "selected": selected,
        "movement": torch.cat(
            [
                (p.detach() - source).flatten()
                for p, source in zip(method.affine, method.source, strict=True)
            ]
        ).tolist(),
        "threads": torch.get_num_threads(),
        "versions": {"torch": torch.__version__, "numpy": np.__version__},
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
