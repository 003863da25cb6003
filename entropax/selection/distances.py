"""Distances and similarities between the outputs of two networks, on the last axis.

`distillation` takes any of the distances. They were collected from ZnNL (ZnRND), which inspired
this part; each docstring says where its code does something else.
"""

import math

import jax.numpy as jnp
from jaxtyping import Float

from entropax.types import Array


def _check_order(order: float) -> None:
    if not order >= 1:
        raise ValueError(f"`order` must be at least 1, got {order}.")


def l_p(
    x: Float[Array, "*#batch d"], y: Float[Array, "*#batch d"], *, order: float = 2
) -> Float[Array, "*batch"]:
    r"""The $L_p$ norm of the difference.

    $$\Big(\sum_k |x_k - y_k|^p\Big)^{1/p}.$$

    Not differentiable at `x = y`; `order_n` is.

    Args:
      x: `[..., d]`.
      y: `[..., d]`.
      order: p, at least 1; `math.inf` for the largest difference.

    Raises:
      ValueError: `order` is below 1, where this is not a norm.

    >>> float(l_p(jnp.array([3.0, 0.0]), jnp.array([0.0, 4.0])))
    5.0
    """
    _check_order(order)
    difference = jnp.abs(x - y)
    largest = jnp.max(difference, axis=-1, keepdims=True)
    if math.isinf(order):
        return largest[..., 0]
    # Shares of the largest, so that powers neither overflow nor vanish.
    shares = difference / jnp.where(largest > 0, largest, 1)
    return largest[..., 0] * jnp.sum(shares**order, axis=-1) ** (1 / order)


def order_n(
    x: Float[Array, "*#batch d"],
    y: Float[Array, "*#batch d"],
    *,
    order: float = 2,
    reduction: str = "mean",
) -> Float[Array, "*batch"]:
    r"""The mean, or the sum, of a power of the differences; order 2 is the mean squared error.

    $$\frac1d \sum_k |x_k - y_k|^n.$$

    ZnNL's OrderNDifference leaves out the absolute value, so that differences of odd order cancel.

    Args:
      x: `[..., d]`.
      y: `[..., d]`.
      order: n, at least 1.
      reduction: "mean" or "sum".

    Raises:
      ValueError: `order` is below 1, or `reduction` is something else.

    >>> float(order_n(jnp.array([1.0, 2.0]), jnp.array([2.0, 1.0]), order=3))  # not 0
    1.0
    """
    _check_order(order)
    if reduction not in ("mean", "sum"):
        raise ValueError(f"`reduction` must be 'mean' or 'sum', got {reduction!r}.")
    difference = x - y
    # An even power needs no absolute value, whose derivative at 0 is a matter of taste.
    powers = difference**order if order % 2 == 0 else jnp.abs(difference) ** order
    return jnp.mean(powers, axis=-1) if reduction == "mean" else jnp.sum(powers, axis=-1)


