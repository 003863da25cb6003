"""CoTTA step by step against traces of the published code (see tests/golden/tta/README.md).

The recorded run had fixed augmentations and recorded masks for the restoring. Tolerances as in
`test_traces.py`: logits 5e-5, parameters 5e-6, the teacher's 1e-5 (the recorded teacher's average
rounds more than ours), loss 1e-5; in float64 1e-9.
"""

import functools

import jax
import jax.numpy as jnp
import linear_network as net
import numpy as np
import optax
import pytest
from oracles import GoldenNet, affine_vector, golden, golden_stream, golden_variables

from entropax import tta
from entropax.models import batch_statistics
from entropax.tta.cotta import confidence_threshold, cotta, follow, soft_cross_entropy

CASES = golden("tta/cotta.json")
TRACES = golden("tta/cotta.npz")
APPLY = batch_statistics(GoldenNet())
KEY = jax.random.key(2)
SGD = optax.sgd(0.05, momentum=0.9)
NAMES = [f"{bn}.{name}" for bn in ("bn1", "bn2") for name in ("bias", "weight")]
NAMES += ["conv1.weight", "conv2.weight", "fc.bias", "fc.weight"]


def keys_of_the_augmentations(steps, number):
    """Every key with which the adapter will ask for an augmentation, in order."""
    keys, key = [], KEY
    for _ in range(steps):
        keys.append(jax.random.key_data(jax.random.split(jax.random.fold_in(key, 0), number)))
        key = jax.random.fold_in(key, 2)
    return jnp.stack(keys)


