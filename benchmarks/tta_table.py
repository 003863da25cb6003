"""A whole table of corruptions in one compiled call, against the published flow split by split.

    python benchmarks/tta_table.py --data-dir PREPARED --peer-python PEER_PYTHON

19 corruptions of MNIST at five severities, three trained networks: 285 times RDumb adapts to a
split, label flips are counted, and accuracies are measured. Our side gets all images at once and
returns the table. The torch sides do a few splits of one network, and their times are scaled up:
once with the images in memory, in one process, and once as the published code is used, a process a
split that reads image files. Before any time is compared, both have to come in float64 to the same
table row by the same number of selected examples at every step.
"""

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax
import harness
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from entropax import data, models, tta
from entropax.data import corruptions
from entropax.types import Batch, Variables

NETWORKS, CLASSES, BATCH, HELD_BATCH, HELD = 3, 10, 64, 100, 1000
PERIOD, LEARNING_RATE, MOMENTUM = 1000, 5e-3, 0.9
LIMITS = tta.Limits.scaled(CLASSES)
MODULE = models.ConvNet(CLASSES)
TRAINING_IMAGES, EPOCHS = 20_000, 2
SEVERITIES = (1, 2, 3, 4, 5)
AGREED = 33  # the split by which agreement is decided
PEER = Path(__file__).parent / "peers" / "torch_table.py"


class Row(NamedTuple):
    """What one network shows on one split.

    Attributes:
      source: accuracy with running statistics, on all images.
      before: accuracy on the held images with batch statistics.
      adapted: the same after the last step.
      weighted: weighted flip rate.
      unweighted: share of labels that flipped.
      selected: `[t]` examples that each step learnt from.
      affine: the adapted scales and shifts.
    """

    source: jax.Array
    before: jax.Array
    adapted: jax.Array
    weighted: jax.Array
    unweighted: jax.Array
    selected: jax.Array
    affine: jax.Array


def splits() -> list[tuple[str, int]]:
    test, calibration = corruptions.families(channels=1)
    return [(name, severity) for name in (*calibration, *test) for severity in SEVERITIES]


