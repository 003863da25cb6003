r"""What a representation tells apart: entropies and mutual information of features `[n, d]`.

A random walk jumps between points that are close; the entropy of its spectrum counts, on a
logarithmic scale and in nats, the directions that it still tells apart.

- `dse`: diffusion spectral entropy, differentiable; `dse_estimate` with error bars and saturation;
  `dse_profile` for many diffusion times; `collision_entropy`, order 2 without eigenvalues.
- `spectrum` and, from one spectrum, `spectral_entropy`, `estimate`, `profile`; `SpectrumCache`
  keeps spectra on disk, `Lanczos` says how large ones are sampled.
- `dsmi`: what labels, values or vectors tell about the points, against chance;
  `adjacency_mutual_information`, `binned_mutual_information`. `classes` and `cluster_reference`
  turn a reference into classes.
- `adjacency_entropy`, `vendi_score`, `vendi_score_of_kernel`, `cosine_vendi_score`: the spectrum of
  a kernel or a graph itself; `matrix_entry_entropy`; `rank_me` and `covariance_spectrum`, without a
  kernel; `binned_entropy`, the classical baseline.
- `track`: all this for the layers of a network while it trains.
- `entropax.diffusion.compat`: the functions of dse-dsmi 1.1, in bits.
"""

from entropax.diffusion.adjacency import adjacency_entropy, adjacency_estimate
from entropax.diffusion.baseline_information import (
    adjacency_mutual_information,
    binned_mutual_information,
)
from entropax.diffusion.binned import binned_entropy
from entropax.diffusion.cache import SpectrumCache
from entropax.diffusion.classes import Classes, classes, cluster_reference
from entropax.diffusion.collision import collision_entropy
from entropax.diffusion.entropy import dse, dse_estimate, dse_profile
from entropax.diffusion.information import ClassTable, MutualInformation
from entropax.diffusion.matrix_entry import matrix_entry_entropy
from entropax.diffusion.mutual_information import dsmi
from entropax.diffusion.rank import covariance_spectrum, rank_me
from entropax.diffusion.sampling import Lanczos
from entropax.diffusion.spectral import Estimate, estimate, profile, spectral_entropy
from entropax.diffusion.spectrum import Spectrum, spectrum
from entropax.diffusion.tracking import Tracker, track
from entropax.diffusion.vendi import cosine_vendi_score, vendi_score, vendi_score_of_kernel

__all__ = [
    "ClassTable",
    "Classes",
    "Estimate",
    "Lanczos",
    "MutualInformation",
    "Spectrum",
    "SpectrumCache",
    "Tracker",
    "adjacency_entropy",
    "adjacency_estimate",
    "adjacency_mutual_information",
    "binned_entropy",
    "binned_mutual_information",
    "classes",
    "cluster_reference",
    "collision_entropy",
    "cosine_vendi_score",
    "covariance_spectrum",
    "dse",
    "dse_estimate",
    "dse_profile",
    "dsmi",
    "estimate",
    "matrix_entry_entropy",
    "profile",
    "rank_me",
    "spectral_entropy",
    "spectrum",
    "track",
    "vendi_score",
    "vendi_score_of_kernel",
]
