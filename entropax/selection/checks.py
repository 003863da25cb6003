"""What a pool has to be, before a selection: looked at on the host, or on several devices."""

from types import ModuleType
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Shaped

from entropax.distributed import mesh_of
from entropax.types import Array

Pool: TypeAlias = Shaped[Array, "m *shape"] | Shaped[np.ndarray, "m *shape"]

# Far above the rounding of sums over millions of parameters in float32, far below any mistake.
_ROUNDING = 1e-3


def check_count(pool: Pool, n: int) -> None:
    """Raise a ValueError unless `n` examples can be taken from the pool."""
    if not 1 <= n <= len(pool):
        raise ValueError(
            f"`n` must be between 1 and the {len(pool)} examples of the pool, got {n}."
        )


def check_examples(pool: Pool, n: int) -> None:
    """Raise a ValueError unless the pool holds `n` examples or more, all of them finite."""
    check_count(pool, n)
    count, first = _not_finite_on_devices(pool) if _is_split(pool) else _not_finite(pool)
    if count:
        raise ValueError(
            f"`pool` must be finite, but {count} of {len(pool)} examples hold NaN or infinity; "
            f"the first is example {first}."
        )


def check_kernel(pool: Pool, n: int) -> None:
    """Raise a ValueError unless the pool is a kernel matrix of `n` examples or more."""
    shape = jnp.shape(pool)
    if len(shape) != 2 or shape[0] != shape[1]:
        raise ValueError(
            f"This agent selects on a kernel matrix [m, m] of the pool, got the shape {shape}; "
            "compute one with `entropax.kernels.gram`."
        )
    check_examples(pool, n)
    if not jnp.issubdtype(pool.dtype, jnp.floating):
        raise ValueError(f"The kernel must be of a floating-point type, got {pool.dtype}.")
    found = _look_on_devices(pool) if _is_split(pool) else _look(pool)
    if found.lowest < 0:
        raise ValueError(
            "The kernel must be positive semi-definite, but example "
            f"{found.lowest_at} has {found.lowest:.3g} on the diagonal."
        )
    if found.largest == 0:
        raise ValueError("Every entry of the kernel is 0: there is no entropy to select by.")
    fault = found.fault
    if fault.asymmetric:
        i, j = found.row, fault.asymmetric_at
        raise ValueError(
            f"The kernel must be symmetric, but it is {fault.entry:.6g} at ({i}, {j}) and "
            f"{fault.opposite:.6g} at ({j}, {i})."
        )
    if fault.excessive:
        raise ValueError(
            f"The kernel must be positive semi-definite, but it is {fault.excess:.3g} at "
            f"({found.row}, {fault.excessive_at}), where the diagonal allows {fault.bound:.3g} at "
            "most."
        )


def check_index(name: str, index: int | None, m: int) -> None:
    """Raise a ValueError unless `index` is None or a row of a pool of `m` examples."""
    if index is not None and not 0 <= index < m:
        raise ValueError(f"`{name}` must be one of the {m} examples of the pool, got {index}.")


def _is_split(pool: Pool) -> bool:
    return isinstance(pool, jax.Array) and mesh_of(pool) is not None


def _not_finite(pool: Pool) -> tuple[int, int]:
    """How many examples are not finite, and the first of them."""
    rows = np.asarray(pool).reshape(len(pool), -1)
    bad = [i for i, row in enumerate(rows) if not np.all(np.isfinite(row))]
    return len(bad), bad[0] if bad else 0


@jax.jit
def _not_finite_on_devices(pool: Array) -> tuple[Array, Array]:
    bad = ~jnp.all(jnp.isfinite(pool.reshape(len(pool), -1)), axis=1)
    return jnp.sum(bad), jnp.argmax(bad)


class _Fault(NamedTuple):
    """Where one row of a kernel is farthest from symmetric, and from what its diagonal allows."""

    asymmetric: Any
    asymmetric_at: Any
    entry: Any
    opposite: Any
    excessive: Any
    excessive_at: Any
    excess: Any
    bound: Any


class _Look(NamedTuple):
    """The least entry of the diagonal, the largest magnitude, the first row with a fault."""

    lowest: Any
    lowest_at: Any
    largest: Any
    row: Any
    fault: _Fault


def _flags(xp: ModuleType, row: Any, column: Any, norm: Any, norms: Any) -> tuple[Any, Any]:
    """Whether a row is not symmetric, and whether it is more than the diagonal allows."""
    bound, magnitude = norm * norms, xp.abs(row)
    asymmetric = xp.any(xp.abs(row - column) > _ROUNDING * xp.maximum(bound, magnitude))
    return asymmetric, xp.any(magnitude - (1 + _ROUNDING) * bound > 0)


def _fault(xp: ModuleType, row: Any, column: Any, norm: Any, norms: Any) -> _Fault:
    asymmetric, excessive = _flags(xp, row, column, norm, norms)
    bound = norm * norms
    j, k = xp.argmax(xp.abs(row - column)), xp.argmax(xp.abs(row) - (1 + _ROUNDING) * bound)
    return _Fault(asymmetric, j, row[j], column[j], excessive, k, row[k], bound[k])


def _look(pool: Pool) -> _Look:
    kernel = np.asarray(pool)
    diagonal = np.diagonal(kernel)
    at = np.argmin(diagonal)
    norms = np.sqrt(np.maximum(diagonal, 0))
    # Row by row, since a copy of a large kernel may not fit.
    for i, row in enumerate(kernel):
        if any(_flags(np, row, kernel[:, i], norms[i], norms)):
            break
    fault = _fault(np, kernel[i], kernel[:, i], norms[i], norms)
    return _Look(diagonal[at], at, np.max(np.abs(kernel)), i, fault)


@jax.jit
def _look_on_devices(kernel: Array) -> _Look:
    diagonal = jnp.diagonal(kernel)
    at = jnp.argmin(diagonal)
    norms = jnp.sqrt(jnp.maximum(diagonal, 0))
    flags = jax.vmap(lambda row, column, norm: _flags(jnp, row, column, norm, norms))
    i = jnp.argmax(jnp.logical_or(*flags(kernel, kernel.T, norms)))
    # As a gather of one row: a plain index would bring all rows to every device.
    fault = _fault(jnp, kernel[i[None]][0], kernel[:, i], norms[i], norms)
    return _Look(diagonal[at], at, jnp.max(jnp.abs(kernel)), i, fault)
