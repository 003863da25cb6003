"""Corruptions that touch every pixel on its own: Gaussian, shot, impulse and speckle noise."""

import numpy as np

from entropax.data.corruptions.filters import Images


def gaussian_noise(rng: np.random.Generator, images: Images, *, sigma: float) -> Images:
    """Add normal noise of standard deviation `sigma`."""
    return images + sigma * rng.standard_normal(images.shape, np.float32)


def shot_noise(rng: np.random.Generator, images: Images, *, photons: float) -> Images:
    """Count light: a white pixel collects `photons` of them on average, Poisson-distributed."""
    return rng.poisson(images * photons) / photons


def impulse_noise(rng: np.random.Generator, images: Images, *, amount: float) -> Images:
    """Replace a fraction `amount` of the values by salt or pepper, with equal chances."""
    # One draw decides both: below amount / 2 is pepper, from there to amount is salt.
    chance = rng.random(images.shape, np.float32)
    salted = np.where(chance < amount, np.float32(1), images)
    return np.where(chance < amount / 2, np.float32(0), salted)


def speckle_noise(rng: np.random.Generator, images: Images, *, sigma: float) -> Images:
    """Add normal noise whose standard deviation is `sigma` times the pixel."""
    return images + images * sigma * rng.standard_normal(images.shape, np.float32)
