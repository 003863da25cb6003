"""The streaming mean against NumPy in float64, the recorded epochs, and its own promises."""

import json
import subprocess
import sys
from pathlib import Path

import devices
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from entropax.checkpoint import EntropySum, entropy_accumulator, top2_entropy

GOLDEN = Path(__file__).parents[1] / "golden" / "uncertainty"
EPOCHS = json.loads((GOLDEN / "entropy_ckpt.json").read_text())
MODES = ("top2", "top2_normalized", "full")
# Jitted once, and all batches filled up to one shape: every new one compiles.
ACCUMULATORS = {mode: entropy_accumulator(mode=mode) for mode in MODES}
UPDATES = {mode: jax.jit(accumulator.update) for mode, accumulator in ACCUMULATORS.items()}
ROWS = 40


def entropies(logits, mode):
    """What a reader of the definitions would write, in float64."""
    probs = special.softmax(np.asarray(logits, np.float64), axis=-1)
    largest = -np.sort(-probs, axis=-1)[..., :2]
    if mode == "top2":
        return -np.sum(largest * np.log(largest + 1e-10), axis=-1)
    if mode == "top2_normalized":
        largest = largest / largest.sum(-1, keepdims=True)
        return special.entr(largest).sum(-1)
    return special.entr(probs).sum(-1)


def padded(logits):
    fill = ROWS - len(logits)
    where = np.arange(ROWS) < len(logits)
    return jnp.pad(jnp.asarray(logits), ((0, fill), (0, 0)), constant_values=jnp.nan), where


@pytest.mark.parametrize(
    ("mode", "name"),
    [
        ("top2", "top2_entropy_float64"),
        ("top2_normalized", "top2_renormalised_float64"),
        ("full", "full_entropy_float64"),
    ],
)
def test_recorded_epochs(mode, name):
    """2e-7: what float32 probabilities leave; the published code, in float32, errs as much."""
    with np.load(GOLDEN / "entropy_inputs.npz") as inputs:
        for epoch in EPOCHS["epochs"]:
            sums = ACCUMULATORS[mode].init()
            for i in range(len(epoch["batch_sizes"])):
                logits, where = padded(inputs[f"e{epoch['epoch']}_b{i}"])
                sums = UPDATES[mode](sums, logits, where=where)
            assert int(sums.examples) == sum(epoch["batch_sizes"])
            value = float(ACCUMULATORS[mode].value(sums))
            assert value == pytest.approx(epoch[name], abs=2e-7)


def test_bound_and_uniform_distributions():
    """The largest value is 2/e, not ln 2, and knowing nothing about many classes is a small one."""
    probs = np.array([1 / np.e, 1 / np.e, *[(1 - 2 / np.e) / 8] * 8])
    assert float(top2_entropy(jnp.log(probs))) == pytest.approx(2 / np.e, abs=1e-6)
    assert float(top2_entropy(jnp.log(probs))) > np.log(2)
    for classes, expected in ((2, np.log(2)), (10, 0.460517), (1000, 0.0138155)):
        assert float(top2_entropy(jnp.zeros(classes))) == pytest.approx(expected, abs=1e-6)


@hypothesis.given(st.integers(0, 2**32 - 1))
def test_top2_is_within_its_bounds(seed):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(ROWS, 5)) * rng.choice([0.1, 1, 10, 100])
    values = np.asarray(top2_entropy(jnp.asarray(logits, jnp.float32)))
    # The logarithm of 1 + 1e-10 in float32 is 0, so that nothing is negative.
    assert (values >= 0).all()
    assert (values <= 2 / np.e + 1e-6).all()
    np.testing.assert_allclose(values, entropies(logits.astype(np.float32), "top2"), atol=2e-6)


@pytest.mark.parametrize("mode", MODES)
def test_batches_weights_and_order_make_no_difference(mode):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4, ROWS, 5)).astype(np.float32) * 3
    weights = rng.uniform(size=(4, ROWS)).astype(np.float32)
    where = rng.uniform(size=(4, ROWS)) < 0.7
    logits[~where] = np.nan
    accumulator, update = ACCUMULATORS[mode], UPDATES[mode]
    expected = np.average(entropies(logits[where], mode), weights=weights[where])

    one = accumulator.init()
    for z, w, m in zip(logits, weights, where, strict=True):
        one = update(one, z, weights=w, where=m)
    other = accumulator.init()
    for i in (3, 1):
        part = accumulator.init()
        for j in (i, i - 1):
            part = update(part, logits[j], weights=weights[j], where=where[j])
        other = accumulator.merge(part, other)
    whole = update(accumulator.init(), logits, weights=weights, where=where)
    for sums in (one, other, whole):
        assert float(accumulator.value(sums)) == pytest.approx(expected, abs=2e-6)
        assert int(sums.examples) == where.sum()
        assert int(sums.nonfinite) == 0


def test_many_small_numbers_on_a_large_one():
    """What plain float32 sums lose altogether."""
    accumulator = entropy_accumulator(mode=lambda logits: logits[..., 0])
    small = jnp.full((1000, 100, 1), 1e-3)

    def add(sums, logits):
        return accumulator.update(sums, logits), None

    start = accumulator.update(accumulator.init(), jnp.full((1, 1), 2.0**24))
    sums, _ = jax.lax.scan(add, start, small)
    expected = (2.0**24 + 1e5 * float(np.float32(1e-3))) / 100_001
    assert float(accumulator.value(sums)) == pytest.approx(expected, rel=1e-7)
    assert float(start.total + jnp.float32(1e-3)) == 2.0**24


