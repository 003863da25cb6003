"""The published scheme: `torch.save` over the one file, in a process that is killed at some point.

Runs in an environment with torch and numpy; `checkpoint_kill.py` starts it and reads what it says.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch


def bits(step: int, size: int) -> np.ndarray:
    return np.arange(size, dtype=np.int32) * np.int32(-1640531535) ^ np.int32(step)


def check(path: Path, size: int) -> tuple[int, str]:
    """The step of the checkpoint and its state: none, intact, or what is wrong with it."""
    if not path.exists():
        return -1, "none"
    try:
        loaded = torch.load(path, weights_only=True)
        step = loaded["epoch"]
        same = np.array_equal(loaded["model"]["bits"].numpy(), bits(step, size))
        return step, "intact" if same else "other bits"
    except Exception as error:
        return -1, f"unreadable: {type(error).__name__}"


def main() -> None:
    path, size = Path(sys.argv[1]) / "best.pth", int(sys.argv[2])
    start = time.perf_counter()
    step, found = check(path, size)
    seconds = time.perf_counter() - start
    print(json.dumps({"found": found, "step": step, "seconds": seconds}), flush=True)
    highest = None
    while True:
        step += 1
        value = step / 1e6
        state = {"bits": torch.from_numpy(bits(step, size))}
        print(json.dumps({"begin": step}), flush=True)
        start = time.perf_counter()
        if highest is None or value > highest:
            highest = value
            torch.save({"model": state, "epoch": step}, path)
        seconds = time.perf_counter() - start
        print(json.dumps({"end": step, "seconds": seconds}), flush=True)


if __name__ == "__main__":
    main()
