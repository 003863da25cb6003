"""Training of the entropy study's networks: many in one compiled program, or one step at a time.

    python benchmarks/ensemble_training.py

The network of `entropax.experiments.mnist_entropy` on 28x28 images: sets of 30, Adam 1e-3, batches
of 10, cross-entropy. The comparator is the same training as one would write it: the network with
linen's own convolution and pooling, a jitted step called from a Python loop, one network after the
other. Both sides have to come to the same weights before any time is compared.

A slice is timed and the whole study computed from it: 1,500 steps a network, and the evaluations of
either schedule (the study's: 2,000 test images at 17 epochs; that of the notebook it follows: 1,000
after each of 500 epochs).
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import flax
import flax.linen as nn
import harness
import jax
import jax.numpy as jnp
import numpy as np
import optax

from entropax import models

SIZE, BATCH, CLASSES, TEST = 30, 10, 10, 1000
NETWORKS, EPOCHS = 4, 30
STEPS = EPOCHS * SIZE // BATCH
# The study: steps a network, and test images seen a network, by this schedule and the notebook's.
STUDY_STEPS, STUDY_TESTED, NOTEBOOK_TESTED = 1500, 17 * 2000, 500 * 1000
TX = optax.adam(1e-3)


class Plain(nn.Module):
    """The same network with linen's convolution and pooling, as one would write it."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the logits `[b, 10]` of images `[b, 28, 28, 1]`."""
        normal = {"use_bias": False, "kernel_init": nn.initializers.normal(1.0)}
        for i, (width, fan_in) in enumerate(((32, 9), (64, 9 * 32))):
            x = nn.Conv(width, (3, 3), padding="VALID", **normal, name=f"conv{i}")(x / fan_in**0.5)
            x = nn.avg_pool(nn.relu(x), (2, 2), (2, 2))
        x = x.reshape(len(x), -1)
        x = nn.relu(nn.Dense(256, **normal, name="dense")(x / x.shape[-1] ** 0.5))
        return nn.Dense(CLASSES, **normal, name="head")(x / x.shape[-1] ** 0.5)


def problem() -> tuple[jax.Array, Any, jax.Array, jax.Array, jax.Array, jax.Array]:
    """Keys and parameters of the networks, their set of images, test images."""
    rng = np.random.default_rng(0)
    prototypes = rng.uniform(0, 1, (CLASSES, 28, 28, 1)) * (rng.uniform(size=(28, 28, 1)) < 0.3)
    labels = rng.integers(CLASSES, size=SIZE + TEST)
    images = np.clip(prototypes[labels] + rng.normal(0, 0.2, (SIZE + TEST, 28, 28, 1)), 0, 1)
    x, y = jnp.asarray(images, jnp.float32), jnp.asarray(labels)
    keys = jax.random.split(jax.random.key(0), NETWORKS)
    params = jax.vmap(lambda key: models.CNN(CLASSES).init(key, x[:1]))(keys)
    return keys, params, x[:SIZE], y[:SIZE], x[SIZE:], y[SIZE:]


def loss_of(module: nn.Module, params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
    logits = module.apply(params, x)
    return jnp.mean(optax.losses.softmax_cross_entropy_with_integer_labels(logits, y))


def step_of(module: nn.Module, params: Any, opt_state: Any, x: jax.Array, y: jax.Array) -> Any:
    grads = jax.grad(lambda params: loss_of(module, params, x, y))(params)
    updates, opt_state = TX.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state


def python_loop() -> Callable[[], Any]:
    """The comparator: one network after the other, one call a step."""
    keys, params, x, y, *_ = problem()
    step = jax.jit(
        lambda params, opt_state, rows: step_of(Plain(), params, opt_state, x[rows], y[rows])
    )
    order_of = jax.jit(lambda key, i: jax.random.permutation(jax.random.fold_in(key, i), SIZE))

    def run() -> Any:
        trained = []
        for i in range(NETWORKS):
            mine = jax.tree.map(lambda leaf, i=i: leaf[i], params)
            opt_state = TX.init(mine)
            for epoch in range(EPOCHS):
                for rows in np.asarray(order_of(keys[i], epoch)).reshape(-1, BATCH):
                    mine, opt_state = step(mine, opt_state, rows)
            trained.append(mine)
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trained)

    return run


