"""SAR and DeYO, step by step against traces of the published PyTorch code.

Tolerances as in `test_traces.py`: the recorded rounding in float32 (logits 5e-5, parameters 5e-6,
momentum 5e-5, loss 1e-5, running mean 1e-6, PLPD 1e-5), and 1e-9 in float64.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from oracles import GoldenNet, golden, golden_images, golden_stream, golden_variables

from entropax import tta
from entropax.models import batch_statistics
from entropax.tta.deyo import DeyoLimits, deyo
from entropax.tta.sar import SarLimits, sar

CASES = golden("tta/sar_deyo.json")
TRACES = golden("tta/sar_deyo.npz")
SAR = [name for name in CASES if name.startswith("sar")]
DEYO = [name for name in CASES if name.startswith("deyo")]
NORMS = {"A": ("bn1", "bn2"), "B": ("gn1", "gn2")}


class GroupNet(nn.Module):
    """Network B of the traces: four groups instead of batch statistics."""

    @nn.compact
    def __call__(self, x):
        def norm(name):
            return nn.GroupNorm(4, epsilon=1e-5, use_fast_variance=False, name=name)

        x = nn.Conv(8, (3, 3), padding=1, use_bias=False, name="conv1")(x)
        x = nn.relu(norm("gn1")(x))
        x = nn.Conv(16, (3, 3), (2, 2), padding=1, use_bias=False, name="conv2")(x)
        x = nn.relu(norm("gn2")(x))
        return nn.Dense(10, name="fc")(x.mean((1, 2)))


def network(case, dtype):
    if case["model"] == "A":
        return batch_statistics(GoldenNet()), golden_variables(dtype)
    weights = {
        name: jnp.asarray(TRACES[f"weights/{name}"], dtype)
        for name in (k.removeprefix("weights/") for k in TRACES if k.startswith("weights/"))
    }
    params = {
        norm: {"scale": weights[f"{norm}.weight"], "bias": weights[f"{norm}.bias"]}
        for norm in NORMS["B"]
    }
    for conv in ("conv1", "conv2"):
        params[conv] = {"kernel": weights[f"{conv}.weight"].transpose(2, 3, 1, 0)}
    scale = case.get("fc_scale", 1.0)
    params["fc"] = {"kernel": scale * weights["fc.weight"].T, "bias": scale * weights["fc.bias"]}
    return batch_statistics(GroupNet()), {"params": params}


def stream(case, dtype):
    x = golden_stream(dtype=dtype).x
    for step in case.get("empty_at", ()):
        x = x.at[step].set(jnp.moveaxis(jnp.asarray(TRACES["empty_x_gn"], dtype), 1, -1))
    if "use_clean" in case:
        clean = golden_images("clean_x", dtype)
        order = {"first": (clean, clean, x[:4]), "last": (x[:4], clean, clean)}
        x = jnp.concatenate(order[case["use_clean"]])
    return tta.Batch(x, jnp.ones(x.shape[:2], bool))


def vector(case, tree):
    return jnp.concatenate(
        [tree["params"][norm][name] for norm in NORMS[case["model"]] for name in ("scale", "bias")]
    )


def rearrange(x, case, order):
    """What the recorded run did to its images, from the recorded random orders."""
    b = len(x)
    if case["aug"] == "occ":
        mean = x.mean((1, 2, 3), keepdims=True)
        return x.at[:, 2:6, 2:6].set(jnp.broadcast_to(mean, (b, 4, 4, 1)))
    if case["aug"] == "pixel":
        return x.reshape(b, 64)[:, order].reshape(x.shape)
    patches = x.reshape(b, 4, 2, 4, 2).swapaxes(2, 3).reshape(b, 16, 4)
    patches = jnp.take_along_axis(patches, order[:, :, None], axis=1)
    return patches.reshape(b, 4, 4, 2, 2).swapaxes(2, 3).reshape(x.shape)


def run(name, dtype):
    """The infos, affine parameters, momentum and running mean of every step."""
    case = CASES[name]
    apply_fn, variables = network(case, dtype)
    tx = optax.sgd(case["lr"], momentum=0.9)

    def adapter(order):
        if case["method"] == "sar":
            limits = SarLimits(case["e0"], 0.2)
            return sar(
                apply_fn,
                tx,
                num_classes=10,
                limits=limits,
                radius=case["rho"],
                compat="reference",
            )
        limits = DeyoLimits(case["e_filter"], case["e0"], case["tau"])
        return deyo(
            jax.random.key(0),
            apply_fn,
            tx,
            num_classes=10,
            limits=limits,
            destroy=lambda key, x: rearrange(x, case, order),
        )

    def step(state, inputs):
        batch, order = inputs
        state, info = adapter(order).step(state, batch)
        memory = state.memory.memory if case["method"] == "sar" else state.memory
        average = state.memory.watched.value if case["method"] == "sar" else 0
        momentum = memory.opt_state[0].trace
        return state, (info, vector(case, state.params), vector(case, momentum), average)

    kind = case.get("aug", "occ")
    orders = TRACES["permutation/" + ("pixel" if kind == "occ" else kind)].astype(np.int32)
    start = adapter(orders[0]).init(variables)
    return jax.jit(lambda s, i: jax.lax.scan(step, s, i)[1])(start, (stream(case, dtype), orders))


def compare(name):
    info, affine, momentum, average = run(name, jnp.float32)
    trace = {k.split("/")[1]: v for k, v in TRACES.items() if k.split("/")[0] == name}
    np.testing.assert_array_equal(info.stepped, trace["stepped"])
    np.testing.assert_array_equal(info.weight > 0, trace["sel2"])
    np.testing.assert_array_equal(info.selected, CASES[name]["n_sel2"])
    np.testing.assert_allclose(affine, trace["affine"], atol=5e-6, rtol=0)
    np.testing.assert_allclose(momentum, trace["momentum"], atol=5e-5, rtol=0)
    np.testing.assert_allclose(info.loss, np.nan_to_num(trace["loss"]), atol=1e-5, rtol=0)
    if "logits" in trace:
        np.testing.assert_allclose(info.logits, trace["logits"], atol=5e-5, rtol=0)
    return info, average, trace


@pytest.mark.parametrize("name", SAR)
def test_sar_in_float32(name):
    info, average, trace = compare(name)
    np.testing.assert_array_equal(info.reset, trace["was_reset"])
    np.testing.assert_allclose(average, trace["ema"], atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", DEYO)
def test_deyo_in_float32(name):
    info, _, trace = compare(name)
    # The weight of a selected example is (exp(E0 - H) + exp(PLPD)) / n.
    selected = np.asarray(info.weight > 0)
    weight = np.asarray(info.weight) * np.maximum(selected.sum(1, keepdims=True), 1)
    margin = np.exp(CASES[name]["e0"] - np.asarray(info.entropy))
    plpd = np.log(np.where(selected, weight - margin, 1))
    np.testing.assert_allclose(plpd[selected], trace["plpd"][selected], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["sar_gn_scaled", "sar_gn_recovery_mid", "deyo_bn_patch"])
def test_float64_parameters(name):
    with jax.enable_x64(True):
        _, affine, _, _ = run(name, jnp.float64)
        np.testing.assert_allclose(affine, TRACES[f"{name}/affine_f64"], atol=1e-9, rtol=0)
