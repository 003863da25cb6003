"""Kernels: how alike two examples are to a network.

A kernel is a function `kernel_fn(params, x1, x2=None) -> [n, m]`.

- `ntk`: the empirical neural tangent kernel of any `apply_fn(params, x)`, of all its parameters or
  of some (the last layer's), for the mean of its outputs or for each pair.
- `ntk_vector_product`: its products with vectors, without the kernel.
- `ntk_sketch`, `feature_kernel`: cheaper kernels to screen with.
- `gram`: any kernel of many examples, in tiles and bounded memory, on the host.
- `pool_kernel`: the same of a pool that is split among devices, which keep its rows.
- `diagonal`, `cosine`: lengths of the examples, and the kernel without them.
- `gaussian`: the Gaussian kernel of features; `bandwidth` finds its width from the data.

Of points `[n, d]`, without parameters: `squared_distances`, `neighbour_distances` and
`neighbour_graph`; `diffusion_operator`, the symmetric random walk on them, `diffusion_residual`,
the same without its leading eigenvalue, and `diffusion_products`, without a matrix of all pairs;
`symmetric_normalised` makes a random walk of any kernel.
"""

from entropax.kernels.bandwidth import bandwidth
from entropax.kernels.base import FeatureKernel, KernelFn, cosine, diagonal
from entropax.kernels.diffusion import (
    DiffusionProducts,
    DiffusionResidual,
    diffusion_operator,
    diffusion_products,
    diffusion_residual,
    symmetric_normalised,
)
from entropax.kernels.gaussian import gaussian, squared_distances
from entropax.kernels.neighbours import neighbour_distances, neighbour_graph
from entropax.kernels.ntk import FallbackWarning, ntk
from entropax.kernels.pool import pool_kernel
from entropax.kernels.sketch import feature_kernel, ntk_sketch
from entropax.kernels.tiling import gram
from entropax.kernels.vector_products import ntk_vector_product

__all__ = [
    "DiffusionProducts",
    "DiffusionResidual",
    "FallbackWarning",
    "FeatureKernel",
    "KernelFn",
    "bandwidth",
    "cosine",
    "diagonal",
    "diffusion_operator",
    "diffusion_products",
    "diffusion_residual",
    "feature_kernel",
    "gaussian",
    "gram",
    "neighbour_distances",
    "neighbour_graph",
    "ntk",
    "ntk_sketch",
    "ntk_vector_product",
    "pool_kernel",
    "squared_distances",
    "symmetric_normalised",
]