def ensemble(module: nn.Module, at_once: int, threads: int = 1) -> Callable[[], Any]:
    """Our side, or the comparator's network inside of it."""
    keys, params, x, y, *_ = problem()
    trainer = models.ensemble_trainer(module.apply, TX, batch_size=BATCH, at_once=at_once)
    everyone = jnp.broadcast_to(x, (NETWORKS, *x.shape)), jnp.broadcast_to(y, (NETWORKS, SIZE))
    start = trainer.init(keys, params)
    advance = jax.jit(trainer.advance).lower(start, *everyone, EPOCHS).compile()

    def one() -> Any:
        return jax.block_until_ready(advance(start, *everyone, EPOCHS).params)

    def run() -> Any:
        with ThreadPoolExecutor(threads) as pool:
            trained = [pool.submit(one) for _ in range(threads)]
            return [future.result() for future in trained][-1]

    return run


def evaluation(module: nn.Module, whole: bool) -> Callable[[], Any]:
    """Losses and accuracies of all networks on the test images."""
    _, params, _, _, x, y = problem()
    if not whole:
        evaluate = jax.jit(lambda params: models.evaluate_ensemble(module.apply, params, x, y))
        return lambda: evaluate(params)

    @jax.jit
    def of_one(params: Any) -> Any:
        logits = module.apply(params, x)
        losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, y)
        return jnp.mean(losses), jnp.mean(jnp.argmax(logits, axis=-1) == y)

    def run() -> Any:
        each = [jax.tree.map(lambda leaf, i=i: leaf[i], params) for i in range(NETWORKS)]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(of_one, each))

    return run


SIDES: dict[str, Callable[[], Callable[[], Any]]] = {
    "step in a Python loop": python_loop,
    "the same network in a scan": lambda: ensemble(Plain(), 1),
    "entropax": lambda: ensemble(models.CNN(CLASSES), 1),
    "entropax, 2 threads": lambda: ensemble(models.CNN(CLASSES), 1, threads=2),
    f"entropax, {NETWORKS} side by side": lambda: ensemble(models.CNN(CLASSES), NETWORKS),
    "test: all images in one call": lambda: evaluation(Plain(), whole=True),
    "test: entropax": lambda: evaluation(
        models.CNN(CLASSES, convolution=jax.lax.conv_general_dilated), whole=False
    ),
}


def measure(side: str, repeats: int) -> dict[str, Any]:
    """Wall and process time of a side; networks and threads are counted by whoever asks."""
    start = time.perf_counter()
    run = SIDES[side]()
    result = jax.block_until_ready(run())
    first = time.perf_counter() - start
    seconds, core_seconds = [], []
    for _ in range(repeats):
        wall, core = time.perf_counter(), time.process_time()
        jax.block_until_ready(run())
        seconds.append(time.perf_counter() - wall)
        core_seconds.append(time.process_time() - core)
    return {
        "seconds": seconds,
        "core_seconds": core_seconds,
        "first_seconds": first,
        "result": seen(side, result),
        "versions": {module.__name__: module.__version__ for module in (jax, flax, optax, np)},
    }


def seen(side: str, result: Any) -> list[float]:
    """What two sides have to agree on: losses and accuracies, or what training has changed.

    That is the logits of trained networks on test images, less those of the untrained ones.
    """
    if side.startswith("test"):
        return np.ravel(result).tolist()
    _, params, _, _, x, _ = problem()
    logits = jax.jit(jax.vmap(lambda params: Plain().apply(params, x[:100])))
    return np.ravel(logits(result) - logits(params)).tolist()