def test_value_of_a_shuffled_stream_is_that_of_float64():
    values = np.random.default_rng(0).uniform(size=100_000).astype(np.float32)
    accumulator = entropy_accumulator(mode=lambda logits: logits[..., 0])
    sums = jax.jit(accumulator.update)(accumulator.init(), jnp.asarray(values)[:, None])
    assert float(accumulator.value(sums)) == pytest.approx(values.mean(dtype=np.float64), abs=4e-8)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_few_bits_are_added_up_in_float32(dtype):
    logits = jax.random.normal(jax.random.key(0), (ROWS, 5)).astype(dtype)
    for mode in MODES:
        sums = UPDATES[mode](ACCUMULATORS[mode].init(), logits)
        assert sums.total.dtype == jnp.float32
        expected = entropies(logits.astype(jnp.float32), mode).mean()
        assert float(ACCUMULATORS[mode].value(sums)) == pytest.approx(expected, abs=2e-6)


def test_float64():
    with jax.enable_x64(True):
        accumulator = entropy_accumulator(dtype="float64")
        logits = jax.random.normal(jax.random.key(0), (ROWS, 5), jnp.float64) * 3
        sums = jax.jit(accumulator.update)(accumulator.init(), logits)
        assert sums.total.dtype == jnp.float64
        value = float(accumulator.value(sums))
        assert value == pytest.approx(entropies(logits, "top2").mean(), abs=1e-12)


def test_nothing_and_nothing_finite():
    accumulator, update = ACCUMULATORS["top2"], UPDATES["top2"]
    logits = jnp.zeros((ROWS, 5))
    assert np.isnan(accumulator.value(accumulator.init()))
    none = update(accumulator.init(), logits, where=np.zeros(ROWS, bool))
    assert np.isnan(accumulator.value(none))
    assert int(none.examples) == 0
    for bad in (jnp.nan, jnp.inf):
        sums = update(accumulator.init(), logits.at[3, 1].set(bad), where=np.ones(ROWS, bool))
        assert (int(sums.examples), int(sums.nonfinite)) == (ROWS, 1)
        assert np.isnan(accumulator.value(sums))
        assert np.isfinite(sums.total)
    # A class of probability 0 is none of that.
    sums = update(accumulator.init(), logits.at[:, 2:].set(-jnp.inf), where=np.ones(ROWS, bool))
    assert float(accumulator.value(sums)) == pytest.approx(np.log(2), abs=1e-6)


@pytest.mark.parametrize("weight", [-1.0, np.nan, np.inf])
def test_a_weight_that_is_none(weight):
    accumulator, update = ACCUMULATORS["full"], UPDATES["full"]
    weights = np.ones(ROWS, np.float32)
    weights[[0, 1]] = 0, weight
    sums = update(accumulator.init(), jnp.zeros((ROWS, 5)), weights=weights, where=weights >= -2)
    assert np.isnan(accumulator.value(sums)) == (not np.isnan(weight))
    sums = update(
        accumulator.init(), jnp.zeros((ROWS, 5)), weights=weights, where=np.ones(ROWS, bool)
    )
    assert (int(sums.examples), int(sums.nonfinite)) == (ROWS - 1, 1)


def test_vmap_over_networks():
    accumulator = ACCUMULATORS["full"]
    logits = jax.random.normal(jax.random.key(0), (3, ROWS, 5))
    update = jax.jit(jax.vmap(accumulator.update, in_axes=(None, 0)))
    sums = update(accumulator.init(), logits)
    expected = entropies(logits, "full").mean(-1)
    np.testing.assert_allclose(accumulator.value(sums), expected, atol=2e-6)


def test_psum_over_devices():
    devices.run_on_four_devices("""
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, PartitionSpec as P
from entropax.checkpoint import entropy_accumulator
accumulator = entropy_accumulator()
logits = jax.random.normal(jax.random.key(0), (32, 5)) * 3
where = jnp.arange(32) < 27
def local(logits, where):
    sums = accumulator.update(accumulator.init(), logits, where=where)
    return accumulator.psum(sums, "data")
mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
both = jax.jit(jax.shard_map(local, mesh=mesh, in_specs=P("data"), out_specs=P()))(logits, where)
alone = accumulator.update(accumulator.init(), logits, where=where)
assert int(both.examples) == int(alone.examples) == 27
np.testing.assert_allclose(accumulator.value(both), accumulator.value(alone), atol=2e-7)
""")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "top3"}, "`mode` must be 'top2', 'top2_normalized', 'full' or a func.*'top3'"),
        ({"log_eps": -1e-10}, r"`log_eps` must be in \[0, 1\), got -1e-10"),
        ({"dtype": "float16"}, "`dtype` must be float32 or float64, got float16"),
        ({"dtype": "float64"}, "enable_x64"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        entropy_accumulator(**options)


def test_one_class_has_no_two_probabilities():
    with pytest.raises(ValueError, match=r"two classes, got logits \(3, 1\)"):
        top2_entropy(jnp.zeros((3, 1)))


def test_sums_are_a_pytree_of_a_few_numbers():
    leaves, structure = jax.tree.flatten(ACCUMULATORS["top2"].init())
    assert isinstance(jax.tree.unflatten(structure, leaves), EntropySum)
    assert sum(leaf.nbytes for leaf in leaves) == 24


def test_the_accumulator_alone_imports_no_orbax():
    code = (
        "import sys, entropax.checkpoint as c; c.entropy_accumulator; print('orbax' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
