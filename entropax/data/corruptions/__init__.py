"""Common image corruptions, seeded and vectorised over the batch, in numpy.

`corrupt(images, "motion_blur", 3)` damages every image as a user's camera might. There are 30
corruptions of five severities each:

- `IMAGENET_C`: the 15 of ImageNet-C and CIFAR-10-C, to test on;
- `HOLDOUT`: their 4 validation corruptions, to choose hyper-parameters or to calibrate on;
- `MNIST_C`: the 15 of MNIST-C. It publishes one severity of each: shot_noise 5, impulse_noise 4,
  glass_blur 1, motion_blur 1, shear 2, scale 3, rotate 2, brightness 5, translate 3, stripe 3,
  fog 5, spatter 4, dotted_line 1, zigzag 1, canny_edges 5;
- `ALL`: these and three more from its code: quantize, inverse, line.

| file | corruptions |
| --- | --- |
| `noise` | gaussian_noise, shot_noise, impulse_noise, speckle_noise |
| `blur` | gaussian_blur, glass_blur, defocus_blur, motion_blur, zoom_blur |
| `weather` | fog, frost, snow, spatter |
| `digital` | contrast, brightness, saturate, jpeg_compression, pixelate, quantize, inverse |
| `geometry` | shear, scale, rotate, translate, elastic_transform |
| `strokes` | stripe, line, dotted_line, zigzag, canny_edges |

Each is a pure function `f(rng, images, **parameters)` on float images in [0, 1]; the tables of
their parameters are in `severity`.

**Images of any size.** A published table belongs to images of one height. On images of another
height its lengths in pixels (widths of blurs, radii, displacements, widths of strokes) grow or
shrink in proportion; amplitudes, fractions, angles and JPEG qualities stay. The table is

| scale | table | made for | default at heights |
| --- | --- | --- | --- |
| `"mnist"` | ImageNet-C's in pixels of a 28-pixel image, as MNIST-C uses it | 28 | up to 28 |
| `"cifar"` | CIFAR-10-C's | 32 | 29 to 64 |
| `"imagenet"` | ImageNet-C's | 224 | above 64 |

`"mnist"` is much the harshest: a Gaussian blur of 6 pixels leaves little of a digit. For gentle
curves on small images pass `scale="cifar"`. The corruptions that MNIST-C adds have one table, for
28 pixels, whatever the scale. A length that would vanish on tiny images keeps the least value that
can be seen, for instance 0.4 pixels for the Gaussian blur and one pixel for the reach of glass
(`severity.LENGTHS`): this matters on 8 x 8 digits, where it makes the first severities of some
corruptions alike.

**What differs from the published generators**, besides what the functions say: results are rounded
to the nearest level instead of truncated, and intermediate layers are not rounded at all;
everything is seeded; nothing needs ImageMagick, OpenCV or photographs. The images are therefore
like those of the published sets, not equal to them.

References:
  Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and
  Perturbations", ICLR 2019 (ImageNet-C, CIFAR-10-C).
  Mu and Gilmer, "MNIST-C: A Robustness Benchmark for Computer Vision", 2019.
"""

import zlib
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import UInt8

from entropax.data.corruptions import blur, digital, geometry, noise, strokes, weather
from entropax.data.corruptions.filters import Images, to_uint8
from entropax.data.corruptions.severity import SCALES, parameters, scale_of

__all__ = ["ALL", "HOLDOUT", "IMAGENET_C", "MNIST_C", "corrupt", "families"]

IMAGENET_C: tuple[str, ...] = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
)
HOLDOUT: tuple[str, ...] = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
MNIST_C: tuple[str, ...] = (
    "shot_noise",
    "impulse_noise",
    "glass_blur",
    "motion_blur",
    "shear",
    "scale",
    "rotate",
    "brightness",
    "translate",
    "stripe",
    "fog",
    "spatter",
    "dotted_line",
    "zigzag",
    "canny_edges",
)
ALL: tuple[str, ...] = tuple(
    dict.fromkeys(IMAGENET_C + HOLDOUT + MNIST_C + ("quantize", "inverse", "line"))
)

