"""Networks by name have as many parameters as their publishers say."""

import jax
import jax.numpy as jnp
import pytest

from entropax.models.architectures import ARCHITECTURES

# torchvision's documentation of its models; for CIFAR the table of akamaster/pytorch_resnet_cifar10
# counts the parameters of zeros as shortcuts: 0.27 and 0.85 million.
PARAMETERS = {
    "cifar-resnet20": (10, 269_722),
    "cifar-resnet56": (10, 853_018),
    "resnet18": (1000, 11_689_512),
    "resnet34": (1000, 21_797_672),
    "resnet50": (1000, 25_557_032),
    "resnet50-group": (1000, 25_557_032),
    "resnet101": (1000, 44_549_160),
    "resnext50-32x4d": (1000, 25_028_904),
    "resnext101-32x8d": (1000, 88_791_336),
    "resnext101-64x4d": (1000, 83_455_272),
    "wide-resnet50": (1000, 68_883_240),
    "vit-b16": (1000, 86_567_656),
    "vit-l16": (1000, 304_326_632),
    "convnext-t": (1000, 28_589_128),
    "convnext-s": (1000, 50_223_688),
    "convnext-b": (1000, 88_591_464),
    "convnext-l": (1000, 197_767_336),
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_number_of_parameters(name):
    classes, expected = PARAMETERS[name]
    side = {"cifar": 32, "vit": 224}.get(name.partition("-")[0], 64)
    image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    shapes = jax.eval_shape(ARCHITECTURES[name](classes).init, jax.random.key(0), image)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == expected
