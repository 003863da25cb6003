"""The parameters of every corruption at every severity, one row a severity.

`IMAGENET` and `CIFAR` are the tables of ImageNet-C and CIFAR-10-C. `MNIST` is ImageNet-C's as
MNIST-C uses it on 28 x 28 images. `EXTRAS` are the corruptions that MNIST-C adds.
"""

from collections.abc import Mapping
from typing import Any

Table = Mapping[str, tuple[Any, ...]]

# What a row holds: the names of the parameters of the function that bears the corruption's name.
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "gaussian_noise": ("sigma",),
    "shot_noise": ("photons",),
    "impulse_noise": ("amount",),
    "speckle_noise": ("sigma",),
    "gaussian_blur": ("sigma",),
    "glass_blur": ("sigma", "reach", "passes", "chance"),
    "defocus_blur": ("radius", "alias"),
    "motion_blur": ("radius", "sigma"),
    "zoom_blur": ("limit", "step"),
    "fog": ("amount", "decay", "size"),
    "frost": ("keep", "ice", "size"),
    "snow": ("loc", "noise", "flake", "threshold", "radius", "sigma", "mix"),
    "spatter": ("loc", "noise", "sigma", "threshold", "shine", "softness"),
    "contrast": ("factor",),
    "brightness": ("add",),
    "saturate": ("factor", "add"),
    "jpeg_compression": ("quality",),
    "pixelate": ("factor",),
    "elastic_transform": ("alpha", "sigma", "affine"),
    "quantize": ("bits",),
    "inverse": ("weight",),
    "shear": ("angle",),
    "scale": ("factor",),
    "rotate": ("angle",),
    "translate": ("distance",),
    "stripe": ("width",),
    "line": ("strokes", "reach"),
    "dotted_line": ("strokes", "reach", "dash"),
    "zigzag": ("strokes", "reach", "length", "swing"),
    "canny_edges": ("sigma", "weight"),
}

# Which of them are lengths in pixels, with the least value that scaling may leave: below it the
# corruption could not be seen.
LENGTHS: Mapping[str, Mapping[str, float]] = {
    "gaussian_blur": {"sigma": 0.4},
    "glass_blur": {"sigma": 0.0, "reach": 1.0},
    "defocus_blur": {"radius": 1.0},
    "motion_blur": {"radius": 1.0, "sigma": 0.5},
    "fog": {"size": 0.0},
    "frost": {"size": 0.0},
    "snow": {"flake": 1.0, "radius": 1.0, "sigma": 0.5},
    # A blur divides the spread of white noise by its sigma. Scaling both keeps the liquid as deep.
    "spatter": {"noise": 0.0, "sigma": 0.0, "softness": 0.0},
    "elastic_transform": {"alpha": 0.0, "sigma": 0.0, "affine": 0.0},
    "translate": {"distance": 0.0},
    "stripe": {"width": 1.0},
    "line": {"reach": 1.5},
    "dotted_line": {"reach": 1.5, "dash": 1.0},
    "zigzag": {"reach": 1.5, "length": 1.0, "swing": 1.0},
    "canny_edges": {"sigma": 0.4},
}

# Those that count something and stay whole numbers.
COUNTS = frozenset({"passes", "quality", "bits", "strokes"})

IMAGENET: Table = {
    "gaussian_noise": (0.08, 0.12, 0.18, 0.26, 0.38),
    "shot_noise": (60, 25, 12, 5, 3),
    "impulse_noise": (0.03, 0.06, 0.09, 0.17, 0.27),
    "speckle_noise": (0.15, 0.2, 0.35, 0.45, 0.6),
    "gaussian_blur": (1, 2, 3, 4, 6),
    "glass_blur": ((0.7, 1, 2, 1), (0.9, 2, 1, 1), (1, 2, 3, 1), (1.1, 3, 2, 1), (1.5, 4, 2, 1)),
    "defocus_blur": ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
    "motion_blur": ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
    "zoom_blur": ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
    "fog": ((1.5, 2, 256), (2, 2, 256), (2.5, 1.7, 256), (2.5, 1.5, 256), (3, 1.4, 256)),
    "frost": ((1, 0.4, 256), (0.8, 0.6, 256), (0.7, 0.7, 256), (0.65, 0.7, 256), (0.6, 0.75, 256)),
    "snow": (
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    ),
    "spatter": (
        (0.65, 0.3, 4, 0.69, 0.6, 0),
        (0.65, 0.3, 3, 0.68, 0.6, 0),
        (0.65, 0.3, 2, 0.68, 0.5, 0),
        (0.65, 0.3, 1, 0.65, 0, 1.5),
        (0.67, 0.4, 1, 0.65, 0, 1.5),
    ),
    "contrast": (0.4, 0.3, 0.2, 0.1, 0.05),
    "brightness": (0.1, 0.2, 0.3, 0.4, 0.5),
    "saturate": ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)),
    "jpeg_compression": (25, 18, 15, 10, 7),
    "pixelate": (0.6, 0.5, 0.4, 0.3, 0.25),
    # 244 is the side that the published code takes for its 224-pixel images.
    "elastic_transform": (
        (244 * 2, 244 * 0.7, 244 * 0.1),
        (244 * 2, 244 * 0.08, 244 * 0.2),
        (244 * 0.05, 244 * 0.01, 244 * 0.02),
        (244 * 0.07, 244 * 0.01, 244 * 0.02),
        (244 * 0.12, 244 * 0.01, 244 * 0.02),
    ),
}

