r"""Diffusion spectral entropy: how many directions a random walk on the points still tells apart.

    dse(features, sigma="median")          # one number in nats, differentiable
    dse_estimate(features, sigma="median") # with error bars, saturation, and how it was made

The walk steps from a point to another with a probability that falls with their distance. The
eigenvalues of its operator, to the power of the diffusion time `t`, are a distribution once they
sum to 1; its entropy is 0 for points in one place and ln n for points that the walk never leaves.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from entropax.diffusion.collision import collision, traces
from entropax.diffusion.points import is_definite, is_unknown
from entropax.diffusion.spectral import (
    TRACED,
    Estimate,
    check_time_and_order,
    estimate,
    in_numbers,
    profile,
    spectral_entropy,
)
from entropax.diffusion.spectrum import spectrum
from entropax.types import Array


def _from_traces(t: Any, order: float, sigma: Any, options: Mapping[str, Any]) -> bool:
    """Whether the traces of the operator and of its square are all that the entropy needs."""
    plain = options.get("method", "auto") in ("auto", "exact") and options.get("cache") is None
    return (
        order == 2
        and isinstance(t, int | float)
        and t == 1
        and plain
        and is_definite(options.get("kernel", "gaussian"), sigma)
    )


def dse(
    x: Array | np.ndarray,
    *,
    sigma: float | str | Array | None = None,
    t: float | Float[Array, ""] = 1.0,
    order: float = 1.0,
    **options: Any,
) -> Float[Array, ""]:
    r"""Diffusion spectral entropy of points, in nats.

    $$H = -\sum_k p_k \ln p_k, \qquad p_k = |\lambda_k|^t \Big/ \sum_j |\lambda_j|^t,$$

    with the eigenvalues of $D^{-1/2} G' D^{-1/2}$ for $G'_{ij} = G_{ij} / (d_i d_j)^\alpha$ and the
    Gaussian kernel $G_{ij} = \exp(-\|x_i - x_j\|^2 / 2 \sigma^2)$. The paper's formula has
    `alpha = 0.5`, its published code and the default here, `alpha = 0`. Points twice as many, each
    of them twice, have the same entropy.

    Under `jit`, `vmap` and `grad` it is exact and differentiable, equal points included, so that it
    can be a loss. Otherwise many points are sampled (`method` of `spectrum`); `dse_estimate` tells
    how well.

    Args:
      x: `[n, d]` points.
      sigma: the bandwidth, as for `spectrum`: a number, "median", "sqrt_d", "knn" or "adaptive".
      t: the diffusion time, as for `spectral_entropy`.
      order: the Renyi order, as for `spectral_entropy`; order 2 at `t = 1` needs no eigenvalues.
      **options: those of `spectrum`: `alpha`, `kernel`, `neighbours`, `method`, `key`, `memory`,
        `mesh`, `cache`, `where`.

    Returns:
      `[]` in `[0, ln n]`; NaN for NaN inside `jit`.

    Raises:
      ValueError: if an option is out of its range or `x` is not a finite matrix of points.

    Reference: D. Liao et al., "Assessing neural network representations during training using
    noise-resilient diffusion spectral entropy" (2023), equations 1 to 3.

    >>> round(float(dse(np.eye(8), sigma=1.0)), 4)
    1.7638
    """
    check_time_and_order(t, order)
    if _from_traces(t, order, sigma, options):
        return collision(traces(x, sigma=sigma, **options))
    return spectral_entropy(spectrum(x, sigma=sigma, **options), t=t, order=order)


def dse_estimate(
    x: Array | np.ndarray,
    *,
    sigma: float | str | Array | None = None,
    t: float | Float[Array, ""] = 1.0,
    order: float = 1.0,
    **options: Any,
) -> Estimate:
    """Diffusion spectral entropy of points with its uncertainty and its saturation.

    Args:
      x: `[n, d]` points; not inside `jit`.
      sigma: as for `dse`, like all that follows.
      t: the diffusion time.
      order: the Renyi order.
      **options: those of `spectrum`.

    Returns:
      The estimate, in nats, as Python's numbers.

    Raises:
      ValueError: as for `dse`, and if `x` is being traced.

    >>> dse_estimate(np.eye(8), sigma=1.0).method
    'exact'
    """
    check_time_and_order(t, order)
    if is_unknown((x, t, options)):
        raise ValueError(TRACED)
    if _from_traces(t, order, sigma, options):
        walk = traces(x, sigma=sigma, **options)
        value = float(collision(walk))
        return in_numbers(walk, [value, 0.0, value, value])
    return estimate(spectrum(x, sigma=sigma, **options), t=t, order=order)


def dse_profile(
    x: Array | np.ndarray,
    ts: Float[Array, " k"] | Sequence[float],
    *,
    sigma: float | str | Array | None = None,
    order: float = 1.0,
    **options: Any,
) -> Float[Array, " k"]:
    """Diffusion spectral entropy at many times, from one spectrum, in nats.

    Args:
      x: `[n, d]` points.
      ts: `[k]` diffusion times.
      sigma: as for `dse`, like all that follows.
      order: the Renyi order.
      **options: those of `spectrum`.

    Returns:
      `[k]` entropies.

    Raises:
      ValueError: as for `dse`.

    >>> [round(float(value), 4) for value in dse_profile(np.eye(8), [0.0, 1.0], sigma=1.0)]
    [2.0794, 1.7638]
    """
    check_time_and_order(ts, order)
    return profile(spectrum(x, sigma=sigma, **options), ts, order=order)