def _unit(x: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
    largest = jnp.max(jnp.abs(x), axis=-1, keepdims=True)
    shares = x / jnp.where(largest > 0, largest, 1)
    norm = jnp.sqrt(jnp.sum(jnp.square(shares), axis=-1, keepdims=True))
    return shares / jnp.where(norm > 0, norm, 1)


def cosine_similarity(
    x: Float[Array, "*#batch d"], y: Float[Array, "*#batch d"]
) -> Float[Array, "*batch"]:
    r"""The cosine of the angle, in [-1, 1]; 0 where a vector is 0.

    $$\frac{x \cdot y}{\|x\| \|y\|}.$$

    A similarity, high where two outputs agree. ZnNL's random network distillation uses it as its
    default distance, and so looks for the examples that the predictor knows best.

    >>> float(cosine_similarity(jnp.array([2.0, 0.0]), jnp.array([-3.0, 0.0])))
    -1.0
    """
    return jnp.clip(jnp.sum(_unit(x) * _unit(y), axis=-1), -1, 1)


def cosine_distance(
    x: Float[Array, "*#batch d"], y: Float[Array, "*#batch d"]
) -> Float[Array, "*batch"]:
    r"""One minus the cosine of the angle, in [0, 2]; 1 where a vector is 0.

    $$1 - \frac{x \cdot y}{\|x\| \|y\|}.$$

    Not a metric: the triangle inequality fails; `angular` is one, of directions. ZnNL takes the
    absolute value of the cosine, which puts opposite outputs at distance 0.

    >>> float(cosine_distance(jnp.array([2.0, 0.0]), jnp.array([-3.0, 0.0])))
    2.0
    """
    return 1 - cosine_similarity(x, y)


def angular(x: Float[Array, "*#batch d"], y: Float[Array, "*#batch d"]) -> Float[Array, "*batch"]:
    r"""The angle between two vectors as a share of the half turn, in [0, 1].

    $$\frac1\pi \arccos \frac{x \cdot y}{\|x\| \|y\|}.$$

    It is computed from the sides of a triangle, which is exact for small angles as well, where the
    cosine in float32 sees nothing below 3e-4. 1/2 where one vector is 0, and 0 where both are. ZnNL
    takes the absolute value of the cosine, which puts opposite outputs at distance 0, and gives NaN
    where rounding makes a cosine exceed 1.

    >>> float(angular(jnp.array([1.0, 0.0]), jnp.array([0.0, 2.0])))
    0.5
    """
    u, v = _unit(x), _unit(y)
    apart = jnp.sqrt(jnp.sum(jnp.square(u - v), axis=-1))
    together = jnp.sqrt(jnp.sum(jnp.square(u + v), axis=-1))
    return 2 * jnp.arctan2(apart, together) / jnp.pi


def hypersphere(
    x: Float[Array, "*#batch d"], y: Float[Array, "*#batch d"], *, order: float = 2
) -> Float[Array, "*batch"]:
    r"""The $L_p$ norm of the difference times the cosine distance.

    $$\|x - y\|_p \, \Big(1 - \frac{x \cdot y}{\|x\| \|y\|}\Big).$$

    Not a metric: vectors of one direction have distance 0 whatever their lengths. ZnNL takes the
    absolute value of the cosine.

    Args:
      x: `[..., d]`.
      y: `[..., d]`.
      order: p, at least 1.

    Raises:
      ValueError: `order` is below 1.

    >>> float(hypersphere(jnp.array([3.0, 0.0]), jnp.array([0.0, 4.0])))
    5.0
    """
    return l_p(x, y, order=order) * cosine_distance(x, y)


def mahalanobis(
    x: Float[Array, "*#batch d"],
    y: Float[Array, "*#batch d"],
    covariance: Float[Array, "d d"],
) -> Float[Array, "*batch"]:
    r"""The length of the difference in units of the standard deviation of its direction.

    $$\sqrt{(x - y)^\top \Sigma^{-1} (x - y)}.$$

    ZnNL estimates the covariance from `x` at every call, so that it depends on which examples are
    compared, and inverts it however singular it is: the outputs of ReLU networks often are.

    Args:
      x: `[..., d]`.
      y: `[..., d]`.
      covariance: `[d, d]` positive semi-definite; `jnp.cov(targets.T)` of the target network's
        outputs on the pool. Directions whose variance is below `10 d` machine epsilons of the
        largest, where it is but rounding, are left out (the pseudo-inverse).

    >>> float(mahalanobis(jnp.array([2.0, 9.0]), jnp.zeros(2), jnp.diag(jnp.array([4.0, 0.0]))))
    1.0
    """
    variances, directions = jnp.linalg.eigh(covariance)
    limit = 10 * len(variances) * jnp.finfo(variances.dtype).eps * jnp.max(variances)
    known = variances > jnp.maximum(limit, 0)
    components = jnp.matmul(x - y, directions, precision="highest")
    scaled = jnp.where(known, jnp.square(components) / jnp.where(known, variances, 1), 0)
    return jnp.sqrt(jnp.sum(scaled, axis=-1))


def wasserstein(
    x: Float[Array, "*#batch d"], y: Float[Array, "*#batch d"]
) -> Float[Array, "*batch"]:
    r"""The 1-Wasserstein distance between two distributions over places 0, 1, ... d - 1 on a line.

    $$\sum_{k=1}^{d-1} \Big| \sum_{j \le k} (x_j - y_j) \Big|,$$

    the least probability times distance that has to be moved. Classes have no such order: between
    distributions over classes take half of `l_p(x, y, order=1)`, the same with all classes at
    distance 1. ZnNL passes the softmax of the outputs to a function that takes its d values for
    samples, and so compares the sorted probabilities, whichever classes they belong to.

    Args:
      x: `[..., d]` probabilities; take the softmax of logits first.
      y: `[..., d]` probabilities.

    >>> float(wasserstein(jnp.array([1.0, 0.0, 0.0]), jnp.array([0.0, 0.0, 1.0])))
    2.0
    """
    return jnp.sum(jnp.abs(jnp.cumsum(x - y, axis=-1)[..., :-1]), axis=-1)


def exponential_repulsion(
    x: Float[Array, "*#batch d"],
    y: Float[Array, "*#batch d"],
    *,
    strength: float = 0.01,
    temperature: float = 0.1,
) -> Float[Array, "*batch"]:
    r"""A potential that pushes two vectors apart, coordinate by coordinate.

    $$\frac{\alpha}d \sum_k \exp(-|x_k - y_k| / T).$$

    A loss to be minimised and a similarity, highest where `x = y`: not a distance to select by.

    Args:
      x: `[..., d]`.
      y: `[..., d]`.
      strength: $\alpha$, the value at `x = y`.
      temperature: T, the difference over which it falls by a factor e; positive.

    Raises:
      ValueError: `temperature` is not positive.

    >>> float(exponential_repulsion(jnp.ones(3), jnp.ones(3), strength=2.0))
    2.0
    """
    if not temperature > 0:
        raise ValueError(f"`temperature` must be positive, got {temperature}.")
    return strength * jnp.mean(jnp.exp(-jnp.abs(x - y) / temperature), axis=-1)
