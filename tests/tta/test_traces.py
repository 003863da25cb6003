"""Step by step against traces of the published PyTorch code (see tests/golden/tta/README.md).

In float32 the tolerances are the recorded rounding of the traces themselves (torch float32 against
float64) with room for another order of summation: logits 5e-5, parameters 5e-6, loss 1e-5. In
float64 nothing but rounding in the sixteenth digit may differ: 1e-9.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from oracles import (
    GoldenNet,
    affine_vector,
    golden,
    golden_images,
    golden_stream,
    golden_variables,
    unstack,
)

from entropax import tta
from entropax.models import batch_statistics, running_statistics
from entropax.types import Batch

CASES = golden("tta/cases.json")
TRACES = golden("tta/traces.npz")
APPLY = batch_statistics(GoldenNet())


def clean_batches(dtype):
    return [Batch(x, jnp.ones(len(x), bool)) for x in golden_images("clean_x", dtype)]


def build(case, dtype):
    lr = case["lr"]
    tx = optax.adam(lr) if case.get("opt") == "adam" else optax.sgd(lr, momentum=0.9)
    if case["method"] == "tent":
        adapter = tta.tent(APPLY, tx)
        if case.get("episodic"):
            return tta.reset_every(adapter, period=1)
        return tta.repeat(adapter, steps=case.get("steps", 1))
    options = {"num_classes": 10, "limits": tta.Limits(case["e0"], case["eps"])}
    if case["method"] == "rdumb":
        return tta.rdumb(APPLY, tx, period=case["period"], **options)
    if not case.get("fisher"):
        return tta.eta(APPLY, tx, **options)
    fisher = tta.fisher_information(
        APPLY, golden_variables(dtype), clean_batches(dtype), compat="reference"
    )
    return tta.eata(APPLY, tx, fisher, fisher_weight=case["beta"], **options)


def run(case, dtype, steps=None):
    """Affine parameters and infos, stacked over the steps."""
    adapter = build(case, dtype)

    def body(state, batch):
        state, info = adapter.step(state, batch)
        return state, (affine_vector(state.params), info)

    stream = golden_stream(case.get("empty_at", ()), dtype)
    if steps is not None:
        stream = jax.tree.map(lambda a: a[steps], stream)
    state = adapter.init(golden_variables(dtype))
    return jax.jit(lambda s, b: jax.lax.scan(body, s, b))(state, stream)


ADAPTED = [name for name, case in CASES.items() if case["method"] in ("tent", "rdumb", "eata")]


@pytest.mark.parametrize("name", ADAPTED)
def test_float32_trace(name):
    trace = {k.split("/")[1]: v for k, v in TRACES.items() if k.split("/")[0] == name}
    _, (affine, info) = run(CASES[name], jnp.float32)
    np.testing.assert_array_equal(info.stepped, trace["stepped"])
    if "sel2" in trace:
        np.testing.assert_array_equal(info.selected, CASES[name]["n_sel2"])
        np.testing.assert_array_equal(info.weight > 0, trace["sel2"])
    np.testing.assert_allclose(info.logits, trace["logits"], atol=5e-5, rtol=0)
    np.testing.assert_allclose(affine, trace["affine"], atol=5e-6, rtol=0)
    stepped = np.asarray(info.stepped)
    np.testing.assert_allclose(info.loss[stepped], trace["loss"][stepped], atol=1e-5, rtol=0)
    assert np.isnan(trace["loss"][~stepped]).all()
    np.testing.assert_array_equal(info.loss[~stepped], 0)


@pytest.mark.parametrize("name", ["tent_adam", "rdumb_scaled_p5_empty_at_reset", "eata_fisher_b1"])
def test_float64_parameters(name):
    with jax.enable_x64(True):
        _, (affine, _) = run(CASES[name], jnp.float64)
        np.testing.assert_allclose(affine, TRACES[f"{name}/affine_f64"], atol=1e-9, rtol=0)


@pytest.mark.parametrize("name", ["rdumb_scaled_p5", "rdumb_scaled_p5_empty_mid"])
def test_forced_reset_is_a_fresh_start(name):
    """The recorded reset restores parameters, momentum and running mean before one more step."""
    _, (affine, info) = run(CASES[name], jnp.float32, steps=np.array([0]))
    trace = {k: TRACES[f"{name}/post_reset_{k}"] for k in ("affine", "logits")}
    np.testing.assert_allclose(affine[0], trace["affine"], atol=5e-6, rtol=0)
    np.testing.assert_allclose(info.logits[0], trace["logits"], atol=5e-5, rtol=0)


def test_running_mean_of_probabilities():
    adapter = build(CASES["eta_scaled_empty_mid"], jnp.float32)
    state, step = adapter.init(golden_variables()), jax.jit(adapter.step)
    for t, batch in enumerate(unstack(golden_stream(CASES["eta_scaled_empty_mid"]["empty_at"]))):
        state, _ = step(state, batch)
        mean = state.memory.method.redundancy.mean
        np.testing.assert_allclose(mean, TRACES["eta_scaled_empty_mid/m"][t], atol=1e-6, rtol=0)


def test_fisher_information():
    fisher = tta.fisher_information(
        APPLY, golden_variables(), clean_batches(jnp.float32), compat="reference"
    )
    np.testing.assert_allclose(
        affine_vector(fisher), TRACES["eata_fisher_b1/fisher"], atol=1e-7, rtol=0
    )


def test_source_network():
    logits = jax.lax.map(
        lambda x: running_statistics(GoldenNet())(golden_variables(), x), golden_stream().x
    )
    np.testing.assert_allclose(logits, TRACES["source_eval/logits"], atol=5e-5, rtol=0)


def test_batch_statistics():
    _, infos = tta.adapt(tta.norm(APPLY), golden_variables(), golden_stream())
    np.testing.assert_allclose(infos.logits, TRACES["norm_batch/logits"], atol=5e-5, rtol=0)
