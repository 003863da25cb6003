"""Diffusion spectral entropy and mutual information, beside the published package dse-dsmi.

    python benchmarks/diffusion.py --peer-python PATH/TO/dse-dsmi-environment/bin/python
    python benchmarks/diffusion.py --large 50000

Every side is a process of its own on one and the same core. In float64 both sides have to agree
before any time is compared, and what float32 or stochastic Lanczos quadrature is off by is told in
bits. The second form runs without a peer, which cannot hold so many points: there the points are
5,000 others, each several times, so that the exact entropy is known.
"""

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import harness
import jax
import jaxlib
import measure
import numpy as np

from entropax.diffusion import Lanczos, dse, dse_estimate, dsmi

PEER = Path(__file__).parent / "peers" / "diffusion_dse_dsmi.py"
CLASSES, BASE = 10, 5_000
# Bits. The published code adds 2e-16 to each of 5,000 probabilities, which is 1e-10 bits;
# eigenvalues of a float32 matrix are off by up to 1e-7 each. Quadrature may be off by so many
# standard errors.
DOUBLE_LIMIT, SINGLE_LIMIT, SIGMAS = 1e-8, 1e-4, 5
# Between the five random subsets of the peer and random classes: the entropies of two random
# subsets differ by a few hundredths.
RANDOM_LIMIT = 0.05


class Side(NamedTuple):
    """What a process of ours computes.

    Attributes:
      what: a key of `COMPUTE`.
      t: diffusion time.
      double: whether in float64.
    """

    what: str
    t: int = 1
    double: bool = False


ENTROPIES = {
    "exact, float64": Side("exact", double=True),
    "exact, float32": Side("exact"),
    "quadrature": Side("quadrature"),
    "quadrature, matrix-free": Side("matrix-free"),
    "exact, float64, t = 2": Side("exact", t=2, double=True),
    "quadrature, t = 2": Side("quadrature", t=2),
}
INFORMATION = {
    "subsets of the peer, float64": Side("compat", double=True),
    "subsets of the peer, float32": Side("compat"),
    "permuted labels, float32": Side("permutation"),
    "Holevo, float32": Side("holevo"),
}


