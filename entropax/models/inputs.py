"""What published weights expect of their inputs."""

import inspect
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from entropax.types import ApplyFn, Array, Variables

# Of the red, green and blue channels of ImageNet, on the scale of [0, 1].
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class InputFormat(NamedTuple):
    """How images are prepared for a network.

    The shorter side is resized, a square is cut from the centre, values in [0, 1] lose the mean and
    are divided by the deviation.

    Attributes:
      resize: pixels of the shorter side.
      crop: side of the square in pixels.
      interpolation: `"bilinear"`, `"bicubic"` or `"nearest"`, smoothed when an image shrinks.
      mean: of each channel, on the scale of [0, 1]; its length is the number of channels.
      std: what each channel is divided by.
      squash: whether both sides become `resize` pixels, whatever the proportions were.
    """

    resize: int
    crop: int
    interpolation: str = "bilinear"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    squash: bool = False


# What the residual networks of torchvision (its first weights) expect.
TORCHVISION_INPUTS = InputFormat(resize=256, crop=224)


def normalised_inputs(
    apply_fn: ApplyFn,
    *,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> ApplyFn:
    r"""A network on images in [0, 1] from one that was trained on normalised images.

    $$x \mapsto f\big((x - \mu) / s\big) \quad \text{channel by channel}.$$

    Args:
      apply_fn: `apply_fn(variables, x)` or `apply_fn(variables, x, where=...)`.
      mean: $\mu$, a number for each channel; by default that of ImageNet.
      std: $s$.

    Returns:
      A function with the arguments of `apply_fn`, whose `x` is `[b, h, w, channels]` in [0, 1].

    Raises:
      ValueError: `mean` and `std` differ in length, or a deviation is not positive; when it is
        called, images of another number of channels, or whole numbers, which are not in [0, 1].

    >>> on_images = normalised_inputs(lambda variables, x: x, mean=[0.5], std=[0.25])
    >>> on_images({}, jnp.ones((1, 1, 1, 1))).item()
    2.0
    """
    if len(mean) != len(std) or not all(each > 0 for each in std):
        raise ValueError(
            f"`mean` and `std` need positive `std` for each channel, got {mean}, {std}."
        )
    centre, scale = np.asarray(mean, np.float32), np.asarray(std, np.float32)

    def normalise(x: Array | np.ndarray) -> Array:
        if x.shape[-1] != len(centre):
            raise ValueError(
                f"The network takes images of {len(centre)} channels, got {x.shape[-1]}."
            )
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise ValueError(f"Images must be in [0, 1], got {x.dtype}; divide them by 255.")
        return (jnp.asarray(x) - centre) / scale

    if "where" in inspect.signature(apply_fn).parameters:

        def with_where(variables: Variables, x: Array | np.ndarray, where: Any = None) -> Array:
            return apply_fn(variables, normalise(x), where=where)

        return with_where
    return lambda variables, x: apply_fn(variables, normalise(x))
