"""The handwritten digits that scikit-learn carries: real data with nothing to download."""

import numpy as np

from entropax.data.images import ImageSet, image_set


def load_digits() -> ImageSet:
    """Load the 1,797 grey 8x8 digits bundled with scikit-learn, in their published order.

    Their 17 levels 0..16 become `round(255 v / 16)`. They are the test part of the UCI
    "optical recognition of handwritten digits" set, thus one set without splits.

    Returns:
      1,797 images `[8, 8, 1]` of the classes "0" to "9".

    Example:
      >>> digits = load_digits()
      >>> digits.images.shape, digits.class_names[-1]
      ((1797, 8, 8, 1), '9')
    """
    from sklearn import datasets

    bunch = datasets.load_digits()
    levels = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    return image_set(levels, bunch.target, origin="the digits of scikit-learn")
