"""Seconds and memory of the empirical NTK, beside neural-tangents' three implementations.

    python benchmarks/ntk.py --peer-python PATH/TO/neural-tangents-environment/bin/python

All sides get the same parameters and inputs and differentiate the same function. In float64 the two
structured implementations have to agree; then every kernel that is timed, in float32, has to agree
with that one. How far the best is from what the matrix products alone would take is told, too.
"""

import argparse
import importlib.util
import itertools
import json
import math
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import harness
import jax
import jaxlib
import measure
import networks
import numpy as np
from jax import numpy as jnp

from entropax import kernels

PEER = Path(__file__).parent / "peers" / "ntk_neural_tangents.py"
PEER_NAMES = {
    "1": "neural-tangents 1 (Jacobian contraction)",
    "2": "neural-tangents 2 (NTK-vector products)",
    "3": "neural-tangents 3 (structured)",
    "batched": "neural-tangents 1 in batches of 10, as in ZnNL",
}
SQUARE = 2048  # rows and columns of the matrices whose product gives the rate
# The largest difference, relative to the largest entry. In float64 two orders of summation differ
# by far less. In float32 an entry is a sum of up to two million products, each rounded to 6e-8.
DOUBLE_LIMIT, SINGLE_LIMIT = 1e-11, 1e-5


class Subject(NamedTuple):
    """What is computed.

    Attributes:
      network: a key of `networks.NETWORKS`.
      n: number of examples.
      outputs: `"mean"`, the trace over the outputs divided by their number, or `"full"`.
      batched: whether to time neural-tangents in batches of 10, too.
    """

    network: str
    n: int
    outputs: str = "mean"
    batched: bool = False


SUBJECTS = {
    "cnn-30": Subject("cnn", 30, batched=True),
    "cnn-100": Subject("cnn", 100, batched=True),
    "cnn-300": Subject("cnn", 300),
    "mlp-300": Subject("mlp", 300),
    "residual-64": Subject("residual", 64),
    "cnn-30-full": Subject("cnn", 30, outputs="full"),
}


def measure_ours(options: argparse.Namespace) -> dict[str, Any]:
    """Our side, in this process."""
    measure.limit(options)
    jax.config.update("jax_enable_x64", options.double)
    name, path, method, outputs = options.measure
    network = networks.NETWORKS[name]
    dtype = "float64" if options.double else "float32"
    params, x = jax.block_until_ready(networks.load(network, path, dtype))
    kernel_fn = kernels.ntk(network.apply, method=method, outputs=outputs)
    found, kernel = measure.calls(
        lambda: jax.block_until_ready(kernel_fn(params, x)),
        repeats=options.repeats,
        seconds=options.seconds,
    )
    np.save(options.save, kernel)
    versions = {module.__name__: module.__version__ for module in (jax, jaxlib, np)}
    return {**found, "versions": versions}


def measure_rate(options: argparse.Namespace) -> dict[str, Any]:
    """Float32 operations per second of a product of square matrices, in this process."""
    a, b = jax.random.normal(jax.random.key(0), (2, SQUARE, SQUARE))
    multiply = jax.jit(jnp.matmul)
    found, _ = measure.calls(lambda: jax.block_until_ready(multiply(a, b)), repeats=9, seconds=5)
    return {"rate": 2 * SQUARE**3 / statistics.median(found["seconds"])}


def floor_operations(subject: Subject) -> dict[str, int]:
    """Floating-point operations of the matrix products that no exact method goes without.

    One forward pass; one backward pass for each of the c outputs, which stops above the first
    layer; and for each layer the cheaper contraction, for every pair i <= j: of activations with
    activations and cotangents with cotangents at every pair of positions, or of derivatives by the
    weights, which have to be formed first. What is not a matrix product is not counted.
    """
    network = networks.NETWORKS[subject.network]
    shapes = jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32),
        network.shapes,
        is_leaf=networks.is_shape,
    )
    x = jax.ShapeDtypeStruct((1, *network.input_shape), jnp.float32)
    jaxpr = jax.make_jaxpr(network.apply)(shapes, x).jaxpr
    c, n = networks.CLASSES, subject.n
    pairs = n * (n + 1) // 2
    combinations = c if subject.outputs == "mean" else c**2
    forward = backward = gram = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name not in ("dot_general", "conv_general_dilated"):
            continue
        left, weight = equation.invars
        *kernel, inputs, outputs = weight.aval.shape
        patch = math.prod(kernel) * inputs
        positions = math.prod(equation.outvars[0].aval.shape[1:-1])
        layer = 2 * positions * patch * outputs
        forward += n * layer
        if left is not jaxpr.invars[-1]:
            backward += n * c * layer
        outer = c * outputs if subject.outputs == "mean" else c**2 * outputs
        by_factors = pairs * 2 * positions**2 * (patch + outer)
        by_derivative = n * c * layer + pairs * 2 * combinations * patch * outputs
        gram += min(by_factors, by_derivative)
    return {"forward": forward, "backward": backward, "gram": gram}


def deviation(kernel: np.ndarray, reference: np.ndarray) -> float:
    return float(np.max(np.abs(kernel - reference)) / np.max(np.abs(reference)))


