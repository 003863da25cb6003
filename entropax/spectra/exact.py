"""From a matrix to its spectrum.

    S = entropy.von_neumann(spectra.density(kernel))

`eigvals` gives the eigenvalues as they are, `density` as shares of their sum.

A JAX kernel is worked on where it lies, in its own precision, under `jit`, `vmap` and `grad`. A
NumPy kernel is worked on by NumPy on the host in float64, which is how a number should be made that
goes into a report.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from entropax import entropy
from entropax.distributed import mesh_of
from entropax.types import Array

ArrayT = TypeVar("ArrayT", jax.Array, np.ndarray)


# From this number of rows on a tridiagonal matrix and bisection are faster than divide and conquer,
# which XLA always runs with eigenvectors. On a CPU in float32 1.3 times for 50 rows and 2 times for
# 100 to 2,000; in float64 no faster up to 500 rows, then 1.2 times for 1,000, 1.7 times for 2,000.
_LARGE = {np.dtype("float32"): 50, np.dtype("float64"): 500}


def _scaled(kernel: ArrayT) -> tuple[ArrayT, ArrayT, ArrayT]:
    """The matrices with entries near 1, lest squares and sums overflow.

    They are multiplied twice by a power of 2, the second value: once it might be out of range. The
    third value tells which are finite; the others come back as zeros.
    """
    if kernel.ndim < 2 or kernel.shape[-1] != kernel.shape[-2]:
        raise ValueError(f"`kernel` must be square matrices [..., n, n], got {kernel.shape}.")
    xp = np if isinstance(kernel, np.ndarray) else jnp
    if isinstance(kernel, np.ndarray):
        kernel = kernel.astype(np.float64)
    finite = xp.all(xp.isfinite(kernel), axis=(-2, -1), keepdims=True)
    kernel = xp.where(finite, kernel, 0)
    largest = xp.max(xp.abs(kernel), axis=(-2, -1), keepdims=True, initial=0)
    if isinstance(largest, jax.Array):
        largest = jax.lax.stop_gradient(largest)  # nothing depends on the scale
    # Numbers below the normal range count as 0, as they do in XLA.
    _, exponent = xp.frexp(xp.where(largest < xp.finfo(largest.dtype).tiny, 0, largest))
    half = xp.ldexp(xp.ones_like(largest), -(exponent // 2))
    return kernel * half * half, half[..., 0], finite[..., 0]


def _bisected(matrix: Float[Array, "*batch n n"]) -> Float[Array, "*batch n"]:
    """Eigenvalues to half a unit of rounding of the largest, without vectors."""
    _, diagonal, off, _ = jax.lax.linalg.tridiagonal(matrix)
    solve = functools.partial(jax.scipy.linalg.eigh_tridiagonal, eigvals_only=True)
    for _ in range(matrix.ndim - 2):
        solve = jax.vmap(solve)
    return solve(diagonal, off)


_values = functools.partial(jnp.linalg.eigvalsh, symmetrize_input=False)
_vectors = functools.partial(jnp.linalg.eigh, symmetrize_input=False)


@jax.custom_jvp
def _ascending(matrix: Float[Array, "*batch n n"]) -> Float[Array, "*batch n"]:
    """Eigenvalues of symmetric matrices with entries near 1."""
    if matrix.shape[-1] < _LARGE.get(matrix.dtype, math.inf):
        return _of_stack(_values, matrix)
    # The reduction to tridiagonal form exists on these platforms only.
    return jax.lax.platform_dependent(
        matrix,
        cpu=functools.partial(_of_stack, _bisected),
        cuda=_bisected,
        rocm=_bisected,
        default=_values,
    )


def _of_stack(solve: Callable[[Array], Any], matrix: Float[Array, "*batch n n"]) -> Any:
    """Solve all matrices at once; on several devices of a CPU one after the other.

    There a stack is solved by the threads that the devices compute on, and waits for them: several
    devices can wait for each other for ever.
    """
    if mesh_of(matrix) is None:
        return solve(matrix)

    def one_by_one(matrix: Float[Array, "*batch n n"]) -> Any:
        of_one = jax.custom_batching.sequential_vmap(solve)
        if matrix.ndim == 2:
            return of_one(matrix)
        solved = jax.lax.map(of_one, matrix.reshape(-1, *matrix.shape[-2:]))
        return jax.tree.map(lambda x: x.reshape(*matrix.shape[:-2], *x.shape[1:]), solved)

    return jax.lax.platform_dependent(matrix, cpu=one_by_one, default=solve)


@_ascending.defjvp
def _ascending_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    eigvals, vectors = _of_stack(_vectors, primals[0])
    products = jnp.matmul(tangents[0], vectors, precision="highest")
    return eigvals, jnp.sum(vectors * products, axis=-2)


def _symmetric_eigvals(matrix: ArrayT) -> ArrayT:
    """Eigenvalues of the symmetric part, by the library of the array."""
    if isinstance(matrix, np.ndarray):
        return np.linalg.eigvalsh((matrix + np.swapaxes(matrix, -2, -1)) / 2)
    return _ascending((matrix + jnp.swapaxes(matrix, -2, -1)) / 2)


def eigvals(matrix: Float[ArrayT, "*batch n n"]) -> Float[ArrayT, "*batch n"]:
    r"""Eigenvalues of symmetric matrices, without eigenvectors where the backend can do so.

    $$\operatorname{eig}\big((A + A^\top) / 2\big), \qquad
      d\lambda_k = v_k^\top\, dA\, v_k.$$

    On CPUs and GPUs a large JAX matrix is reduced to tridiagonal form and its eigenvalues are found
    by bisection, in half the time that a decomposition takes. In float32 they were off by at most
    1e-7 of the largest, for up to 2,000 rows. Only derivatives take eigenvectors.

    Args:
      matrix: `[..., n, n]` symmetric matrices of any scale. Only the symmetric part counts.

    Returns:
      `[..., n]` ascending numbers, off by rounding of the largest; all NaN where an entry is NaN or
      infinite. First derivatives are finite, in forward and in reverse mode. At equal eigenvalues
      those of a symmetric function of them, a sum or an entropy, are right; those of one alone are
      along one choice of eigenvectors.

    Raises:
      ValueError: if the matrices are not square.

    >>> eigvals(jnp.array([[0.0, 2.0], [2.0, 0.0]])).round(5).tolist()
    [-2.0, 2.0]
    """
    scaled, half, finite = _scaled(matrix)
    xp = np if isinstance(matrix, np.ndarray) else jnp
    return xp.where(finite, _symmetric_eigvals(scaled) / half / half, xp.nan)


def density(kernel: Float[ArrayT, "*batch n n"]) -> Float[ArrayT, "*batch n"]:
    r"""Eigenvalues of a kernel taken as a density matrix, one that has trace 1.

    $$\operatorname{eig}(K / \operatorname{tr} K).$$

    On kernels of digits, float32 made an error in the von Neumann entropy of at most 1.3e-6 nats
    for 30 examples (4e-7 of its maximum), over 1,000 subsets, and of 2e-5 nats for 1,000 examples.

    Args:
      kernel: `[..., n, n]` symmetric positive semi-definite matrices of any scale. Stacked ones are
        solved in one call. Only the symmetric part counts.

    Returns:
      `[..., n]` ascending numbers in `[0, 1]` that sum to 1; all 0 for a kernel of zeros. Negative
      eigenvalues down to 1e-4 of the largest are rounding and come back as 0. All NaN where an
      eigenvalue is more negative than that (the kernel is not positive semi-definite) or an entry
      is NaN or infinite. Gradients are finite, equal eigenvalues included.

    Raises:
      ValueError: if the matrices are not square.

    >>> density(jnp.diag(jnp.array([6.0, 2.0]))).round(5).tolist()
    [0.25, 0.75]
    """
    scaled, _, finite = _scaled(kernel)
    xp = np if isinstance(kernel, np.ndarray) else jnp
    return entropy.probabilities(xp.where(finite, _symmetric_eigvals(scaled), xp.nan))


def submatrices(
    kernel: Float[ArrayT, "m m"], indices: Int[ArrayT, "*batch k"]
) -> Float[ArrayT, "*batch k k"]:
    r"""The kernels of subsets, cut out of the kernel of all examples.

    $$K'_{ij} = K_{s_i s_j}.$$

    Args:
      kernel: `[m, m]` the kernel of a pool.
      indices: `[..., k]` rows of the pool. A negative index is a place that is still empty: its row
        and column are 0, which adds an eigenvalue 0 and leaves the entropy alone.

    Returns:
      `[..., k, k]` symmetric sub-matrices; NaN in the rows and columns of an index of `m` or more
      (an IndexError if both are NumPy arrays).

    >>> submatrices(jnp.arange(9.0).reshape(3, 3), jnp.array([[0, 2], [1, -1]])).tolist()
    [[[0.0, 2.0], [6.0, 8.0]], [[4.0, 0.0], [0.0, 0.0]]]
    """
    rows, columns = indices[..., :, None], indices[..., None, :]
    empty = (rows < 0) | (columns < 0)
    if isinstance(kernel, np.ndarray) and isinstance(indices, np.ndarray):
        return np.where(empty, 0, kernel[np.maximum(rows, 0), np.maximum(columns, 0)])
    kernel = jnp.asarray(kernel)
    return jnp.where(empty, 0, kernel.at[rows, columns].get(mode="fill", fill_value=jnp.nan))


def purity(kernel: Float[ArrayT, "*batch n n"]) -> Float[ArrayT, "*batch"]:
    r"""Purity of a kernel taken as a density matrix, without its eigenvalues.

    $$\operatorname{tr} K^2 / (\operatorname{tr} K)^2 = \sum_k p_k^2.$$

    Its negative logarithm is the Renyi entropy of order 2, a lower bound of the von Neumann
    entropy.

    Args:
      kernel: `[..., n, n]` symmetric positive semi-definite matrices of any scale.

    Returns:
      `[...]` numbers from `1 / n` to 1; 0 for a kernel of zeros; NaN where an entry is NaN or
      infinite, or the trace of a kernel that is not 0 is not positive.

    Raises:
      ValueError: if the matrices are not square.

    >>> round(float(purity(jnp.diag(jnp.array([6.0, 2.0])))), 5)  # 0.75 ** 2 + 0.25 ** 2
    0.625
    """
    xp = np if isinstance(kernel, np.ndarray) else jnp
    scaled, _, finite = _scaled(kernel)
    trace = xp.trace(scaled, axis1=-2, axis2=-1)
    squares = xp.sum(xp.square(scaled), axis=(-2, -1))
    ratio = squares / xp.square(xp.where(trace > 0, trace, 1))
    return xp.where(finite[..., 0] & ((trace > 0) | (squares == 0)), ratio, xp.nan)