def points(n: int, d: int, seed: int, copies: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Ten classes whose coordinates have a power-law spectrum, as features of networks have.

    Class means vary as much as the points of a class do; the root mean square coordinate is 1.
    """
    rng = np.random.default_rng(seed)
    scale = (1 + np.arange(d, dtype=np.float32)) ** -0.5
    y = np.arange(n // copies) % CLASSES
    x = rng.standard_normal((len(y), d), np.float32)
    x += rng.standard_normal((CLASSES, d), np.float32)[y]
    x *= scale / np.sqrt(2 * np.mean(scale**2))
    return np.tile(x, (copies, 1)), np.tile(y, copies)


def in_bits(found: Any) -> dict[str, float]:
    """The value in bits, with standard error and bracket where there are some."""
    if isinstance(found, float | jax.Array):
        return {"value": float(found) / math.log(2)}
    names = ("value", "stderr", "lower", "upper")
    return {k: float(getattr(found, k)) / math.log(2) for k in names if hasattr(found, k)}


def entropy_estimate(
    x: jax.Array, y: np.ndarray | None, sigma: float, t: int, method: str | Lanczos = "slq"
) -> Any:
    return dse_estimate(x, sigma=sigma, t=t, method=method)


def information(x: jax.Array, y: np.ndarray, sigma: float, t: int, scheme: str) -> Any:
    return dsmi(x, y, sigma=sigma, t=t, scheme=scheme)


@jax.jit
def entropy_exact(x: jax.Array, sigma: float, t: int) -> jax.Array:
    return dse(x, sigma=sigma, t=t, method="exact")


COMPUTE: dict[str, Callable[..., Any]] = {
    "exact": lambda x, y, sigma, t: entropy_exact(x, sigma, t),
    "quadrature": entropy_estimate,
    "matrix-free": lambda *args: entropy_estimate(*args, Lanczos(storage="matrix_free")),
    "compat": lambda *args: information(*args, scheme="compat"),
    "permutation": lambda *args: information(*args, scheme="permutation"),
    "holevo": lambda *args: information(*args, scheme="holevo"),
}


def measure_ours(options: argparse.Namespace) -> dict[str, Any]:
    """One of our sides, in this process."""
    measure.limit(options)
    side = Side(*json.loads(options.measure))
    jax.config.update("jax_enable_x64", side.double)
    with np.load(options.npz, allow_pickle=False) as file:
        x, y = file["x"], file["y"]
    x = jax.block_until_ready(jax.numpy.asarray(x, "float64" if side.double else "float32"))
    sigma = math.sqrt(x.shape[1])
    found, value = measure.calls(
        lambda: jax.block_until_ready(COMPUTE[side.what](x, y, sigma, side.t)),
        repeats=options.repeats,
        seconds=options.seconds,
    )
    versions = {module.__name__: module.__version__ for module in (jax, jaxlib, np)}
    return {**found, **in_bits(value), "versions": versions}


def compare(
    subject: str, n: int, d: int, sides: dict[str, Side], options: argparse.Namespace
) -> dict[str, Any]:
    """All sides on one set of points.

    Raises:
      RuntimeError: two sides do not compute the same number.
    """
    x, y = points(n, d, options.seed)
    with tempfile.TemporaryDirectory() as folder:
        npz = str(Path(folder) / "points.npz")
        np.savez(npz, x=x, y=y)
        limits = {"--repeats": options.repeats, "--seconds": options.seconds}
        limits |= {"--time-limit": options.time_limit, "--memory-limit": options.memory_limit}
        ending = [str(word) for pair in limits.items() for word in pair]
        peers = {t: f"dse-dsmi, t = {t}" for t in sorted({side.t for side in sides.values()})}
        commands = {}
        for t, name in peers.items():
            words = [options.peer_python, str(PEER), subject, npz, "--t", str(t)]
            commands[name] = [*words, "--sigma", str(math.sqrt(d)), *ending]
        for name, side in sides.items():
            words = [sys.executable, __file__, "--measure", json.dumps(side), "--npz", npz]
            commands[name] = [*words, *ending]
        commands = {name: harness.one_core(words) for name, words in commands.items()}
        outputs = harness.interleave(commands, rounds=options.rounds, slow=options.slow)

    rows: dict[str, Any] = {}
    for name, output in outputs.items():
        found = {k: v for k, v in output[0].items() if k in ("value", "stderr", "versions")}
        rows[name] = {**harness.timings(output), **found}
        peer = rows[peers[sides[name].t]] if name in sides else rows[name]
        for clock in ("seconds", "cpu_seconds"):
            rows[name][f"{clock}_ratio"] = peer[clock]["median"] / rows[name][clock]["median"]
        if name in sides and sides[name].what == "holevo":
            continue  # a quantity that the peer does not have
        error = rows[name]["error"] = rows[name]["value"] - peer["value"]
        limit = 0 if name in peers.values() else error_limit(sides[name], rows[name])
        if not abs(error) <= limit:
            raise RuntimeError(
                f"{name}, n = {n}, d = {d}: off by {error:.1e} bits, where {limit:.1e} are allowed."
            )
    return {"subject": subject, "n": n, "d": d, "sides": rows}


def error_limit(side: Side, row: dict[str, Any]) -> float:
    """How far from the peer's a value may be, in bits."""
    if side.what == "permutation":
        return RANDOM_LIMIT
    if side.double:
        return DOUBLE_LIMIT
    return SINGLE_LIMIT + SIGMAS * row.get("stderr", 0)


def large(n: int, d: int, options: argparse.Namespace) -> dict[str, Any]:
    """The entropy of n points, each one of `BASE` points, and what it took.

    The peak is that of the whole process, with libraries and points.

    Raises:
      RuntimeError: the exact entropy, that of the `BASE` points, is outside of the bracket.
    """
    base = points(BASE, d, options.seed)[0]
    sigma = math.sqrt(d)
    with jax.enable_x64(True):
        found = entropy_exact(jax.numpy.asarray(base, "float64"), sigma, options.t)
        exact = in_bits(found)["value"]
    words = [sys.executable, __file__, "--measure-large", str(n), str(d), "--t", str(options.t)]
    words += ["--seed", str(options.seed), "--time-limit", str(options.time_limit)]
    words += ["--memory-limit", str(options.memory_limit), "--sampling"]
    words += map(str, options.sampling)
    found = harness.run(words)
    if not found["lower"] <= exact <= found["upper"]:
        raise RuntimeError(f"The exact entropy, {exact} bits, is outside of the bracket: {found}.")
    sampling = dict(zip(Lanczos._fields, options.sampling, strict=False))
    return {"n": n, "d": d, "t": options.t, **sampling, "exact": exact, **found}


def measure_large(n: int, d: int, options: argparse.Namespace) -> dict[str, Any]:
    """Our side of `large`, in this process, called once: compilation is part of its time."""
    measure.limit(options)
    x = jax.numpy.asarray(points(n, d, options.seed, copies=n // BASE)[0])
    start, start_cpu = time.perf_counter(), time.process_time()
    sampling = Lanczos(*options.sampling)
    value = in_bits(entropy_estimate(x, None, math.sqrt(d), options.t, sampling))
    return {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - start_cpu,
        "peak_bytes": measure.resident("VmHWM"),
        **value,
    }


def table(results: Mapping[str, dict[str, Any]]) -> str:
    """Markdown: a row for each side of each set of points."""
    columns = "n", "d", "side", "seconds (quartiles)", "CPU s", "as fast (wall)", "as fast (CPU)"
    columns += "compile CPU s", "peak MB", "bits", "off by"
    rows = []
    for result in results.values():
        for side, row in result["sides"].items():
            low, median, high = (row["seconds"][k] for k in ("quartile_1", "median", "quartile_3"))
            rows.append(
                [
                    f"{result['n']:,}",
                    str(result["d"]),
                    side,
                    f"{median:.3g} ({low:.3g}-{high:.3g})",
                    f"{row['cpu_seconds']['median']:.3g}",
                    f"{row['seconds_ratio']:.1f}",
                    f"{row['cpu_seconds_ratio']:.1f}",
                    f"{row['compile_cpu_seconds']:.1f}",
                    f"{row['peak_bytes'] / 1e6:.0f}" if "peak_bytes" in row else "",
                    f"{row['value']:.4f}",
                    f"{row['error']:+.0e}" if "error" in row else "",
                ]
            )
    return harness.markdown(columns, rows)


def large_table(results: Mapping[str, dict[str, Any]]) -> str:
    """Markdown: a row for each number of points."""
    columns = "n", "d", "t", "probes + deflated, steps", "minutes", "CPU minutes", "peak MB"
    columns += "bits", "standard error", "interval", "exact"
    return harness.markdown(
        columns,
        [
            [
                f"{row['n']:,}",
                str(row["d"]),
                str(row["t"]),
                f"{row['num_probes']} + {row['num_deflated']}, {row['num_steps']}",
                f"{row['seconds'] / 60:.1f}",
                f"{row['cpu_seconds'] / 60:.1f}",
                f"{row['peak_bytes'] / 1e6:.0f}",
                f"{row['value']:.4f}",
                f"{row['stderr']:.4f}",
                f"{row['lower']:.4f} to {row['upper']:.4f}",
                f"{row['exact']:.4f}",
            ]
            for row in results.values()
        ],
    )


def main() -> None:
    parser = harness.arguments(__doc__, repeats=3, rounds=2, peer="dse-dsmi")
    subjects = ("entropy", "information")
    parser.add_argument("--subjects", nargs="+", choices=subjects, default=subjects)
    parser.add_argument("--sizes", type=int, nargs="+", default=[500, 1000, 2000, 5000])
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 512])
    parser.add_argument("--slow", type=float, default=60, help="one round for calls slower than it")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--large", type=int, help=f"only so many points, a multiple of {BASE}")
    parser.add_argument("--large-width", type=int, default=64)
    parser.add_argument("--t", type=int, default=1, help="with --large: diffusion time")
    parser.add_argument(
        "--sampling",
        type=int,
        nargs=3,
        metavar=("PROBES", "DEFLATED", "STEPS"),
        default=[*Lanczos()[:3]],
        help="with --large: settings of the quadrature",
    )
    measure.add_limits(parser)
    parser.add_argument("--measure", metavar="SIDE", help="one side")
    parser.add_argument("--npz", help="with --measure: where the points are")
    parser.add_argument("--measure-large", type=int, nargs=2, metavar=("N", "D"))
    options = parser.parse_args()
    if options.measure or options.measure_large:
        found = (
            measure_ours(options)
            if options.measure
            else measure_large(*options.measure_large, options)
        )
        print(json.dumps(found))
        return
    if options.large:
        # Runs of other sizes stay.
        path = harness.RESULTS / "diffusion_large.json"
        results = json.loads(path.read_text())["results"] if path.exists() else {}
        results[str(options.large)] = large(options.large, options.large_width, options)
        harness.write("diffusion_large", {"results": results})
        print(large_table(results))
        return
    if not options.peer_python:
        parser.error("--peer-python is needed: the interpreter of an environment with dse-dsmi.")
    tasks = [(n, d) for d in options.widths for n in options.sizes]
    tasks = [("entropy", n, d, ENTROPIES) for n, d in tasks]
    tasks.append(("information", max(options.sizes), max(options.widths), INFORMATION))
    results = {}
    for subject, n, d, sides in tasks:
        if subject in options.subjects:
            results[f"{subject} {n} {d}"] = compare(subject, n, d, sides, options)
            # After each, since some take long.
            path = harness.write("diffusion", {"results": results})
    print(table(results))
    print(f"Written to {path}")


if __name__ == "__main__":
    main()
