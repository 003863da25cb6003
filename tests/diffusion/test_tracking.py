import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from entropax.diffusion.binned import binned_entropy
from entropax.diffusion.classes import cluster_reference
from entropax.diffusion.entropy import dse_estimate
from entropax.diffusion.mutual_information import dsmi
from entropax.diffusion.tracking import evaluate_features, same_distances, track
from entropax.models.intermediates import layer_features

N = 40
LABELS = np.arange(N) % 3
X = np.random.default_rng(0).normal(size=(N, 5)).astype(np.float32) + 3 * np.eye(5)[LABELS]


def features_fn(params, x):
    hidden = jnp.tanh(x @ params)
    return {"hidden": hidden, "pairs": hidden[:, :, None] * hidden[:, None, :5]}


@functools.cache
def tracker(sigma="median"):
    return track(features_fn, X, LABELS, sigma=sigma, inputs=3, batch_size=20, every=4)


PARAMS = jnp.asarray(np.random.default_rng(1).normal(size=(5, 8)), jnp.float32)


@pytest.mark.parametrize("sigma", ["median", 0.7, "sqrt_d"])
def test_record_is_what_the_functions_say(sigma):
    record = tracker(sigma)(PARAMS)
    assert list(record) == ["hidden", "pairs"]
    clusters = cluster_reference(X, num_clusters=3)
    for name, z in features_fn(PARAMS, X).items():
        z = np.asarray(z).reshape(N, -1)
        if name == "hidden" and sigma != "sqrt_d":
            z = same_distances(z)  # as wide as "pairs", which saves compiling again
        entropy = dse_estimate(z, sigma=sigma)
        expected = {
            "dse": entropy.value,
            "saturation": entropy.value / math.log(N),
            "sigma": entropy.sigma,
            "dsmi_labels": dsmi(z, LABELS, sigma=sigma).value,
            "dsmi_inputs": dsmi(z, clusters, sigma=sigma).value,
            "adjusted_labels": dsmi(z, LABELS, sigma=sigma, scheme="holevo").adjusted,
            "binned_entropy": binned_entropy(z, num_bins=10),
        }
        # The points are rotated, which costs a few digits of float32.
        assert record[name] == pytest.approx(expected, abs=3e-5)
        assert all(type(value) is float for value in record[name].values())


def test_records_are_the_same_every_time():
    """The same subsets, whatever happens between: curves differ by what the network does."""
    first = tracker()(PARAMS)
    np.random.default_rng(0).normal(size=10)
    jax.random.normal(jax.random.key(7), (3,))
    assert tracker()(PARAMS) == first
    # A small step of the network is a small step of the record: no other noise is on top of it.
    close = tracker()(PARAMS * 1.0001)
    for layer, values in first.items():
        for name in ("dse", "dsmi_labels", "dsmi_inputs", "adjusted_labels"):
            assert close[layer][name] == pytest.approx(values[name], abs=2e-3)
            assert close[layer][name] != values[name]


def test_every():
    assert [tracker()(PARAMS, step=step) is None for step in range(6)] == [
        *(False, True, True, True),
        *(False, True),
    ]


def test_batches_make_no_difference():
    jitted = jax.jit(features_fn)
    whole = evaluate_features(jitted, PARAMS, X, batch_size=1000)
    for batch_size in (1, 20, N):
        found = evaluate_features(jitted, PARAMS, X, batch_size=batch_size)
        assert found["pairs"].shape == (N, N)
        for name, value in found.items():
            np.testing.assert_allclose(value, whole[name], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("width", [3, 10, 40])
def test_same_distances(width):
    x = np.random.default_rng(width).normal(2, 1, size=(10, width)).astype(np.float32)
    found = same_distances(x)
    assert found.shape == (10, 10)
    assert found.dtype == np.float32
    distances = [
        np.linalg.norm(points[:, None] - points[None].astype(np.float64), axis=-1)
        for points in (x, found)
    ]
    np.testing.assert_allclose(*distances, atol=2e-6 * np.sqrt(width))
    np.testing.assert_allclose(found.mean(0), 0, atol=1e-6 * np.sqrt(width))


def test_without_labels_clusters_and_bins():
    only = track(features_fn, X, sigma=1.0, inputs=None, num_bins=None)
    assert list(only(PARAMS)["hidden"]) == ["dse", "saturation", "sigma"]


def test_given_clusters_are_used():
    given = track(features_fn, X, sigma="median", inputs=cluster_reference(X, num_clusters=3))
    record = given(PARAMS)["hidden"]
    assert record["dsmi_inputs"] == tracker()(PARAMS)["hidden"]["dsmi_inputs"]
    assert "dsmi_labels" not in record


class Network(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = nn.BatchNorm(use_running_average=not train, name="norm")(x)
        return nn.Dense(3, name="head")(nn.tanh(nn.Dense(8, name="hidden")(x)))


def test_linen_and_nnx_give_the_same_record():
    module = Network()
    variables = jax.jit(module.init)(jax.random.key(0), X[:1])
    paths = {"hidden": "hidden", "last": "head:input"}
    linen = track(layer_features(module, paths, train=False), X, LABELS, sigma="median", inputs=3)

    class Model(nnx.Module):
        def __init__(self):
            self.hidden = nnx.Linear(5, 8, rngs=nnx.Rngs(0))

    model = Model()
    model.hidden.kernel[...] = variables["params"]["hidden"]["kernel"]
    graphdef, state = nnx.split(model)

    def of_nnx(state, x):
        # In its evaluation mode, a new BatchNorm divides by sqrt(1 + epsilon).
        hidden = nnx.merge(graphdef, state).hidden(x / jnp.sqrt(1 + 1e-5))
        return {"hidden": hidden, "last": jnp.tanh(hidden)}

    expected = linen(variables)
    found = track(of_nnx, X, LABELS, sigma="median", inputs=3)(state)
    for layer, values in expected.items():
        assert found[layer] == pytest.approx(values, abs=3e-5)


def test_features_that_are_not_finite_name_their_layer():
    def diverged(params, x):
        return {"fine": x, "broken": x / jnp.where(jnp.arange(len(x)) < 2, 0, 1)[:, None]}

    with pytest.raises(FloatingPointError, match="layer 'broken' are not finite for 2 of 40"):
        track(diverged, X, sigma=1.0, inputs=None)(None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sigma": None}, "`sigma` must be a positive number, such as 10"),
        ({"every": 0}, "`every` and `batch_size` must be at least 1, got 0 and 256"),
        ({"labels": LABELS[:5]}, "There are 40 inputs, and 5 labels"),
        (
            {"inputs": cluster_reference(X[:20], num_clusters=2)},
            "There are 40 inputs, and 20 inputs' clusters",
        ),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        track(features_fn, X, **{"sigma": 1.0, "inputs": None, **options})


def test_features_need_a_row_for_each_input():
    def pooled(params, x):
        return {"mean": x.mean(0)}

    with pytest.raises(ValueError, match=r"layer 'mean' must have a row for each of the 40"):
        track(pooled, X, sigma=1.0, inputs=None)(None)
    with pytest.raises(ValueError, match="There are no inputs"):
        evaluate_features(features_fn, PARAMS, X[:0], batch_size=4)
