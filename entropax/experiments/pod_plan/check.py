"""The prediction's method on simulated devices: rates measured, times predicted and measured.

The number of devices is fixed when JAX starts, so that each takes a process of its own: `main`, in
an environment with `JAX_NUM_CPU_DEVICES`, prints one line of JSON.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, PartitionSpec

from entropax import kernels, tta
from entropax.distributed import AXIS, make_mesh, replicated_sharding, row_sharding
from entropax.experiments.pod_plan import work as plan
from entropax.experiments.pod_plan.counts import count, tangent_features
from entropax.experiments.pod_plan.rates import Rates, Work, predict
from entropax.models import CNN, batch_statistics, running_statistics
from entropax.models.resnet import ResNet
from entropax.types import ApplyFn, Array, Batch, Variables

MATRIX, VECTOR, SMALL = 1024, 2**23, 2**16


class Comparison(NamedTuple):
    """One computation on some devices.

    Attributes:
      name: what is computed.
      devices: on how many.
      predicted: seconds.
      measured: seconds, the median of some runs.
    """

    name: str
    devices: int
    predicted: float
    measured: float


def seconds(function: Callable[..., Any], *arguments: Any, repeats: int = 5) -> float:
    """The median time of some calls after the first one."""
    jax.block_until_ready(function(*arguments))
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def calibrate(mesh: Mesh) -> Rates:
    """Measure what each device of a mesh does in a second while all are at work."""
    devices = mesh.size
    split, whole = PartitionSpec(AXIS), PartitionSpec()
    keys = (3 * MATRIX**2, VECTOR, SMALL)
    matrices, vectors, small = (
        jax.device_put(jnp.ones((devices, size), jnp.float32), row_sharding(mesh)) for size in keys
    )

    def on_each(f: Callable[[Any], Any], out: PartitionSpec = split) -> Callable[..., Any]:
        return jax.jit(jax.shard_map(f, mesh=mesh, in_specs=split, out_specs=out, check_vma=False))

    def product(x: Any) -> Any:
        a, b, c = x.reshape(3, MATRIX, MATRIX) / MATRIX
        return jnp.matmul(jnp.matmul(a, b, precision="highest"), c, precision="highest")[None]

    ring = [(i, (i + 1) % devices) for i in range(devices)]
    many = partial(jax.lax.fori_loop, 0, 20)
    flops = 4 * MATRIX**3 / seconds(on_each(product), matrices)
    # In loops, since a call takes longer to find memory for its result than to write it.
    copied = seconds(on_each(lambda x: many(lambda _, y: y + 1, x)), vectors)
    exponentials = seconds(on_each(lambda x: many(lambda _, y: jnp.expm1(-y), x)), small)
    summed = seconds(on_each(lambda x: jax.lax.psum(x, AXIS), whole), vectors)
    passed = seconds(on_each(lambda x: jax.lax.ppermute(x, AXIS, ring)), vectors)
    tiny = seconds(on_each(lambda x: jax.lax.psum(x[:, :4], AXIS), whole), small)
    size = 4 * VECTOR
    return Rates(
        flops=flops,
        traffic=20 * 2 * size / copied,
        elementwise=20 * SMALL / exponentials,
        reduced=size / summed,
        passed=size / passed,
        exchanged=size / passed,
        latency=tiny,
    )


def ready(module: nn.Module, x: Array) -> tuple[ApplyFn, Variables]:
    """A network with parameters that are all 1: what they are takes no other time."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), x[:1])
    ones = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), shapes)
    return running_statistics(module), ones


def _products(mesh: Mesh) -> tuple[Work, Callable[..., Any], tuple[Any, ...]]:
    n, d, vectors = 8192, 512, 8
    x = jax.random.normal(jax.random.key(0), (n, d))
    v = jax.random.normal(jax.random.key(1), (vectors, n))

    def multiply(x: Any, v: Any) -> Any:
        products = kernels.diffusion_products(x, sigma=20.0, mesh=mesh if mesh.size > 1 else None)
        return jax.vmap(products.matvec)(v)

    placed = jax.device_put((x, v), replicated_sharding(mesh))
    work = plan.diffusion_entropy(n, d, mesh.size, calls=1, products=vectors)
    return work, jax.jit(multiply), placed


def _tangent_kernel(mesh: Mesh) -> tuple[Work, Callable[..., Any], tuple[Any, ...]]:
    n = 256
    x = jax.random.normal(jax.random.key(0), (n, 28, 28, 1))
    apply_fn, variables = ready(CNN(num_classes=10), x)
    kernel_fn = kernels.ntk(apply_fn)
    shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
    features = tangent_features(apply_fn, variables, shape, partners=n)
    work = plan.tangent_kernel(
        n, count(apply_fn, variables, shape), features, mesh.size, outputs=10
    )
    placed = jax.device_put(x, row_sharding(mesh))

    def kernel(variables: Any, x: Any) -> Any:
        return kernels.pool_kernel(kernel_fn, variables, x)

    return work, jax.jit(kernel), (variables, placed)


def _adaptation(mesh: Mesh) -> tuple[Work, Callable[..., Any], tuple[Any, ...]]:
    images = 64
    module = ResNet(num_classes=10)
    x = jax.random.normal(jax.random.key(0), (images, 32, 32, 3))
    apply_fn, variables = ready(module, x)
    adapter = tta.tent(batch_statistics(module), optax.sgd(1e-3, momentum=0.9))
    network = count(apply_fn, variables, jax.ShapeDtypeStruct(x.shape, x.dtype))
    batch = jax.device_put(Batch(x, jnp.ones(images, bool)), row_sharding(mesh))
    state = jax.device_put(adapter.init(variables), replicated_sharding(mesh))
    norm_layers = len(jax.tree.leaves(variables["batch_stats"])) // 2
    work = plan.adaptation(images, network, norm_layers, mesh.size, number=plan.FLOAT32)
    return work, jax.jit(adapter.step), (state, batch)


COMPUTATIONS = {
    "product of the diffusion operator of 8,192 x 512 with 8 vectors": _products,
    "tangent kernel of 256 images of MNIST's size": _tangent_kernel,
    "step of Tent, ResNet of CIFAR's size, 64 images": _adaptation,
}


def compare(mesh: Mesh) -> tuple[Rates, list[Comparison]]:
    """Predict and measure every computation on a mesh."""
    rates = calibrate(mesh)
    found = []
    for name, make in COMPUTATIONS.items():
        work, function, arguments = make(mesh)
        measured = seconds(function, *arguments, repeats=3)
        found.append(Comparison(name, mesh.size, predict(work, rates).total, measured))
    return rates, found


def on_simulated_devices(devices: int) -> tuple[Rates, list[Comparison]]:
    """`compare` in a process that has this number of simulated devices.

    Raises:
      RuntimeError: the process failed; the message is the end of what it said.
    """
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
        "PJRT_NPROC": str(max(8, 2 * devices)),
    }
    command = [sys.executable, "-c", f"from {__name__} import main; main()"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"The check on {devices} devices failed: {done.stderr[-2000:]}")
    said = json.loads(done.stdout.splitlines()[-1])
    return Rates(*said["rates"]), [Comparison(*row) for row in said["found"]]


def main() -> None:
    """Print the rates of this process's devices, and the comparisons."""
    rates, found = compare(make_mesh())
    print(json.dumps({"rates": rates, "found": found}))
