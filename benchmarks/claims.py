"""What the project claims about its speed and memory: one record a figure, with its peer and floor.

Each benchmark has results of its own shape; the functions here read the claims from them. A claim
is a plain dictionary, kept under `claims` in the results:

- `name`, unique, and `area`;
- `unit`: "s", "bytes", or "kills survived", of which more are better;
- `clock`: "cpu", seconds of all threads, or "wall";
- `ours` and `theirs`: median, quartiles and number of samples; `peer`: whose `theirs` are;
- `ratio`: how many times as good as the peer we are;
- `first`: seconds by the clock to the first result, compilation included, None where it was not
  measured;
- `work`, `floor`, `bound` and `fraction`: see `floors`; or `no_floor`, the reason.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import floors
from floors import Rates, Work

Results = Mapping[str, Any]
Quartiles = Mapping[str, float]


def of(subject: str, content: Results, rates: Mapping[str, Rates]) -> list[dict[str, Any]]:
    """The claims that the results of a benchmark support.

    Args:
      subject: name of the results file, without its ending.
      content: what the benchmark found.
      rates: of one core under "cpu", of all under "wall".
    """
    return [with_floor(claim, rates) for claim in SUBJECTS[_name(subject)](content)]


def known(subject: str) -> bool:
    """Whether the results of this name claim anything."""
    return _name(subject) in SUBJECTS


def _name(subject: str) -> str:
    """Results of one benchmark at several sizes end in the size."""
    return re.sub(r"_\d+$", "", subject)


def single(value: float) -> dict[str, float]:
    """Quartiles of which nothing but the middle is known."""
    return {"median": value, "quartile_1": value, "quartile_3": value, "samples": 1}


def scaled(found: Quartiles, factor: float) -> dict[str, float]:
    kept = {name: factor * found[name] for name in ("median", "quartile_1", "quartile_3")}
    return {**kept, "samples": found["samples"]}


def _seconds_from_rates(found: Quartiles) -> dict[str, float]:
    """Seconds from so many a second: the quartiles change places."""
    low, high = 1 / found["quartile_3"], 1 / found["quartile_1"]
    return {
        "median": 1 / found["median"],
        "quartile_1": low,
        "quartile_3": high,
        "samples": found["samples"],
    }


def _ratio(ours: float, theirs: float, unit: str) -> float | None:
    """How many times as good ours is; None beside a peer whose value is nothing at all."""
    more, less = (ours, theirs) if unit == "kills survived" else (theirs, ours)
    return more / less if less else None


def claim(
    area: str,
    name: str,
    ours: Quartiles,
    theirs: Quartiles | None,
    peer: str | None,
    *,
    work: Work | None = None,
    no_floor: str | None = None,
    first: float | None = None,
    clock: str = "cpu",
    unit: str = "s",
) -> dict[str, Any]:
    ratio = None if theirs is None else _ratio(ours["median"], theirs["median"], unit)
    return {
        "area": area,
        "name": name,
        "unit": unit,
        "clock": clock,
        "ours": dict(ours),
        "theirs": None if theirs is None else dict(theirs),
        "peer": peer,
        "ratio": ratio,
        "first": first,
        "work": None if work is None else {k: v for k, v in work._asdict().items() if v},
        "no_floor": no_floor,
    }


def with_floor(claim: dict[str, Any], rates: Mapping[str, Rates]) -> dict[str, Any]:
    if claim["work"] is None:
        return {**claim, "floor": None, "bound": None, "fraction": None}
    if claim["unit"] == "bytes":
        seconds, bound = claim["work"]["bytes"], "what has to be held"
    else:
        seconds, bound = floors.floor(Work(**claim["work"]), rates[claim["clock"]])
    return {
        **claim,
        "floor": seconds,
        "bound": bound,
        "fraction": seconds / claim["ours"]["median"],
    }


def _first(row: Results) -> float:
    """Seconds by the clock to the first result of a side of `harness.timings`."""
    return row["compile_seconds"] + row["seconds"]["median"]


def tta_stream(content: Results) -> Iterator[dict[str, Any]]:
    """Seconds of an update."""
    layers = {"digits": floors.digits_layers(), "convnet": floors.convnet_layers()}
    for network, result in content["results"].items():
        sides = result["sides"]
        peer = max(("torch", "torch, 1 thread"), key=lambda side: sides[side]["median"])
        for side in ("entropax scan", "entropax step in a Python loop"):
            steps = floors.adaptation_flops(layers[network], 64)
            yield claim(
                "Adaptation",
                f"an update of the {network} network, {side.removeprefix('entropax ')}",
                _seconds_from_rates(sides[side]),
                _seconds_from_rates(sides[peer]),
                peer,
                work=Work(flops=steps),
                first=sides[side]["compile_seconds"] + 1 / sides[side]["median"],
                clock="wall",
            )


def tta_table(content: Results) -> Iterator[dict[str, Any]]:
    """CPU seconds of the whole table."""
    found, settings = content["results"], content["settings"]
    layers, images = floors.convnet_layers(), settings["images"]
    row = settings["steps"] * floors.adaptation_flops(layers, 64)
    row += floors.forward_flops(layers, images + 2 * 1000)  # all images once, the held ones twice
    work = Work(flops=found["splits"] * found["networks"] * row)
    peers = {
        "torch, images in memory": ("the call", "cpu_seconds"),
        "torch, a process a split, image files, 4 loader workers": (
            "the process",
            "process_cpu_seconds",
        ),
    }
    mine = found["entropax"]
    for peer, (what, clock) in peers.items():
        yield claim(
            "Adaptation",
            f"285 runs of 60 updates, {what}",
            single(mine[clock]),
            single(found[peer][clock]),
            peer,
            work=work,
            first=mine["compile_seconds"] + mine["seconds"],
        )


def resnet50_step(content: Results) -> Iterator[dict[str, Any]]:
    """CPU seconds of a call, against the faster of torch's layouts."""
    n, layers = content["batch_size"], floors.resnet50_layers(content["side"])
    works = {
        "forward": Work(floors.forward_flops(layers, n), bytes=floors.forward_bytes(layers, n)),
        "step": Work(floors.adaptation_flops(layers, n), bytes=floors.adaptation_bytes(layers, n)),
    }
    for what, rows in content["results"]["resnet50"]["rows"].items():
        for peer in ("torch", "torch, channels last"):
            yield claim(
                "Adaptation",
                f"ResNet-50, {what}, {n} images, beside {peer}",
                rows["entropax"]["cpu_seconds"],
                rows[peer]["cpu_seconds"],
                peer,
                work=works[what],
                first=_first(rows["entropax"]),
            )


