"""Does the best checkpoint survive a kill in the middle of saving the next one?

    python benchmarks/checkpoint_kill.py --peer-python PEER_PYTHON

A process saves a better checkpoint after the other, without a pause. `kill -9` hits it at a random
moment; the next process looks for the best checkpoint, compares it bit by bit with what was saved,
and goes on from there, until it is killed in turn. The peer does the same with the published
scheme, `torch.save` over one file, in an environment with torch and numpy.
"""

import argparse
import collections
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import harness
import numpy as np

PEER = Path(__file__).parent / "peers" / "published_checkpoint.py"


def bits(step: int, size: int) -> np.ndarray:
    return np.arange(size, dtype=np.int32) * np.int32(-1640531535) ^ np.int32(step)


def saver(directory: str, size: int, *, async_save: bool) -> None:
    """The sides of entropax; see `peers/published_checkpoint.py` for the other."""
    import jax.numpy as jnp

    from entropax.checkpoint import EntropyCheckpointer

    with EntropyCheckpointer(directory, async_save=async_save) as keeper:
        start = time.perf_counter()
        step, found = -1, "none"
        try:
            if keeper.best is not None:
                step = keeper.best.step
                restored = keeper.restore_best({"bits": jnp.zeros(size, jnp.int32)})
                same = np.array_equal(restored["bits"], bits(step, size))
                found = "intact" if same else "other bits"
        except Exception as error:
            found = f"unreadable: {type(error).__name__}"
        seconds = time.perf_counter() - start
        print(json.dumps({"found": found, "step": step, "seconds": seconds}), flush=True)
        while True:
            step += 1
            state = {"bits": jnp.asarray(bits(step, size))}
            print(json.dumps({"begin": step}), flush=True)
            start = time.perf_counter()
            assert keeper.step(step, state, step / 1e6).saved
            seconds = time.perf_counter() - start
            print(json.dumps({"end": step, "seconds": seconds}), flush=True)


def killed(
    command: list[str], directory: Path, rng: random.Random, saves: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Start a saver and kill it in one of its saves: what it found, and what it said after that."""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        said: list[dict[str, Any]] = []
        times: list[float] = []
        while len(times) < saves + 1:
            line = process.stdout.readline()
            if not line:
                raise RuntimeError(f"{' '.join(command)} ended by itself after {said}.")
            said.append(json.loads(line))
            if "begin" in said[-1]:
                times.append(time.perf_counter())
        # Somewhere between the beginning of this save and that of the next.
        time.sleep(rng.uniform(0, times[-1] - times[-2]))
        process.kill()
        said += [json.loads(line) for line in process.stdout if line.endswith("\n")]
    found, *rest = said
    # Whatever else there is: halves of checkpoints, and deletions that were interrupted.
    folder = directory / "val"
    left = [path.name for path in folder.iterdir()] if folder.exists() else []
    found["folders"] = len(left)
    return found, rest


def survive(command: list[str], directory: Path, *, kills: int, saves: int) -> dict[str, Any]:
    """Kill again and again, the same schedule for every side."""
    rng = random.Random(0)
    outcomes: list[str] = []
    seconds: list[float] = []
    lost = in_call = 0
    said: list[dict[str, Any]] = []
    for kill in range(kills + 1):
        found, rest = killed(command, directory, rng, saves)
        if kill > 0:
            outcomes.append(found["found"])
            # The last one that was certainly on disk: the one before the last save that ended.
            ended = [line["end"] for line in said if "end" in line]
            lost += found["found"] == "intact" and found["step"] < ended[-1] - 1
        if kill < kills:
            in_call += "begin" in rest[-1]
        seconds += [line["seconds"] for line in rest if "end" in line][1:]
        said = rest
        print(kill, found, flush=True)
    return {
        "kills": kills,
        "kills_before_the_call_returned": in_call,
        "outcomes": dict(collections.Counter(outcomes)),
        "older_than_the_last_complete": lost,
        "seconds_in_save": harness.quartiles(seconds),
    }


def main() -> None:
    if sys.argv[1:2] in (["--saver"], ["--background-saver"]):
        background = sys.argv[1] == "--background-saver"
        saver(sys.argv[2], int(sys.argv[3]), async_save=background)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer-python", help="interpreter of an environment with torch and numpy")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--saves", type=int, default=2, help="complete saves before each kill")
    parser.add_argument("--megabytes", type=int, default=32, help="size of a checkpoint")
    options = parser.parse_args()
    size = options.megabytes * 2**20 // 4
    sides = {
        "EntropyCheckpointer": [sys.executable, __file__, "--saver"],
        "EntropyCheckpointer, in the background": [
            sys.executable,
            __file__,
            "--background-saver",
        ],
    }
    if options.peer_python:
        sides["torch.save over one file"] = [options.peer_python, str(PEER)]
    results = {}
    for name, command in sides.items():
        with tempfile.TemporaryDirectory() as directory:
            results[name] = survive(
                [*command, directory, str(size)],
                Path(directory),
                kills=options.kills,
                saves=options.saves,
            )
    settings = {"megabytes": options.megabytes, "saves": options.saves}
    print(harness.write("checkpoint_kill", {"settings": settings, "sides": results}))
    rows = []
    for name, side in results.items():
        intact = side["outcomes"].get("intact", 0)
        rows.append(
            [
                name,
                str(side["kills"]),
                str(intact),
                str(side["kills"] - intact),
                f"{1e3 * side['seconds_in_save']['median']:.0f}",
            ]
        )
    print(harness.markdown(["side", "kills", "intact", "destroyed", "ms in the call"], rows))


if __name__ == "__main__":
    main()
