"""Updates per second of an RDumb stream: one compiled scan against the published PyTorch loop.

    python benchmarks/tta_stream.py --peer-python PATH/TO/torch-environment/bin/python

Both sides adapt the same network to the same images. Before any time is compared they have to come,
in float64, to the same parameters by the same number of selected examples at every step. In
float32, which is timed, rounding may take an example across a threshold, and from there on the two
go their own ways; the results say when.
"""

import itertools
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import flax
import flax.linen as nn
import harness
import jax
import jax.numpy as jnp
import numpy as np
import optax

from entropax import models, tta
from entropax.types import Batch

BATCH, STEPS, CLASSES, PERIOD = 64, 200, 10, 1000
LEARNING_RATE, MOMENTUM = 5e-3, 0.9
SPREAD = 4.0
LIMITS = tta.Limits.scaled(CLASSES)
STREAMS = 8  # of STEPS / STREAMS steps each, in the variant that runs them side by side
PEER = Path(__file__).parent / "peers" / "torch_tta.py"


class DigitsNet(nn.Module):
    """Two convolutions with BatchNorm, then the mean over space: the network of the golden traces.

    Call it with `train=True` and mutable `batch_stats` to update running statistics.
    """

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Return the logits `[b, 10]` of images `[b, h, w, 1]`."""
        for i, (width, stride) in enumerate(((8, 1), (16, 2))):
            convolve = {"conv_general_dilated": models.convolution, "name": f"conv{i}"}
            x = nn.Conv(width, (3, 3), stride, padding=1, use_bias=False, **convolve)(x)
            x = nn.relu(nn.BatchNorm(use_running_average=not train, name=f"norm{i}")(x))
        return nn.Dense(CLASSES, name="head")(x.mean((1, 2)))


class Problem(NamedTuple):
    """A network and the size of its images.

    Attributes:
      module: the network.
      size: height and width of the images.
      widths: channels of the convolutions.
      strides: of the convolutions.
      head_inputs: number of features that the dense layer sees.
    """

    module: nn.Module
    size: int
    widths: tuple[int, ...]
    strides: tuple[int, ...]
    head_inputs: int


PROBLEMS = {
    "digits": Problem(DigitsNet(), 8, (8, 16), (1, 2), 16),
    "convnet": Problem(models.ConvNet(CLASSES), 28, (32, 64, 64), (2, 2, 2), 1024),
}


def arrays_of(problem: Problem, seed: int) -> dict[str, np.ndarray]:
    """Random weights, and random images around ten random prototypes.

    The logits of the first batch have mean 0 and standard deviation `SPREAD` in every class: the
    filter then lets some examples through and rejects others.
    """
    rng = np.random.default_rng(seed)
    channels = (1, *problem.widths)
    arrays: dict[str, Any] = {}
    for i, (before, width) in enumerate(itertools.pairwise(channels)):
        arrays[f"kernel{i}"] = rng.normal(0, (2 / (9 * before)) ** 0.5, (3, 3, before, width))
        arrays[f"scale{i}"] = rng.uniform(0.5, 1.5, width)
        arrays[f"shift{i}"] = rng.normal(0, 0.1, width)
    arrays["head_kernel"] = rng.normal(0, 1, (problem.head_inputs, CLASSES))
    arrays["head_bias"] = np.zeros(CLASSES)
    prototypes = rng.uniform(0, 1, (CLASSES, problem.size, problem.size, 1))
    labels = rng.integers(CLASSES, size=(STEPS, BATCH))
    noise = rng.normal(0, 0.3, (STEPS, BATCH, problem.size, problem.size, 1))
    arrays["x"] = np.clip(prototypes[labels] + noise, 0, 1)
    arrays = {name: value.astype(np.float32) for name, value in arrays.items()}
    logits = models.batch_statistics(problem.module)(variables_of(problem, arrays), arrays["x"][0])
    arrays["head_kernel"] *= SPREAD / np.std(logits, axis=0)
    arrays["head_bias"] -= SPREAD * np.mean(logits, axis=0) / np.std(logits, axis=0)
    pooled = isinstance(problem.module, DigitsNet)
    return {**arrays, "strides": np.array(problem.strides), "pooled": pooled, "mirror": not pooled}


def variables_of(problem: Problem, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    params = {"head": {"kernel": arrays["head_kernel"], "bias": arrays["head_bias"]}}
    stats = {}
    for i, width in enumerate(problem.widths):
        params[f"conv{i}"] = {"kernel": arrays[f"kernel{i}"]}
        params[f"norm{i}"] = {"scale": arrays[f"scale{i}"], "bias": arrays[f"shift{i}"]}
        stats[f"norm{i}"] = {"mean": np.zeros(width), "var": np.ones(width)}
    dtype = arrays["x"].dtype
    return jax.tree.map(lambda a: jnp.asarray(a, dtype), {"params": params, "batch_stats": stats})


def prepare(variant: str, adapter: tta.Adapter, variables: Any, x: jax.Array) -> Callable[[], Any]:
    """Compile one way of running the stream; return it as a function of nothing.

    What it returns are the last state and the selected counts.
    """
    batches = Batch(x, jnp.ones(x.shape[:2], bool))
    if variant == "loop":
        each = [jax.tree.map(lambda a, t=t: a[t], batches) for t in range(STEPS)]
        step = jax.jit(adapter.step).lower(adapter.init(variables), each[0]).compile()

        def run() -> Any:
            state, infos = adapter.init(variables), []
            for batch in each:
                state, info = step(state, batch)
                infos.append(info)
            return state, infos

        return run

    def adapt(variables: Any, batches: Batch) -> Any:
        return tta.adapt(adapter, variables, batches)

    if variant == "streams":
        batches = jax.tree.map(lambda a: a.reshape(STREAMS, -1, *a.shape[1:]), batches)
        adapt = jax.vmap(adapt, in_axes=(None, 0))
    compiled = jax.jit(adapt).lower(variables, batches).compile()
    return lambda: compiled(variables, batches)


def measure(name: str, path: str, variant: str, repeats: int, double: bool) -> dict[str, Any]:
    """Our side: run the stream of a problem in one of the variants."""
    jax.config.update("jax_enable_x64", double)
    problem = PROBLEMS[name]
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    if double:
        arrays = {k: v.astype(float) if v.dtype == np.float32 else v for k, v in arrays.items()}
    variables = variables_of(problem, arrays)
    adapter = tta.rdumb(
        models.batch_statistics(problem.module),
        optax.sgd(LEARNING_RATE, momentum=MOMENTUM),
        num_classes=CLASSES,
        period=PERIOD,
        limits=LIMITS,
    )
    x = jax.block_until_ready(jnp.asarray(arrays["x"]))
    start = time.perf_counter()
    run = prepare(variant, adapter, variables, x)
    compile_seconds = time.perf_counter() - start
    seconds = []
    for _ in range(1 + repeats):  # the first time is for warming up
        start = time.perf_counter()
        state, infos = jax.block_until_ready(run())
        seconds.append(time.perf_counter() - start)

    selected = [info.selected for info in infos] if variant == "loop" else infos.selected
    params = state.variables["params"]
    last = (lambda a: a[-1]) if variant == "streams" else (lambda a: a)
    affine = [
        last(params[f"norm{i}"][kind])
        for i in range(len(problem.widths))
        for kind in ("scale", "bias")
    ]
    return {
        "seconds": seconds[1:],
        "compile_seconds": compile_seconds,
        "selected": np.ravel(selected).tolist(),
        "affine": np.concatenate(affine).tolist(),
        "versions": {module.__name__: module.__version__ for module in (jax, flax, optax, np)},
    }


def agree(ours: dict[str, Any], peer: dict[str, Any]) -> dict[str, float]:
    """How far two sides agree.

    Returns:
      `same_steps`: steps before the first at which the numbers of selected examples differ;
      `deviation`: the largest difference of the final parameters.
    """
    differ = np.flatnonzero(np.not_equal(ours["selected"], peer["selected"]))
    deviation = np.max(np.abs(np.subtract(ours["affine"], peer["affine"])))
    return {
        "same_steps": int(differ[0]) if len(differ) else STEPS,
        "deviation": float(deviation),
    }


def compare(name: str, peer_python: str, rounds: int, repeats: int, seed: int) -> dict[str, Any]:
    """All variants and the peer on one problem.

    Raises:
      RuntimeError: the two sides do not compute the same thing.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "problem.npz")
        np.savez(path, **arrays_of(PROBLEMS[name], seed))
        peer = [peer_python, str(PEER), path]
        settings = {
            "--learning-rate": LEARNING_RATE,
            "--momentum": MOMENTUM,
            "--entropy-limit": LIMITS.entropy,
            "--cosine-limit": LIMITS.cosine,
        }
        peer += [str(word) for option in settings.items() for word in option]
        # Short streams one after the other are one stream with a reset at each beginning.
        restarted = [*peer, "--period", str(STEPS // STREAMS)]
        peer += ["--period", str(PERIOD)]
        ours = [sys.executable, __file__, "--measure", name, path]

        variants = {
            "entropax scan": ("scan", peer),
            "entropax step in a Python loop": ("loop", peer),
            f"entropax scan, {STREAMS} streams": ("streams", restarted),
        }
        once = ["--repeats", "0"]
        agreement: dict[str, dict[str, dict[str, float]]] = {"float64": {}, "float32": {}}
        for precision, flag in (("float64", ["--double"]), ("float32", [])):
            for side, (variant, reference) in variants.items():
                agreement[precision][side] = agree(
                    harness.run([*ours, variant, *once, *flag]),
                    harness.run([*reference, "--threads", "1", *once, *flag]),
                )
        for side, found in agreement["float64"].items():
            if found["same_steps"] < STEPS or found["deviation"] > 1e-8:
                raise RuntimeError(f"{side} and torch disagree on {name} in float64: {found}.")

        timed = ["--repeats", str(repeats)]
        sides = {side: [*ours, variant, *timed] for side, (variant, _) in variants.items()}
        sides["torch"] = [*peer, *timed]
        sides["torch, 1 thread"] = [*peer, *timed, "--threads", "1"]
        outputs = harness.interleave(sides, rounds=rounds)

    rows = {}
    for side, output in outputs.items():
        kept = {k: v for k, v in output[0].items() if k not in ("seconds", "selected", "affine")}
        rows[side] = {**harness.rates(output, count=STEPS), **kept}
        if side in variants:
            rows[side]["agreement"] = {p: found[side] for p, found in agreement.items()}
    best_peer = max(rows[side]["median"] for side in ("torch", "torch, 1 thread"))
    for row in rows.values():
        row["ratio"] = row["median"] / best_peer
    return {"selected_mean": float(np.mean(outputs["torch"][0]["selected"])), "sides": rows}


def table(results: dict[str, Any]) -> str:
    """Markdown: a row for each side of each network."""
    columns = "network", "side", "updates/s (quartiles)", "ratio", "compile s"
    columns += "deviation in float64", "in float32 (same steps)"
    rows = []
    for name, result in results.items():
        for side, row in result["sides"].items():
            spread = f"{row['median']:.0f} ({row['quartile_1']:.0f}-{row['quartile_3']:.0f})"
            cells = [name, side, spread, f"{row['ratio']:.2f}"]
            if "agreement" in row:
                found = row["agreement"]["float32"]
                cells += [
                    f"{row['compile_seconds']:.1f}",
                    f"{row['agreement']['float64']['deviation']:.0e}",
                    f"{found['deviation']:.0e} ({found['same_steps']})",
                ]
            rows.append(cells)
    return harness.markdown(columns, rows)


def main() -> None:
    parser = harness.arguments(__doc__, repeats=3, rounds=5, peer="torch")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--networks", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    parser.add_argument(
        "--measure", nargs=3, metavar=("NETWORK", "NPZ", "VARIANT"), help="one side"
    )
    parser.add_argument("--double", action="store_true", help="with --measure: in float64")
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(*options.measure, options.repeats, options.double)))
        return
    if not options.peer_python:
        parser.error("--peer-python is needed: the interpreter of an environment with torch.")
    results = {
        name: compare(name, options.peer_python, options.rounds, options.repeats, options.seed)
        for name in options.networks
    }
    print(table(results))
    print(f"Written to {harness.write('tta_stream', {'results': results})}")


if __name__ == "__main__":
    main()