def ntk(content: Results) -> Iterator[dict[str, Any]]:
    """CPU seconds of a kernel, against the best of neural-tangents."""
    for subject, result in content["results"].items():
        sides = result["sides"]
        peers = [s for s in sides if s.startswith("neural-tangents") and "seconds" in sides[s]]
        peers = [side for side in peers if not side.endswith("by the bridge")]
        peer = min(peers, key=lambda side: sides[side]["cpu_seconds"]["median"])
        mine = sides["entropax structured"]
        yield claim(
            "Kernels",
            f"tangent kernel, {subject}",
            mine["cpu_seconds"],
            sides[peer]["cpu_seconds"],
            peer,
            work=Work(flops=sum(result["floor"]["operations"].values())),
            first=_first(mine),
        )


def selection(content: Results) -> Iterator[dict[str, Any]]:
    """CPU seconds of greedy selection, against the random sets that it replaces."""
    settings = content["settings"]

    def measured(row: Results) -> Quartiles:
        return row.get("cpu_seconds") or single(row["seconds"])

    for pool, rows, size, peer in (
        (settings["pool"], content["small"], settings["size"], "best of 3,000"),
        (settings["large_pool"], content["large"], settings["size"], "best of 10,000"),
    ):
        # The first network, the first size.
        found: dict[str, Results] = {}
        for row in rows:
            found.setdefault(row["method"], row)
        for method in ("greedy, order 1", "greedy, order 2"):
            work = floors.greedy_work(pool, size, by_spectrum=method == "greedy, order 1")
            yield claim(
                "Selection",
                f"{size} of {pool:,} digits, {method}",
                measured(found[method]),
                measured(found[peer]),
                f"{peer} random sets, whose entropy is lower",
                work=work,
                no_floor=None if work else "no products, and a kernel that fits the caches",
                first=found[method].get("first_seconds"),
                clock="cpu" if "cpu_seconds" in found[method] else "wall",
            )


