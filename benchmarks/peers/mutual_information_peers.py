"""Mutual information of points and labels by nearest neighbours: NPEET and infomeasure.

    python -m venv peer && peer/bin/pip install npeet-plus infomeasure
    peer/bin/python benchmarks/peers/mutual_information_peers.py problems > peers.json

reads the problems that `python -m entropax.experiments.diffusion_estimators --problems problems`
wrote, and prints one JSON object for its `--peers`. Results are in nats.

- `NPEET`: `micd`, for a vector and a discrete variable, of npeet-plus (MIT licence), the package of
  Ver Steeg's NPEET. k = 3 neighbours. It is the absolute value of a difference of two entropies,
  so that what should be a negative estimate is positive.
- `infomeasure KSG`: `mutual_information(..., approach="metric")` of infomeasure (AGPL-3.0). It
  takes both variables for continuous: the label is one more number, with the package's own noise.

The first call of each is not timed.

Reference: A. Kraskov, H. Stoegbauer and P. Grassberger, "Estimating mutual information" (2004).
"""

import argparse
import importlib.metadata
import json
import math
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np


def npeet() -> Callable[[np.ndarray, np.ndarray], float]:
    import npeet_plus

    def estimate(x: np.ndarray, labels: np.ndarray) -> float:
        return float(npeet_plus.micd(x, labels[:, None], k=3, base=math.e))

    return estimate


def infomeasure() -> Callable[[np.ndarray, np.ndarray], float]:
    import infomeasure as im

    def estimate(x: np.ndarray, labels: np.ndarray) -> float:
        return float(im.mutual_information(x, labels.astype(float), approach="metric", base="e"))

    return estimate


PEERS = {"NPEET": ("npeet-plus", npeet), "infomeasure KSG": ("infomeasure", infomeasure)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("problems", type=Path, help="folder of npz files")
    parser.add_argument("--peers", nargs="+", choices=list(PEERS), default=list(PEERS))
    parser.add_argument("--max-dims", type=int, help="leave larger problems out")
    options = parser.parse_args()
    paths = sorted(options.problems.glob("*.npz"))
    if not paths:
        parser.error(f"there are no npz files in {options.problems}")
    warnings.simplefilter("ignore")  # they warn of classes with few members

    found, versions = [], {"numpy": np.__version__}
    for name in options.peers:
        package, make = PEERS[name]
        versions[package] = importlib.metadata.version(package)
        estimate = make()
        rng = np.random.default_rng(0)
        estimate(rng.normal(size=(100, 3)), np.arange(100) % 2)
        for path in paths:
            with np.load(path, allow_pickle=False) as file:
                problem = dict(file)
            if options.max_dims is not None and problem["dims"] > options.max_dims:
                continue
            for share, labels, truth in zip(
                problem["corruption"], problem["labels"], problem["truth"], strict=True
            ):
                start = time.perf_counter()
                value = estimate(problem["x"], labels)
                found.append(
                    {
                        "estimator": name,
                        "dims": int(problem["dims"]),
                        "corruption": float(share),
                        "seed": int(problem["seed"]),
                        "truth": float(truth),
                        "estimate": value,
                        "seconds": time.perf_counter() - start,
                    }
                )
            print(f"{name}: {path.name}", file=sys.stderr)
    print(json.dumps({"versions": versions, "estimates": found}))


if __name__ == "__main__":
    main()
