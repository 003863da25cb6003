r"""Vector, matrix and Dirichlet scaling: an affine map of the logits in place of one temperature.

All three minimise a convex function, the mean negative log-likelihood with or without a penalty,
by L-BFGS in standardised coordinates. They start from the best temperature, and so are never worse
on the examples they are fitted to.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from entropax.types import Array
from entropax.uncertainty.minimise import gradient_tolerance, minimise
from entropax.uncertainty.temperature import FitStatus, fit_temperature, validate_examples


class VectorScaling(NamedTuple):
    """A fitted scale and shift for every class.

    Attributes:
      scale: `[..., c]` factor of each logit; NaN if the data are not valid.
      shift: `[..., c]` what is added to it.
      status: `[...]` a `FitStatus` as an integer.
      loss_before: `[...]` mean negative log-likelihood of the logits as they were, in nats.
      loss_after: `[...]` the same after scaling, without a penalty.
      num_steps: `[...]` steps of L-BFGS.
    """

    scale: Float[Array, "*batch c"]
    shift: Float[Array, "*batch c"]
    status: Int[Array, "*batch"]
    loss_before: Float[Array, "*batch"]
    loss_after: Float[Array, "*batch"]
    num_steps: Int[Array, "*batch"]

    def apply(self, logits: Float[Array, "*examples c"]) -> Float[Array, "*examples c"]:
        """Scale and shift logits `[..., c]`, or `[..., n, c]` with the leading axes of the fit."""
        if self.scale.ndim == 1:
            return logits * self.scale + self.shift
        return logits * self.scale[..., None, :] + self.shift[..., None, :]


class MatrixScaling(NamedTuple):
    """A fitted affine map of logits, or of log-probabilities.

    Attributes:
      weight: `[..., c, c]` W; row k makes the new logit of class k. NaN if the data are not valid.
      shift: `[..., c]` b, which is added.
      of_log_probs: `[...]` whether the map is of log-probabilities (Dirichlet scaling).
      status: `[...]` a `FitStatus` as an integer.
      loss_before: `[...]` mean negative log-likelihood of the logits as they were, in nats.
      loss_after: `[...]` the same after scaling, without the penalty.
      num_steps: `[...]` steps of L-BFGS.
    """

    weight: Float[Array, "*batch c c"]
    shift: Float[Array, "*batch c"]
    of_log_probs: Bool[Array, "*batch"]
    status: Int[Array, "*batch"]
    loss_before: Float[Array, "*batch"]
    loss_after: Float[Array, "*batch"]
    num_steps: Int[Array, "*batch"]

    def apply(self, logits: Float[Array, "*examples c"]) -> Float[Array, "*examples c"]:
        """Map logits `[..., c]`, or `[..., n, c]` with the leading axes of the fit."""
        single = self.shift.ndim == 1
        of_log_probs = self.of_log_probs if single else self.of_log_probs[..., None, None]
        inputs = jnp.where(of_log_probs, jax.nn.log_softmax(logits), logits)
        shift = self.shift if single else self.shift[..., None, :]
        weight = jnp.swapaxes(self.weight, -1, -2)
        return jnp.matmul(inputs, weight, precision="highest") + shift


def fit_vector_scaling(
    logits: Float[Array, "*batch n c"],
    labels: Int[Array, "*batch n"],
    *,
    max_steps: int = 200,
    where: Bool[Array, "*#batch #n"] | None = None,
) -> VectorScaling:
    r"""Fit a scale and a shift for every class by the likelihood of held-out labels.

    $$z'_k = w_k z_k + b_k.$$

    Args:
      logits: `[..., n, c]`, all finite.
      labels: `[..., n]` the right class of each example.
      max_steps: where to stop in any case.
      where: `[..., n]` examples that count.

    Returns:
      A `VectorScaling`; apply it with its method `apply`. `loss_after` is never above
      `loss_before`.

    Raises:
      ValueError: `max_steps` is not positive.

    Reference: C. Guo et al., "On calibration of modern neural networks" (2017), section 4.2.

    >>> logits = jnp.array([[2.0, 0.0], [2.0, 0.0], [2.0, 0.0], [0.0, 2.0], [0.0, 2.0]])
    >>> scaling = fit_vector_scaling(logits, jnp.array([0, 0, 1, 1, 0]))
    >>> [round(float(p), 3) for p in jax.nn.softmax(scaling.apply(logits))[2:4, 0]]
    [0.667, 0.5]
    """
    parameters, *others = _fit(
        logits, labels, where, kind="vector", penalties=(0.0, 0.0), max_steps=max_steps
    )
    return VectorScaling(*parameters, *others)


def fit_matrix_scaling(
    logits: Float[Array, "*batch n c"],
    labels: Int[Array, "*batch n"],
    *,
    off_diagonal: float = 0.0,
    offset: float = 0.0,
    max_steps: int = 200,
    where: Bool[Array, "*#batch #n"] | None = None,
) -> MatrixScaling:
    r"""Fit an affine map of the logits by the likelihood of held-out labels.

    $$z' = W z + b, \qquad \min_{W, b} \; \mathrm{NLL}
      + \frac{\lambda}{c (c - 1)} \sum_{i \ne j} W_{ij}^2 + \frac{\mu}{c} \sum_k b_k^2.$$

    There are c (c + 1) parameters: without the penalty (ODIR) many classes are soon over-fitted.

    Args:
      logits: `[..., n, c]`, all finite.
      labels: `[..., n]` the right class of each example.
      off_diagonal: lambda, not negative.
      offset: mu, not negative.
      max_steps: where to stop in any case.
      where: `[..., n]` examples that count.

    Returns:
      A `MatrixScaling`; apply it with its method `apply`. `loss_after` is never above
      `loss_before`.

    Raises:
      ValueError: a penalty is negative, or `max_steps` is not positive.

    References:
      C. Guo et al., "On calibration of modern neural networks" (2017), section 4.2.
      M. Kull et al., "Beyond temperature scaling" (2019), section 4, for the penalty.

    >>> logits = jnp.array([[2.0, 0.0], [2.0, 0.0], [2.0, 0.0], [0.0, 2.0], [0.0, 2.0]])
    >>> scaling = fit_matrix_scaling(logits, jnp.array([0, 0, 1, 1, 0]), offset=1e6)
    >>> scaling.weight.shape, bool(scaling.loss_after < scaling.loss_before)
    ((2, 2), True)
    """
    return _fit_matrix(logits, labels, where, "matrix", (off_diagonal, offset), max_steps)


def fit_dirichlet_scaling(
    logits: Float[Array, "*batch n c"],
    labels: Int[Array, "*batch n"],
    *,
    off_diagonal: float = 1e-3,
    offset: float = 1e-3,
    max_steps: int = 200,
    where: Bool[Array, "*#batch #n"] | None = None,
) -> MatrixScaling:
    r"""Fit an affine map of the log-probabilities: Dirichlet calibration.

    $$z' = W \ln \mathrm{softmax}(z) + b,$$

    with the penalty of `fit_matrix_scaling`. It is the right map if the probabilities that a class
    is given have a Dirichlet distribution. Unlike matrix scaling it does not depend on what a row
    of logits has in common.

    Args:
      logits: `[..., n, c]`, all finite; logarithms of probabilities are logits too.
      labels: `[..., n]` the right class of each example.
      off_diagonal: lambda, not negative. The paper chooses it by cross-validation.
      offset: mu, not negative; likewise.
      max_steps: where to stop in any case.
      where: `[..., n]` examples that count.

    Returns:
      A `MatrixScaling` of log-probabilities; its method `apply` takes logits. `loss_after` is
      never above `loss_before`.

    Raises:
      ValueError: a penalty is negative, or `max_steps` is not positive.

    Reference: M. Kull et al., "Beyond temperature scaling: obtaining well-calibrated multiclass
    probabilities with Dirichlet calibration" (2019), section 3 and 4.

    >>> logits = jnp.array([[2.0, 0.0], [2.0, 0.0], [2.0, 0.0], [0.0, 2.0], [0.0, 2.0]])
    >>> scaling = fit_dirichlet_scaling(logits, jnp.array([0, 0, 1, 1, 0]))
    >>> bool(jnp.allclose(scaling.apply(logits), scaling.apply(logits + 7.0), atol=1e-5))
    True
    """
    return _fit_matrix(logits, labels, where, "dirichlet", (off_diagonal, offset), max_steps)


def _fit_matrix(
    logits: Float[Array, "*batch n c"],
    labels: Int[Array, "*batch n"],
    where: Bool[Array, "*#batch #n"] | None,
    kind: str,
    penalties: tuple[float, float],
    max_steps: int,
) -> MatrixScaling:
    for name, value in zip(("off_diagonal", "offset"), penalties, strict=True):
        if not value >= 0:
            raise ValueError(f"`{name}` must not be negative, got {value}.")
    parameters, *others = _fit(
        logits, labels, where, kind=kind, penalties=penalties, max_steps=max_steps
    )
    of_log_probs = jnp.full(labels.shape[:-1], kind == "dirichlet")
    return MatrixScaling(*(*parameters, of_log_probs, *others))


def _fit(
    logits: Float[Array, "*batch n c"],
    labels: Int[Array, "*batch n"],
    where: Bool[Array, "*#batch #n"] | None,
    *,
    kind: str,
    penalties: tuple[float, float],
    max_steps: int,
) -> tuple:
    if max_steps < 1:
        raise ValueError(f"`max_steps` must be positive, got {max_steps}.")
    counts = jnp.broadcast_to(True if where is None else jnp.asarray(where), labels.shape)
    fit = functools.partial(_fit_one, kind=kind, max_steps=max_steps)
    for _ in labels.shape[:-1]:
        fit = jax.vmap(fit, in_axes=(0, 0, 0, None))
    return fit(logits, labels, counts, tuple(map(float, penalties)))


@functools.partial(jax.jit, static_argnames=("kind", "max_steps"))
def _fit_one(
    logits: Float[Array, "n c"],
    labels: Int[Array, " n"],
    counts: Bool[Array, " n"],
    penalties: tuple[Float[Array, ""], Float[Array, ""]],
    *,
    kind: str,
    max_steps: int,
) -> tuple:
    centred, _, valid = validate_examples(logits, labels, counts)
    dtype, num_classes = centred.dtype, centred.shape[-1]
    inputs = jax.nn.log_softmax(logits.astype(dtype)) if kind == "dirichlet" else logits
    finite = jnp.isfinite(logits)
    valid &= jnp.all(finite | ~counts[:, None])
    inputs = jnp.where(counts[:, None] & finite, inputs.astype(dtype), 0)
    weights = counts / jnp.maximum(jnp.sum(counts), 1).astype(dtype)
    mean = weights @ inputs
    spread = jnp.sqrt(weights @ jnp.square(inputs - mean))
    spread = jnp.where(spread > 0, spread, 1)
    standardised = jnp.where(counts[:, None], (inputs - mean) / spread, 0)
    index = jnp.where(valid & counts, labels, 0)[:, None]

    def scaled(parameters: tuple[Array, Array]) -> Float[Array, "n c"]:
        factor, shift = parameters
        if kind == "vector":
            return standardised * factor + shift
        return jnp.matmul(standardised, factor.T, precision="highest") + shift

    def likelihood(parameters: tuple[Array, Array]) -> Float[Array, ""]:
        log_probs = jax.nn.log_softmax(scaled(parameters))
        return -jnp.sum(weights * jnp.take_along_axis(log_probs, index, axis=-1)[:, 0])

    def original(parameters: tuple[Array, Array]) -> tuple[Array, Array]:
        factor, shift = parameters
        weight = factor / spread
        common = weight * mean if kind == "vector" else weight @ mean
        return weight, shift - common

    def objective(parameters: tuple[Array, Array]) -> Float[Array, ""]:
        if kind == "vector":
            return likelihood(parameters)
        weight, shift = original(parameters)
        others = jnp.sum(jnp.square(weight)) - jnp.sum(jnp.square(jnp.diagonal(weight)))
        return (
            likelihood(parameters)
            + penalties[0] * others / max(num_classes * (num_classes - 1), 1)
            + penalties[1] * jnp.mean(jnp.square(shift))
        )

    def free(parameters: tuple[Array, Array]) -> Float[Array, "n c"]:
        """Logits by the parameters without a penalty alone, which may grow at no cost."""
        weight, shift = original(parameters)
        diagonal = jnp.diag(jnp.diagonal(weight))
        weight = jnp.where(penalties[0] > 0, diagonal, weight)
        shift = jnp.where(penalties[1] > 0, 0, shift)
        return jnp.matmul(inputs, weight.T, precision="highest") + shift

    def times(scale: Float[Array, ""]) -> tuple[Array, Array]:
        factor = scale * spread
        return (factor if kind == "vector" else jnp.diag(factor)), scale * mean

    identity = times(jnp.ones((), dtype))
    before = likelihood(identity)
    temperature = fit_temperature(logits, labels, where=counts)
    start = times(jnp.where(valid, temperature.inverse_temperature, 1))
    best, gradient, num_steps = minimise(objective, start, max_steps=max_steps)
    improved = objective(best) <= before
    best = jax.tree.map(lambda x, y: jnp.where(improved, x, y), best, identity)
    unpenalised = scaled(best) if kind == "vector" else free(best)
    own = jnp.take_along_axis(unpenalised, index, axis=-1)
    rivals = jnp.sum(unpenalised >= own, axis=-1)
    separable = jnp.all((rivals == 1) | ~counts)
    converged = improved & (gradient <= gradient_tolerance(dtype))
    status = jnp.where(converged, FitStatus.CONVERGED, FitStatus.NOT_CONVERGED)
    status = jnp.where(separable, FitStatus.SEPARABLE, status)
    parameters, losses = jax.tree.map(
        lambda x: jnp.where(valid, x, jnp.nan), (original(best), (before, likelihood(best)))
    )
    return parameters, jnp.where(valid, status, FitStatus.INVALID), *losses, num_steps