_FUNCTIONS: Mapping[str, Callable[..., Images]] = {
    name: getattr(file, name)
    for file in (noise, blur, weather, digital, geometry, strokes)
    for name in ALL
    if hasattr(file, name)
}

# Images are corrupted in chunks of about this many pixels, which bounds the memory. The chunk is
# part of the seed: changing it changes the results.
_CHUNK_PIXELS = 2**21


def corrupt(
    images: np.ndarray,
    name: str,
    severity: int,
    *,
    seed: int = 0,
    scale: str | None = None,
) -> UInt8[np.ndarray, "n h w c"]:
    """Corrupt every image of a batch.

    The result depends on the arguments alone. Every name, severity and seed has a random stream of
    its own, and image i does not depend on the images after it: corrupting the first ten images
    gives the first ten of the corrupted batch.

    Args:
      images: `[n, h, w, c]` uint8, grey (`c = 1`) or RGB (`c = 3`).
      name: one of `ALL`.
      severity: 1 (mild) to 5 (harsh).
      seed: a non-negative integer.
      scale: which table to use, `"mnist"`, `"cifar"` or `"imagenet"`; by default the height of the
        images decides. See the table above.

    Returns:
      Corrupted images of the same shape.

    Raises:
      ValueError: an unknown name or scale, a severity outside 1..5, a negative seed, another shape
        or dtype, or no images.

    Example:
      >>> grey = np.full((2, 28, 28, 1), 100, np.uint8)
      >>> corrupt(grey, "brightness", 5)[0, 0, 0]
      array([228], dtype=uint8)
    """
    if name not in _FUNCTIONS:
        raise ValueError(f"Unknown corruption {name!r}; the known ones are {', '.join(ALL)}.")
    if severity not in range(1, 6):
        raise ValueError(f"`severity` must be 1, 2, 3, 4 or 5, got {severity!r}.")
    if scale is not None and scale not in SCALES:
        raise ValueError(
            f"Unknown scale {scale!r}; pass {', '.join(map(repr, SCALES))}, or None to choose by "
            "the height of the images."
        )
    if seed < 0:
        raise ValueError(f"`seed` must not be negative, got {seed}.")
    if images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise ValueError(
            "`images` must have shape [n, h, w, c] with c = 1 (grey) or c = 3 (RGB), "
            f"got {list(images.shape)}."
        )
    if images.dtype != np.uint8:
        raise ValueError(
            f"`images` must be uint8 with values 0..255, got {images.dtype}; images in [0, 1] "
            "become so by np.rint(255 * images).astype(np.uint8)."
        )
    if images.size == 0:
        raise ValueError(f"`images` holds no pixels: its shape is {list(images.shape)}.")

    n, h, w, _ = images.shape
    function = _FUNCTIONS[name]
    values = parameters(name, severity, scale=scale or scale_of(h), height=h)
    stream = [seed, zlib.crc32(name.encode()), severity]
    chunk = max(1, _CHUNK_PIXELS // (h * w))
    corrupted = np.empty_like(images)
    for number, first in enumerate(range(0, n, chunk)):
        part = slice(first, first + chunk)
        rng = np.random.default_rng([*stream, number])
        corrupted[part] = to_uint8(
            function(rng, images[part].astype(np.float32) / np.float32(255), **values)
        )
    return corrupted


def families(channels: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The corruptions to test on, and those held out for calibration.

    For RGB images these are `IMAGENET_C` and `HOLDOUT`. A grey image has no saturation, so
    `saturate` would return it unchanged; `quantize` takes its place.

    Args:
      channels: 1 (grey) or 3 (RGB).

    Returns:
      `(test_names, holdout_names)`.

    Raises:
      ValueError: another number of channels.
    """
    if channels == 3:
        return IMAGENET_C, HOLDOUT
    if channels == 1:
        return IMAGENET_C, ("speckle_noise", "gaussian_blur", "spatter", "quantize")
    raise ValueError(f"`channels` must be 1 (grey) or 3 (RGB), got {channels}.")
