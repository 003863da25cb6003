"""Compute on meshes, in as many processes as there are: `python on_meshes.py FOLDER [NAME ...]`.

A process that is alone takes the first 1, 2, 4 and 8 of its devices; of several, the first one
writes what all of their devices have computed together.
"""

import os
import sys
from pathlib import Path

import jax
import numpy as np
from distributed import adaptation, computations

from entropax import distributed

COMPUTATIONS = {**adaptation.COMPUTATIONS, **computations.COMPUTATIONS}


def file_of(folder, name):
    return Path(folder) / f"{name.replace(' ', '_')}.npz"


def main(folder, *names):
    if "ENTROPAX_COORDINATOR" in os.environ:
        distributed.initialize(startup_timeout=60, shutdown_timeout=60)
        meshes = {"all": distributed.make_mesh()}
    else:
        meshes = {str(k): distributed.make_mesh(jax.devices()[:k]) for k in (1, 2, 4, 8)}
    for name in names or COMPUTATIONS:
        compute = COMPUTATIONS[name]
        found = {
            f"{mesh_name}/{part}": np.asarray(value)
            for mesh_name, mesh in meshes.items()
            for part, value in compute(mesh).items()
        }
        if distributed.is_lead():
            np.savez(file_of(folder, name), **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