def rolled(table, key, x):
    """The k-th of the recorded augmentations."""
    k = jnp.argmax(jnp.all(table == jax.random.key_data(key), axis=-1).any(axis=0))
    return jnp.roll(x, (k % 3 - 1, k // 3 % 3 - 1), (1, 2))


def recorded_masks():
    """Which parameters were put back after each step, in the layout of the network."""
    params = golden_variables()["params"]
    masks = jax.tree.map(lambda leaf: None, params)
    for name in NAMES:
        module, kind = name.split(".")
        leaf = {"bias": "bias", "weight": "scale" if module[:2] == "bn" else "kernel"}[kind]
        shape = params[module][leaf].shape
        bits = np.unpackbits(TRACES[f"restore/{name}"], axis=1, count=int(np.prod(shape)))
        if len(shape) == 4:  # recorded as [out, in, h, w]
            bits = bits.reshape(12, shape[3], shape[2], *shape[:2]).transpose(0, 3, 4, 2, 1)
        elif len(shape) == 2:
            bits = bits.reshape(12, *shape[::-1]).transpose(0, 2, 1)
        masks[module][leaf] = jnp.asarray(bits, bool)
    return masks


def concatenated(tree):
    """All parameters in the order of the recording."""
    leaves = []
    for name in NAMES:
        module, kind = name.split(".")
        leaf = {"bias": "bias", "weight": "scale" if module[:2] == "bn" else "kernel"}[kind]
        a = tree["params"][module][leaf]
        leaves.append(a.transpose(3, 2, 0, 1) if a.ndim == 4 else a.T)
    return jnp.concatenate([leaf.ravel() for leaf in leaves])


def run(name, dtype):
    case = CASES[name]
    tx = optax.adam(case["lr"]) if case["opt"] == "adam" else optax.sgd(case["lr"], momentum=0.9)
    table = keys_of_the_augmentations(12, 32)
    adapter = cotta(
        KEY,
        APPLY,
        tx,
        threshold=case["p_th"],
        augment=functools.partial(rolled, table),
        teacher_decay=case["alpha"],
        restore_rate=0.0,
    )

    def step(state, inputs):
        batch, masks = inputs
        state, info = adapter.step(state, batch)
        memory = state.memory
        params = jax.tree.map(jnp.where, masks, memory.source["params"], memory.params["params"])
        params = {**memory.params, "params": params}
        state = state._replace(memory=memory._replace(params=params))
        return state, (info, affine_vector(params), affine_vector(state.params))

    start = adapter.init(golden_variables(dtype))
    inputs = golden_stream(dtype=dtype), recorded_masks()
    return jax.jit(lambda s, i: jax.lax.scan(step, s, i))(start, inputs)


@pytest.mark.parametrize(
    ("name", "dtype", "field", "atol"),
    [
        ("cotta_adam_aug", jnp.float32, "affine", 5e-6),  # every batch is unsure
        ("cotta_sgd_mixed", jnp.float64, "affine_f64", 1e-9),  # some are
    ],
)
def test_trace(name, dtype, field, atol):
    with jax.enable_x64(dtype == jnp.float64):
        state, (info, student, teacher) = run(name, dtype)
        student_all, teacher_all = concatenated(state.memory.params), concatenated(state.params)
    trace = {k.split("/")[1]: v for k, v in TRACES.items() if k.split("/")[0] == name}
    np.testing.assert_allclose(student, trace[field], atol=atol, rtol=0)
    np.testing.assert_allclose(info.logits, trace["logits"], atol=5e-5, rtol=0)
    np.testing.assert_allclose(teacher, trace["teacher_affine"], atol=1e-5, rtol=0)
    np.testing.assert_allclose(info.loss, trace["loss"], atol=1e-5, rtol=0)
    # The other parameters move as well.
    np.testing.assert_allclose(student_all, trace["student_all"], atol=5e-6, rtol=0)
    np.testing.assert_allclose(teacher_all, trace["teacher_all"], atol=1e-5, rtol=0)


def shifted(key, x):
    """A change that depends on the key and that NumPy can repeat."""
    return x + 0.3 * jax.random.normal(key)


def probabilities(z):
    return np.asarray(net.probabilities(np.asarray(z)))


@pytest.mark.parametrize("symmetric", [False, True])
def test_by_brute_force(symmetric):
    """Five steps against gradients worked out by hand, in float64: rounding only.

    With p of the teacher and q of the student, the derivative of -sum p ln q by the student's
    logits is q - p, that of -sum q ln p is -q (ln p - sum q ln p).
    """
    with jax.enable_x64(True):
        adapter = cotta(
            KEY,
            net.apply_fn,
            SGD,
            threshold=1.0,
            augment=shifted,
            num_augmentations=3,
            teacher_decay=0.8,
            restore_rate=0.0,
            symmetric=symmetric,
            trainable=tta.is_norm_affine,
        )
        state, step = adapter.init(net.variables()), jax.jit(adapter.step)
        theta = teacher = np.stack([np.ones(6), np.zeros(6)])
        momentum, key = np.zeros((2, 6)), KEY
        for x in net.X:
            keys = jax.random.split(jax.random.fold_in(key, 0), 3)
            z = np.mean([net.logits(teacher, shifted(k, x)) for k in keys], axis=0)
            p, q = probabilities(z), probabilities(net.logits(theta, x))
            slope, loss = q - p, -(p * np.log(q)).sum(1)
            if symmetric:
                log_p = np.log(p)
                slope = (slope - q * (log_p - (q * log_p).sum(1, keepdims=True))) / 2
                loss = (loss - (q * log_p).sum(1)) / 2
            back = slope / len(x) @ net.KERNEL.T
            momentum = 0.9 * momentum + np.stack([(back * x).sum(0), back.sum(0)])
            theta = theta - 0.05 * momentum
            teacher = 0.8 * teacher + 0.2 * theta
            key = jax.random.fold_in(key, 2)

            state, info = step(state, tta.Batch(jnp.asarray(x), jnp.ones(len(x), bool)))
            np.testing.assert_allclose(info.logits, z, atol=1e-12, rtol=0)
            np.testing.assert_allclose(info.entropy, net.entropy(z), atol=1e-12, rtol=0)
            np.testing.assert_allclose(info.loss, loss.mean(), rtol=1e-12)
            np.testing.assert_allclose(net.theta_of(state), teacher, atol=1e-12, rtol=0)
            student = state._replace(params=state.memory.params)
            np.testing.assert_allclose(net.theta_of(student), theta, atol=1e-12, rtol=0)


def test_a_sure_batch_is_not_augmented():
    """The augmentation is not merely ignored, it does not run."""
    calls = []

    def counted(key, x):
        jax.debug.callback(lambda: calls.append(1))
        return x

    adapter = cotta(KEY, net.apply_fn, SGD, threshold=0.9, augment=counted, num_augmentations=3)
    state, step = adapter.init(net.variables()), jax.jit(adapter.step)
    where = jnp.array([True, True, False])
    # Logits are the examples times a matrix; the last row, which is padding, would turn the mean.
    sure, unsure = jnp.eye(6)[:3] * 100, jnp.eye(6)[:3] * 0.01
    for x, number in ((sure.at[2].set(0), 0), (unsure.at[2].set(1e4), 3)):
        calls.clear()
        step(state, tta.Batch(x, where))
        jax.effects_barrier()
        assert len(calls) == number


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_restoring_nothing_and_everything(rate):
    adapter = cotta(
        KEY, net.apply_fn, SGD, threshold=1.0, augment=shifted, restore_rate=rate, teacher_decay=0.0
    )
    state, _ = jax.jit(lambda b: tta.adapt(adapter, net.variables(), b))(net.stream())
    # Without decay the teacher is the student before the restoring.
    assert bool(jnp.any(state.params["norm"]["scale"] != 1))
    expected = state.memory.source if rate == 1 else state.params
    for new, old in zip(*map(jax.tree.leaves, (state.memory.params, expected)), strict=True):
        np.testing.assert_array_equal(new, old)


def test_about_one_in_ten_is_restored():
    """Of 20,000 parameters that all move, 10 % are back: give or take 42; five of those."""
    kernel = 0.01 * jax.random.normal(KEY, (2000, 10))
    adapter = cotta(KEY, lambda v, x: x @ v, SGD, threshold=1.0, augment=shifted, restore_rate=0.1)
    state = adapter.init(kernel)
    batch = tta.Batch(jax.random.normal(KEY, (4, 2000)), jnp.ones(4, bool))
    state, _ = jax.jit(adapter.step)(state, batch)
    assert abs(int(jnp.sum(state.memory.params == kernel)) - 2000) < 210


def test_without_augmentation_nothing_is_learnt():
    """Teacher and student agree: the gradient is p - p, that is rounding."""
    adapter = cotta(KEY, net.apply_fn, SGD, threshold=0.0, augment=shifted)
    state, infos = jax.jit(lambda b: tta.adapt(adapter, net.variables(), b))(net.stream())
    for new, old in zip(*map(jax.tree.leaves, (state.variables, net.variables())), strict=True):
        np.testing.assert_allclose(new, old, atol=1e-6, rtol=0)
    np.testing.assert_allclose(infos.loss, infos.entropy.mean(1), atol=2e-6)


def test_predict_is_what_the_step_will_say():
    adapter = cotta(KEY, net.apply_fn, SGD, threshold=1.0, augment=shifted, num_augmentations=2)
    state, predict = adapter.init(net.variables()), jax.jit(adapter.predict)
    batch = jax.tree.map(lambda a: a[0], net.stream())
    moved, info = jax.jit(adapter.step)(state, batch)
    np.testing.assert_allclose(predict(state, batch), info.logits, atol=1e-5)
    assert float(jnp.max(jnp.abs(predict(moved, batch) - info.logits))) > 0.01


def test_what_is_adapted():
    """The floats of "params", or all floats; never a running statistic or a counter."""
    numbers = {"w": jnp.ones(2), "count": jnp.ones((), jnp.int32)}
    with_collections = {"params": numbers, "batch_stats": {"mean": jnp.ones(2)}}
    adapter = cotta(KEY, lambda v, x: x, SGD, threshold=0.5)
    state = adapter.init(with_collections)
    assert state.params == {
        "params": {"w": state.params["params"]["w"], "count": None},
        "batch_stats": {"mean": None},
    }
    assert adapter.init(numbers).params["count"] is None
    assert adapter.init(numbers).params["w"] is not None


def test_an_average_of_equals_does_not_drift():
    a = {"w": jax.random.normal(KEY, (1000,))}
    np.testing.assert_array_equal(follow(a, a, 1e-3, allowed=jnp.array(True))["w"], a["w"])
    b = {"w": 2 * a["w"]}
    moved = follow(a, b, 0.25, allowed=jnp.array(True))["w"]
    np.testing.assert_allclose(moved, 1.25 * a["w"], rtol=1e-6)
    np.testing.assert_array_equal(follow(a, b, 0.25, allowed=jnp.array(False))["w"], a["w"])


def test_an_average_in_half_precision_is_refused():
    """It would stay where it is: 1 + 0.001 * (0.5 - 1) is 1."""
    variables = jax.tree.map(lambda a: a.astype(jnp.bfloat16), net.variables())
    adapter = cotta(KEY, net.apply_fn, SGD, threshold=0.0, augment=shifted)
    batch = jax.tree.map(lambda a: a[0], net.stream())
    with pytest.raises(ValueError, match="needs parameters in float32, got bfloat16"):
        adapter.step(adapter.init(variables), batch)


def test_threshold_by_numpy():
    rng = np.random.default_rng(1)
    logits = 3 * rng.normal(size=(200, 5))
    confidence = probabilities(logits).max(1)
    logits = jnp.asarray(logits, jnp.float32)
    expected = np.quantile(confidence, 0.05) - 0.05
    np.testing.assert_allclose(confidence_threshold(logits), expected, atol=2e-6)
    padded = jnp.concatenate([logits, jnp.full((3, 5), jnp.nan)])
    where = jnp.arange(203) < 200
    np.testing.assert_allclose(confidence_threshold(padded, where=where), expected, atol=2e-6)
    assert confidence_threshold(logits, margin=1.0) == 0
    assert jnp.isnan(confidence_threshold(padded))
    assert jnp.isnan(confidence_threshold(padded, where=jnp.zeros(203, bool)))
    with pytest.raises(ValueError, match=r"`quantile` must be in \[0, 1\], got 5"):
        confidence_threshold(logits, quantile=5.0)


def test_cross_entropy_is_least_at_the_target():
    target, other = jnp.array([2.0, 1.0, 0.0]), jnp.array([1.0, 1.0, 0.0])
    p, q = probabilities(target), probabilities(other)
    np.testing.assert_allclose(soft_cross_entropy(target, other), -(p * np.log(q)).sum(), rtol=1e-6)
    assert soft_cross_entropy(target, target) < soft_cross_entropy(target, other)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 92.0}, r"`threshold` must be in \[0, 1\], got 92.0"),
        ({"restore_rate": -0.1}, r"`restore_rate` must be in \[0, 1\], got -0.1"),
        ({"teacher_decay": 1.0}, r"`teacher_decay` must be in \[0, 1\), got 1.0"),
        ({"num_augmentations": 0}, "`num_augmentations` must be at least 1, got 0"),
    ],
)
def test_settings_that_make_no_sense(options, message):
    with pytest.raises(ValueError, match=message):
        cotta(KEY, net.apply_fn, SGD, **{"threshold": 0.9, **options})
