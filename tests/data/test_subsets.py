import jax
import jax.numpy as jnp
import numpy as np
import pytest

from entropax.data.subsets import restrict_logits
from entropax.entropy import softmax_entropy

LOGITS = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 7)), jnp.float32)
CLASSES = np.array([5, 1, 2])


def test_softmax_argmax_and_entropy_are_those_of_the_subset():
    restricted = restrict_logits(LOGITS, CLASSES)
    probs = jax.nn.softmax(restricted)
    np.testing.assert_allclose(probs[..., CLASSES], jax.nn.softmax(LOGITS[..., CLASSES]), rtol=1e-6)
    np.testing.assert_allclose(probs[..., CLASSES].sum(-1), 1, rtol=1e-6)
    np.testing.assert_array_equal(restricted.argmax(-1), CLASSES[LOGITS[..., CLASSES].argmax(-1)])
    np.testing.assert_allclose(
        softmax_entropy(restricted), softmax_entropy(LOGITS[..., CLASSES]), rtol=1e-6
    )


def test_gradients_pass_through_the_subset_only():
    def entropy(logits):
        return softmax_entropy(restrict_logits(logits, CLASSES)).sum()

    gradient = jax.jit(jax.grad(entropy))(LOGITS)
    expected = jax.grad(lambda part: softmax_entropy(part).sum())(LOGITS[..., CLASSES])
    np.testing.assert_allclose(gradient[..., CLASSES], expected, atol=1e-6)
    np.testing.assert_array_equal(np.delete(gradient, CLASSES, -1), 0)


def test_an_image_is_not_taken_for_a_class_outside_the_set():
    logits = jnp.array([[9.0, 1.0, 2.0]])
    assert restrict_logits(logits, np.array([1, 2])).argmax(-1).tolist() == [2]


@pytest.mark.parametrize("classes", [np.array([0, 7]), np.array([-1, 2])])
def test_classes_outside_the_network(classes):
    with pytest.raises(ValueError, match=r"`classes` must lie in \[0, 7\)"):
        restrict_logits(LOGITS, classes)


def test_no_classes():
    with pytest.raises(ValueError, match="at least one class"):
        restrict_logits(LOGITS, np.array([], np.int32))
