"""Corruptions that a camera, a codec or an editor makes: tone, colour, compression, grid."""

from io import BytesIO

import numpy as np

from entropax.data.corruptions.filters import Images, to_uint8


def contrast(rng: np.random.Generator, images: Images, *, factor: float) -> Images:
    """Pull every channel towards its mean over the image."""
    mean = images.mean(axis=(1, 2), keepdims=True)
    return (images - mean) * factor + mean


def brightness(rng: np.random.Generator, images: Images, *, add: float) -> Images:
    """Raise the value of HSV by `add`, at most to 1; hue and saturation stay."""
    value = images.max(axis=-1, keepdims=True)
    raised = np.minimum(value + add, 1)
    # At a fixed hue and saturation, RGB is proportional to the value; black becomes grey.
    lit = value > 0
    return np.where(lit, images / np.where(lit, value, 1), 1) * raised


def saturate(rng: np.random.Generator, images: Images, *, factor: float, add: float) -> Images:
    """Map the saturation s of HSV to `factor * s + add`, clipped; hue and value stay.

    A grey image has no saturation and comes back unchanged. A grey pixel of an RGB image has hue
    0, the usual convention, and turns reddish when `add > 0`.
    """
    if images.shape[-1] == 1:
        return images
    value = images.max(axis=-1, keepdims=True)
    spread = value - images.min(axis=-1, keepdims=True)
    saturation = spread / np.where(value > 0, value, 1)
    target = np.clip(saturation * factor + add, 0, 1)
    # How far each channel lies below the value, as a fraction of the greatest such distance.
    red = np.array([0, 1, 1], np.float32)
    coloured = spread > 0
    shape = np.where(coloured, (value - images) / np.where(coloured, spread, 1), red)
    return value * (1 - shape * target)


def jpeg_compression(rng: np.random.Generator, images: Images, *, quality: int) -> Images:
    """Write and read every image as JPEG, by pillow."""
    from PIL import Image  # an extra, which only two corruptions need

    def roundtrip(pixels: np.ndarray) -> np.ndarray:
        buffer = BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
        return np.asarray(Image.open(buffer))

    decoded = np.stack([roundtrip(pixels) for pixels in _planes(images)])
    return decoded.reshape(images.shape) / np.float32(255)


def pixelate(rng: np.random.Generator, images: Images, *, factor: float) -> Images:
    """Shrink every image to `factor` of its side and enlarge it again, by pillow's box filter."""
    from PIL import Image  # an extra, which only two corruptions need

    _, h, w, _ = images.shape
    small = max(1, int(w * factor)), max(1, int(h * factor))
    box = Image.Resampling.BOX
    resized = np.stack(
        [
            np.asarray(Image.fromarray(pixels).resize(small, box).resize((w, h), box))
            for pixels in _planes(images)
        ]
    )
    return resized.reshape(images.shape) / np.float32(255)


def _planes(images: Images) -> np.ndarray:
    """The images as pillow takes them: uint8, and without a channel axis when grey."""
    pixels = to_uint8(images)
    return pixels[..., 0] if pixels.shape[-1] == 1 else pixels


def quantize(rng: np.random.Generator, images: Images, *, bits: int) -> Images:
    """Keep `2^bits` levels."""
    top = 2**bits - 1
    return np.rint(images * top) / top


def inverse(rng: np.random.Generator, images: Images, *, weight: float) -> Images:
    """Mix the image with its negative, which has the given weight."""
    return images + weight * (1 - 2 * images)