CIFAR: Table = {
    "gaussian_noise": (0.04, 0.06, 0.08, 0.09, 0.10),
    "shot_noise": (500, 250, 100, 75, 50),
    "impulse_noise": (0.01, 0.02, 0.03, 0.05, 0.07),
    "speckle_noise": (0.06, 0.1, 0.12, 0.16, 0.2),
    "gaussian_blur": (0.4, 0.6, 0.7, 0.8, 1),
    "glass_blur": (
        (0.05, 1, 1, 1),
        (0.25, 1, 1, 1),
        (0.4, 1, 1, 1),
        (0.25, 1, 2, 1),
        (0.4, 1, 2, 1),
    ),
    "defocus_blur": ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
    "motion_blur": ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
    "zoom_blur": ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
    "fog": ((0.2, 3, 32), (0.5, 3, 32), (0.75, 2.5, 32), (1, 2, 32), (1.5, 1.75, 32)),
    # The photographs of frost are shrunk to a fifth here.
    "frost": (
        (1, 0.2, 51.2),
        (1, 0.3, 51.2),
        (0.9, 0.4, 51.2),
        (0.85, 0.4, 51.2),
        (0.75, 0.45, 51.2),
    ),
    "snow": (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    ),
    "spatter": (
        (0.62, 0.1, 0.7, 0.7, 0.5, 0),
        (0.65, 0.1, 0.8, 0.7, 0.5, 0),
        (0.65, 0.3, 1, 0.69, 0.5, 0),
        (0.65, 0.1, 0.7, 0.69, 0, 0.6),
        (0.65, 0.1, 0.5, 0.68, 0, 0.6),
    ),
    "contrast": (0.75, 0.5, 0.4, 0.3, 0.15),
    "brightness": (0.05, 0.1, 0.15, 0.2, 0.3),
    "saturate": ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)),
    "jpeg_compression": (80, 65, 58, 50, 40),
    "pixelate": (0.95, 0.9, 0.85, 0.75, 0.65),
    "elastic_transform": (
        (0, 0, 32 * 0.08),
        (32 * 0.05, 32 * 0.2, 32 * 0.07),
        (32 * 0.08, 32 * 0.06, 32 * 0.06),
        (32 * 0.1, 32 * 0.04, 32 * 0.05),
        (32 * 0.1, 32 * 0.03, 32 * 0.03),
    ),
}

MNIST: Table = {
    **IMAGENET,
    # MNIST-C skips every second swap.
    "glass_blur": tuple((*row[:3], 0.5) for row in IMAGENET["glass_blur"]),
    # MNIST-C knows mud alone: what is the shine of water elsewhere is the softness of mud there.
    "spatter": (
        (0.65, 0.3, 4, 0.69, 0, 0.6),
        (0.65, 0.3, 3, 0.68, 0, 0.6),
        (0.65, 0.3, 2, 0.68, 0, 0.5),
        (0.65, 0.3, 1, 0.65, 0, 1.5),
        (0.67, 0.4, 1, 0.65, 0, 1.5),
    ),
    "elastic_transform": tuple(
        tuple(28 / 244 * length for length in row) for row in IMAGENET["elastic_transform"]
    ),
}

EXTRAS: Table = {
    "quantize": (5, 4, 3, 2, 1),
    "shear": (0.2, 0.4, 0.6, 0.8, 1.0),
    "scale": (0.9, 0.8, 0.7, 0.6, 0.5),
    "rotate": (0.2, 0.4, 0.6, 0.8, 1.0),
    "translate": (1, 2, 3, 4, 5),
    # The rest are published at one severity only. Graded here: a negative or an edge map gains
    # weight until it is the published one at severity 5; stripes have the published width at
    # severity 3; severity s draws s of the published strokes.
    "inverse": (0.2, 0.4, 0.6, 0.8, 1.0),
    "canny_edges": ((1, 0.2), (1, 0.4), (1, 0.6), (1, 0.8), (1, 1.0)),
    "stripe": (3, 5, 7, 9, 11),
    "line": ((1, 2.3), (2, 2.3), (3, 2.3), (4, 2.3), (5, 2.3)),
    "dotted_line": ((1, 2.3, 2), (2, 2.3, 2), (3, 2.3, 2), (4, 2.3, 2), (5, 2.3, 2)),
    "zigzag": ((1, 2.3, 2, 2), (2, 2.3, 2, 2), (3, 2.3, 2, 2), (4, 2.3, 2, 2), (5, 2.3, 2, 2)),
}

# The tables by name, with the image height that their lengths belong to.
SCALES: Mapping[str, tuple[Table, int]] = {
    "mnist": (MNIST, 28),
    "cifar": (CIFAR, 32),
    "imagenet": (IMAGENET, 224),
}


def scale_of(height: int) -> str:
    """The table for images of this height: `"mnist"` up to 28, `"cifar"` up to 64, `"imagenet"`."""
    if height <= 28:
        return "mnist"
    return "cifar" if height <= 64 else "imagenet"


def parameters(name: str, severity: int, *, scale: str, height: int) -> dict[str, float | int]:
    """The parameters of a corruption on images of a height, lengths scaled to it.

    A length becomes `length * height / base`, where `base` is the height that its table was made
    for, but no less than its entry in `LENGTHS` (or than the table itself, where that is less).

    Args:
      name: a corruption.
      severity: 1 to 5.
      scale: one of `SCALES`.
      height: of the images, in pixels.

    Example:
      >>> parameters("motion_blur", 1, scale="cifar", height=64)
      {'radius': 12.0, 'sigma': 2.0}
    """
    table, base = (EXTRAS, 28) if name in EXTRAS else SCALES[scale]
    row = table[name][severity - 1]
    row = row if isinstance(row, tuple) else (row,)
    values = {
        column: value if column in COUNTS else float(value)
        for column, value in zip(COLUMNS[name], row, strict=True)
    }
    for length, least in LENGTHS.get(name, {}).items():
        published = values[length]
        values[length] = max(published * height / base, min(published, least))
    return values
