"""From the spectrum of a random walk to its entropy, of any diffusion time and order."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from entropax.diffusion.points import is_traced, is_unknown
from entropax.diffusion.spectrum import Spectrum
from entropax.spectra import Quadrature, SpectralEstimate, spectral_estimate
from entropax.types import Array

TRACED = (
    "An estimate holds Python's numbers, which are not known yet under jit, grad and vmap; there, "
    "use `dse` or `spectral_entropy`."
)

Elementwise = Callable[[Array], Array]


class Estimate(NamedTuple):
    """A diffusion entropy in Python's numbers, with how far it can be trusted.

    Attributes:
      value: the entropy, in nats.
      stderr: its standard error over random probes; 0 if it was computed exactly.
      lower: lower end of an interval that holds the entropy with 95 % probability; equal to `value`
        if it was computed exactly.
      upper: upper end.
      saturation: `value / ln n`, from 0 to 1 (0 for one point). Near 0 all points are one to the
        walk, since `sigma` is too large for them; near 1 none has a neighbour, since `sigma` is too
        small. Both tell of `sigma` and nothing of the data: choose another.
      n: the number of points.
      sigma: the bandwidth that was used; the median one if every point has its own; None for a
        kernel without one.
      method: how it was made: "exact", "exact, from traces", "slq, stored" or "slq, matrix-free".
    """

    value: float
    stderr: float
    lower: float
    upper: float
    saturation: float
    n: int
    sigma: float | None
    method: str


def _formula(
    t: float | Array, order: float
) -> tuple[list[Elementwise], Callable[[Sequence[Array] | Array], Array]]:
    r"""The entropy of $(1, \lambda_1^t, \lambda_2^t, ...)$ from sums over the lambdas.

    With $z_t = \sum_k \lambda_k^t$ the largest probability is $1 / (1 + z_t)$. Nothing is
    subtracted from 1, which keeps the digits of an entropy near 0.
    """

    def logarithm(values: Array, power: float | Array) -> tuple[Array, Array]:
        # Not `values > tiny`: a NaN has to stay one. The reciprocal of `tiny` still is a number.
        counts = ~(values <= jnp.finfo(values.dtype).tiny)
        return counts, power * jnp.log(jnp.where(counts, values, 1))

    def power(exponent: float | Array) -> Elementwise:
        def function(values: Array) -> Array:
            counts, log = logarithm(values, exponent)
            return jnp.where(counts, jnp.exp(log), 0)

        return function

    def excess(values: Array) -> Array:
        """(p^order - p) / (order - 1), or p ln p for order 1."""
        counts, log = logarithm(values, t)
        distance = abs(order - 1)
        slope = jnp.expm1(distance * log) / distance if distance > 0 else log
        return jnp.where(counts, jnp.exp(min(order, 1.0) * log) * slope, 0)

    if order == math.inf:
        return [power(t)], lambda sums: jnp.log1p(sums[0])
    if order == 1:
        return [power(t), excess], lambda sums: jnp.log1p(sums[0]) - sums[1] / (1 + sums[0])
    if abs(order - 1) < 0.2:  # what differs from 1, as dividing by 1 - order would cost digits
        return (
            [power(t), excess],
            lambda sums: (
                jnp.log1p(sums[0]) - jnp.log1p((order - 1) * sums[1] / (1 + sums[0])) / (order - 1)
            ),
        )
    return [
        power(t),
        power(order * t),
    ], lambda sums: (jnp.log1p(sums[1]) - order * jnp.log1p(sums[0])) / (1 - order)


def check_time_and_order(t: Any, order: float) -> None:
    """Raise a ValueError unless both are in their range; a traced time passes."""
    if not order >= 0:
        raise ValueError(f"`order` must be a number from 0 to infinity, got {order}.")
    if not is_traced(t) and not np.all((np.asarray(t) >= 0) & np.isfinite(t)):
        raise ValueError(f"The diffusion time `t` must be finite and not negative, got {t}.")


@functools.partial(jax.jit, static_argnames="order")
def _estimate(
    residual: Any, moments: tuple[Array, Array], n: Array, t: Array, order: float
) -> tuple[Array, Array, Array, Array]:
    """Value, standard error, lower and upper end."""
    functions, combine = _formula(t, order)
    if isinstance(residual, Quadrature):
        found = spectral_estimate(residual, functions, combine, moments=moments)
    else:
        value = combine([jnp.sum(function(residual)) for function in functions])
        found = SpectralEstimate(value, jnp.zeros_like(value), value, value)
    highest = jnp.log(jnp.maximum(n, 1).astype(found.value.dtype))
    # Where every point counts by definition, the eigenvalues do not matter, unless one is NaN.
    everything = ((t == 0) | (order == 0)) & ~jnp.isnan(found.value)

    def within(value: Array) -> Array:
        return jnp.where(everything, highest, jnp.clip(value, 0, highest))

    stderr = jnp.where(everything, 0, found.stderr)
    return within(found.value), stderr, within(found.lower), within(found.upper)


def _estimates(spectrum: Spectrum, t: Any, order: float) -> tuple[Array, Array, Array, Array]:
    if np.ndim(t) != 0:
        raise ValueError(f"`t` must be one number, got {np.shape(t)}; `profile` takes many times.")
    dtype = jnp.result_type(*jax.tree.leaves(spectrum.moments))
    time = jnp.asarray(t, dtype)
    return _estimate(spectrum.residual, spectrum.moments, spectrum.n, time, float(order))


def spectral_entropy(
    spectrum: Spectrum, *, t: float | Float[Array, ""] = 1.0, order: float = 1.0
) -> Float[Array, ""]:
    r"""Diffusion entropy of a spectrum that was computed before, in nats.

    $$H = -\sum_k p_k \ln p_k, \qquad p_k = |\lambda_k|^t \Big/ \sum_j |\lambda_j|^t,$$

    or the Renyi entropy $\ln (\sum_k p_k^q) / (1 - q)$ of order $q$. From the sums over the
    eigenvalues other than the leading one, which is 1: float32 keeps 4 digits of an entropy of
    1e-5 nats.

    Args:
      spectrum: from `spectrum`.
      t: the diffusion time, any real number from 0. Every point counts at 0, where the entropy is
        ln n; the entropy never increases with `t`.
      order: the Renyi order, from 0 to `math.inf`, known when the function is traced: 1 is
        Shannon's; 2, the collision entropy; infinity, the min-entropy. Every point counts in
        order 0, where it is ln n; it never increases with the order.

    Returns:
      `[]` in `[0, ln n]`; 0 for one point; NaN if the points had a NaN. Below `t = 1` rounding
      weighs more: an eigenvalue of 1e-8 that should be 0 counts as 1e-4 at `t = 0.5`.

    Raises:
      ValueError: if `t` or `order` is negative, or `t` infinite.

    Reference: D. Liao et al., "Assessing neural network representations during training using
    noise-resilient diffusion spectral entropy" (2023), equation 3.

    >>> from entropax.diffusion.spectrum import spectrum
    >>> walk = spectrum(jnp.eye(8), sigma=1.0)
    >>> bool(spectral_entropy(walk) > spectral_entropy(walk, t=2.0))
    True
    """
    check_time_and_order(t, order)
    return _estimates(spectrum, t, order)[0]


def estimate(
    spectrum: Spectrum, *, t: float | Float[Array, ""] = 1.0, order: float = 1.0
) -> Estimate:
    """Diffusion entropy of a spectrum with its uncertainty, as Python's numbers.

    Args:
      spectrum: from `spectrum`; not inside `jit`.
      t: the diffusion time, as for `spectral_entropy`.
      order: the Renyi order, as for `spectral_entropy`.

    Returns:
      The estimate. The interval of a sampled spectrum joins the bracket of two quadrature rules
      with the spread over the probes.

    Raises:
      ValueError: if `t` or `order` is out of its range, or the spectrum is being traced.

    >>> from entropax.diffusion.spectrum import spectrum
    >>> estimate(spectrum(jnp.eye(8), sigma=1e-3)).saturation
    1.0
    """
    check_time_and_order(t, order)
    if is_unknown((spectrum, t)):
        raise ValueError(TRACED)
    return in_numbers(spectrum, [float(part) for part in _estimates(spectrum, t, order)])


def in_numbers(spectrum: Spectrum, parts: Sequence[float]) -> Estimate:
    """An estimate from value, standard error, lower and upper end, and what the spectrum tells."""
    n = int(spectrum.n)
    value, stderr, lower, upper = parts
    return Estimate(
        value=value,
        stderr=stderr,
        lower=lower,
        upper=upper,
        saturation=min(value / math.log(n), 1.0) if n > 1 else 0.0,
        n=n,
        sigma=None if spectrum.sigma is None else float(np.median(spectrum.sigma)),
        method=spectrum.method,
    )


def profile(
    spectrum: Spectrum, ts: Float[Array, " k"] | Sequence[float], *, order: float = 1.0
) -> Float[Array, " k"]:
    """Diffusion entropy at many times from one spectrum, in nats.

    Args:
      spectrum: from `spectrum`.
      ts: `[k]` diffusion times, as for `spectral_entropy`.
      order: the Renyi order.

    Returns:
      `[k]` entropies, which never increase along growing times.

    Raises:
      ValueError: if a time or the order is out of its range.

    >>> from entropax.diffusion.spectrum import spectrum
    >>> entropies = profile(spectrum(jnp.eye(8), sigma=1.0), [0.0, 1.0])
    >>> [round(float(value), 4) for value in entropies]
    [2.0794, 1.7638]
    """
    check_time_and_order(ts, order)
    if np.ndim(ts) != 1:
        raise ValueError(f"`ts` must be several times [k], got the shape {np.shape(ts)}.")
    return jax.vmap(lambda t: _estimates(spectrum, t, order)[0])(jnp.asarray(ts))
