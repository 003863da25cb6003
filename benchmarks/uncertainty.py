"""Selective prediction, calibration, bootstrap and temperature, beside other implementations.

    python benchmarks/uncertainty.py --peer-python PATH/TO/peer-environment/bin/python

The peers are the published code of Galil et al. (2023) in our own words, scikit-learn,
torchmetrics, torch-uncertainty and torch. Every side is a process of its own on one and the same
core. Before any time is compared, all sides have to agree with the definitions in float64.
"""

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import harness
import jax
import jax.numpy as jnp
import jaxlib
import measure
import numpy as np

from entropax.uncertainty.accumulators import ranking_accumulator
from entropax.uncertainty.bootstrap import bootstrap, multiplicities
from entropax.uncertainty.calibration_error import calibration_error
from entropax.uncertainty.histogram import histogram_accumulator
from entropax.uncertainty.ordering import Ranking, rank
from entropax.uncertainty.risk_coverage import augrc, aurc
from entropax.uncertainty.roc import auroc
from entropax.uncertainty.selective import coverage_at_accuracy
from entropax.uncertainty.temperature import fit_temperature

PEERS = Path(__file__).parent / "peers"
N, NUM_BINS = 50_000, 15
ACCURACIES = (0.99, 0.98, 0.97, 0.96, 0.95, 0.9, 0.85)
REPLICATES, PEER_REPLICATES, CHECKED = 1000, 100, 20
STREAM_CLASSES, STREAM_BATCH = 1000, 1000
# float32, where torchmetrics adds up 50,000 numbers one by one. The trapezoidal rule leaves out
# half of the first and of the last rank.
LIMIT, TORCHMETRICS_LIMIT, TRAPEZOID_LIMIT = 2e-6, 2e-5, 1e-4
# The published fit stops 1 % before the optimum, where its float32 loss is flat.
TEMPERATURE_LIMITS = {"entropax": 2e-6, "torch LBFGS, strong Wolfe": 1e-3, "published": 2e-2}
LOSS_LIMIT = 1e-4
# Of a histogram: for a coverage there is no limit, the others are those of its docstring.
HISTOGRAM_LIMITS = {"sac": 1, "ece": 3e-4, "mce": 1e-2}


