"""Learning without labels, from two views of each image (SimCLR)."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from entropax.models.augmentation import random_contrast, random_crop, random_cutout, random_noise
from entropax.types import Array


def nt_xent(
    z1: Float[Array, "n d"],
    z2: Float[Array, "n d"],
    *,
    temperature: float = 0.5,
    where: Bool[Array, " n"] | None = None,
) -> Float[Array, ""]:
    r"""Normalised, temperature-scaled cross-entropy of the pairs $(z_{1,i}, z_{2,i})$.

    With the $2n$ views in one list, $s_{ij}$ their cosine similarities, and $j(i)$ the other view
    of the image of view $i$,

    $$L = \frac{1}{2n} \sum_{i=1}^{2n} -\ln
          \frac{\exp(s_{i j(i)} / \tau)}{\sum_{k \ne i} \exp(s_{ik} / \tau)}.$$

    Args:
      z1: `[n, d]` projections of the first views. A row of zeros is at right angles to all others.
      z2: `[n, d]` projections of the second views.
      temperature: $\tau$.
      where: `[n]`; False where an image is padding: it is neither a pair nor among the $k$.

    Returns:
      The loss in nats, 0 without any image. A single image has nothing to differ from: 0 as well.

    Raises:
      ValueError: `temperature` is not positive.

    Reference: T. Chen et al., "A simple framework for contrastive learning of visual
    representations" (2020), equation 1.

    >>> z = jnp.eye(3)
    >>> float(nt_xent(z, z, temperature=0.1)) < 0.001  # views alike, images unlike
    True
    """
    if not temperature > 0:
        raise ValueError(f"`temperature` must be positive, got {temperature}.")
    n = len(z1)
    real = jnp.ones(2 * n, bool) if where is None else jnp.tile(where, 2)
    # Padding may hold anything, NaN included: cleared first, or its gradient would be NaN.
    z = jnp.where(real[:, None], jnp.concatenate([z1, z2]), 0)
    squares = jnp.sum(z * z, axis=1, keepdims=True)
    # So short a row has no direction in float32; left as it is, it has a gradient.
    z = z * jax.lax.rsqrt(jnp.where(squares > 1e-24, squares, 1))
    scores = jnp.matmul(z, z.T, precision="highest") / temperature
    others = ~jnp.eye(2 * n, dtype=bool) & real
    partner = jnp.roll(jnp.arange(2 * n), n)
    scores = jnp.where(others, scores, -jnp.inf)
    # A row of padding has no partner: it gets a finite score, and no weight.
    paired = jnp.where(real[:, None], scores, 0)
    losses = jax.nn.logsumexp(paired, axis=1) - jnp.take_along_axis(
        paired, partner[:, None], axis=1
    ).squeeze(1)
    return jnp.sum(jnp.where(real, losses, 0)) / jnp.maximum(jnp.sum(real), 1)


class Projected(nn.Module):
    """A network whose output goes through a ReLU and one more dense layer.

    The last dense layer of the network and this one are the projection head; the representation is
    what goes into the head of the network: `"network/head:input"` of `layer_features`.

    Attributes:
      network: its output is the hidden layer of the projection head.
      features: width of the projection.

    >>> from entropax.models import ConvNet
    >>> module = Projected(ConvNet(num_classes=128), features=32)
    >>> variables = module.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    >>> module.apply(variables, jnp.zeros((5, 8, 8, 1))).shape
    (5, 32)
    """

    network: nn.Module
    features: int = 64

    @nn.compact
    def __call__(self, x: Float[Array, "b *shape"], train: bool = False) -> Float[Array, "b d"]:
        """Return the projections `[b, features]`."""
        network: Any = self.network
        return nn.Dense(self.features, name="projection")(nn.relu(network(x, train=train)))


def small_image_augmentation(
    key: Array, x: Float[Array, "b h w channels"]
) -> Float[Array, "b h w channels"]:
    """One random view of small images without a left and a right that may be exchanged, as digits.

    A crop of 60 to 100 % of each side, contrast and brightness, a hole of a quarter of each side,
    and noise.

    Args:
      key: randomness, other for every image.
      x: `[b, h, w, channels]` in [0, 1].

    Returns:
      Images of the same shape.
    """
    keys = jax.random.split(key, 4)
    x = random_crop(keys[0], x, scale=(0.6, 1.0))
    x = random_contrast(keys[1], x, strength=0.4)
    x = random_cutout(keys[2], x, size=max(1, x.shape[1] // 4))
    return random_noise(keys[3], x, scale=0.05)


def contrastive_loss(
    key: Array,
    apply_fn: Callable[[Any, Array], tuple[Array, Any]],
    params: Any,
    x: Float[Array, "b h w channels"],
    *,
    augment: Callable[[Array, Array], Array] = small_image_augmentation,
    temperature: float = 0.5,
) -> tuple[Float[Array, ""], Any]:
    """`nt_xent` of two random views of each image, which go through the network as one batch.

    Args:
      key: randomness of the views.
      apply_fn: `(params, x) -> (projections, anything)`, in its training mode; what comes beside
        the projections, such as running statistics, is passed on.
      params: its parameters.
      x: `[b, h, w, channels]` images.
      augment: `(key, x) -> x`, a random view.
      temperature: of `nt_xent`.

    Returns:
      The loss in nats, and what `apply_fn` returns beside the projections.
    """
    first, second = (augment(each, x) for each in jax.random.split(key))
    z, passed_on = apply_fn(params, jnp.concatenate([first, second]))
    return nt_xent(z[: len(x)], z[len(x) :], temperature=temperature), passed_on
