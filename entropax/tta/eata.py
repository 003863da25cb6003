"""EATA and ETA: minimise entropy on reliable, non-redundant examples only."""

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Bool, Float

from entropax.parameters import PathPredicate, is_norm_affine, partition
from entropax.tta.base import Adapter, State, require_classes
from entropax.tta.minimisation import mean_weight, minimise_entropy
from entropax.types import ApplyFn, Array, Batch, Params, Variables, forward


class Limits(NamedTuple):
    """The two thresholds of the example filter.

    Attributes:
      entropy: an example is reliable if its entropy is below this many nats.
      cosine: it is redundant if the cosine of its probabilities with their running mean is not
        below this.
    """

    entropy: float
    cosine: float

    @classmethod
    def scaled(cls, num_classes: int) -> "Limits":
        r"""Limits for any number of classes $C$: $0.4 \ln C$ nats, and a cosine of $1.5/\sqrt C$.

        A one-hot prediction and a uniform mean have the cosine $1/\sqrt C$, so that a limit below
        it rejects everything once a mean exists: the published 0.05, meant for 1,000 classes, stops
        adaptation after one step when there are 10.

        Raises:
          ValueError: fewer than 2 classes.
        """
        if num_classes < 2:
            raise ValueError(f"`num_classes` must be at least 2, got {num_classes}.")
        return cls(0.4 * math.log(num_classes), 1.5 / math.sqrt(num_classes))


IMAGENET_LIMITS = Limits(0.4 * math.log(1000), 0.05)
CIFAR10_LIMITS = Limits(0.4 * math.log(10), 0.4)
CIFAR100_LIMITS = Limits(0.4 * math.log(100), 0.4)


class Redundancy(NamedTuple):
    """Memory of the filter: the running mean of the selected examples' probabilities.

    Attributes:
      mean: `[c]`; meaningless until `seen`.
      seen: whether any example has been selected yet.
    """

    mean: Float[Array, " c"]
    seen: Bool[Array, ""]


class Anchored(NamedTuple):
    """Memory of ETA and EATA: the filter's, and for EATA the parameters that it pulls towards."""

    redundancy: Redundancy
    anchor: Params


def eata(
    apply_fn: ApplyFn,
    tx: optax.GradientTransformation,
    fisher: Params,
    *,
    num_classes: int,
    limits: Limits | None = None,
    fisher_weight: float = 2000.0,
    trainable: PathPredicate = is_norm_affine,
) -> Adapter:
    r"""EATA: `eta` with a pull towards the source parameters where they matter to it.

    $$L(\theta) = \frac{1}{|S|} \sum_{i \in S} e^{E_0 - H_i} H(z_i(\theta))
      + \beta \sum_j F_j (\theta_j - \theta_j^0)^2,
      \qquad S = \{i : H_i < E_0,\ |\cos(p_i, m)| < \epsilon\},$$

    with the factors $e^{E_0 - H_i}$ held constant, and $m \leftarrow 0.9 m + 0.1\,\bar p_S$ the
    running mean of the selected probabilities (their first mean to begin with; until then only the
    entropy filters). When $S$ is empty nothing moves: neither parameters nor momentum nor $m$.

    Args:
      apply_fn: the network with batch statistics, `(variables, x) -> logits [b, c]`.
      tx: an optax optimiser; published: `optax.sgd(2.5e-4, momentum=0.9)` at 64 images for
        ImageNet, `optax.sgd(5e-3, momentum=0.9)` for CIFAR.
      fisher: $F$, from `fisher_information`.
      num_classes: C.
      limits: $E_0$ and $\epsilon$; `Limits.scaled(num_classes)` unless given. `IMAGENET_LIMITS`,
        `CIFAR10_LIMITS` and `CIFAR100_LIMITS` are the published constants.
      fisher_weight: $\beta$; published: 2,000 for ImageNet, 1 for CIFAR, both for the Fisher
        information of `fisher_information(..., compat="reference")`.
      trainable: which paths of the variables to adapt.

    Raises:
      ValueError: fewer than 2 classes, a limit that is not positive, a negative `fisher_weight`.

    Reference: S. Niu et al., "Efficient test-time model adaptation without forgetting" (2022),
    section 3, and its published code, which averages probabilities.
    """
    if fisher_weight < 0:
        raise ValueError(f"`fisher_weight` must not be negative, got {fisher_weight}.")

    def penalty(memory: Anchored, params: Params) -> Float[Array, ""]:
        terms = jax.tree.map(
            lambda f, now, before: jnp.sum(f * (now - before) ** 2), fisher, params, memory.anchor
        )
        return fisher_weight * sum(jax.tree.leaves(terms), start=jnp.zeros(()))

    return _filtered(apply_fn, tx, num_classes, limits, trainable, penalty)


def eta(
    apply_fn: ApplyFn,
    tx: optax.GradientTransformation,
    *,
    num_classes: int,
    limits: Limits | None = None,
    trainable: PathPredicate = is_norm_affine,
) -> Adapter:
    """ETA: entropy minimisation on reliable, non-redundant examples; `eata` without its penalty.

    Arguments, loss, errors and reference are those of `eata`.

    >>> adapter = eta(lambda variables, x: x, optax.sgd(5e-3, momentum=0.9), num_classes=10)
    """
    return _filtered(apply_fn, tx, num_classes, limits, trainable, None)


