"""The formulas of the floors, against counts by hand and against what the networks really do."""

import jax
import jax.extend
import jax.numpy as jnp
import pytest
from benchmarks.programs import floors

from entropax import models


def products(module, shape):
    """Forward operations of one example, counted from the program."""
    x = jnp.zeros((1, *shape))
    variables = jax.eval_shape(module.init, jax.random.key(0), x)
    closed = jax.make_jaxpr(lambda v, x: module.apply(v, x))(variables, x)
    total = 0

    def visit(jaxpr):
        nonlocal total
        for equation in jaxpr.eqns:
            if equation.primitive.name in ("dot_general", "conv_general_dilated"):
                *patch, outputs = equation.invars[1].aval.shape
                places = equation.outvars[0].aval.size // outputs
                total += 2 * places * outputs * int(jnp.prod(jnp.array(patch)))
            for value in equation.params.values():
                if isinstance(value, jax.extend.core.ClosedJaxpr):
                    visit(value.jaxpr)
                elif isinstance(value, jax.extend.core.Jaxpr):
                    visit(value)

    visit(closed.jaxpr)
    return total


@pytest.mark.parametrize(
    ("module", "layers"),
    [
        (models.ConvNet(10), floors.convnet_layers()),
        (models.CNN(10, convolution=jax.lax.conv_general_dilated), floors.cnn_layers()),
    ],
)
def test_layers_are_those_of_the_network(module, layers):
    assert floors.forward_flops(layers, 1) == products(module, (28, 28, 1))


def test_resnet50_has_as_many_products_as_published():
    # 4.09 thousand million multiplications, as torchvision says of its weights.
    assert sum(layer.flops for layer in floors.resnet50_layers(224)) / 2e9 == pytest.approx(
        4.09, abs=0.005
    )
    assert len(floors.resnet50_layers(224)) == 54


def test_steps_by_hand():
    layers = [floors.Layer(4, 3, 2), floors.Layer(1, 8, 5)]  # 48 and 80 operations
    assert floors.forward_flops(layers, 10) == 1280
    assert floors.adaptation_flops(layers, 10) == 1280 + 800
    assert floors.training_flops(layers, 10) == 1280 + 800 + 1280
    # 8 outputs of four bytes: written, read; read again, and the gradient written and read.
    assert floors.forward_bytes(layers, 10) == 10 * 8 * 4 * 2
    assert floors.adaptation_bytes(layers, 10) == 10 * 8 * 4 * 5


def test_entropies_by_hand():
    assert floors.exact_entropy_work(3, 2) == floors.Work(flops=9 * 2 + 36, exponentials=4.5)
    assert floors.exact_entropy_work(3, 2, double=True) == floors.Work(flops64=9 * 2 + 36)
    stored = floors.quadrature_work(3, 2, columns=5, steps=7, stored=True)
    assert stored == floors.Work(flops=18 + 2 * 9 * 5 * 7, exponentials=4.5)
    free = floors.quadrature_work(3, 2, columns=5, steps=7, stored=False)
    assert free == floors.Work(flops=7 * 18 + 2 * 9 * 5 * 7, exponentials=7 * 4.5)
    assert floors.information_work(4, 3, 2) == floors.Work(flops=216, exponentials=18)
    assert floors.temperature_work(5, 2, passes=3) == floors.Work(bytes=120, exponentials=30)
    assert floors.greedy_work(5, 3, by_spectrum=True) == floors.Work(flops=2 * 4 + 2 * 4 * 3)
    assert floors.greedy_work(5, 3, by_spectrum=False) is None
    assert floors.greedy_work(5000, 3, by_spectrum=False) == floors.Work(bytes=4 * 5000**2)


def test_floor_is_the_largest_part():
    rates = floors.Rates(flops=100, bytes=10)
    assert floors.floor(floors.Work(flops=50, bytes=20), rates) == (2, "memory")
    assert floors.floor(floors.Work(flops=500, bytes=20), rates) == (5, "products")


@pytest.mark.parametrize("work", [floors.Work(), floors.Work(sorted=1)])
def test_no_floor_without_work_or_rate(work):
    with pytest.raises(ValueError, match=r"no work|not measured"):
        floors.floor(work, floors.Rates(flops=100))
