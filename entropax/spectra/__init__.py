"""From a matrix or an operator to its spectrum.

`density` takes a matrix and gives all its eigenvalues. `lanczos_entropy` takes a matrix-vector
product and gives the entropy with an interval around it, for kernels too large to store or solve.
"""

from entropax.spectra.exact import density, purity, submatrices
from entropax.spectra.lanczos import LanczosEntropy, lanczos, lanczos_entropy

__all__ = [
    "LanczosEntropy",
    "density",
    "lanczos",
    "lanczos_entropy",
    "purity",
    "submatrices",
]
