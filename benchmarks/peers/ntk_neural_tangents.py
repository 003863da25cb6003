"""The empirical NTK by neural-tangents' own implementations; a peer of `benchmarks/ntk.py`.

    python ntk_neural_tangents.py NETWORK NPZ WAY OUTPUTS --save KERNEL_NPY [--bridge]

WAY is 1 (Jacobian contraction), 2 (NTK-vector products), 3 (structured derivatives), each in one
`jax.jit`, or `batched`, as ZnNL calls it: implementation 1 over batches of 10, without more.
With `--bridge` neural-tangents is loaded by `entropax.models.stax`, on a JAX that it does not know.
"""

import argparse
import json
import sys
from pathlib import Path
from types import ModuleType

sys.path.insert(0, str(Path(__file__).parent.parent))

import jax
import measure
import networks
import numpy as np


def neural_tangents(bridge: bool) -> ModuleType:
    if bridge:
        from entropax.models import stax

        return stax.load()
    # This part alone needs TensorFlow, which an environment for NTKs can do without.
    sys.modules["neural_tangents.experimental"] = ModuleType("neural_tangents.experimental")
    import neural_tangents

    return neural_tangents


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("network", choices=networks.NETWORKS)
    parser.add_argument("npz")
    parser.add_argument("way", choices=("1", "2", "3", "batched"))
    parser.add_argument("outputs", choices=("mean", "full"))
    parser.add_argument("--save", required=True)
    parser.add_argument("--double", action="store_true")
    parser.add_argument("--bridge", action="store_true")
    parser.add_argument("--repeats", type=int, default=5)
    measure.add_limits(parser)
    options = parser.parse_args()
    measure.limit(options)

    jax.config.update("jax_enable_x64", options.double)
    nt = neural_tangents(options.bridge)
    network = networks.NETWORKS[options.network]
    dtype = "float64" if options.double else "float32"
    params, x = jax.block_until_ready(networks.load(network, options.npz, dtype))
    trace_axes = () if options.outputs == "full" else (-1,)
    if options.way == "batched":
        ntk = nt.batch(nt.empirical_ntk_fn(network.apply, trace_axes), batch_size=10)
    else:
        implementation = int(options.way)
        ntk = jax.jit(
            nt.empirical_ntk_fn(
                network.apply, trace_axes, vmap_axes=0, implementation=implementation
            )
        )

    found, kernel = measure.calls(
        lambda: jax.block_until_ready(ntk(x, None, params)),
        repeats=options.repeats,
        seconds=options.seconds,
    )
    np.save(options.save, kernel)
    versions = {module.__name__: module.__version__ for module in (jax, nt, np)}
    print(json.dumps({**found, "versions": versions}))


if __name__ == "__main__":
    main()