def deviation(result: list[float], reference: list[float]) -> float:
    """Root mean square of the difference, as a share of that of the reference."""
    difference = np.subtract(result, reference)
    return float(np.linalg.norm(difference) / np.linalg.norm(reference))


def compare(rounds: int, repeats: int) -> dict[str, Any]:
    """All sides.

    Raises:
      RuntimeError: two sides do not compute the same thing.
    """
    commands = {
        side: [sys.executable, __file__, "--measure", side, "--repeats", str(repeats)]
        for side in SIDES
    }
    outputs = harness.interleave(commands, rounds=rounds)
    rows = {}
    for side, output in outputs.items():
        tested = side.startswith("test")
        reference = "test: all images in one call" if tested else "step in a Python loop"
        differs = deviation(output[0]["result"], outputs[reference][0]["result"])
        if not differs < 1e-2:  # rounding, after 90 steps of Adam
            raise RuntimeError(f"{side} and {reference} disagree by {differs:.1e}.")
        units = NETWORKS * (1 if tested else STEPS) * (2 if "2 threads" in side else 1)
        rows[side] = {
            f"{name}_ms": 1e3 * statistics.median(s for o in output for s in o[seconds]) / units
            for name, seconds in (("wall", "seconds"), ("core", "core_seconds"))
        } | {
            "core": harness.quartiles([s / units for o in output for s in o["core_seconds"]]),
            "deviation": differs,
            "first_seconds": statistics.median(o["first_seconds"] for o in output),
            "samples": sum(len(o["seconds"]) for o in output),
        }
    return {"sides": rows, "versions": outputs["entropax"][0]["versions"]}


def whole_network(sides: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Seconds of one network of the study, kernels left out, computed from the slices."""

    def total(training: str, testing: str, tested: int, clock: str) -> float:
        steps = STUDY_STEPS * sides[training][clock]
        return (steps + tested / TEST * sides[testing][clock]) / 1e3

    loop, plain = "step in a Python loop", "test: all images in one call"
    return {
        name: {clock: total(*parts, f"{clock}_ms") for clock in ("core", "wall")}
        for name, parts in {
            "loop, tested every epoch": (loop, plain, NOTEBOOK_TESTED),
            "loop, tested at 17 epochs": (loop, plain, STUDY_TESTED),
            "entropax, tested at 17 epochs": ("entropax", "test: entropax", STUDY_TESTED),
        }.items()
    }


def table(results: dict[str, Any]) -> str:
    """Markdown: a row for each side, and one for each way through the study."""
    sides = results["sides"]
    rows = []
    for side, row in sides.items():
        reference = sides[
            "test: all images in one call" if side.startswith("test") else "step in a Python loop"
        ]
        cells = [side]
        for clock in ("core_ms", "wall_ms"):
            cells += [f"{row[clock]:.2f}", f"{reference[clock] / row[clock]:.2f}"]
        rows.append(cells)
    slowest = results["study"]["loop, tested every epoch"]
    study = [
        [name, f"{row['core']:.1f}", f"{slowest['core'] / row['core']:.1f}", f"{row['wall']:.1f}"]
        for name, row in results["study"].items()
    ]
    one_step = harness.markdown(("side", "core ms", "ratio", "wall ms", "ratio"), rows)
    whole = harness.markdown(("one network of the study", "core s", "ratio", "wall s"), study)
    return f"{one_step}\n\n{whole}"


def main() -> None:
    parser = harness.arguments(__doc__, repeats=3, rounds=3)
    parser.add_argument("--measure", choices=SIDES, help="one side")
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.repeats)))
        return
    results = compare(options.rounds, options.repeats)
    results["study"] = whole_network(results["sides"])
    print(table(results))
    print(f"Written to {harness.write('ensemble_training', results)}")


if __name__ == "__main__":
    main()