def compare(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """All sides of one subject.

    Raises:
      RuntimeError: two sides do not compute the same kernel.
    """
    subject = SUBJECTS[name]
    with tempfile.TemporaryDirectory() as folder:
        npz = str(Path(folder) / "problem.npz")
        network = networks.NETWORKS[subject.network]
        np.savez(npz, **networks.problem(network, subject.n, options.seed))
        saved = itertools.count()

        def run(command: Sequence[str], *extra: str) -> tuple[dict[str, Any], np.ndarray | None]:
            path = Path(folder) / f"{next(saved)}.npy"
            limits = ("--time-limit", options.time_limit, "--memory-limit", options.memory_limit)
            words = [*command, "--save", str(path), *map(str, limits), *extra]
            output = harness.run(words, limited=True)
            return output, np.load(path) if path.exists() else None

        problem = [subject.network, npz]
        ours = {
            f"entropax {method}": [
                sys.executable, __file__, "--measure", *problem, method, subject.outputs
            ]
            for method in ("structured", "contraction")
        }  # fmt: skip
        theirs = {}
        for way in ("1", "2", "3", *(("batched",) if subject.batched else ())):
            command = [str(PEER), *problem, way, subject.outputs]
            theirs[PEER_NAMES[way]] = [options.peer_python, *command]
            if options.bridge and way != "batched":
                bridged = [sys.executable, *command, "--bridge"]
                theirs[f"{PEER_NAMES[way]}, by the bridge"] = bridged

        once = ("--double", "--repeats", "1")
        _, reference = run(ours["entropax structured"], *once)
        _, other = run(theirs[PEER_NAMES["3"]], *once)
        if reference is None or other is None:
            raise RuntimeError(f"A kernel in float64 could not be computed for {name}.")
        double = deviation(other, reference)
        if double > DOUBLE_LIMIT:
            raise RuntimeError(f"The sides disagree on {name} in float64: by {double:.1e}.")

        sides = {**ours, **theirs}
        rows: dict[str, dict[str, Any]] = {side: {"outputs": []} for side in sides}
        rates = []
        for i in range(options.rounds):
            rates.append(harness.run([sys.executable, __file__, "--rate"])["rate"])
            for side, command in sides.items():
                row = rows[side]
                if "failed" in row or (i > 0 and row["outputs"][0]["seconds"][0] > options.slow):
                    continue
                timed = ("--repeats", str(options.repeats), "--seconds", str(options.seconds))
                output, kernel = run(command, *timed)
                print(f"{name}: {side}: {output.get('failed', output.get('seconds'))}", flush=True)
                if "failed" in output:
                    row["failed"] = output["failed"]
                    continue
                assert kernel is not None
                row["deviation"] = max(row.get("deviation", 0), deviation(kernel, reference))
                if row["deviation"] > SINGLE_LIMIT:
                    raise RuntimeError(
                        f"{side} is off by {row['deviation']:.1e} of the largest entry on {name}."
                    )
                row["outputs"].append(output)

    operations = floor_operations(subject)
    rate = statistics.median(rates)
    floor = sum(operations.values()) / rate
    summaries = {side: summary(row) for side, row in rows.items()}
    best = summaries["entropax structured"]["seconds"]["median"]
    for row in summaries.values():
        if "seconds" in row:
            row["ratio"] = row["seconds"]["median"] / best
            row["floor_ratio"] = row["seconds"]["median"] / floor
    return {
        **subject._asdict(),
        "deviation_float64": double,
        "floor": {"operations": operations, "rate": rate, "seconds": floor},
        "sides": summaries,
    }


def summary(row: dict[str, Any]) -> dict[str, Any]:
    """What is kept of a side."""
    outputs = row.pop("outputs")
    if not outputs:
        return row
    return {**row, **harness.timings(outputs), "versions": outputs[0]["versions"]}


def table(results: dict[str, Any]) -> str:
    """Markdown: a row for each side of each subject."""
    columns = "subject", "side", "seconds (quartiles)", "CPU s", "ratio", "to the floor"
    columns += "compile s", "peak MB", "deviation"
    rows = []
    for name, result in results.items():
        for side, row in result["sides"].items():
            if "seconds" not in row:
                rows.append([name, side, row["failed"]])
                continue
            low, median, high = (row["seconds"][k] for k in ("quartile_1", "median", "quartile_3"))
            rows.append(
                [
                    name,
                    side,
                    f"{median:.3g} ({low:.3g}-{high:.3g})",
                    f"{row['cpu_seconds']['median']:.3g}",
                    f"{row['ratio']:.2f}",
                    f"{row['floor_ratio']:.1f}",
                    f"{row['compile_seconds']:.1f}",
                    f"{row['peak_bytes'] / 1e6:.0f}" if "peak_bytes" in row else "",
                    f"{row['deviation']:.0e}",
                ]
            )
    return harness.markdown(columns, rows)


def main() -> None:
    parser = harness.arguments(__doc__, repeats=5, rounds=3, peer="neural-tangents")
    parser.add_argument("--subjects", nargs="+", choices=SUBJECTS, default=list(SUBJECTS))
    parser.add_argument("--slow", type=float, default=10, help="one round for calls slower than it")
    measure.add_limits(parser)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--measure", nargs=4, metavar=("NETWORK", "NPZ", "METHOD", "OUTPUTS"), help="one side"
    )
    parser.add_argument("--save", help="with --measure: where the kernel goes")
    parser.add_argument("--double", action="store_true", help="with --measure: in float64")
    parser.add_argument("--rate", action="store_true", help="only the rate of a matrix product")
    options = parser.parse_args()
    if options.measure or options.rate:
        print(json.dumps(measure_ours(options) if options.measure else measure_rate(options)))
        return
    if not options.peer_python:
        parser.error("--peer-python is needed: of an environment with neural-tangents.")
    options.bridge = importlib.util.find_spec("neural_tangents") is not None
    if not options.bridge:
        print("neural-tangents is not installed beside this JAX: no rows by the bridge.")
    limits = {"seconds": options.time_limit, "gibibytes": options.memory_limit}
    results: dict[str, Any] = {}
    for name in options.subjects:
        results[name] = compare(name, options)
        # After each subject, since some take long.
        path = harness.write("ntk", {"limits": limits, "results": results})
    print(table(results))
    print(f"Written to {path}")


if __name__ == "__main__":
    main()
