"""Temperature scaling in torch; a peer of `uncertainty.py`.

    python uncertainty_temperature.py published|wolfe NPZ

NPZ holds `logits` and `labels`. `published` has the settings of Galil et al. (2023): LBFGS with a
learning rate of 0.01 from T = 1.5, up to 5,000 iterations; it stops when the float32 loss no longer
changes. `wolfe` is what LBFGS can do: a line search, from T = 1.
"""

import argparse
import json
import sys
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import measure
import numpy as np
import torch

SETTINGS = {
    "published": (1.5, {"lr": 0.01, "max_iter": 5000}),
    "wolfe": (1.0, {"lr": 1.0, "max_iter": 100, "line_search_fn": "strong_wolfe"}),
}


def fit(logits: torch.Tensor, labels: torch.Tensor, what: str) -> dict[str, float]:
    start, settings = SETTINGS[what]
    temperature = torch.full((1,), start, requires_grad=True)
    optimizer = torch.optim.LBFGS([temperature], **settings)

    def loss() -> torch.Tensor:
        return torch.nn.functional.cross_entropy(logits / temperature, labels)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    optimizer.step(closure)
    return {"temperature": float(temperature), "loss": float(loss())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=SETTINGS)
    parser.add_argument("npz")
    parser.add_argument("--repeats", type=int, default=1)
    measure.add_limits(parser)
    options = parser.parse_args()
    measure.limit(options)
    with np.load(options.npz, allow_pickle=False) as file:
        logits, labels = torch.tensor(file["logits"]), torch.tensor(file["labels"]).long()
    found, values = measure.calls(
        lambda: fit(logits, labels, options.what),
        first=lambda: fit(logits[:50], labels[:50], "wolfe"),
        repeats=options.repeats,
        seconds=options.seconds,
    )
    versions = {name: version(name) for name in ("torch", "numpy")}
    print(json.dumps({**found, "values": values, "versions": versions}))


if __name__ == "__main__":
    main()
