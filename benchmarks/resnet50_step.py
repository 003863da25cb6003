"""Seconds of one RDumb step of a network of ImageNet's size: ours, and the published PyTorch loop.

    python benchmarks/resnet50_step.py --peer-python PATH/TO/torch-environment/bin/python

Weights and images are random; the last layer is scaled such that the filters let every image
through. Every step begins at the source parameters, so that all steps do the same work. Before any
time is compared, both sides have to move the parameters by the same in float64, on smaller images.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import flax
import harness
import jax
import jax.numpy as jnp
import measure
import numpy as np
import optax
from flax import traverse_util

from entropax import models, tta
from entropax.models import resnet_names
from entropax.models.convert import convert_recognised
from entropax.types import Batch

# Blocks of the four stages, whether they are bottlenecks, channels inside a block of the first
# stage, groups.
ARCHITECTURES = {
    "resnet18": ((2, 2, 2, 2), False, 64, 1),
    "resnet34": ((3, 4, 6, 3), False, 64, 1),
    "resnet50": ((3, 4, 6, 3), True, 64, 1),
    "resnet101": ((3, 4, 23, 3), True, 64, 1),
    "resnext50-32x4d": ((3, 4, 6, 3), True, 128, 32),
    "resnext101-32x8d": ((3, 4, 23, 3), True, 256, 32),
}
CLASSES = 1000
LEARNING_RATE, MOMENTUM = 2.5e-4, 0.9
SPREAD = 24.0  # standard deviation of the logits: entropies then stay below the limit
LIMITS = tta.IMAGENET_LIMITS
SMALL = {"batch_size": 8, "side": 64}  # images of the check in float64
PEER = Path(__file__).parent / "peers" / "torch_resnet50.py"


def tensors_of(architecture: str, seed: int) -> dict[str, np.ndarray]:
    """Random weights with torchvision's names and shapes."""
    rng = np.random.default_rng(seed)
    blocks, bottleneck, first_width, groups = ARCHITECTURES[architecture]
    tensors: dict[str, Any] = {}

    def convolution(name: str, norm: str, width: int, channels: int, side: int) -> None:
        deviation = (2 / (channels * side * side)) ** 0.5
        tensors[f"{name}.weight"] = rng.normal(0, deviation, (width, channels, side, side))
        tensors[f"{norm}.weight"] = rng.uniform(0.5, 1.5, width)
        tensors[f"{norm}.bias"] = rng.normal(0, 0.1, width)
        tensors[f"{norm}.running_mean"], tensors[f"{norm}.running_var"] = (
            np.zeros(width),
            np.ones(width),
        )

    convolution("conv1", "bn1", 64, 3, 7)
    channels = 64
    for stage, number in enumerate(blocks):
        inside = first_width * 2**stage
        width = 256 * 2**stage if bottleneck else inside
        for i in range(number):
            block = f"layer{stage + 1}.{i}"
            if bottleneck:
                convolution(f"{block}.conv1", f"{block}.bn1", inside, channels, 1)
                convolution(f"{block}.conv2", f"{block}.bn2", inside, inside // groups, 3)
                convolution(f"{block}.conv3", f"{block}.bn3", width, inside, 1)
            else:
                convolution(f"{block}.conv1", f"{block}.bn1", inside, channels, 3)
                convolution(f"{block}.conv2", f"{block}.bn2", width, inside, 3)
            if i == 0 and channels != width:
                shortcut = f"{block}.downsample"
                convolution(f"{shortcut}.0", f"{shortcut}.1", width, channels, 1)
            channels = width
    tensors["fc.weight"] = rng.normal(0, 1, (CLASSES, channels))
    tensors["fc.bias"] = np.zeros(CLASSES)
    return {name: np.asarray(value, np.float32) for name, value in tensors.items()}


def problem(architecture: str, seed: int, *, batch_size: int, side: int) -> dict[str, np.ndarray]:
    """The tensors, and images `x [batch_size, side, side, 3]` for which the logits have SPREAD."""
    tensors = tensors_of(architecture, seed)
    x = np.random.default_rng(seed + 1).normal(0, 1, (batch_size, side, side, 3))
    x = x.astype(np.float32)
    recognised = resnet_names.recognise(tensors)
    assert recognised is not None
    variables = convert_recognised(recognised).variables
    logits = np.asarray(jax.jit(models.batch_statistics(recognised.module))(variables, x))
    factor = SPREAD / np.std(logits, axis=0)
    tensors["fc.weight"] *= factor[:, None]
    tensors["fc.bias"] -= (factor * np.mean(logits, axis=0)).astype(np.float32)
    return {**tensors, "x": x}


def ours(options: argparse.Namespace) -> dict[str, Any]:
    """Our side, in this process."""
    measure.limit(options)
    jax.config.update("jax_enable_x64", options.double)
    with np.load(options.problem, allow_pickle=False) as file:
        tensors = dict(file)
    dtype = np.float64 if options.double else np.float32
    x = jax.block_until_ready(jnp.asarray(tensors.pop("x"), dtype))
    recognised = resnet_names.recognise(tensors)
    assert recognised is not None
    variables = convert_recognised(recognised).variables
    variables = jax.tree.map(lambda value: jnp.asarray(value, dtype), variables)
    apply_fn = models.batch_statistics(recognised.module)
    tx = optax.sgd(LEARNING_RATE, momentum=MOMENTUM)
    adapter = tta.rdumb(apply_fn, tx, num_classes=CLASSES, limits=LIMITS)
    state = adapter.init(variables)

    forward, step = jax.jit(apply_fn), jax.jit(adapter.step)
    batch = Batch(x, jnp.ones(len(x), bool))
    found, result = measure.calls(
        lambda: jax.block_until_ready(
            forward(variables, x) if options.what == "forward" else step(state, batch)
        ),
        repeats=options.repeats,
        seconds=options.seconds,
    )
    versions = {module.__name__: module.__version__ for module in (jax, flax, optax, np)}
    if options.what == "forward":
        return {**found, "logits": np.ravel(result).tolist(), "versions": versions}
    after, info = result
    differences = jax.tree.map(jnp.subtract, after.variables["params"], variables["params"])
    moved = traverse_util.flatten_dict(differences, sep="/")
    layers = [name.removesuffix(".running_mean") for name in tensors if "running_mean" in name]
    movement = [
        moved[f"{recognised.rename(layer)}/{leaf}"]
        for layer in layers
        for leaf in ("scale", "bias")
    ]
    return {
        **found,
        "logits": np.ravel(info.logits).tolist(),
        "selected": int(info.selected),
        "movement": np.concatenate(movement).tolist(),
        "versions": versions,
    }


def deviation(a: list[float], b: list[float]) -> float:
    """The largest difference, over the largest of `b`."""
    return float(np.max(np.abs(np.subtract(a, b))) / np.max(np.abs(b)))


def check(architecture: str, commands: dict[str, list[str]], folder: str, seed: int) -> dict:
    """Compare one step in float64 on small images.

    Raises:
      RuntimeError: the sides do not compute the same thing.
    """
    path = str(Path(folder) / "small.npz")
    np.savez(path, **problem(architecture, seed, **SMALL))
    found = [
        harness.run([*command, path, "step", "--double", "--repeats", "1"])
        for command in (commands["entropax"], commands["torch"])
    ]
    mine, peer = found
    agreement = {key: deviation(mine[key], peer[key]) for key in ("logits", "movement")}
    same = mine["selected"] == peer["selected"] > 0
    if not (same and max(agreement.values()) < 1e-8):
        raise RuntimeError(f"The two sides disagree on {architecture} in float64: {agreement}.")
    return agreement


def compare(options: argparse.Namespace, architecture: str) -> dict[str, Any]:
    """Both sides in turn, forward and whole steps."""
    settings = {
        "--learning-rate": LEARNING_RATE,
        "--momentum": MOMENTUM,
        "--entropy-limit": LIMITS.entropy,
        "--cosine-limit": LIMITS.cosine,
    }
    limits = ["--seconds", "--time-limit", "--memory-limit"]
    limits = [
        w for name in limits for w in (name, str(getattr(options, name[2:].replace("-", "_"))))
    ]
    peer = [options.peer_python, str(PEER), *limits]
    peer += [str(word) for option in settings.items() for word in option]
    commands = {"entropax": [sys.executable, __file__, *limits, "--measure"], "torch": peer}
    with tempfile.TemporaryDirectory() as folder:
        float64 = check(architecture, commands, folder, options.seed)
        path = str(Path(folder) / "problem.npz")
        shape = {"batch_size": options.batch_size, "side": options.side}
        np.savez(path, **problem(architecture, options.seed, **shape))
        sides = {}
        for what in ("forward", "step"):
            tail = [path, what, "--repeats", str(options.repeats)]
            sides |= {(what, name): [*command, *tail] for name, command in commands.items()}
            sides[what, "torch, channels last"] = [*commands["torch"], *tail, "--channels-last"]
        outputs = harness.interleave(sides, rounds=options.rounds)
    for name in ("entropax", "torch"):
        selected = outputs["step", name][0]["selected"]
        if selected != options.batch_size:
            raise RuntimeError(f"{name} adapted to {selected} of {options.batch_size} images.")
    rows: dict[str, dict[str, Any]] = {}
    for (what, name), found in outputs.items():
        reference = outputs[what, "torch"]
        row = {**harness.timings(found), "versions": found[0]["versions"]}
        row["deviation"] = deviation(found[0]["logits"], reference[0]["logits"])
        for clock in ("seconds", "cpu_seconds"):
            row[f"{clock}_ratio"] = (
                harness.timings(reference)[clock]["median"] / row[clock]["median"]
            )
        rows.setdefault(what, {})[name] = row
    return {"agreement in float64": float64, "rows": rows}


def table(results: dict[str, Any]) -> str:
    """Markdown: a row for each side of each kind of call."""
    columns = "architecture", "call", "side", "seconds (quartiles)", "ratio", "CPU s", "ratio"
    columns += "compile s", "peak MB", "logits differ by"
    cells = []
    for architecture, result in results.items():
        for what, rows in result["rows"].items():
            for side, row in rows.items():
                wall, cpu = row["seconds"], row["cpu_seconds"]
                spread = f"{wall['quartile_1']:.2f}-{wall['quartile_3']:.2f}"
                compiled = f"{row['compile_seconds']:.1f}" if side == "entropax" else ""
                peak = f"{row['peak_bytes'] / 1e6:.0f}" if "peak_bytes" in row else ""
                row_cells = [architecture, what, side, f"{wall['median']:.2f} ({spread})"]
                row_cells += [f"{row['seconds_ratio']:.2f}", f"{cpu['median']:.2f}"]
                row_cells += [f"{row['cpu_seconds_ratio']:.2f}", compiled, peak]
                cells.append([*row_cells, f"{row['deviation']:.0e}"])
    return harness.markdown(columns, cells)


def main() -> None:
    parser = harness.arguments(__doc__, repeats=5, rounds=3, peer="torch")
    parser.add_argument("--architecture", nargs="+", choices=ARCHITECTURES, default=["resnet50"])
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--side", type=int, default=224, help="pixels")
    parser.add_argument("--seed", type=int, default=0)
    measure.add_limits(parser)
    parser.set_defaults(seconds=20)
    parser.add_argument("--measure", action="store_true", help="one side: these follow")
    parser.add_argument("problem", nargs="?", help=argparse.SUPPRESS)
    parser.add_argument("what", nargs="?", choices=("forward", "step"), help=argparse.SUPPRESS)
    parser.add_argument("--double", action="store_true", help="with --measure: in float64")
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(ours(options)))
        return
    if not options.peer_python:
        parser.error("--peer-python is needed: the interpreter of an environment with torch.")
    results = {name: compare(options, name) for name in options.architecture}
    print(table(results))
    content = {
        "batch_size": options.batch_size,
        "side": options.side,
        "allocator": os.environ.get("GLIBC_TUNABLES", ""),
        "results": results,
    }
    name = f"resnet50_step_{options.batch_size}" + ("_tuned" if content["allocator"] else "")
    print(f"Written to {harness.write(name, content)}")


if __name__ == "__main__":
    main()
