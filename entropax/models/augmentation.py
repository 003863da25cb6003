"""Random views of images: pure functions of a key and a batch, other for every image of it.

Images are `[b, h, w, channels]` in [0, 1], 0 being the background that is filled in; shapes stay.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Float

from entropax.types import Array


def random_crop(
    key: Array, x: Float[Array, "b h w channels"], *, scale: tuple[float, float] = (0.6, 1.0)
) -> Float[Array, "b h w channels"]:
    """Cut out a window and enlarge it, linearly, to the size of the image.

    Args:
      key: randomness.
      x: `[b, h, w, channels]`.
      scale: least and largest share of each side that the window has; its place is uniform among
        those inside the image.

    Raises:
      ValueError: `scale` is not increasing within (0, 1].

    >>> random_crop(jax.random.key(0), jnp.ones((2, 8, 8, 1))).shape
    (2, 8, 8, 1)
    """
    low, high = scale
    if not 0 < low <= high <= 1:
        raise ValueError(f"`scale` must be two increasing numbers in (0, 1], got {scale}.")
    b, *sides, _ = x.shape
    key_size, key_place = jax.random.split(key)
    share = jax.random.uniform(key_size, (b, 1), x.dtype, low, high)
    corner = jax.random.uniform(key_place, (b, 2), x.dtype) * (1 - share)

    def enlarge(image: Array, share: Array, corner: Array) -> Array:
        # A pixel p of the image comes to lie at (p - corner) / share.
        shift = -corner * jnp.array(sides, x.dtype) / share
        zoom = jnp.broadcast_to(1 / share, (2,))
        return jax.image.scale_and_translate(
            image, image.shape, (0, 1), zoom, shift, method="linear", antialias=False
        )

    return jax.vmap(enlarge)(x, share, corner)


def random_contrast(
    key: Array, x: Float[Array, "b h w channels"], *, strength: float = 0.4
) -> Float[Array, "b h w channels"]:
    r"""Multiply, and add brightness: $\text{clip}(a x + b, 0, 1)$.

    Args:
      key: randomness.
      x: `[b, h, w, channels]` in [0, 1].
      strength: $a$ is uniform in $1 \pm$ this, $b$ in $\pm$ half of this.

    Raises:
      ValueError: `strength` is outside [0, 1].
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"`strength` must be in [0, 1], got {strength}.")
    shape = (len(x), 1, 1, 1)
    factor, offset = (jax.random.uniform(each, shape, x.dtype, -1, 1) for each in _split(key))
    return jnp.clip((1 + strength * factor) * x + strength / 2 * offset, 0, 1)


def random_cutout(
    key: Array, x: Float[Array, "b h w channels"], *, size: int
) -> Float[Array, "b h w channels"]:
    """Set a square to zero; at the edge of the image a part of it.

    Args:
      key: randomness; the centre is uniform over the image.
      x: `[b, h, w, channels]`.
      size: side of the square in pixels; 0 for none.

    Raises:
      ValueError: `size` is negative.
    """
    if size < 0:
        raise ValueError(f"`size` must not be negative, got {size}.")
    b, *sides, _ = x.shape
    inside = []
    for each, side in zip(_split(key), sides, strict=True):
        start = jax.random.randint(each, (b, 1), 0, side) - size // 2
        pixels = jnp.arange(side)
        inside.append((pixels >= start) & (pixels < start + size))
    hole = inside[0][:, :, None] & inside[1][:, None, :]
    return jnp.where(hole[..., None], 0, x)


def random_noise(
    key: Array, x: Float[Array, "b h w channels"], *, scale: float = 0.05
) -> Float[Array, "b h w channels"]:
    """Add normal noise to every pixel, and clip to [0, 1].

    Args:
      key: randomness.
      x: `[b, h, w, channels]` in [0, 1].
      scale: standard deviation.

    Raises:
      ValueError: `scale` is negative.
    """
    if not scale >= 0:
        raise ValueError(f"`scale` must not be negative, got {scale}.")
    return jnp.clip(x + scale * jax.random.normal(key, x.shape, x.dtype), 0, 1)


def random_flip(key: Array, x: Float[Array, "b h w channels"]) -> Float[Array, "b h w channels"]:
    """Exchange left and right in half of the images; not for digits or letters.

    Args:
      key: randomness.
      x: `[b, h, w, channels]`.
    """
    flipped = jax.random.bernoulli(key, shape=(len(x), 1, 1, 1))
    return jnp.where(flipped, x[:, :, ::-1], x)


def _split(key: Array) -> tuple[Array, Array]:
    first, second = jax.random.split(key)
    return first, second
