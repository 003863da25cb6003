"""The names, arguments and defaults of the published code, in bits, computed by this package.

For those who come from dse-dsmi 1.1: change the import, and the numbers stay.

    from entropax.diffusion.compat import diffusion_spectral_entropy

Everything is computed in float64, on the host or JAX's default device, and not under `jit`. Values
agree to 1e-7 (a directed graph of neighbours to 1e-6) but for the following, where the published
code errs or fails:

- Nothing is added to the probabilities. There it is 2.2e-16 each, so that an entropy near 0 is up
  to 52 n times that (or, of matrix entries, n^2 times) too high.
- `chebyshev_approx` was far off (6.5 bits instead of 0.42). It warns, and the spectrum of more than
  2,000 points is sampled by stochastic Lanczos quadrature; others, and those of classes, are exact.
- `eigval_save_path` is a folder. What is in it is kept under a hash of the data and the options, in
  float64, so that other data never meet the eigenvalues of these. `eigval_save_precision` makes no
  difference; float16 changed entropies by 1e-3.
- Random subsets are those of Python's generator with the same seed, but a generator of their own.
- One point has the entropy 0. Labels may be booleans and strings. Classes with fewer points than
  neighbours take all for neighbours, with a warning.
- A negative time `t`, a bandwidth of 0, no bins, more neighbours than points, NaN, and references
  of another length raise a ValueError that says so.

New code is better off with `dse`, `dsmi` and `adjacency_entropy`: in nats, with a bandwidth that
fits the data, error bars, and a null distribution.
"""

from entropax.diffusion.compat.entropy import adjacency_spectral_entropy, diffusion_spectral_entropy
from entropax.diffusion.compat.information import (
    adjacency_spectral_mutual_information,
    diffusion_spectral_mutual_information,
)

__all__ = [
    "adjacency_spectral_entropy",
    "adjacency_spectral_mutual_information",
    "diffusion_spectral_entropy",
    "diffusion_spectral_mutual_information",
]
