import numpy as np
from sklearn import datasets

from entropax.data import load_digits


def test_digits_are_those_of_scikit_learn():
    digits = load_digits()
    bunch = datasets.load_digits()
    assert digits.images.shape == (1797, 8, 8, 1)
    assert digits.images.max() == 255
    np.testing.assert_array_equal(np.rint(digits.images[..., 0] * (16 / 255)), bunch.images)
    np.testing.assert_array_equal(digits.labels, bunch.target)
    assert digits.class_names == tuple("0123456789")