def ensemble_training(content: Results) -> Iterator[dict[str, Any]]:
    """CPU seconds of an Adam step."""
    sides = content["sides"]

    def measured(side: str) -> Quartiles:
        return sides[side].get("core") or single(sides[side]["core_ms"] / 1e3)

    yield claim(
        "Training",
        "an Adam step of 10 images, one network at a time",
        measured("entropax"),
        measured("step in a Python loop"),
        "linen in a Python loop",
        work=Work(flops=floors.training_flops(floors.cnn_layers(), 10)),
        first=sides["entropax"]["first_seconds"],
    )
    study = content["study"]
    yield claim(
        "Training",
        "one network of the entropy study, computed from slices",
        single(study["entropax, tested at 17 epochs"]["core"]),
        single(study["loop, tested every epoch"]["core"]),
        "linen in a Python loop, tested after every epoch",
        no_floor="computed, not timed",
    )


def diffusion(content: Results) -> Iterator[dict[str, Any]]:
    """CPU seconds of entropies and of mutual information."""
    for result in content["results"].values():
        n, d, sides = result["n"], result["d"], result["sides"]
        if result["subject"] == "entropy":
            works = {
                "exact, float64": floors.exact_entropy_work(n, d, double=True),
                "exact, float32": floors.exact_entropy_work(n, d),
            }
            for name, stored in (("quadrature", True), ("quadrature, matrix-free", False)):
                deflated = min(32, n // 4)
                works[name] = floors.quadrature_work(
                    n, d, columns=32 + deflated, steps=16, stored=stored
                )
            what = f"entropy of {n:,} x {d}"
        else:
            size = n // 10
            works = {
                "subsets of the peer, float64": floors.information_work(15, size, d, double=True),
                "subsets of the peer, float32": floors.information_work(15, size, d),
                "permuted labels, float32": floors.information_work(60, size, d),
            }
            what = f"mutual information of {n:,} x {d}"
        for side, work in works.items():
            yield claim(
                "Diffusion",
                f"{what}, {side}",
                sides[side]["cpu_seconds"],
                sides["dse-dsmi, t = 1"]["cpu_seconds"],
                "dse-dsmi",
                work=work,
                first=_first(sides[side]),
            )


def diffusion_large(content: Results) -> Iterator[dict[str, Any]]:
    """CPU seconds where the peer cannot hold the matrix."""
    for row in content["results"].values():
        columns = row["num_probes"] + row["num_deflated"]
        yield claim(
            "Diffusion",
            f"entropy of {row['n']:,} x {row['d']}, quadrature, matrix-free",
            single(row["cpu_seconds"]),
            None,
            "none that could hold the matrix",
            work=floors.quadrature_work(
                row["n"], row["d"], columns=columns, steps=row["num_steps"], stored=False
            ),
        )


def uncertainty(content: Results) -> Iterator[dict[str, Any]]:
    """CPU seconds of metrics, bootstrap and temperature; memory of streams."""
    n, replicates, results = 50_000, 1000, content["results"]
    if "metrics" in results:
        sides = results["metrics"]["sides"]
        mine = sides["metrics"]
        for peer in ("published", "scikit-learn", "torchmetrics", "torch-uncertainty"):
            some = {"scikit-learn": "AUROC", "torchmetrics": "AUROC, ECE, MCE"}
            some["torch-uncertainty"] = "AURC, AUGRC"
            yield claim(
                "Uncertainty",
                f"twelve metrics of {n:,}, beside {peer}",
                mine["cpu_seconds"],
                sides[peer]["cpu_seconds"],
                f"{peer} ({some[peer]} alone)" if peer in some else peer,
                work=Work(sorted=n),
                first=_first(mine),
            )
    if "bootstrap" in results:
        sides = results["bootstrap"]["sides"]
        theirs = scaled(sides["resample and sort"]["cpu_seconds"], 10)
        for side in ("bootstrap AUROC", "bootstrap AURC", "bootstrap both"):
            both = side == "bootstrap both"
            yield claim(
                "Uncertainty",
                f"1,000 replicates, {side.removeprefix('bootstrap ')}",
                sides[side]["cpu_seconds"],
                theirs if both else None,
                "NumPy, resample and sort, 100 times ten" if both else "none for one alone",
                work=Work(random=n * replicates / 2),  # 16 bits are enough to draw one of n
                first=_first(sides[side]),
            )
    if "temperature" in results:
        sides = results["temperature"]["sides"]
        mine = sides["temperature"]
        passes = mine["values"].get("num_steps")
        work = (
            None if passes is None else floors.temperature_work(5000, 1000, passes=int(passes) + 1)
        )
        for peer in ("published", "torch LBFGS, strong Wolfe"):
            yield claim(
                "Uncertainty",
                f"temperature of 5,000 x 1,000 logits, beside {peer}",
                mine["cpu_seconds"],
                sides[peer]["cpu_seconds"],
                peer,
                work=work,
                no_floor=None if work else "the number of passes was not recorded",
                first=_first(mine),
            )
    if "memory" in results:
        sides = results["memory"]["sides"]
        yield claim(
            "Memory",
            "metrics of a stream of 50,000 x 1,000 logits, a word a prediction",
            single(sides["stream, words"]["peak_bytes"]),
            single(sides["stream, logits kept"]["peak_bytes"]),
            "all logits kept",
            work=Work(bytes=4 * n + 4 * 1000 * 1000),  # the words, and a batch of logits
            unit="bytes",
        )


def image_folder(content: Results) -> Iterator[dict[str, Any]]:
    """CPU seconds of an image with one worker."""
    sides = content["workers"]["1"]
    for peer in ("torchvision uint8", "torchvision normalised"):
        yield claim(
            "Images",
            f"an image from file to batch, beside {peer}",
            scaled(sides["entropax"]["cpu_milliseconds_per_image"], 1e-3),
            scaled(sides[peer]["cpu_milliseconds_per_image"], 1e-3),
            peer,
            work=Work(images=1),
        )


def entropy_memory(content: Results) -> Iterator[dict[str, Any]]:
    """Growth of the resident memory."""
    rows = {(row["side"], row["images"]): row["peak_bytes"] for row in content["rows"]}
    most = max(images for _, images in rows)
    yield claim(
        "Memory",
        f"growth while the entropy of {most:,} x 1,000 logits is computed",
        single(rows["accumulator", most]),
        single(rows["concatenated", most]),
        "all logits, then one softmax",
        no_floor="counted beyond a batch, beyond which nothing has to be held",
        unit="bytes",
    )


def checkpoint_kill(content: Results) -> Iterator[dict[str, Any]]:
    """How many kills left the best checkpoint intact; seconds of a save."""
    sides, peer = content["sides"], "torch.save over one file"
    mine = sides["EntropyCheckpointer"]

    def intact(side: str) -> dict[str, float]:
        return single(sides[side]["outcomes"].get("intact", 0))

    yield claim(
        "Checkpoints",
        f"intact after {mine['kills']} kills",
        intact("EntropyCheckpointer"),
        intact(peer),
        peer,
        no_floor="not a time",
        unit="kills survived",
    )
    yield claim(
        "Checkpoints",
        "a save of 32 MB",
        mine["seconds_in_save"],
        sides[peer]["seconds_in_save"],
        f"{peer}, which a kill destroys",
        no_floor="what the disk keeps in its cache is not told",
        clock="wall",
    )


SUBJECTS: dict[str, Callable[[Results], Iterator[dict[str, Any]]]] = {
    "tta_stream": tta_stream,
    "tta_table": tta_table,
    "resnet50_step": resnet50_step,
    "ntk": ntk,
    "selection": selection,
    "ensemble_training": ensemble_training,
    "diffusion": diffusion,
    "diffusion_large": diffusion_large,
    "uncertainty": uncertainty,
    "image_folder": image_folder,
    "entropy_memory": entropy_memory,
    "checkpoint_kill": checkpoint_kill,
}


def worst(found: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """The claims furthest from their floors, one for each thing that is timed."""
    kept: dict[float, dict[str, Any]] = {}
    for claim in sorted(found, key=lambda claim: claim["fraction"] or 1):
        if claim["fraction"] is not None and claim["unit"] == "s":
            kept.setdefault(claim["ours"]["median"], claim)
    return list(kept.values())[:count]


def spread(claim: Mapping[str, Any], quantity: str) -> tuple[float, float]:
    """Lowest and highest ratio, or fraction of the floor, between the quartiles of both sides."""
    ours, theirs = claim["ours"], claim["theirs"]
    if quantity == "fraction":
        return claim["floor"] / ours["quartile_3"], claim["floor"] / ours["quartile_1"]
    if claim["unit"] == "kills survived":
        ours, theirs = theirs, ours
    return theirs["quartile_1"] / ours["quartile_3"], theirs["quartile_3"] / ours["quartile_1"]
