"""Diffusion spectral entropy and mutual information by dse-dsmi; a peer of `diffusion.py`.

    python diffusion_dse_dsmi.py entropy|information NPZ --sigma SIGMA [--t T]

NPZ holds points `x` and classes `y`. Values are in bits, as they come.
"""

import argparse
import json
import sys
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import dse_dsmi
import measure
import numpy as np


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("entropy", "information"))
    parser.add_argument("npz")
    parser.add_argument("--sigma", type=float, required=True)
    parser.add_argument("--t", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    measure.add_limits(parser)
    options = parser.parse_args()
    measure.limit(options)
    with np.load(options.npz, allow_pickle=False) as file:
        x, y = file["x"].astype(np.float64), file["y"]

    def compute(size: int | None = None) -> float:
        settings = {"gaussian_kernel_sigma": options.sigma, "t": options.t}
        if options.what == "entropy":
            return dse_dsmi.diffusion_spectral_entropy(x[:size], **settings)
        value, _ = dse_dsmi.diffusion_spectral_mutual_information(x[:size], y[:size], **settings)
        return value

    # Nothing compiles: the first call has only to load and to wake what sleeps.
    found, value = measure.calls(
        compute, first=lambda: compute(200), repeats=options.repeats, seconds=options.seconds
    )
    versions = {name: version(name) for name in ("dse-dsmi", "numpy", "scikit-learn", "scipy")}
    print(json.dumps({**found, "value": float(value), "versions": versions}))


if __name__ == "__main__":
    main()
