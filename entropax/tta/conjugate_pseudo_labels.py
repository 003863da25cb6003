"""CPL: the unsupervised loss that belongs to the loss a network was trained with."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Float

from entropax.parameters import PathPredicate, is_norm_affine
from entropax.tta.base import Adapter
from entropax.tta.minimisation import follow_gradient, mean_over_batch
from entropax.types import ApplyFn, Array


def conjugate_poly_loss(
    logits: Float[Array, "*batch c"], *, poly_weight: float = 8.0
) -> Float[Array, "*batch"]:
    r"""PolyLoss of predictions with their conjugate pseudo-labels.

    $$\ell(z) = -\sum_k y_k \ln p_k + \epsilon \Big(1 - \sum_k y_k p_k\Big), \qquad
      y = \big(I + \epsilon\,(\mathrm{diag}\, p - p p^\top)\big)^{-1} p .$$

    The linear system has the solution $y_k \propto p_k / (1 + \epsilon p_k)$, normalised to sum to
    1. For $\epsilon = 0$ the pseudo-labels are $p$ itself, and the loss is the entropy.

    Args:
      logits: `[..., c]`; `-inf` is a class of probability 0.
      poly_weight: $\epsilon$, not negative.

    Returns:
      `[...]` losses. The derivative is that of the whole expression, pseudo-labels included.

    Raises:
      ValueError: `poly_weight` is negative.

    Reference: S. Goyal et al., "Test-time adaptation via conjugate pseudo-labels" (2022).

    >>> round(float(conjugate_poly_loss(jnp.array([3.0, 3.0]))), 4)  # ln 2 + 8 / 2
    4.6931
    """
    if not poly_weight >= 0:
        raise ValueError(f"`poly_weight` must not be negative, got {poly_weight}.")
    probs = jax.nn.softmax(logits)
    log_probs = jax.nn.log_softmax(logits)
    log_probs = jnp.where(jnp.isneginf(log_probs), 0, log_probs)
    labels = probs / (1 + poly_weight * probs)
    labels = labels / jnp.sum(labels, axis=-1, keepdims=True)
    agreement = jnp.sum(labels * probs, axis=-1)
    return poly_weight * (1 - agreement) - jnp.sum(labels * log_probs, axis=-1)


def conjugate_pseudo_labels(
    apply_fn: ApplyFn,
    tx: optax.GradientTransformation,
    *,
    poly_weight: float = 8.0,
    trainable: PathPredicate = is_norm_affine,
) -> Adapter:
    r"""CPL: one gradient step a batch on the mean `conjugate_poly_loss`.

    Args:
      apply_fn: the network with batch statistics, `(variables, x) -> logits [b, c]`.
      tx: an optax optimiser; `optax.sgd(1e-3)` at 64 images is what the published code of RDumb
        uses on ImageNet.
      poly_weight: $\epsilon$ of the loss; 8 there. For a network trained with cross-entropy the
        conjugate loss has $\epsilon = 0$, and the method is `tent`.
      trainable: which paths of the variables to adapt.

    Raises:
      ValueError: `poly_weight` is negative.

    Reference: S. Goyal et al., "Test-time adaptation via conjugate pseudo-labels" (2022).

    >>> adapter = conjugate_pseudo_labels(lambda variables, x: x, optax.sgd(1e-3))
    """
    if not poly_weight >= 0:
        raise ValueError(f"`poly_weight` must not be negative, got {poly_weight}.")
    return follow_gradient(
        apply_fn,
        tx,
        start=lambda params: (),
        objective=mean_over_batch(
            lambda logits: conjugate_poly_loss(logits, poly_weight=poly_weight)
        ),
        trainable=trainable,
    )
