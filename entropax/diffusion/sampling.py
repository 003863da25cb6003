"""The spectrum of a random walk on many points, sampled by stochastic Lanczos quadrature."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float, Key

from entropax.diffusion.points import on_all_devices, scaled
from entropax.distributed import AnyMesh, data_axis, row_sharding
from entropax.kernels.diffusion import diffusion_products, diffusion_residual
from entropax.spectra import Quadrature, quadrature
from entropax.spectra.lanczos import MatVec
from entropax.types import Array

# Matrices of all pairs that are alive at once while the stored one is made.
_COPIES = 4


class Lanczos(NamedTuple):
    """How a large spectrum is sampled.

    Attributes:
      num_probes: random probes, at least 2. More of them narrow `stderr`.
      num_deflated: leading directions that are treated exactly; fewer than the points.
      num_steps: Lanczos steps for each probe and direction, at least 2. More of them narrow what
        the interval holds beyond `stderr`.
      storage: "stored" keeps the matrix of all pairs, "matrix_free" makes it anew, block by block,
        for every product, "auto" stores it if that fits `memory`.
      block_size: rows of a block of the matrix that is not stored.
    """

    num_probes: int = 32
    num_deflated: int = 32
    num_steps: int = 16
    storage: str = "auto"
    block_size: int = 512


def lanczos_for(n: int) -> Lanczos:
    """Settings that suit any number of points, few of them included."""
    return Lanczos(num_deflated=min(Lanczos().num_deflated, n // 4))


class Sampled(NamedTuple):
    """A sampled spectrum of the residual, and what is known of it exactly.

    Attributes:
      quadrature: the rules.
      moments: `([], [])` the traces of the residual and of its square.
      sigma: `[]` the bandwidth.
    """

    quadrature: Quadrature
    moments: tuple[Float[Array, ""], Float[Array, ""]]
    sigma: Float[Array, ""]


def fits(n: int, dtype: Any, memory: int, mesh: AnyMesh | None) -> bool:
    """Whether the matrix of all pairs can be made in so many bytes of each device."""
    devices = 1 if mesh is None else mesh.shape[data_axis(mesh)]
    return _COPIES * n * n * jnp.dtype(dtype).itemsize <= memory * devices


def with_storage(
    settings: Lanczos, n: int, dtype: Any, memory: int, mesh: AnyMesh | None
) -> Lanczos:
    """Check the settings for `n` points, and choose the storage if they leave it open.

    Raises:
      ValueError: if a setting is out of its range.
    """
    if settings.storage not in ("auto", "stored", "matrix_free"):
        raise ValueError(
            f"`storage` must be 'auto', 'stored' or 'matrix_free', got {settings.storage!r}."
        )
    if settings.storage != "auto":
        return settings
    return settings._replace(storage="stored" if fits(n, dtype, memory, mesh) else "matrix_free")


@functools.partial(jax.jit, static_argnames=("rule", "alpha", "neighbours", "settings", "mesh"))
def sample(
    key: Key[Array, ""],
    x: Float[Array, "n d"],
    number: Array | None,
    *,
    rule: str | None,
    alpha: float,
    neighbours: int,
    settings: Lanczos,
    mesh: AnyMesh | None,
) -> Sampled:
    """Sample the spectrum of points; `number` is the bandwidth, unless `rule` names one."""
    n = len(x)
    near = scaled(x, number, rule, neighbours=neighbours)
    if settings.storage == "stored":
        residual = diffusion_residual(near.x, sigma=near.sigma, alpha=alpha).residual
        if mesh is not None and n % mesh.shape[data_axis(mesh)] == 0:
            residual = jax.lax.with_sharding_constraint(residual, row_sharding(mesh))
        moments = jnp.trace(residual), jnp.sum(jnp.square(residual))
        matvec: MatVec = functools.partial(jnp.matmul, residual, precision="highest")
    else:
        products = diffusion_products(
            near.x, sigma=near.sigma, alpha=alpha, block_size=settings.block_size, mesh=mesh
        )
        moments, matvec = (products.trace, products.squares), products.matvec
    rules = quadrature(
        key,
        matvec,
        n,
        num_probes=settings.num_probes,
        num_deflated=settings.num_deflated,
        num_steps=settings.num_steps,
    )
    return on_all_devices(Sampled(rules, moments, near.original), mesh)