def _filtered(
    apply_fn: ApplyFn,
    tx: optax.GradientTransformation,
    num_classes: int,
    limits: Limits | None,
    trainable: PathPredicate,
    penalty: Callable[[Anchored, Params], Float[Array, ""]] | None,
) -> Adapter:
    limits = Limits.scaled(num_classes) if limits is None else limits
    for name, value in limits._asdict().items():
        if not value > 0:
            raise ValueError(f"The {name} limit must be positive, got {value}.")

    def start(params: Params) -> Anchored:
        redundancy = Redundancy(jnp.zeros(num_classes), jnp.zeros((), bool))
        return Anchored(redundancy, () if penalty is None else params)

    def weigh(
        memory: Anchored,
        logits: Float[Array, "b c"],
        entropy: Float[Array, " b"],
        where: Bool[Array, " b"],
    ) -> tuple[Float[Array, " b"], Anchored]:
        require_classes(logits, num_classes)
        probs = jax.nn.softmax(logits)
        mean, seen = memory.redundancy
        novel = jnp.abs(_cosine(probs, mean)) < limits.cosine
        selected = where & (entropy < limits.entropy) & (novel | ~seen)
        share = mean_weight(selected)
        mean_selected = jnp.where(selected[:, None], probs, 0).T @ share
        mean = jnp.where(seen, 0.9 * mean + 0.1 * mean_selected, mean_selected)
        redundancy = Redundancy(mean, jnp.ones((), bool))
        return share * jnp.exp(limits.entropy - entropy), memory._replace(redundancy=redundancy)

    return minimise_entropy(
        apply_fn, tx, start=start, weigh=weigh, penalty=penalty, trainable=trainable
    )


def fisher_information(
    apply_fn: ApplyFn,
    variables: Variables,
    batches: Iterable[Batch],
    *,
    trainable: PathPredicate = is_norm_affine,
    compat: str | None = None,
) -> Params:
    r"""Diagonal Fisher information of the adapted parameters, on unlabelled source images.

    $$F_j = \frac1Q \sum_{q=1}^Q
      \Big(\frac{\partial}{\partial \theta_j} \mathrm{CE}(f_\theta(x_q), \hat y_q)\Big)^2,
      \qquad \hat y_q = \arg\max f_\theta(x_q).$$

    Args:
      apply_fn: the network with batch statistics, `(variables, x) -> logits [b, c]`.
      variables: the source network.
      batches: clean images; 500 to 2,000 are enough.
      trainable: the same predicate as the adapter's.
      compat: `"reference"` squares the gradient of each batch's mean loss and averages over
        batches, as the published code does; its values are smaller by up to the batch size, and the
        published `fisher_weight`s belong to them. By default each example's gradient is squared, as
        in the paper.

    Returns:
      A tree like the adapted parameters, for `eata`.

    Raises:
      ValueError: there is no batch, or no parameter to adapt.

    Reference: S. Niu et al. (2022), section 3.
    """
    if compat not in (None, "reference"):
        raise ValueError(f"`compat` must be None or 'reference', got {compat!r}.")
    logits_of = forward(apply_fn)
    params, frozen = partition(variables, trainable)

    def losses(params: Params, batch: Batch) -> Float[Array, " b"]:
        logits = logits_of(State(params, frozen, ()).variables, batch)
        pseudo_labels = jnp.argmax(logits, axis=-1)
        loss = optax.losses.softmax_cross_entropy_with_integer_labels(logits, pseudo_labels)
        return jnp.where(batch.where, loss, 0)

    @jax.jit
    def squares(batch: Batch) -> tuple[Params, Float[Array, ""]]:
        """Sum of squared gradients, and how many there are in the sum."""
        count = jnp.sum(batch.where)
        if compat == "reference":
            grads = jax.grad(lambda p: jnp.sum(losses(p, batch)) / jnp.maximum(count, 1))(params)
            return jax.tree.map(jnp.square, grads), (count > 0).astype(float)
        per_example = jax.jacrev(losses)(params, batch)
        return jax.tree.map(lambda g: jnp.sum(g**2, axis=0), per_example), count.astype(float)

    total, count = jax.tree.map(jnp.zeros_like, params), jnp.zeros(())
    for batch in batches:
        square, number = squares(batch)
        total, count = jax.tree.map(jnp.add, (total, count), (square, number))
    if not count > 0:
        raise ValueError("`batches` holds no image: the Fisher information needs source images.")
    return jax.tree.map(lambda t: t / count, total)


def _cosine(a: Float[Array, "b c"], b: Float[Array, " c"]) -> Float[Array, " b"]:
    norms = jnp.linalg.norm(a, axis=-1) * jnp.linalg.norm(b)
    return a @ b / jnp.maximum(norms, jnp.finfo(a.dtype).tiny)