def predictions(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Confidences above 0.5, all different, and whether each prediction is correct."""
    rng = np.random.default_rng(seed)
    confidence = 0.5 + 0.5 / (1 + np.exp(-3 * rng.standard_normal(2 * N) - 2))
    confidence = rng.permutation(np.unique(confidence.astype(np.float32)))[:N]
    return confidence, rng.random(N) < confidence**2


def recipe() -> tuple[np.ndarray, np.ndarray]:
    """Logits of 5,000 examples and 1,000 classes that are too sharp by a factor of 1.7."""
    rng = np.random.Generator(np.random.PCG64(1106))
    n, c = 5000, 1000
    z = rng.standard_normal((n, c))
    favourite = rng.integers(0, c, n)
    z[np.arange(n), favourite] += 2 * (1 + rng.random(n))
    z = np.round(z * 1024) / 1024
    cumulated = np.cumsum(np.exp(z) / np.sum(np.exp(z), axis=1, keepdims=True), axis=1)
    cumulated[:, -1] = 1
    labels = np.sum(rng.random(n)[:, None] > cumulated, axis=1)
    return np.float32(np.round(z * 1.7 * 1024) / 1024), np.int32(labels)


def exact_metrics(confidence: np.ndarray, correct: np.ndarray) -> dict[str, float]:
    """From the definitions, in float64; no two confidences are equal."""
    wrong = 1 - correct[np.argsort(-confidence)].astype(float)
    errors, k, n = np.cumsum(wrong), np.arange(1, N + 1), N
    found = {
        "auroc": 1 - np.sum((1 - wrong) * errors) / (errors[-1] * (n - errors[-1])),
        "aurc": np.mean(errors / k),
        "augrc": np.mean(errors / n),
    }
    found["aurc_trapezoid"], found["augrc_trapezoid"] = found["aurc"], found["augrc"]
    for accuracy in ACCURACIES:
        # Percent, so that the comparison is one of whole numbers.
        met = 100 * errors <= round(100 - 100 * accuracy) * k
        found[f"sac_{accuracy}"] = np.max(k * met) / n
    bins = np.digitize(confidence, np.linspace(0, 1, NUM_BINS + 1)[1:-1], right=True)
    excess, count = (
        np.bincount(bins, weights, NUM_BINS) for weights in (confidence - 1.0 * correct, None)
    )
    found["ece"] = np.sum(np.abs(excess)) / n
    found["mce"] = np.max(np.abs(excess) / np.maximum(count, 1))
    return {name: float(value) for name, value in found.items()}


def exact_temperature(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Newton's method in float64."""
    z, b = logits.astype(np.float64), 1.0
    right = z[np.arange(len(z)), labels]
    for _ in range(20):
        e = np.exp(b * (z - z.max(axis=1, keepdims=True)))
        p = e / e.sum(axis=1, keepdims=True)
        mean = np.sum(p * z, axis=1)
        variance = np.sum(p * np.square(z - mean[:, None]), axis=1)
        b -= np.mean(mean - right) / np.mean(variance)
    log_norm = np.log(np.sum(np.exp(b * (z - z.max(axis=1, keepdims=True))), axis=1))
    loss = np.mean(log_norm + b * (z.max(axis=1) - right))
    return {"temperature": 1 / b, "loss": float(loss)}


def of_ranking(ranking: Ranking) -> dict[str, Any]:
    """All metrics from one sort."""
    found = {"auroc": auroc(ranking), "aurc": aurc(ranking), "augrc": augrc(ranking)}
    for accuracy in ACCURACIES:
        found[f"sac_{accuracy}"] = coverage_at_accuracy(ranking, accuracy=accuracy)
    for name, norm in (("ece", "l1"), ("mce", "max")):
        found[name] = calibration_error(ranking, num_bins=NUM_BINS, norm=norm)
    return found


BOOTSTRAPPED: dict[str, Callable[[Ranking], Any]] = {
    "bootstrap AUROC": lambda ranking: {"auroc": auroc(ranking)},
    "bootstrap AURC": lambda ranking: {"aurc": aurc(ranking)},
    "bootstrap both": lambda ranking: {"auroc": auroc(ranking), "aurc": aurc(ranking)},
}


def stderr_of_same_draws(key: jax.Array, ranking: Ranking, metric: Callable) -> dict[str, float]:
    """Standard deviation over the first draws, each computed from its rows in float64.

    Copies of a row are all correct or all wrong: no pair of both is tied.
    """
    found: dict[str, list[float]] = {}
    for each in jax.random.split(key, CHECKED):
        wrong = 1 - np.repeat(np.array(ranking.correct, float), np.array(multiplicities(each, N)))
        errors, k, total = np.cumsum(wrong), np.arange(1, N + 1), np.sum(wrong)
        area = 1 - np.sum((1 - wrong) * errors) / (total * (N - total))
        for name, value in (("auroc", area), ("aurc", np.mean(errors / k))):
            found.setdefault(name, []).append(float(value))
    return {name: float(np.std(found[name], ddof=1)) for name in metric(ranking)}


def batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """A stream of logits with labels."""
    rng = np.random.default_rng(0)
    for _ in range(N // STREAM_BATCH):
        logits = rng.standard_normal((STREAM_BATCH, STREAM_CLASSES), np.float32)
        labels = rng.integers(0, STREAM_CLASSES, STREAM_BATCH)
        logits[np.arange(STREAM_BATCH), labels] += rng.uniform(2, 8, STREAM_BATCH)
        yield logits, labels


@jax.jit
def scored(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jnp.max(jax.nn.softmax(logits), axis=-1), jnp.argmax(logits, axis=-1) == labels


def streamed(accumulator: Any) -> Callable[[], dict[str, Any]]:
    update = jax.jit(lambda state, *batch: accumulator.update(state, *scored(*batch)))
    finish = jax.jit(lambda state: of_ranking(accumulator.compute(state)))

    def run() -> dict[str, Any]:
        state = accumulator.init()
        for batch in batches():
            state = jax.block_until_ready(update(state, *batch))
        return finish(state)

    return run


def kept() -> Callable[[], dict[str, Any]]:
    """Logits in a list, and everything at the end."""
    finish = jax.jit(lambda logits, labels: of_ranking(rank(*scored(logits, labels))))

    def run() -> dict[str, Any]:
        logits, labels = zip(*batches(), strict=True)
        return finish(np.concatenate(logits), np.concatenate(labels))

    return run


def ours(what: str, npz: str) -> Callable[[], dict[str, Any]]:
    """The function of a side, compiled when it is called first.

    Raises:
      RuntimeError: the bootstrap differs from sorting what the same draws give.
    """
    if what.startswith("stream"):
        streams = {
            "stream, words": lambda: streamed(ranking_accumulator(N)),
            "stream, histogram": lambda: streamed(histogram_accumulator()),
            "stream, logits kept": kept,
        }
        return streams[what]()
    with np.load(npz, allow_pickle=False) as file:
        arrays = {name: jnp.asarray(file[name]) for name in file.files}
    jax.block_until_ready(arrays)
    if what == "temperature":
        fit = jax.jit(fit_temperature)

        def fitted() -> dict[str, Any]:
            scaling = fit(arrays["logits"], arrays["labels"])
            found = {"temperature": scaling.temperature, "loss": scaling.loss_after}
            return {**found, "num_steps": scaling.num_steps}

        return fitted
    confidence, correct = arrays["confidence"], arrays["correct"]
    if what == "metrics":
        compute = jax.jit(lambda confidence, correct: of_ranking(rank(confidence, correct)))
        return lambda: compute(confidence, correct)
    if what == "sort":
        words = jax.lax.bitcast_convert_type(confidence, jnp.uint32) << 1
        sort = jax.jit(lambda x: jax.lax.sort(x, is_stable=False))
        return lambda: {"first": jax.block_until_ready(sort(words))[0]}
    if what == "sort, NumPy":
        host = np.array(confidence).view(np.uint32) << 1
        return lambda: {"first": np.sort(host)[0]}
    key, metric = jax.random.key(0), BOOTSTRAPPED[what]
    ranking = jax.jit(rank)(confidence, correct)
    check = jax.jit(lambda r: bootstrap(key, metric, r, num_replicates=CHECKED).stderr)(ranking)
    expected = stderr_of_same_draws(key, ranking, metric)
    for name, value in expected.items():
        if not abs(float(check[name]) - value) <= LIMIT:
            raise RuntimeError(f"The same draws give {check[name]} and {value} for {name}.")
    run = jax.jit(lambda c, k: bootstrap(key, metric, rank(c, k), num_replicates=REPLICATES))

    def replicated() -> dict[str, Any]:
        found = run(confidence, correct)
        errors = {f"{name}_stderr": x for name, x in found.stderr.items()}
        return {**found.value, **errors}

    return replicated


def measure_ours(what: str, options: argparse.Namespace) -> dict[str, Any]:
    """One of our sides, in this process."""
    measure.limit(options)
    run = ours(what, options.npz)
    found, values = measure.calls(
        lambda: jax.block_until_ready(run()), repeats=options.repeats, seconds=options.seconds
    )
    versions = {module.__name__: module.__version__ for module in (jax, jaxlib, np)}
    values = {name: float(value) for name, value in values.items()}
    return {**found, "values": values, "versions": versions}


# What each side is compared with, and the words that follow the interpreter of the peers.
SUBJECTS: dict[str, dict[str, tuple[str, ...] | None]] = {
    "metrics": {
        "metrics": None,
        "sort": None,
        "sort, NumPy": None,
        "published": ("uncertainty_ranking.py", "published"),
        "scikit-learn": ("uncertainty_ranking.py", "scikit-learn"),
        "torchmetrics": ("uncertainty_ranking.py", "torchmetrics"),
        "torch-uncertainty": ("uncertainty_ranking.py", "torch-uncertainty"),
    },
    "bootstrap": {
        **dict.fromkeys(BOOTSTRAPPED),
        "resample and sort": ("uncertainty_ranking.py", "resample"),
    },
    "temperature": {
        "temperature": None,
        "published": ("uncertainty_temperature.py", "published"),
        "torch LBFGS, strong Wolfe": ("uncertainty_temperature.py", "wolfe"),
    },
    "memory": dict.fromkeys(("stream, words", "stream, histogram", "stream, logits kept")),
}
# The side that the ratios are to, and how much more it would have to do.
REFERENCE = {
    "metrics": ("published", 1),
    "bootstrap": ("resample and sort", REPLICATES / PEER_REPLICATES),
    "temperature": ("published", 1),
    "memory": ("stream, logits kept", 1),
}


def check(subject: str, side: str, found: Mapping[str, float], exact: Mapping[str, float]) -> None:
    """Compare what a side has computed with what it should have.

    Raises:
      RuntimeError: it is another number.
    """
    for name, value in found.items():
        if name not in exact:
            continue
        limit = TRAPEZOID_LIMIT if "trapezoid" in name else LIMIT
        if subject == "temperature":
            relative = TEMPERATURE_LIMITS.get(side, TEMPERATURE_LIMITS["entropax"])
            limit = LOSS_LIMIT if name == "loss" else relative * exact[name]
        elif name.endswith("_stderr"):
            # Other draws: four standard errors of a standard deviation of so few.
            limit = 4 * exact[name] / math.sqrt(2 * PEER_REPLICATES)
        elif side == "torchmetrics":
            limit = TORCHMETRICS_LIMIT
        elif side == "stream, histogram":
            limit = HISTOGRAM_LIMITS.get(name[:3], 1e-5)
        if not abs(value - exact[name]) <= limit:
            raise RuntimeError(
                f"{subject}, {side}: {name} is {value}, expected {exact[name]} up to {limit:.1e}."
            )


def compare(subject: str, options: argparse.Namespace) -> dict[str, Any]:
    """All sides of one subject, which have to agree."""
    exact: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        npz = str(Path(folder) / "data.npz")
        if subject == "temperature":
            logits, labels = recipe()
            np.savez(npz, logits=logits, labels=labels)
            exact = exact_temperature(logits, labels)
        elif subject != "memory":
            confidence, correct = predictions(options.seed)
            np.savez(npz, confidence=confidence, correct=correct)
            exact = exact_metrics(confidence, correct)
        limits = ["--seconds", str(options.seconds), "--time-limit", str(options.time_limit)]
        limits += ["--memory-limit", str(options.memory_limit), "--repeats", str(options.repeats)]
        commands = {}
        for side, peer in SUBJECTS[subject].items():
            if peer is None:
                words = [sys.executable, __file__, "--measure", side, "--npz", npz]
            else:
                words = [options.peer_python, str(PEERS / peer[0]), peer[1], npz]
            if side == "resample and sort":
                words += ["--num-replicates", str(PEER_REPLICATES)]
            commands[side] = harness.one_core([*words, *limits])
        outputs = harness.interleave(commands, rounds=options.rounds, slow=options.slow)
    if subject == "memory":
        exact = outputs["stream, logits kept"][0]["values"]
    if subject == "bootstrap":
        exact |= outputs["bootstrap both"][0]["values"]
    name, times = REFERENCE[subject]
    rows: dict[str, Any] = {side: harness.timings(output) for side, output in outputs.items()}
    for side, row in rows.items():
        row |= {key: outputs[side][0][key] for key in ("values", "versions")}
        check(subject, side, row["values"], exact)
        for clock in ("seconds", "cpu_seconds"):
            scale = 1 if side == name else times
            row[f"{clock}_ratio"] = scale * rows[name][clock]["median"] / row[clock]["median"]
    return {"exact": exact, "sides": rows}


def table(results: Mapping[str, dict[str, Any]]) -> str:
    """Markdown: a row for each side of each subject."""
    columns = "subject", "side", "ms (quartiles)", "CPU ms", "as fast (wall)", "as fast (CPU)"
    columns += "compile CPU s", "peak MB"
    rows = []
    for subject, result in results.items():
        for side, row in result["sides"].items():
            low, median, high = (
                1e3 * row["seconds"][k] for k in ("quartile_1", "median", "quartile_3")
            )
            rows.append(
                [
                    subject,
                    side,
                    f"{median:.3g} ({low:.3g}-{high:.3g})",
                    f"{1e3 * row['cpu_seconds']['median']:.3g}",
                    f"{row['seconds_ratio']:.1f}",
                    f"{row['cpu_seconds_ratio']:.1f}",
                    f"{row['compile_cpu_seconds']:.1f}",
                    f"{row['peak_bytes'] / 1e6:.1f}" if "peak_bytes" in row else "",
                ]
            )
    return harness.markdown(columns, rows)


def main() -> None:
    packages = "torch, torchmetrics, torch-uncertainty and scikit-learn"
    parser = harness.arguments(__doc__, repeats=15, rounds=2, peer=packages)
    parser.add_argument("--subjects", nargs="+", choices=SUBJECTS, default=list(SUBJECTS))
    parser.add_argument("--slow", type=float, default=5, help="one round for calls slower than it")
    parser.add_argument("--seed", type=int, default=0)
    measure.add_limits(parser)
    parser.add_argument("--measure", metavar="SIDE", help="one side")
    parser.add_argument("--npz", help="with --measure: where the data are")
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure_ours(options.measure, options)))
        return
    if not options.peer_python:
        parser.error(f"--peer-python is needed: an environment with {packages}.")
    path = harness.RESULTS / "uncertainty.json"
    # Subjects that were run before stay.
    results = json.loads(path.read_text())["results"] if path.exists() else {}
    for subject in options.subjects:
        results[subject] = compare(subject, options)
        path = harness.write("uncertainty", {"results": results})
    print(table({subject: results[subject] for subject in options.subjects}))
    print(f"Written to {path}")


if __name__ == "__main__":
    main()
