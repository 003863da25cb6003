"""Tent: minimise the mean entropy of the predictions on each batch."""

import optax
from jaxtyping import Bool, Float

from entropax.parameters import PathPredicate, is_norm_affine
from entropax.tta.base import Adapter
from entropax.tta.minimisation import mean_weight, minimise_entropy
from entropax.types import ApplyFn, Array


def tent(
    apply_fn: ApplyFn,
    tx: optax.GradientTransformation,
    *,
    trainable: PathPredicate = is_norm_affine,
) -> Adapter:
    r"""Tent: one gradient step a batch on the mean entropy of its predictions.

    $$L(\theta) = \frac1n \sum_{i=1}^n H(z_i(\theta)).$$

    The published settings are `optax.sgd(2.5e-4, momentum=0.9)` at 64 images (ImageNet) and
    `optax.adam(1e-3)` at 200 (CIFAR-10), fresh for every shift: nothing is filtered, so on a long
    stream the network ends up predicting one class. `reset_every` and `rdumb` prevent that.

    Args:
      apply_fn: the network with batch statistics, `(variables, x) -> logits [b, c]`.
      tx: an optax optimiser.
      trainable: which paths of the variables to adapt.

    Reference: D. Wang et al., "Tent: fully test-time adaptation by entropy minimization" (2021),
    section 3.

    >>> import jax, jax.numpy as jnp
    >>> from entropax.types import Batch
    >>> apply_fn = lambda variables, x: x * variables["norm"]["scale"]
    >>> adapter = tent(apply_fn, optax.sgd(0.1))
    >>> state = adapter.init({"norm": {"scale": jnp.ones(2)}})
    >>> batch = Batch(jnp.array([[1.0, 0.0]]), jnp.array([True]))
    >>> state, info = jax.jit(adapter.step)(state, batch)
    >>> bool(state.params["norm"]["scale"][0] > 1)  # the margin has grown
    True
    """

    def weigh(
        memory: tuple[()],
        logits: Float[Array, "b c"],
        entropy: Float[Array, " b"],
        where: Bool[Array, " b"],
    ) -> tuple[Float[Array, " b"], tuple[()]]:
        return mean_weight(where), memory

    return minimise_entropy(apply_fn, tx, start=lambda params: (), weigh=weigh, trainable=trainable)
