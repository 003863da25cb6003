"""From a matrix or an operator to its spectrum.

`density` takes a matrix and gives all its eigenvalues. `lanczos_entropy` takes a matrix-vector
product and gives the entropy with an interval around it, for kernels too large to store or solve;
`kernel_entropy` does so for one that is stored, on one device or split among many.
"""

from entropax.spectra.estimate import SpectralEstimate, spectral_estimate
from entropax.spectra.exact import density, eigvals, purity, submatrices
from entropax.spectra.lanczos import lanczos
from entropax.spectra.lanczos_entropy import LanczosEntropy, kernel_entropy, lanczos_entropy
from entropax.spectra.quadrature import Quadrature, quadrature

__all__ = [
    "LanczosEntropy",
    "Quadrature",
    "SpectralEstimate",
    "density",
    "eigvals",
    "kernel_entropy",
    "lanczos",
    "lanczos_entropy",
    "purity",
    "quadrature",
    "spectral_estimate",
    "submatrices",
]
