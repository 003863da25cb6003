"""Entropy reached per second: random sets, greedy selection and exchanges on one pool kernel.

    python benchmarks/selection.py

The pool is 1,000 digits under the neural tangent kernel of three random networks; each method
selects 30. Seconds are medians of compiled runs on a kernel that is already in memory; entropies
are computed anew, from eigenvalues in float64. A second part repeats digits up to 5,000 and selects
up to 300.
"""

import statistics
import time
from typing import Any

import harness
import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits

from entropax import entropy, kernels, selection, spectra

POOL, SIZE, NETWORKS = 1000, 30, 3
LARGE_POOL, LARGE_SIZES = 5000, (30, 100, 300)
WIDTHS = (64, 128, 128, 10)
METHODS = {
    "best of 30": selection.approximate_entropy(30),
    "best of 3,000": selection.approximate_entropy(3_000),
    "best of 30,000": selection.approximate_entropy(30_000),
    "kernel herding": selection.kernel_herding(),
    "greedy determinant": selection.greedy_determinant(),
    "greedy, order 2": selection.greedy_entropy(order=2),
    "greedy, order 1": selection.greedy_entropy(),
    "greedy, order 1, and swaps": selection.local_search(selection.greedy_entropy()),
    "random and swaps": selection.local_search(selection.random()),
}
LARGE_METHODS = {
    "best of 10,000": selection.approximate_entropy(10_000),
    "greedy, order 2": METHODS["greedy, order 2"],
    "greedy, order 1": METHODS["greedy, order 1"],
}


def network(key: jax.Array) -> list[dict[str, jax.Array]]:
    keys = jax.random.split(key, len(WIDTHS) - 1)
    return [
        {"w": jax.random.normal(k, (a, b)) * (2 / a) ** 0.5, "b": jnp.zeros(b)}
        for k, a, b in zip(keys, WIDTHS[:-1], WIDTHS[1:], strict=True)
    ]


def apply_fn(params: list[dict[str, jax.Array]], x: jax.Array) -> jax.Array:
    for layer in params[:-1]:
        x = jax.nn.relu(x @ layer["w"] + layer["b"])
    return x @ params[-1]["w"] + params[-1]["b"]


def pool_kernel(seed: int, count: int) -> np.ndarray:
    """The kernel of `count` digits, more than once where there are not enough."""
    digits = load_digits().data.astype(np.float32) / 16
    order = np.random.default_rng(0).permutation(len(digits))
    x = digits[np.resize(order, count)]
    return kernels.gram(kernels.ntk(apply_fn), network(jax.random.key(seed)), jnp.asarray(x))


def effective_entropy(kernel: np.ndarray, indices: np.ndarray) -> float:
    eigvals = spectra.density(spectra.submatrices(kernel, indices))
    return float(entropy.effective_von_neumann(eigvals))


def timed(
    method: selection.Agent, kernel: np.ndarray, size: int, *, repeats: int
) -> tuple[np.ndarray, selection.Info, dict[str, Any]]:
    """Indices, infos and the seconds of runs after the first, which compiles."""
    select = jax.jit(lambda key, pool: selection.run(key, method, pool, size))
    key, pool = jax.random.key(0), jnp.asarray(kernel)
    seconds, cpu_seconds = [], []
    for _ in range(repeats + 1):
        start, cpu_start = time.perf_counter(), time.process_time()
        state, infos = jax.block_until_ready(select(key, pool))
        seconds.append(time.perf_counter() - start)
        cpu_seconds.append(time.process_time() - cpu_start)
    found: dict[str, Any] = {
        "seconds": statistics.median(seconds[1:]),
        "cpu_seconds": harness.quartiles(cpu_seconds[1:]),
        "first_seconds": seconds[0],
    }
    return np.asarray(state.indices), infos, found


def small(repeats: int) -> list[dict[str, Any]]:
    rows = []
    for seed in range(NETWORKS):
        kernel = pool_kernel(seed, POOL)
        rng = np.random.default_rng(seed)
        sets = [rng.choice(POOL, SIZE, replace=False) for _ in range(200)]
        values = [effective_entropy(kernel, s) for s in sets]
        mean, spread = statistics.mean(values), statistics.stdev(values)
        rows.append({"network": seed, "method": "one random set", "entropy": mean, "sd": spread})
        for name, method in METHODS.items():
            indices, infos, seconds = timed(method, kernel, SIZE, repeats=repeats)
            row = {"entropy": effective_entropy(kernel, indices), **seconds}
            if "swaps" in name:
                row["swaps"] = int(jnp.sum(infos.changed))
                row["settled"] = bool(infos.done[-1])
            rows.append({"network": seed, "method": name, **row})
            print(rows[-1], flush=True)
    return rows


def large(repeats: int) -> list[dict[str, Any]]:
    rows = []
    kernel = pool_kernel(0, LARGE_POOL)
    for size in LARGE_SIZES:
        for name, method in LARGE_METHODS.items():
            if name == "best of 10,000" and size > SIZE:
                continue  # its eigenvalue problems grow with the cube of the size
            indices, _, seconds = timed(method, kernel, size, repeats=repeats)
            value = effective_entropy(kernel, indices)
            rows.append({"size": size, "method": name, "entropy": value, **seconds})
            print(rows[-1], flush=True)
    return rows


def main() -> None:
    repeats = harness.arguments(__doc__, repeats=5).parse_args().repeats
    settings = {"pool": POOL, "size": SIZE, "widths": WIDTHS, "large_pool": LARGE_POOL}
    content = {"settings": settings, "small": small(repeats), "large": large(repeats)}
    print(harness.write("selection", content))


if __name__ == "__main__":
    main()
