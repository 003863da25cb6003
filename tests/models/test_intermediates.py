import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from entropax.models import ConvNet
from entropax.models.intermediates import layer_features

X = jax.random.uniform(jax.random.key(0), (4, 8, 8, 1))


def test_outputs_and_inputs_of_layers():
    module = ConvNet(3, features=(4, 8))
    variables = module.init(jax.random.key(1), X)
    _, updated = module.apply(variables, 3 * X, train=True, mutable=["batch_stats"])
    variables = {**variables, **updated}
    names = {"first": "norm0", "second": "conv1:input", "head": "head:input", "logits": ""}
    found = jax.jit(layer_features(module, names, train=False))(variables, X)
    assert set(found) == set(names)
    np.testing.assert_allclose(found["second"], nn.relu(found["first"]), atol=1e-6)
    np.testing.assert_allclose(found["logits"], module.apply(variables, X), atol=1e-6)
    head = variables["params"]["head"]
    np.testing.assert_allclose(
        found["head"] @ head["kernel"] + head["bias"], found["logits"], atol=1e-5
    )
    # Running averages, not those of this batch.
    assert np.abs(np.mean(found["first"], axis=(0, 1, 2))).max() > 0.1


class Nested(nn.Module):
    @nn.compact
    def __call__(self, x):
        shared = nn.Dense(8, name="shared")
        x = shared(shared(x))
        x = nn.remat(nn.Dense)(5, name="again")(x)
        return Pair(name="pair")(x)[0]


class Pair(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(2, name="left")(x), nn.Dense(2, name="right")(inputs=x)


@pytest.fixture(scope="module")
def nested():
    x = X.reshape(4, -1)[:, :8]
    module = Nested()
    return module, module.init(jax.random.key(0), x), x


def test_nested_repeated_and_rematerialised_layers(nested):
    module, variables, x = nested
    names = ["shared", "shared:input", "again", "pair/right", "pair/right:input"]
    found = jax.jit(layer_features(module, names))(variables, x)
    params = variables["params"]

    def dense(x, layer):
        return x @ layer["kernel"] + layer["bias"]

    once = dense(x, params["shared"])
    np.testing.assert_allclose(found["shared:input"], once, atol=1e-5)
    np.testing.assert_allclose(found["shared"], dense(once, params["shared"]), atol=1e-5)
    np.testing.assert_allclose(found["again"], dense(found["shared"], params["again"]), atol=1e-5)
    np.testing.assert_array_equal(found["pair/right:input"], found["again"])


def test_names_that_are_no_layers(nested):
    module, variables, x = nested
    with pytest.raises(
        ValueError, match=r"no submodule 'left' that is called; it has .*'pair/left'"
    ):
        layer_features(module, ["left"])(variables, x)
    with pytest.raises(ValueError, match="'pair' is no array but tuple"):
        layer_features(module, ["pair"])(variables, x)
    with pytest.raises(ValueError, match="`names` is empty"):
        layer_features(module, [])


def test_gradients_pass_through(nested):
    module, variables, x = nested
    features_fn = layer_features(module, ["again"])

    def loss(variables):
        return jnp.sum(features_fn(variables, x)["again"])

    grads = jax.grad(loss)(variables)["params"]
    np.testing.assert_allclose(grads["again"]["bias"], 4.0)
    np.testing.assert_array_equal(grads["pair"]["left"]["kernel"], 0)
