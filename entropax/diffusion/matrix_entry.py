"""The entropy of the entries of a diffusion operator, which needs no eigenvalues."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from entropax import entropy
from entropax.diffusion.points import check_kernel, points, scaled
from entropax.kernels.diffusion import check_alpha
from entropax.kernels.gaussian import centred, squared_distances
from entropax.types import Array

# Entries of the operator that are held at a time by default: 64 MiB in float32.
_ENTRIES = 2**24


def matrix_entry_entropy(
    x: Array | np.ndarray,
    *,
    sigma: float | str | Array,
    alpha: float = 0.5,
    neighbours: int = 10,
    where: Bool[Array, " n"] | None = None,
    block_size: int | None = None,
) -> Float[Array, ""]:
    r"""Entropy of the entries of a random walk on the points, in nats.

    $$H = \ln n - \frac1n \sum_{ij} P_{ij} \ln P_{ij}, \qquad
      P_{ij} = \frac{G_{ij} d_j^{-\alpha}}{\sum_k G_{ik} d_k^{-\alpha}}, \qquad
      d_i = \sum_j G_{ij},$$

    with $G_{ij} = \exp(-\|x_i - x_j\|^2 / 2 \sigma^2)$. It is the Shannon entropy of the `n^2`
    entries of `P / n`: where the walk starts, anywhere, and where its first step leads. Hence it
    lies between `ln n`, for points that never leave, and `2 ln n`, for points that are all alike.

    It takes two passes over the pairs of points, in blocks of rows that are made again for
    gradients: memory is for `n` by `block_size` numbers a few times over.

    Args:
      x: `[n, d]` points.
      sigma: bandwidth, a positive number, one for each point, or a rule: see `kernels.bandwidth`.
      alpha: how much of the density of the points is divided out, from 0 (none) to 1 (all). The
        published code takes 1/2 here, though 0 for the spectral entropy.
      neighbours: which neighbour counts, for sigma="knn" and "adaptive".
      where: `[n]` points that count.
      block_size: rows of `P` at a time; as many as give 16 million entries by default.

    Returns:
      The entropy, from `ln n` to `2 ln n`; 0 if no point counts, NaN for NaN inside `jit`.
      Differentiable, equal points included.

    Raises:
      ValueError: if an option is out of its range or `x` is not a finite matrix of points.

    Reference: the alternative to the spectrum in the published code (dse-dsmi 1.1) of D. Liao et
    al., "Assessing neural network representations during training using noise-resilient diffusion
    spectral entropy" (2023); the operator is equation 1 there.

    >>> far = jnp.array([[0.0], [100.0]])  # ln 2: two points that never meet
    >>> float(matrix_entry_entropy(far, sigma=1.0))
    0.6931471824645996
    """
    check_alpha(alpha)
    check_kernel("gaussian", sigma, neighbours)
    if block_size is not None and block_size < 1:
        raise ValueError(f"`block_size` must be at least 1, got {block_size}.")
    x = points(x, where)
    rule = sigma if isinstance(sigma, str) else None
    uncorrected = isinstance(alpha, int | float) and alpha == 0
    return _entropy(
        x,
        None if rule else jnp.asarray(sigma, x.dtype),
        None if uncorrected else jnp.asarray(alpha, x.dtype),
        where,
        rule=rule,
        neighbours=neighbours,
        size=min(block_size or max(_ENTRIES // len(x), 1), len(x)),
    )


@functools.partial(jax.jit, static_argnames=("rule", "neighbours", "size"))
def _entropy(
    x: Float[Array, "n d"],
    number: Array | None,
    alpha: Array | None,
    where: Bool[Array, " n"] | None,
    *,
    rule: str | None,
    neighbours: int,
    size: int,
) -> Float[Array, ""]:
    """In blocks of `size` rows; `alpha` None is 0."""
    near = scaled(x, number, rule, neighbours=neighbours, where=where)
    n = len(x)
    counts = jnp.ones(n, bool) if where is None else where
    number = jnp.sum(counts)
    safe_number = jnp.maximum(number, 1).astype(x.dtype)
    widths = jnp.broadcast_to(near.sigma, (n,))
    widths = jnp.where(counts, widths, 1)
    x = centred(near.x, where)[0]
    rows = jnp.pad(jnp.arange(n), (0, -n % size), constant_values=-1).reshape(-1, size)

    def exponents(block: Array) -> Array:
        squares = squared_distances(x[block], x)
        squares = jnp.where(block[:, None] == jnp.arange(n), 0, squares)  # rounding, otherwise
        return squares / (-2 * widths[block, None]) / widths

    @jax.checkpoint
    def log_degrees_of(block: Array) -> Array:
        return jax.nn.logsumexp(exponents(block), axis=1, where=counts)

    @jax.checkpoint
    def entropies_of(block: Array) -> Array:
        return entropy.softmax_entropy(exponents(block) - correction, where=counts)

    correction: float | Array = 0.0
    if alpha is not None:
        correction = alpha * jax.lax.map(log_degrees_of, rows).reshape(-1)[:n]
    entropies = jax.lax.map(entropies_of, rows).reshape(-1)[:n]
    mean = jnp.sum(jnp.where(counts, entropies, 0)) / safe_number
    return jnp.where(number > 0, jnp.log(safe_number) + mean, 0)
