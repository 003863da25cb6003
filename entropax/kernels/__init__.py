"""Kernels: how alike two examples are to a network.

A kernel is a function `kernel_fn(params, x1, x2=None) -> [n, m]`.

- `ntk`: the empirical neural tangent kernel of any `apply_fn(params, x)`, of all its parameters or
  of some (the last layer's), for the mean of its outputs or for each pair.
- `ntk_vector_product`: its products with vectors, without the kernel.
- `ntk_sketch`, `feature_kernel`: cheaper kernels to screen with.
- `gram`: any kernel of many examples, in tiles and bounded memory, on one device or a mesh.
- `diagonal`, `cosine`: lengths of the examples, and the kernel without them.
"""

from entropax.kernels.base import FeatureKernel, KernelFn, cosine, diagonal
from entropax.kernels.ntk import FallbackWarning, ntk
from entropax.kernels.sketch import feature_kernel, ntk_sketch
from entropax.kernels.tiling import gram
from entropax.kernels.vector_products import ntk_vector_product

__all__ = [
    "FallbackWarning",
    "FeatureKernel",
    "KernelFn",
    "cosine",
    "diagonal",
    "feature_kernel",
    "gram",
    "ntk",
    "ntk_sketch",
    "ntk_vector_product",
]
