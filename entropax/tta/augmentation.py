"""Random changes of colour and geometry that leave an image's class alone.

CoTTA averages its teacher over them, RoTTA shows them to its student, MEMO asks for one answer to
all of them.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int, PRNGKeyArray

from entropax.types import Array

LUMINANCE = (0.2989, 0.587, 0.114)
TAPS = 2  # the blur's kernel has that many on each side of the middle one


class Augmentation(NamedTuple):
    """How far `augment` may go; pairs are the ends of an interval, drawn from evenly.

    Attributes:
      brightness: factor of the values.
      contrast: factor of the distance to the image's mean luminance.
      saturation: factor of the distance to the pixel's luminance.
      hue: turn of the hue, as a share of the circle.
      gamma: exponent of the values.
      rotation: largest angle, in degrees, either way.
      shift: largest shift along each axis, as a share of the image's side.
      scale: factor of the size.
      blur: standard deviation of the Gaussian blur, in pixels.
      flip: probability of the mirror image; 0 for digits, text and whatever else has a right way
        round.
      noise: standard deviation of the Gaussian noise.
    """

    brightness: tuple[float, float] = (0.6, 1.4)
    contrast: tuple[float, float] = (0.7, 1.3)
    saturation: tuple[float, float] = (0.5, 1.5)
    hue: tuple[float, float] = (-0.06, 0.06)
    gamma: tuple[float, float] = (0.7, 1.3)
    rotation: float = 15.0
    shift: float = 1 / 8
    scale: tuple[float, float] = (0.9, 1.1)
    blur: tuple[float, float] = (0.001, 0.5)
    flip: float = 0.0
    noise: float = 0.005


COTTA_AUGMENTATION = Augmentation(flip=0.5)
SOFT_COTTA_AUGMENTATION = Augmentation(
    brightness=(0.8, 1.2),
    contrast=(0.85, 1.15),
    saturation=(0.75, 1.25),
    hue=(-0.03, 0.03),
    gamma=(0.85, 1.15),
    rotation=8.0,
    scale=(0.95, 1.05),
    blur=(0.001, 0.25),
    flip=0.5,
)


def augment(
    key: PRNGKeyArray,
    x: Float[Array, "b h w channels"],
    *,
    settings: Augmentation = Augmentation(),  # noqa: B008 (an immutable tuple of numbers)
) -> Float[Array, "b h w channels"]:
    """Change each image at random: colours, place, sharpness, side, noise.

    Brightness, contrast, saturation, hue and gamma in a random order; rotation, scale and shift
    with the border pixels repeated outwards; blur; mirror; noise; values outside [0, 1] are cut off
    before and after. What an image gets depends on the key and its place in the batch only, the
    order of the five colour changes on the key alone. The published code draws once for the whole
    batch, and shifts by whole pixels (up to 1/16 of an image padded to twice its side, which is
    1/8 of the image itself).

    Under `vmap` over keys each of the five colour changes is computed at all five places in the
    order, which takes several times as long.

    Args:
      key: for all of it.
      x: `[b, h, w, channels]` images in [0, 1] with 1 or 3 channels, not standardised (put that
        into the network). Saturation and hue do nothing to grey images.
      settings: `COTTA_AUGMENTATION` and `SOFT_COTTA_AUGMENTATION` are the published ones; the
        default is the former without the mirror.

    Raises:
      ValueError: images that are neither grey nor RGB, or are integers; intervals the wrong way
        round, a probability outside [0, 1], other settings that make no sense.

    Reference: Q. Wang et al., "Continual test-time domain adaptation" (2022), whose code takes the
    list from G. Cohen and R. Giryes, "KATANA: simple post-training robustness using test time
    augmentations" (2021).

    >>> x = jnp.full((2, 8, 8, 1), 0.5)
    >>> jax.jit(augment)(jax.random.key(0), x).shape
    (2, 8, 8, 1)
    """
    _require(settings)
    if x.ndim != 4 or x.shape[-1] not in (1, 3) or not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(
            "Images must be floating-point numbers [b, h, w, 1 or 3] in [0, 1], got "
            f"{x.dtype} {x.shape}."
        )
    b, height, width, channels = x.shape
    given, x = x.dtype, x.astype(jnp.promote_types(x.dtype, jnp.float32))
    # One call for every random number (each call takes a while to compile): a row for the order of
    # the colour changes, then one for each image.
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(b + 1))
    numbers = 11 + height * width * channels
    draws = jax.vmap(lambda k: jax.random.normal(k, (numbers,), x.dtype))(keys)
    order = jnp.argsort(draws[0, :5])
    even = jax.scipy.special.ndtr(draws[1:, :11])
    noise = draws[1:, 11:].reshape(x.shape)

    def between(column: int, interval: tuple[float, float]) -> Float[Array, " b"]:
        low, high = interval
        return low + (high - low) * even[:, column]

    factors = jnp.stack(
        [
            between(0, settings.brightness),
            between(1, settings.contrast),
            between(2, settings.saturation),
            between(3, settings.hue),
            between(4, settings.gamma),
        ]
    )
    x = change_colours(jnp.clip(x, 0, 1), order, factors)
    turn = math.radians(settings.rotation)
    shift = settings.shift
    x = warp(
        x,
        between(5, (-turn, turn)),
        between(6, settings.scale),
        jnp.stack([between(7, (-shift, shift)) * height, between(8, (-shift, shift)) * width], 1),
        margin=TAPS,
    )
    x = blur(x, between(9, settings.blur))
    mirrored = even[:, 10] <= settings.flip
    x = jnp.where(mirrored[:, None, None, None], x[:, :, ::-1], x)
    return jnp.clip(x + settings.noise * noise, 0, 1).astype(given)


def change_colours(
    x: Float[Array, "b h w channels"], order: Int[Array, "5"], factors: Float[Array, "5 b"]
) -> Float[Array, "b h w channels"]:
    """Brightness, contrast, saturation, hue and gamma (0 to 4) in the given order.

    Args:
      x: `[b, h, w, channels]` in [0, 1].
      order: a permutation of 0, ..., 4.
      factors: how much of each, for each image.
    """
    colour = x.shape[-1] == 3

    def blend(x: Array, other: Array, factor: Array) -> Array:
        return jnp.clip(factor * x + (1 - factor) * other, 0, 1)

    def brightness(x: Array, factor: Array) -> Array:
        return blend(x, jnp.zeros_like(x), factor)

    def contrast(x: Array, factor: Array) -> Array:
        return blend(x, jnp.mean(luminance(x), axis=(1, 2, 3), keepdims=True), factor)

    def saturation(x: Array, factor: Array) -> Array:
        return blend(x, luminance(x), factor) if colour else x

    def hue(x: Array, factor: Array) -> Array:
        return turn_hue(x, factor) if colour else x

    def gamma(x: Array, factor: Array) -> Array:
        return jnp.exp(factor * jnp.log(jnp.clip(x, 1e-8, 1)))

    def change(x: Array, which: Array) -> tuple[Array, None]:
        factor = factors[which][:, None, None, None]
        return jax.lax.switch(
            which, (brightness, contrast, saturation, hue, gamma), x, factor
        ), None

    return jax.lax.scan(change, x, order)[0]


def luminance(x: Float[Array, "*b channels"]) -> Float[Array, "*b 1"]:
    """How bright each pixel is."""
    if x.shape[-1] == 1:
        return x
    red, green, blue = (weight * x[..., i : i + 1] for i, weight in enumerate(LUMINANCE))
    return red + green + blue


def turn_hue(x: Float[Array, "*b 3"], turn: Float[Array, "*#b 1"]) -> Float[Array, "*b 3"]:
    """Turn the hue by a share of the circle; saturation and value stay.

    >>> jnp.round(turn_hue(jnp.array([1.0, 0.0, 0.0]), jnp.array([1 / 3])), 6).tolist()
    [0.0, 1.0, 0.0]
    """
    red, green, blue = x[..., 0], x[..., 1], x[..., 2]
    value = jnp.maximum(jnp.maximum(red, green), blue)
    chroma = value - jnp.minimum(jnp.minimum(red, green), blue)
    safe = jnp.where(chroma > 0, chroma, 1)
    sextant = jnp.where(
        value == red,
        (green - blue) / safe,
        jnp.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )

    # Each channel is a trapezium of the hue, the three of them a third of the circle apart.
    def channel(start: float) -> Array:
        k = start + sextant + 6 * turn[..., 0]
        k -= 6 * jnp.floor(k / 6)
        return value - chroma * jnp.clip(jnp.minimum(k, 4 - k), 0, 1)

    return jnp.stack([channel(5), channel(3), channel(1)], axis=-1)


def warp(
    x: Float[Array, "b h w channels"],
    angle: Float[Array, " b"],
    scale: Float[Array, " b"],
    shift: Float[Array, "b 2"],
    *,
    margin: int = 0,
) -> Float[Array, "b h2 w2 channels"]:
    """Turn and stretch each image about its centre, then shift it, with bilinear interpolation.

    Outside of the image its border pixels are repeated.

    Args:
      x: `[b, h, w, channels]`.
      angle: in radians, from rows towards columns.
      scale: factor of the size.
      shift: pixels, along rows and columns.
      margin: extra pixels of the result on each side.
    """
    _, height, width, _ = x.shape
    centre = jnp.array([(height - 1) / 2, (width - 1) / 2], x.dtype)
    rows = jnp.arange(-margin, height + margin, dtype=x.dtype) - centre[0]
    columns = jnp.arange(-margin, width + margin, dtype=x.dtype) - centre[1]

    def at(parameter: Array) -> Array:
        return parameter[:, None, None]

    down, right = rows[:, None] - at(shift[:, 0]), columns - at(shift[:, 1])
    cosine, sine = at(jnp.cos(angle) / scale), at(jnp.sin(angle) / scale)
    row = jnp.clip(cosine * down + sine * right + centre[0], 0, height - 1)
    column = jnp.clip(cosine * right - sine * down + centre[1], 0, width - 1)

    top, left = jnp.floor(row), jnp.floor(column)
    below, beside = (row - top)[..., None], (column - left)[..., None]
    i, j = top.astype(jnp.int32), left.astype(jnp.int32)
    i2, j2 = jnp.minimum(i + 1, height - 1), jnp.minimum(j + 1, width - 1)
    pixel = jax.vmap(lambda image, i, j: image[i, j])
    upper = (1 - beside) * pixel(x, i, j) + beside * pixel(x, i, j2)
    lower = (1 - beside) * pixel(x, i2, j) + beside * pixel(x, i2, j2)
    return (1 - below) * upper + below * lower


def blur(
    x: Float[Array, "b h w channels"], sigma: Float[Array, " b"]
) -> Float[Array, "b h2 w2 channels"]:
    """Blur each image with a Gaussian of 5 x 5 taps; 2 pixels are lost on each side."""
    taps = jnp.arange(-TAPS, TAPS + 1, dtype=x.dtype)
    kernel = jax.nn.softmax(-0.5 * jnp.square(taps / sigma[:, None]))[:, :, None, None, None]
    for axis in (1, 2):
        size = x.shape[axis] - 2 * TAPS
        parts = [
            kernel[:, t] * jax.lax.slice_in_dim(x, t, t + size, axis=axis)
            for t in range(2 * TAPS + 1)
        ]
        x = jnp.sum(jnp.stack(parts), axis=0)
    return x


def _require(settings: Augmentation) -> None:
    """Fail if the settings make no sense."""
    for name in ("brightness", "contrast", "saturation", "hue", "gamma", "scale", "blur"):
        low, high = getattr(settings, name)
        if not low <= high:
            raise ValueError(f"`{name}` must go from low to high, got {(low, high)}.")
    for name in ("brightness", "contrast", "saturation"):
        if getattr(settings, name)[0] < 0:
            raise ValueError(f"`{name}` must not be negative, got {getattr(settings, name)}.")
    for name in ("gamma", "scale", "blur"):
        if not getattr(settings, name)[0] > 0:
            raise ValueError(f"`{name}` must be positive, got {getattr(settings, name)}.")
    for name in ("rotation", "shift", "noise"):
        if not getattr(settings, name) >= 0:
            raise ValueError(f"`{name}` must not be negative, got {getattr(settings, name)}.")
    if not 0 <= settings.flip <= 1:
        raise ValueError(f"`flip` must be a probability, got {settings.flip}.")
