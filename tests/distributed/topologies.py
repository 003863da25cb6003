"""Programs compiled for TPUs that are not there, on a host without one.

    pip install -e . "jax[tpu]==0.10.2"
    PYTHONPATH=tests python -m distributed.topologies

compiles the larger programs for every topology and prints a table, in a quarter of an hour on two
CPU cores; `--program` and `--topology` choose. Nothing runs: what is known is the memory that a
chip takes, and what the chips send each other.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

# The TPU library otherwise asks the machine which TPU it has, and locks it.
ENVIRONMENT = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
}
ROOT = Path(__file__).parents[2]
# GiB of a chip that programs can use: what the compiler says when it refuses one.
MEMORY = {"v5e": 15.75, "v5p": 95.74}
TOPOLOGIES = ("v5e:2x4", "v5e:16x16", "v5p:2x2x1", "v5p:4x8x8")


def missing() -> str | None:
    """Why nothing can be compiled here, or None."""
    if importlib.util.find_spec("libtpu") is None:
        return "libtpu is not installed: pip install 'jax[tpu]'"
    return None


def compiled(programs: list[str], topology: str, *, timeout: float) -> dict[str, dict[str, Any]]:
    """What `describe` tells of each program, compiled in a process of its own.

    Raises:
      RuntimeError: the process failed; the message is the end of what it said.
    """
    command = [sys.executable, "-m", "distributed.topologies", "--json", "--topology", topology]
    done = subprocess.run(
        [*command, "--program", *programs],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, **ENVIRONMENT, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"},
    )
    if done.returncode:
        raise RuntimeError(f"{topology}: {done.stderr[-4000:]}")
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {row["program"]: row for row in rows}


Lowered = tuple[Callable[..., Any], tuple[Any, ...]]


def _split(tree: Any, sharding: Any) -> Any:
    """Shapes of a tree with a placement."""
    import jax

    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree
    )


def _adaptation(module: Any, side: int, per_chip: int, mesh: Any) -> Lowered:
    """A step of Tent on images in rows, with the statistics of all of them."""
    import jax
    import jax.numpy as jnp
    import optax

    from entropax import models, tta
    from entropax.distributed import replicated_sharding, row_sharding
    from entropax.types import Batch

    batch = per_chip * mesh.size
    images = jax.ShapeDtypeStruct((batch, side, side, 3), jnp.float32)
    variables = jax.eval_shape(module.init, jax.random.key(0), images)
    adapter = tta.tent(models.batch_statistics(module), optax.sgd(2.5e-4, momentum=0.9))
    state = jax.eval_shape(adapter.init, variables)
    rows = Batch(images, jax.ShapeDtypeStruct((batch,), bool))
    return adapter.step, (
        _split(state, replicated_sharding(mesh)),
        _split(rows, row_sharding(mesh)),
    )


def _small_adaptation(mesh: Any) -> Lowered:
    from entropax.models.resnet import ResNet

    return _adaptation(ResNet(num_classes=10), 32, 8, mesh)


def _resnet50_adaptation(mesh: Any) -> Lowered:
    import jax.numpy as jnp

    from entropax.models.architectures import ARCHITECTURES

    return _adaptation(ARCHITECTURES["resnet50"](1000).clone(dtype=jnp.bfloat16), 224, 8, mesh)


def _diffusion_entropy(n: int, block_size: int, mesh: Any) -> Lowered:
    """The entropy of points `[n, 512]` in rows, from products with the diffusion operator."""
    import jax
    import jax.numpy as jnp

    from entropax import kernels, spectra
    from entropax.distributed import replicated_sharding, row_sharding

    def estimate(key: Any, x: Any) -> Any:
        products = kernels.diffusion_products(x, sigma=1.0, block_size=block_size, mesh=mesh)
        return spectra.lanczos_entropy(key, products.matvec, n, trace=products.trace)

    key = jax.eval_shape(lambda: jax.random.key(0))
    x = jax.ShapeDtypeStruct((n, 512), jnp.float32)
    return estimate, (_split(key, replicated_sharding(mesh)), _split(x, row_sharding(mesh)))


def _mnist_network() -> tuple[Any, Any]:
    import jax
    import jax.numpy as jnp

    from entropax.models import CNN, running_statistics

    module = CNN(num_classes=10)
    image = jax.ShapeDtypeStruct((1, 28, 28, 1), jnp.float32)
    return running_statistics(module), jax.eval_shape(module.init, jax.random.key(0), image)


def _ntk_entropy(n: int, mesh: Any) -> Lowered:
    """The entropy of the tangent kernel of images in rows, from products with it."""
    import jax
    import jax.numpy as jnp

    from entropax import kernels, spectra
    from entropax.distributed import replicated_sharding, row_sharding

    apply_fn, variables = _mnist_network()

    def estimate(key: Any, variables: Any, x: Any) -> Any:
        matvec = kernels.ntk_vector_product(apply_fn, variables, x)
        return spectra.lanczos_entropy(key, matvec, n)

    key = jax.eval_shape(lambda: jax.random.key(0))
    x = jax.ShapeDtypeStruct((n, 28, 28, 1), jnp.float32)
    return estimate, (
        _split(key, replicated_sharding(mesh)),
        _split(variables, replicated_sharding(mesh)),
        _split(x, row_sharding(mesh)),
    )


def _ntk(n: int, mesh: Any) -> Lowered:
    """The tangent kernel of images in rows, its rows on the chips."""
    import jax
    import jax.numpy as jnp

    from entropax import kernels
    from entropax.distributed import replicated_sharding, row_sharding

    apply_fn, variables = _mnist_network()
    # By default the size of the host's cache decides, since its processor is what JAX runs on.
    kernel_fn = kernels.ntk(apply_fn, batch_size=n)

    def kernel(variables: Any, x: Any) -> Any:
        return kernels.pool_kernel(kernel_fn, variables, x)

    x = jax.ShapeDtypeStruct((n, 28, 28, 1), jnp.float32)
    return kernel, (
        _split(variables, replicated_sharding(mesh)),
        _split(x, row_sharding(mesh)),
    )


# What each is called in the table, and how it is made for a mesh.
PROGRAMS: dict[str, tuple[str, Callable[[Any], Lowered]]] = {
    "small-adaptation": (
        "Tent, ResNet of CIFAR's size, 8 images a chip",
        _small_adaptation,
    ),
    "resnet50-adaptation": (
        "Tent, ResNet-50, bfloat16, 8 images of 224x224 a chip",
        _resnet50_adaptation,
    ),
    "small-diffusion-entropy": (
        "Diffusion entropy of 16,384 x 512",
        lambda mesh: _diffusion_entropy(16_384, 512, mesh),
    ),
    "diffusion-entropy": (
        "Diffusion entropy of 1,000,192 x 512",
        lambda mesh: _diffusion_entropy(1_000_192, 2048, mesh),
    ),
    "small-ntk": (
        "NTK of 2,048 images of MNIST",
        lambda mesh: _ntk(2048, mesh),
    ),
    "ntk": (
        "NTK of 60,160 images of MNIST",
        lambda mesh: _ntk(60_160, mesh),
    ),
    "small-ntk-entropy": (
        "NTK entropy by products, 2,048 images of MNIST",
        lambda mesh: _ntk_entropy(2048, mesh),
    ),
    "ntk-entropy": (
        "NTK entropy by products, 60,160 images of MNIST",
        lambda mesh: _ntk_entropy(60_160, mesh),
    ),
}


def describe(program: str, topology: str) -> dict[str, Any]:
    """Compile one program, and tell what a chip needs for it.

    Returns:
      `seconds` of the compiler, `argument_bytes`, `bytes` (arguments, results and what is kept on
      the way), `flops` and `traffic_bytes` (loops counted once), and of each kind of collective
      its number and bytes.
    """
    import jax
    from distributed.collectives import collectives
    from jax.experimental import topologies

    from entropax.distributed import make_mesh

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        described = topologies.get_topology_desc(platform="tpu", topology_name=topology)
    function, arguments = PROGRAMS[program][1](make_mesh(described.devices))
    start = time.perf_counter()
    executable = jax.jit(function).lower(*arguments).compile()
    seconds = time.perf_counter() - start
    memory = executable.memory_analysis()
    kinds: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for collective in collectives(executable.as_text()):
        kinds[collective.kind] += 1
        sizes[collective.kind] += collective.bytes
    cost = executable.cost_analysis()
    kept = memory.temp_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return {
        "program": program,
        "topology": topology,
        "seconds": seconds,
        "argument_bytes": memory.argument_size_in_bytes,
        "bytes": memory.argument_size_in_bytes + kept,
        "flops": cost.get("flops"),
        "traffic_bytes": cost.get("bytes accessed"),
        "collectives": dict(kinds),
        "collective_bytes": dict(sizes),
    }


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table of the docs."""
    lines = [
        "| program | topology | compile s | GiB a chip | of it arguments | collectives (MB) |",
        "|-|-|-|-|-|-|",
    ]
    for row in rows:
        sent = ", ".join(
            f"{number} {kind} ({row['collective_bytes'][kind] / 1e6:.3g})"
            for kind, number in row["collectives"].items()
        )
        cells = [PROGRAMS[row["program"]][0], row["topology"], f"{row['seconds']:.0f}"]
        cells += [f"{row[key] / 2**30:.2f}" for key in ("bytes", "argument_bytes")]
        lines.append(f"| {' | '.join([*cells, sent or 'none'])} |")
    return "\n".join(lines)


def main() -> None:
    """Print a table, or a line of JSON for each program that is compiled."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    large = [program for program in PROGRAMS if not program.startswith("small-")]
    parser.add_argument("--program", nargs="+", choices=PROGRAMS, default=large)
    parser.add_argument("--topology", nargs="+", default=list(TOPOLOGIES))
    parser.add_argument("--json", action="store_true", help="a line for each, as they are ready")
    options = parser.parse_args()
    if missing():
        parser.error(missing())
    os.environ.update(ENVIRONMENT)
    rows = []
    for topology in options.topology:
        for program in options.program:
            rows.append(describe(program, topology))
            if options.json:
                print(json.dumps(rows[-1]), flush=True)
    if not options.json:
        print(markdown(rows))


if __name__ == "__main__":
    main()
