"""Work that grows with the number of simulated devices: how its time grows.

Simulated devices share the cores of this machine. Where one device already keeps all of them busy,
the time of k times the work is k times as long at best; what says something about the code is the
CPU time for the same work, which the exchange between devices adds to.
"""

import argparse
import json
import math
import os
import sys
from collections.abc import Callable
from typing import Any

import harness
import measure

COUNTS = (1, 2, 4, 8)


def computations(devices: int) -> dict[str, tuple[Callable[[], Any], float]]:
    """What is measured, and how much work it is, in units of what one device does alone."""
    import jax
    import numpy as np
    import optax

    from entropax import distributed, kernels, models, spectra, tta
    from entropax.models.resnet import ResNet
    from entropax.selection import greedy_entropy, run
    from entropax.types import Batch

    mesh = distributed.make_mesh()
    rng = np.random.default_rng(0)

    def images(n: int, side: int) -> Any:
        return distributed.shard_rows(rng.random((n, side, side, 3), np.float32), mesh)

    def square(n: int) -> int:
        """So many rows that n^2 grows with the devices, in multiples of these."""
        return round(n * math.sqrt(devices) / devices) * devices

    found: dict[str, tuple[Callable[[], Any], float]] = {}

    module = ResNet(num_classes=10, widths=(16, 32), blocks=1)
    shapes = jax.eval_shape(module.init, jax.random.key(0), np.zeros((1, 16, 16, 3), np.float32))
    variables = jax.tree.map(lambda s: rng.random(s.shape, np.float32) * 0.1, shapes)
    variables = distributed.replicate(variables, mesh)
    adapter = tta.tent(models.batch_statistics(module), optax.sgd(1e-3))
    step = jax.jit(adapter.step, out_shardings=distributed.replicated_sharding(mesh))
    state = jax.jit(adapter.init)(variables)
    batch = Batch(*images(64 * devices, 16))
    found["adaptation step, 64 images a device"] = (
        lambda: jax.block_until_ready(step(state, batch)),
        devices,
    )

    kernel_fn = kernels.ntk(models.running_statistics(module))
    rows = square(64)
    pool = images(rows, 16)[0]
    pool_kernel = jax.jit(lambda params, x: kernels.pool_kernel(kernel_fn, params, x))
    found["tangent kernel, 64 images on one device"] = (
        lambda: pool_kernel(variables, pool).block_until_ready(),
        (rows / 64) ** 2,
    )

    points = square(1024)
    x = distributed.shard_rows(rng.standard_normal((points, 64), np.float32), mesh)[0]

    @jax.jit
    def diffusion_entropy(key: Any, x: Any) -> Any:
        products = kernels.diffusion_products(x, sigma=8.0, block_size=128)
        return spectra.lanczos_entropy(
            key, products.matvec, len(x), num_probes=4, num_steps=8, trace=products.trace
        )

    found["diffusion entropy, 1,024 points on one device"] = (
        lambda: jax.block_until_ready(diffusion_entropy(jax.random.key(0), x)),
        (points / 1024) ** 2,
    )

    examples = square(1024)
    features = rng.standard_normal((examples, 64), np.float32)
    kernel = distributed.shard_rows(features @ features.T, mesh)[0]
    agent = greedy_entropy()
    select = jax.jit(lambda key, kernel: run(key, agent, kernel, 8)[0].indices)
    found["greedy selection of 8, 1,024 examples on one device"] = (
        lambda: select(jax.random.key(0), kernel).block_until_ready(),
        (examples / 1024) ** 2,
    )
    return found


def side(arguments: argparse.Namespace) -> None:
    """Measure in this process, which has the devices that its environment says."""
    import jax

    found = {}
    for name, (function, work) in computations(jax.device_count()).items():
        kept, _ = measure.calls(function, repeats=arguments.repeats, seconds=arguments.seconds)
        found[name] = {"work": work, **kept}
    print(json.dumps(found))


def table(outputs: dict[int, list[dict]]) -> list[dict[str, Any]]:
    """One row a computation and number of devices."""
    rows = []
    for name in outputs[1][0]:
        first: dict[str, float] = {}
        for count, rounds in outputs.items():
            row: dict[str, Any] = {"computation": name, "devices": count}
            row["work"] = rounds[0][name]["work"]
            for clock in ("seconds", "cpu_seconds"):
                samples = [s / row["work"] for each in rounds for s in each[name][clock]]
                row[f"{clock}_a_unit"] = harness.quartiles(samples)
                median = row[f"{clock}_a_unit"]["median"]
                first.setdefault(clock, median)
                row[f"{clock}_efficiency"] = first[clock] / median
            rows.append(row)
    return rows


def main() -> None:
    parser = harness.arguments(__doc__, repeats=5, rounds=2)
    parser.add_argument("--side", action="store_true", help=argparse.SUPPRESS)
    measure.add_limits(parser)
    arguments = parser.parse_args()
    if arguments.side:
        side(arguments)
        return
    outputs: dict[int, list[dict]] = {count: [] for count in COUNTS}
    for _ in range(arguments.rounds):
        for count in COUNTS:
            os.environ |= {
                "JAX_PLATFORMS": "cpu",
                "JAX_NUM_CPU_DEVICES": str(count),
                "PJRT_NPROC": str(max(8, 2 * count)),
            }
            words = [sys.executable, __file__, "--side", "--repeats", str(arguments.repeats)]
            outputs[count].append(harness.run([*words, "--seconds", str(arguments.seconds)]))
    rows = table(outputs)
    harness.write("weak_scaling", {"rows": rows})
    lines = [
        [
            row["computation"],
            str(row["devices"]),
            f"{row['work']:.2f}",
            f"{row['seconds_a_unit']['median']:.3g}",
            f"{row['seconds_efficiency']:.2f}",
            f"{row['cpu_seconds_a_unit']['median']:.3g}",
            f"{row['cpu_seconds_efficiency']:.2f}",
        ]
        for row in rows
    ]
    columns = ["computation", "devices", "work", "s a unit", "of one", "CPU s a unit", "of one"]
    print(harness.markdown(columns, lines))


if __name__ == "__main__":
    main()
