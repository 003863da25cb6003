"""RPL: learn from one's own predictions with a loss that forgives wrong ones."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Float

from entropax.parameters import PathPredicate, is_norm_affine
from entropax.tta.base import Adapter
from entropax.tta.minimisation import follow_gradient, mean_over_batch
from entropax.types import ApplyFn, Array


def generalised_cross_entropy(
    logits: Float[Array, "*batch c"], *, exponent: float = 0.8
) -> Float[Array, "*batch"]:
    r"""Generalised cross-entropy of predictions with their own most probable class.

    $$\ell(z) = \frac{1 - p_{\hat y}^q}{q}, \qquad \hat y = \arg\max_k p_k.$$

    For $q \to 0$ it is the cross-entropy $-\ln p_{\hat y}$, for $q = 1$ the probability
    $1 - p_{\hat y}$ of being wrong.

    Args:
      logits: `[..., c]`.
      exponent: $q$ in (0, 1].

    Returns:
      `[...]` losses in `[0, 1 / q)`.

    Raises:
      ValueError: `exponent` is outside (0, 1].

    Reference: Z. Zhang and M. Sabuncu, "Generalized cross entropy loss for training deep neural
    networks with noisy labels" (2018).

    >>> float(generalised_cross_entropy(jnp.array([0.0, 0.0]), exponent=1.0))
    0.5
    """
    if not 0 < exponent <= 1:
        raise ValueError(f"`exponent` must be in (0, 1], got {exponent}.")
    return (1 - jnp.max(jax.nn.softmax(logits), axis=-1) ** exponent) / exponent


def robust_pseudo_labels(
    apply_fn: ApplyFn,
    tx: optax.GradientTransformation,
    *,
    exponent: float = 0.8,
    trainable: PathPredicate = is_norm_affine,
) -> Adapter:
    """RPL: one gradient step a batch on the mean `generalised_cross_entropy`.

    Args:
      apply_fn: the network with batch statistics, `(variables, x) -> logits [b, c]`.
      tx: an optax optimiser; `optax.sgd(5e-4)` at 64 images is what the published code of RDumb
        uses on ImageNet.
      exponent: of the loss, in (0, 1].
      trainable: which paths of the variables to adapt.

    Raises:
      ValueError: `exponent` is outside (0, 1].

    Reference: E. Rusak et al., "If your data distribution shifts, use self-learning" (2022).

    >>> adapter = robust_pseudo_labels(lambda variables, x: x, optax.sgd(5e-4))
    """
    if not 0 < exponent <= 1:
        raise ValueError(f"`exponent` must be in (0, 1], got {exponent}.")
    return follow_gradient(
        apply_fn,
        tx,
        start=lambda params: (),
        objective=mean_over_batch(
            lambda logits: generalised_cross_entropy(logits, exponent=exponent)
        ),
        trainable=trainable,
    )