def prepare(folder: Path, data_dir: Path, images: int, steps: int) -> None:
    """Train the networks and corrupt the images, to a file a network and one for the rest."""
    train = data.load("mnist", "train", data_dir=data_dir)
    test = data.load("mnist", "test", data_dir=data_dir)
    rng = np.random.default_rng(0)
    passes = -(-steps // (images // BATCH))
    for seed in range(NETWORKS):
        chosen = rng.permutation(len(train))[:TRAINING_IMAGES]
        trained = models.fit_classifier(
            jax.random.key(seed), MODULE, train.images[chosen], train.labels[chosen], epochs=EPOCHS
        )
        # The published loader: shuffled passes, of which an incomplete last batch is dropped.
        order = [rng.permutation(images)[: images // BATCH * BATCH] for _ in range(passes)]
        arrays = arrays_of(trained) | {
            "stream": np.concatenate(order).reshape(-1, BATCH)[:steps].astype(np.int32),
            "held": rng.permutation(images)[:HELD].reshape(-1, HELD_BATCH).astype(np.int32),
        }
        np.savez(folder / f"network{seed}.npz", **arrays)
    rows = rng.permutation(len(test))[:images]
    corrupted = [
        corruptions.corrupt(test.images[rows], name, severity, seed=i)
        for i, (name, severity) in enumerate(splits())
    ]
    np.savez(folder / "images.npz", images=np.stack(corrupted), labels=test.labels[rows])


def arrays_of(variables: Variables) -> dict[str, Any]:
    """Plain arrays by name, as `torch_tta.network` takes them, and running statistics."""
    params, stats = jax.tree.map(np.asarray, (variables["params"], variables["batch_stats"]))
    arrays: dict[str, Any] = {
        "head_kernel": params["head"]["kernel"],
        "head_bias": params["head"]["bias"],
        "strides": np.array([2] * len(MODULE.features)),
        "pooled": False,
        "mirror": True,
    }
    for i in range(len(MODULE.features)):
        arrays[f"kernel{i}"] = params[f"conv{i}"]["kernel"]
        arrays[f"scale{i}"], arrays[f"shift{i}"] = (
            params[f"norm{i}"][name] for name in ("scale", "bias")
        )
        arrays[f"mean{i}"], arrays[f"var{i}"] = (
            stats[f"norm{i}"][name] for name in ("mean", "var")
        )
    return arrays


def variables_of(arrays: dict[str, np.ndarray]) -> Variables:
    params: dict[str, Any] = {
        "head": {"kernel": arrays["head_kernel"], "bias": arrays["head_bias"]}
    }
    stats = {}
    for i in range(len(MODULE.features)):
        params[f"conv{i}"] = {"kernel": arrays[f"kernel{i}"]}
        params[f"norm{i}"] = {"scale": arrays[f"scale{i}"], "bias": arrays[f"shift{i}"]}
        stats[f"norm{i}"] = {"mean": arrays[f"mean{i}"], "var": arrays[f"var{i}"]}
    return jax.tree.map(lambda a: jnp.asarray(a, float), {"params": params, "batch_stats": stats})


def row(
    images: jax.Array, labels: jax.Array, variables: Variables, stream: jax.Array, held: jax.Array
) -> Row:
    """Adapt one network to one split; images are made floats a batch at a time."""

    def batches(rows: jax.Array) -> Batch:
        return Batch(rows, jnp.ones(rows.shape, bool))

    def as_float(rows: jax.Array) -> jax.Array:
        return images[rows].astype(float) / 255

    adapter = tta.map_inputs(
        tta.rdumb(
            models.batch_statistics(MODULE),
            optax.sgd(LEARNING_RATE, momentum=MOMENTUM),
            num_classes=CLASSES,
            period=PERIOD,
            limits=LIMITS,
        ),
        as_float,
    )
    source_fn = models.running_statistics(MODULE)
    predicted = jax.lax.map(
        lambda rows: jnp.argmax(source_fn(variables, as_float(rows)), axis=-1),
        jnp.arange(len(images)).reshape(-1, BATCH),
    )
    state, flips = tta.count_flips(adapter, adapter.init(variables), batches(stream), batches(held))
    truth, params = labels[held.ravel()], state.variables["params"]
    affine = [
        params[f"norm{i}"][kind] for i in range(len(MODULE.features)) for kind in ("scale", "bias")
    ]
    return Row(
        source=jnp.mean(predicted.ravel() == labels, dtype=float),
        before=jnp.mean(flips.labels0 == truth, dtype=float),
        adapted=jnp.mean(flips.labels[-1] == truth, dtype=float),
        weighted=flips.weighted[-1],
        unweighted=flips.unweighted[-1],
        selected=flips.selected,
        affine=jnp.concatenate(affine),
    )


def table(
    images: jax.Array, labels: jax.Array, variables: Variables, stream: jax.Array, held: jax.Array
) -> Row:
    """All networks on all splits: rows `[splits, networks]`."""

    def networks(images: jax.Array) -> Row:
        return jax.lax.map(lambda network: row(images, labels, *network), (variables, stream, held))

    return jax.lax.map(networks, images)


def measure(
    folder: Path, chosen: Sequence[int] | None, networks: int, devices: int, steps: int
) -> dict[str, Any]:
    """Our side: the table, or some of its rows; each device takes a share of the splits."""
    with np.load(folder / "images.npz", allow_pickle=False) as file:
        images, labels = file["images"], file["labels"]
    loaded = []
    for seed in range(networks):
        with np.load(folder / f"network{seed}.npz", allow_pickle=False) as file:
            loaded.append(dict(file))
    if (there := len(loaded[0]["stream"])) < steps:
        raise ValueError(f"{folder} was prepared for {there} steps, not for {steps}.")
    images = images if chosen is None else images[list(chosen)]
    count = len(images)
    # As many splits for every device; what is repeated is done, timed, and thrown away.
    images = np.concatenate([images, np.repeat(images[-1:], -count % devices, axis=0)])
    variables = jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(variables_of, loaded))
    stream, held = (jnp.stack([network[name] for network in loaded]) for name in ("stream", "held"))

    mesh = Mesh(np.array(jax.devices()[:devices]), ("splits",))
    shared, own = PartitionSpec(), PartitionSpec("splits")
    places = [NamedSharding(mesh, spec) for spec in (own, shared, shared, shared, shared)]
    arguments = jax.device_put((images, labels, variables, stream[:, :steps], held), tuple(places))
    sharded = jax.shard_map(
        table, mesh=mesh, in_specs=(own, *[shared] * 4), out_specs=own, check_vma=False
    )
    start = time.perf_counter(), time.process_time()
    compiled = jax.jit(sharded).lower(*arguments).compile()
    middle = time.perf_counter(), time.process_time()
    rows = jax.block_until_ready(compiled(*arguments))
    end = time.perf_counter(), time.process_time()
    return {
        "compile_seconds": middle[0] - start[0],
        "compile_cpu_seconds": middle[1] - start[1],
        "seconds": end[0] - middle[0],
        "cpu_seconds": end[1] - middle[1],
        "versions": {module.__name__: module.__version__ for module in (jax, flax, optax, np)},
        "rows": jax.tree.map(lambda a: np.asarray(a)[:count].tolist(), rows)._asdict(),
    }


def timed(command: Sequence[str]) -> dict[str, Any]:
    """What a command says, and the wall and CPU seconds of it and of the processes it starts."""
    used, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    found = harness.run(command)
    found["process_seconds"] = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    found["process_cpu_seconds"] = after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime
    return found


def agree(ours: dict[str, Any], peer: dict[str, Any]) -> dict[str, float]:
    """The largest differences of two sides' rows of the same splits of the first network."""
    rows = {name: np.array(value)[:, 0] for name, value in ours["rows"].items()}
    different = {
        name: float(np.max(np.abs(value - np.array(peer["rows"][name]))))
        for name, value in rows.items()
        if name != "selected"
    }
    same = np.array(peer["rows"]["selected"]) == rows["selected"]
    return {**different, "steps_that_select_as_many": float(np.mean(same))}


def write_files(folder: Path, chosen: Sequence[int]) -> None:
    """Image files in a folder a class, as the published code reads them."""
    from PIL import Image

    with np.load(folder / "images.npz", allow_pickle=False) as file:
        images, labels = file["images"][list(chosen)], file["labels"]
    for split, pictures in zip(chosen, images, strict=True):
        for i, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
            path = folder / f"split{split}" / str(label) / f"{i:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture[..., 0]).save(path)


def compare(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Agreement, then times: the peers' slices before and after the table.

    Raises:
      RuntimeError: the two sides do not compute the same thing.
    """
    count = len(splits())
    chosen = np.linspace(0, count - 1, options.slice).astype(int).tolist()
    write_files(folder, chosen)
    ours = [sys.executable, __file__, "--measure", str(folder), "--steps", str(options.steps)]
    peer = [options.peer_python, str(PEER), str(folder / "network0.npz")]
    settings = {
        "--learning-rate": LEARNING_RATE,
        "--momentum": MOMENTUM,
        "--period": PERIOD,
        "--entropy-limit": LIMITS.entropy,
        "--cosine-limit": LIMITS.cosine,
        "--steps": options.steps,
    }
    peer += [str(word) for option in settings.items() for word in option]
    in_memory = [*peer, "--images", str(folder / "images.npz"), "--splits"]
    double = agree(
        harness.run([*ours, "--double", "--networks", "1", "--splits", str(AGREED)]),
        harness.run([*in_memory, str(AGREED), "--double"]),
    )
    exact = [v for name, v in double.items() if name != "steps_that_select_as_many"]
    if max(exact) > 1e-8 or double["steps_that_select_as_many"] < 1:
        raise RuntimeError(f"The sides disagree in float64: {double}.")

    memory_side = [*in_memory, *map(str, chosen)]
    sides: dict[str, list[list[str]]] = {"torch, images in memory": [memory_side]}
    for workers in options.workers:
        sides[f"torch, a process a split, image files, {workers} loader workers"] = [
            [*peer, "--files", str(folder / f"split{split}"), "--workers", str(workers)]
            for split in chosen
        ]
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    for turn in range(options.rounds):
        for name, commands in sides.items():
            found[name].append(_sum([timed(command) for command in commands]))
        if turn == 0:
            whole = timed([*ours, "--devices", str(options.devices)])
    kept = [key for key in whole if key != "rows"]
    results = {
        "splits": count,
        "networks": NETWORKS,
        "sliced": len(chosen),
        "float64": double,
        "entropax": {key: whole[key] for key in kept},
        "table": {k: v for k, v in whole["rows"].items() if k not in ("selected", "affine")},
    }
    some = {name: np.array(value)[chosen] for name, value in whole["rows"].items()}
    first = found["torch, images in memory"][0]
    results["float32"] = agree({"rows": some}, first)
    scale = count * NETWORKS / len(chosen)
    for name, turns in found.items():
        # A process that does all splits starts once: its beginning is not to be scaled up.
        clocks = [key for key in turns[0] if key in ("seconds", "cpu_seconds")]
        clocks = clocks or [key for key in turns[0] if key.startswith("process")]
        results[name] = {key: scale * float(np.median([t[key] for t in turns])) for key in clocks}
    return results


def _sum(parts: list[dict[str, Any]]) -> dict[str, Any]:
    summed = {key: sum(part[key] for part in parts) for key in parts[0] if key.endswith("seconds")}
    return summed | {key: parts[0][key] for key in parts[0] if key not in summed}


def markdown(results: dict[str, Any]) -> str:
    """A row a side: the work alone, and whole processes with imports, loading and compilation."""
    ours = results["entropax"]
    clocks = ("seconds", "cpu_seconds", "process_seconds", "process_cpu_seconds")
    rows = []
    for name, side in results.items():
        if name == "entropax" or name.startswith("torch"):
            cells = [
                f"{side[clock]:.0f} ({side[clock] / ours[clock]:.1f})" if clock in side else ""
                for clock in clocks
            ]
            rows.append([name, *cells])
    columns = ["side", "s", "CPU s", "s, whole processes", "CPU s, whole processes"]
    return harness.markdown(columns, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer-python", help="interpreter of an environment with torch, pillow")
    parser.add_argument("--data-dir", type=Path, help="where MNIST is prepared")
    parser.add_argument("--images", type=int, default=1024, help="of a split, a multiple of 64")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--slice", type=int, default=3, help="splits that the peers do")
    parser.add_argument("--rounds", type=int, default=2, help="of the peers")
    parser.add_argument("--workers", type=int, nargs="+", default=[4, 0], help="published: 4")
    parser.add_argument("--devices", type=int, default=os.cpu_count(), help="to share the splits")
    parser.add_argument("--folder", type=Path, help="keep networks and images, or find them there")
    parser.add_argument("--measure", type=Path, metavar="FOLDER", help="our side alone")
    parser.add_argument("--double", action="store_true", help="with --measure: in float64")
    parser.add_argument("--networks", type=int, default=NETWORKS, help="with --measure")
    parser.add_argument("--splits", type=int, nargs="+", help="with --measure: some of them")
    options = parser.parse_args()
    if options.measure:
        jax.config.update("jax_enable_x64", options.double)
        devices = 1 if options.splits else options.devices
        jax.config.update("jax_num_cpu_devices", devices)
        sizes = options.networks, devices, options.steps
        print(json.dumps(measure(options.measure, options.splits, *sizes)))
        return
    if not options.peer_python:
        parser.error("--peer-python is needed: the interpreter of an environment with torch.")
    if options.images < HELD or options.images % BATCH:
        parser.error(f"--images must be a multiple of {BATCH}, at least {HELD}.")
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        if not (folder / "images.npz").exists():
            folder.mkdir(exist_ok=True)
            prepare(folder, options.data_dir, options.images, options.steps)
        results = compare(folder, options)
    settings = {"images": options.images, "steps": options.steps, "devices": options.devices}
    print(harness.write("tta_table", {"settings": settings, "results": results}))
    print(markdown(results))


if __name__ == "__main__":
    main()
