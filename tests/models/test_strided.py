import jax
import numpy as np
import pytest
from scipy.signal import correlate

from entropax.models import running_statistics
from entropax.models.convert import convert_recognised
from entropax.models.strided import StridedCNN, recognise

RNG = np.random.default_rng(0)
SHAPES = {
    "0.weight": (3, 2, 4, 4),
    "0.bias": (3,),
    "2.weight": (5, 3, 4, 4),
    "2.bias": (5,),
    "5.weight": (7, 5 * 3 * 3),
    "5.bias": (7,),
    "7.weight": (4, 7),
    "7.bias": (4,),
}
TENSORS = {name: RNG.normal(0, 0.3, shape).astype(np.float32) for name, shape in SHAPES.items()}
IMAGES = RNG.random((2, 12, 12, 2)).astype(np.float32)


def by_hand(image):
    """The network on `[channels, h, w]`, as torch flattens it."""
    for number in (0, 2):
        image = np.pad(image, ((0, 0), (1, 1), (1, 1)))
        kernels, biases = TENSORS[f"{number}.weight"], TENSORS[f"{number}.bias"]
        image = np.stack(
            [
                correlate(image, kernel, "valid")[0, ::2, ::2] + bias
                for kernel, bias in zip(kernels, biases, strict=True)
            ]
        ).clip(0)
    hidden = (TENSORS["5.weight"] @ image.ravel() + TENSORS["5.bias"]).clip(0)
    return hidden, TENSORS["7.weight"] @ hidden + TENSORS["7.bias"]


def test_logits_and_features_of_an_nn_sequential():
    found = recognise(TENSORS)
    assert found.module == StridedCNN(num_classes=4, widths=(3, 5), hidden=(7,))
    assert found.inputs == (12, 12, "bilinear", (0.0, 0.0), (1.0, 1.0), False)
    variables, unused = convert_recognised(found)
    assert unused == ()
    features, logits = zip(*(by_hand(image.transpose(2, 0, 1)) for image in IMAGES), strict=True)
    # Sums of up to 50 products in float32.
    apply_fn = jax.jit(running_statistics(found.module))
    np.testing.assert_allclose(apply_fn(variables, IMAGES), logits, rtol=1e-5, atol=1e-5)
    apply_fn = jax.jit(running_statistics(found.module, method="features"))
    np.testing.assert_allclose(apply_fn(variables, IMAGES), features, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        {"0.weight": np.zeros((3, 2, 3, 3))},
        {"5.weight": np.zeros((7, 40))},
        {"8.weight": np.zeros((4, 4))},
        {"2.weight": np.zeros((5, 3))},
        {name: None for name in TENSORS if name[0] in "02"},
        {name: None for name in TENSORS if name[0] in "57"},
    ],
)
def test_other_families_are_left_to_others(change):
    changed = {name: value for name, value in (TENSORS | change).items() if value is not None}
    assert recognise(changed) is None
