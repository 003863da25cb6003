"""The diffusion entropy of order 2, which needs no eigenvalues and no matrix of all pairs."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from entropax.diffusion.points import check_kernel, is_definite, on_all_devices, points, scaled
from entropax.diffusion.sampling import fits
from entropax.diffusion.spectrum import Spectrum
from entropax.distributed import AnyMesh, mesh_of
from entropax.kernels.diffusion import check_alpha, diffusion_products, diffusion_residual
from entropax.types import Array


@functools.partial(jax.jit, static_argnames=("rule", "neighbours", "stored", "mesh"))
def _traces(
    x: Float[Array, "n d"],
    number: Array | None,
    exponent: Array | None,
    where: Bool[Array, " n"] | None,
    *,
    rule: str | None,
    neighbours: int,
    stored: bool,
    mesh: AnyMesh | None,
) -> Spectrum:
    alpha = 0.0 if exponent is None else exponent
    near = scaled(x, number, rule, neighbours=neighbours, where=where)
    n = jnp.asarray(len(x)) if where is None else jnp.sum(where)
    if stored:
        residual = diffusion_residual(near.x, sigma=near.sigma, alpha=alpha, where=where).residual
        moments = jnp.trace(residual), jnp.sum(jnp.square(residual))
    else:
        products = diffusion_products(near.x, sigma=near.sigma, alpha=alpha, mesh=mesh)
        moments = products.trace, products.squares
    spectrum = Spectrum(None, moments, n, near.original, "exact, from traces")
    return on_all_devices(spectrum, mesh)


def traces(
    x: Any,
    *,
    sigma: float | str | Array | None,
    alpha: float | Array = 0.0,
    kernel: str = "gaussian",
    neighbours: int = 10,
    method: str = "exact",
    key: Any = None,
    memory: int = 2**31,
    mesh: AnyMesh | None = None,
    cache: None = None,
    where: Any = None,
) -> Spectrum:
    """A spectrum of which only the moments are known; takes the options of `spectrum`."""
    check_alpha(alpha)
    check_kernel(kernel, sigma, neighbours)
    if not is_definite(kernel, sigma):
        raise ValueError(
            "The entropy of order 2 follows from traces if no eigenvalue is negative, which one "
            f"bandwidth for each point does not promise (sigma={sigma!r}); use `dse`."
        )
    data = points(x, where)
    rule = sigma if isinstance(sigma, str) else None
    uncorrected = isinstance(alpha, int | float) and alpha == 0
    mesh = mesh_of(x, sigma) if mesh is None else mesh
    stored = where is not None or fits(len(data), data.dtype, memory, mesh)
    return _traces(
        data,
        None if rule else jnp.asarray(sigma, data.dtype),
        None if uncorrected else jnp.asarray(alpha, data.dtype),
        where,
        rule=rule,
        neighbours=neighbours,
        stored=stored,
        mesh=mesh,
    )


def collision_entropy(
    x: Array | np.ndarray,
    *,
    sigma: float | str | Array | None = None,
    alpha: float = 0.0,
    neighbours: int = 10,
    memory: int = 2**31,
    mesh: AnyMesh | None = None,
    where: Bool[Array, " n"] | Bool[np.ndarray, " n"] | None = None,
) -> Float[Array, ""]:
    r"""Diffusion entropy of order 2 at time 1, in nats, from traces alone.

    $$H_2 = -\ln \sum_k p_k^2 = 2 \ln \operatorname{tr} S - \ln \operatorname{tr} S^2.$$

    The probability that two walkers in random eigenstates collide. It is a lower bound of the
    entropy of order 1, exact for any number of points, and takes no eigenvalues: one pass over the
    pairs for the degrees and one for the squares. It is what `dse` computes for `order=2`.

    Args:
      x: `[n, d]` points.
      sigma: the bandwidth, as for `spectrum`; "adaptive" is for `dse` alone.
      alpha: how far the density of the points is divided out.
      neighbours: which neighbour counts, for sigma="knn".
      memory: bytes of each device for matrices of all pairs; beyond, they are made block by block.
      mesh: devices over which the blocks are spread; by default those that the points lie on.
      where: `[n]` False in rows that only fill up the shape; with it, the matrices are stored in
        any case.

    Returns:
      `[]` in `[0, ln n]`; NaN for NaN inside `jit`. Differentiable.

    Raises:
      ValueError: if an option is out of its range, or `x` is not a finite matrix of points.

    >>> round(float(collision_entropy(jnp.eye(8), sigma=1.0)), 4)
    1.413
    """
    walk = traces(
        x,
        sigma=sigma,
        alpha=alpha,
        neighbours=neighbours,
        memory=memory,
        mesh=mesh,
        where=where,
    )
    return collision(walk)


@jax.jit
def collision(walk: Spectrum) -> Float[Array, ""]:
    """The entropy of order 2 from the moments of a spectrum."""
    value = 2 * jnp.log1p(walk.moments[0]) - jnp.log1p(walk.moments[1])
    return jnp.clip(value, 0, jnp.log(jnp.maximum(walk.n, 1).astype(value.dtype)))
