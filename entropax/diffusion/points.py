"""Points and their bandwidth, checked and in a range where squares of distances are numbers."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType
from jaxtyping import Bool, Float

from entropax.distributed import AnyMesh, gather, replicated_sharding
from entropax.kernels.bandwidth import RULES, bandwidth
from entropax.kernels.gaussian import check_sigma
from entropax.types import Array

KERNELS = ("gaussian", "knn")


class Scaled(NamedTuple):
    """Points and a bandwidth in units in which the largest coordinate is about 1.

    Attributes:
      x: `[n, d]` points.
      sigma: `[]` or `[n]`, the bandwidth.
      original: the bandwidth in the units that the points came in.
    """

    x: Float[Array, "n d"]
    sigma: Float[Array, "..."]
    original: Float[Array, "..."]


def is_traced(tree: Any) -> bool:
    """Whether some array is not known yet: inside `jit`, `grad` or `vmap`."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(tree))


def is_unknown(tree: Any) -> bool:
    """Whether what is computed from these arrays is not known yet: one is traced, or all is."""
    return is_traced((tree, jnp.zeros(())))


def is_definite(kernel: str, sigma: Any) -> bool:
    """Whether no eigenvalue of the walk can be negative."""
    scalar = sigma != "adaptive" if isinstance(sigma, str) else np.ndim(sigma) == 0
    return kernel == "gaussian" and scalar


def check_kernel(kernel: str, sigma: Any, neighbours: int) -> None:
    """Raise a ValueError unless the kernel is known and has what it needs."""
    if kernel not in KERNELS:
        raise ValueError(f"`kernel` must be one of {KERNELS}, got {kernel!r}.")
    if neighbours < 1:
        raise ValueError(f"`neighbours` must be at least 1, got {neighbours}.")
    if kernel == "knn":
        if sigma is not None:
            raise ValueError(
                "The kernel 'knn' is a graph of neighbours and has no bandwidth; leave out "
                f"`sigma`, got {sigma!r}."
            )
    elif sigma is None:
        raise ValueError(
            "The Gaussian kernel needs a bandwidth, on which the entropy depends as much as on the "
            "points: pass sigma='median' to be independent of their scale, a number (10 is the "
            "constant of the published code), 'sqrt_d' for the root of the number of features, "
            "'knn' for the distance to the neighbours, or 'adaptive' for that of each point."
        )
    elif not isinstance(sigma, str):
        check_sigma(sigma)
    elif sigma not in RULES:
        raise ValueError(f"`sigma` must be a positive number or one of {RULES}, got {sigma!r}.")


def points(x: Any, where: Any = None) -> Float[Array, "n d"]:
    """Points as JAX computes with them, in the precision they have, but float32 at least.

    A NumPy array is centred in float64 before, so that float32 does not see an offset.

    Raises:
      ValueError: if `x` is not a real matrix, is empty, or has in a row that counts a number that
        is NaN, infinite or too large; if `where` does not fit.
    """
    if np.ndim(x) != 2:
        raise ValueError(
            f"`x` must be points [n, d], one row each, got the shape {np.shape(x)}; flatten the "
            "features of a point with x.reshape(len(x), -1)."
        )
    if np.size(x) == 0:
        raise ValueError(f"There are no points, or no features: `x` has the shape {np.shape(x)}.")
    if jnp.issubdtype(getattr(x, "dtype", float), jnp.complexfloating):
        raise ValueError("`x` must be real, got complex numbers; pass real and imaginary parts.")
    if where is not None and np.shape(where) != (len(x),):
        raise ValueError(f"`where` must be [{len(x)}], one for each point, got {np.shape(where)}.")
    data = jnp.asarray(_centred(x, where) if isinstance(x, np.ndarray) else x)
    data = data.astype(jnp.promote_types(data.dtype, jnp.float32))
    finite = jnp.all(jnp.isfinite(data), axis=1)
    if not is_traced((finite, where)):
        wrong = ~gather(finite)
        wrong &= True if where is None else gather(where)
        if wrong.any():
            raise ValueError(
                f"`x` has a NaN, an infinite number or one too large for {data.dtype} in "
                f"{wrong.sum()} of {len(x)} rows, the first of them row {wrong.argmax()}; a "
                "diffusion entropy needs finite features."
            )
    return data


def _centred(x: np.ndarray, where: Any) -> np.ndarray:
    if is_traced(where):
        return x
    precise = x.astype(np.float64)
    rows = precise if where is None else precise[gather(where)]
    with np.errstate(over="ignore", invalid="ignore"):
        middle = np.mean(rows, axis=0) if len(rows) else 0
        centred = precise - np.where(np.isfinite(middle), middle, 0)
        floating = x.dtype if np.issubdtype(x.dtype, np.floating) else np.dtype(np.float64)
        known = jax.dtypes.canonicalize_dtype(np.promote_types(floating, np.float32))
        return centred.astype(known)


def scaled(
    x: Float[Array, "n d"],
    sigma: Float[Array, "..."] | None,
    rule: str | None,
    *,
    neighbours: int,
    where: Bool[Array, " n"] | None = None,
) -> Scaled:
    """Points and their bandwidth, given or by a rule, in a unit that is a power of 2.

    The walk depends on their ratio alone, but squares of numbers beyond 1e19 are infinite in
    float32, and those below 1e-19 are nearly 0.
    """
    if rule is None:
        check_sigma(sigma, where, n=len(x))
    counts = jnp.isfinite(x) if where is None else jnp.isfinite(x) & where[:, None]
    largest = jax.lax.stop_gradient(jnp.max(jnp.where(counts, jnp.abs(x), 0), initial=0))
    unit = jnp.ldexp(jnp.ones((), x.dtype), -jnp.clip(jnp.frexp(largest)[1], -120, 120))
    x = x * unit
    if rule == "sqrt_d":
        sigma = jnp.sqrt(jnp.asarray(x.shape[1], x.dtype))
    elif rule is not None and len(x) == 1:
        sigma = jnp.ones((), x.dtype)  # there is no distance, and no difference either
    elif rule is not None:
        width = bandwidth(x, rule, neighbours=neighbours, where=where)
        return Scaled(x, width, width / unit)
    assert sigma is not None
    # A smaller one, whose square is not a number any more, would not change anything: all points
    # that are not equal are apart.
    least = 10 * jnp.sqrt(jnp.finfo(x.dtype).tiny)
    return Scaled(x, jnp.maximum(sigma * unit, least), sigma)


def on_all_devices(tree: Any, mesh: AnyMesh | None) -> Any:
    """Under `jit`: results whole on every device, so that every process can read them."""
    if mesh is None:
        return tree
    if AxisType.Explicit in mesh.axis_types:
        return jax.sharding.reshard(tree, replicated_sharding(mesh))
    return jax.lax.with_sharding_constraint(tree, replicated_sharding(mesh))
