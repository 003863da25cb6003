"""RoTTA against itself written with lists, one example and one update at a time."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from balanced_lists import Lists
from oracles import GoldenNet, golden_stream, golden_variables

from entropax import tta
from entropax.models import running_statistics
from entropax.models.statistics import moving_statistics
from entropax.tta.rotta import rotta

KEY = jax.random.key(6)
SGD = optax.sgd(0.05, momentum=0.9)


# A network with running means alone, small enough to differentiate by jax.grad and to trust.
RNG = np.random.default_rng(9)
KERNEL = jnp.asarray(RNG.normal(size=(6, 3)), jnp.float32)
STREAM = RNG.normal(size=(7, 10, 6)) + np.linspace(0, 2, 7)[:, None, None]


def variables(dtype=jnp.float32):
    norm = {"scale": jnp.ones(6, dtype), "bias": jnp.zeros(6, dtype)}
    stats = {"mean": jnp.full(6, 0.1, dtype)}
    return {"params": {"norm": norm, "kernel": KERNEL.astype(dtype)}, "batch_stats": stats}


def logits_of(affine, mean, x):
    return ((x - mean) * affine["scale"] + affine["bias"]) @ KERNEL.astype(x.dtype)


def apply_fn(variables, x):
    return logits_of(variables["params"]["norm"], variables["batch_stats"]["mean"], x)


def update_fn(variables, x, where=None):
    where = jnp.ones(len(x), bool) if where is None else where
    number = jnp.maximum(where.sum(), 1)
    batch = jnp.where(where[:, None], x, 0).sum(0) / number
    old = variables["batch_stats"]["mean"]
    mean = jnp.where(where.any(), 0.8 * old + 0.2 * batch, old)
    variables = {**variables, "batch_stats": {"mean": mean}}
    return apply_fn(variables, x), variables


def turned(key, x):
    return x[..., ::-1]


def build(capacity, augment=turned):
    return rotta(
        KEY,
        apply_fn,
        update_fn,
        SGD,
        num_classes=3,
        image_shape=(6,),
        augment=augment,
        capacity=capacity,
        teacher_rate=0.2,
    )


def by_lists(where, capacity):
    """Teacher, losses, weights and logits after every batch: one example at a time."""
    kernel = np.asarray(KERNEL, np.float64)

    def logits(theta, mean, x):
        return ((x - mean) * theta[0] + theta[1]) @ kernel

    def softmax(z):
        p = np.exp(z - z.max(1, keepdims=True))
        return p / p.sum(1, keepdims=True)

    memory, images, seen, trail = Lists(capacity, 3), {}, 0, []
    teacher = student = np.stack([np.ones(6), np.zeros(6)])
    teacher_mean = student_mean = np.full(6, 0.1)
    momentum = np.zeros((2, 6))
    for t, x in enumerate(STREAM):
        z = logits(teacher, teacher_mean, x)
        loss, weights = 0.0, np.zeros(10)
        for i in np.flatnonzero(where[t]):
            images[t, i] = x[i]
            p = softmax(z)[i]
            memory.offer(int(p.argmax()), float(-(p * np.log(p)).sum()), (t, i))
            seen += 1
            if seen % capacity:
                continue
            names, _, ages = zip(*memory.contents(), strict=True)
            kept = np.stack([images[name] for name in names])
            teacher_mean = 0.8 * teacher_mean + 0.2 * kept.mean(0)
            student_mean = 0.8 * student_mean + 0.2 * kept[:, ::-1].mean(0)
            a = np.array(ages) / capacity
            weight = np.exp(-a) / (1 + np.exp(-a)) / len(names)
            target = softmax(logits(teacher, teacher_mean, kept))
            centred = kept[:, ::-1] - student_mean
            answer = softmax(logits(student, student_mean, kept[:, ::-1]))
            loss = -(weight[:, None] * target * np.log(answer)).sum()
            back = weight[:, None] * (answer - target) @ kernel.T
            momentum = 0.9 * momentum + np.stack([(back * centred).sum(0), back.sum(0)])
            student = student - 0.05 * momentum
            teacher = 0.8 * teacher + 0.2 * student
            weights = np.zeros(10)
            for name, w in zip(names, weight, strict=True):
                if name[0] == t:
                    weights[name[1]] = w
        trail.append((teacher[0], teacher[1], teacher_mean, loss, weights, z))
    return trail


@functools.cache
def compiled(capacity, dtype, augment=turned):
    """States and infos of every step."""
    adapter = build(capacity, augment=augment)

    def step(state, batch):
        state, info = adapter.step(state, batch)
        return state, (state, info)

    scan = jax.jit(lambda s, b: jax.lax.scan(step, s, b)[1])
    return lambda batches: scan(adapter.init(variables(dtype)), batches)


@pytest.mark.parametrize("capacity", [4, 16])
def test_the_same_steps_are_taken(capacity):
    """Several updates in a batch, or less than one; padding; in float64: rounding only."""
    where = np.random.default_rng(3).random((7, 10)) < 0.8
    with jax.enable_x64(True):
        batches = tta.Batch(jnp.asarray(STREAM), jnp.asarray(where))
        states, infos = compiled(capacity, jnp.float64)(batches)
    due = np.diff(np.cumsum(where.sum(1)) // capacity, prepend=0)
    np.testing.assert_array_equal(infos.stepped, due > 0)
    assert due.max() > 1 if capacity == 4 else due.min() == 0
    moved, logits = states.params, np.asarray(infos.logits)
    for t, (scale, bias, mean, loss, weights, z) in enumerate(by_lists(where, capacity)):
        for new, old in (
            (moved["params"]["norm"]["scale"], scale),
            (moved["params"]["norm"]["bias"], bias),
            (moved["batch_stats"]["mean"], mean),
            (infos.loss, loss),
            (infos.weight, weights),
        ):
            np.testing.assert_allclose(np.asarray(new)[t], old, atol=1e-12, rtol=0)
        np.testing.assert_allclose(logits[t, where[t]], z[where[t]], atol=1e-12, rtol=0)


def stream(**changes):
    batches = tta.Batch(jnp.asarray(STREAM, jnp.float32), jnp.ones((7, 10), bool))
    return batches._replace(**changes)


def test_nothing_moves_until_the_memory_is_due():
    states, infos = compiled(15, jnp.float32)(stream())
    stepped = np.array([False, True, True, False, True, True, False])
    np.testing.assert_array_equal(infos.stepped, stepped)
    scale = states.params["params"]["norm"]["scale"]
    before = np.concatenate([np.ones((1, 6)), scale[:-1]])
    np.testing.assert_array_equal((np.asarray(scale) != before).any(1), stepped)
    assert states.memory.since.tolist() == [10, 5, 0, 10, 5, 0, 10]
    np.testing.assert_array_equal(infos.loss == 0, ~stepped)
    np.testing.assert_array_equal(infos.selected == 0, ~stepped)


def test_a_batch_that_is_not_finite_leaves_no_trace():
    run = compiled(15, jnp.float32)
    states, infos = run(stream(x=stream().x.at[2, 4, 0].set(jnp.nan)))
    assert infos.finite.tolist() == [True, True, False, True, True, True, True]
    assert not bool(infos.stepped[2])
    without, _ = run(stream(where=stream().where.at[2].set(False)))
    for a, b in zip(*map(jax.tree.leaves, (states.params, without.params)), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(states.memory.bank.label[2], states.memory.bank.label[1])
    np.testing.assert_array_equal(states.memory.images[2], states.memory.images[1])


def test_an_update_that_is_not_finite_leaves_no_trace():
    """An augmentation that breaks the images: the batch is fine, the step is not."""
    run = compiled(15, jnp.float32, augment=lambda key, x: x * jnp.nan)
    states, infos = run(stream())
    # The second batch would fill the memory: it is refused, and so is every one after it.
    assert infos.finite.tolist() == [True] + 6 * [False]
    assert not bool(jnp.any(infos.stepped))
    assert states.memory.since.tolist() == 7 * [10]
    np.testing.assert_array_equal(states.params["params"]["norm"]["scale"], 1)


def test_a_network_with_batch_norm():
    """Norm parameters and running statistics move, of teacher and student; nothing else does."""
    module, before = GoldenNet(), golden_variables()
    adapter = rotta(
        KEY,
        running_statistics(module),
        moving_statistics(module, momentum=0.05),
        optax.adam(1e-2),
        num_classes=10,
        image_shape=(8, 8, 1),
        capacity=16,
        augment=lambda key, x: jnp.roll(x, 1, axis=2),
    )
    batches = jax.tree.map(lambda a: a[:2, :24], golden_stream())
    state, infos = jax.jit(lambda b: tta.adapt(adapter, before, b))(batches)
    assert infos.stepped.tolist() == [True, True]
    for params in (state.params, state.memory.student):
        after = tta.merge(params, state.frozen)
        assert jax.tree.structure(after) == jax.tree.structure(before)
        for path, old in jax.tree_util.tree_leaves_with_path(before):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            new = after[path[0].key][path[1].key][path[2].key]
            moves = tta.is_norm_affine(name) or name.startswith("batch_stats/")
            assert bool(jnp.any(old != new)) == moves, name


def test_a_network_without_statistics():
    adapter = rotta(
        KEY,
        lambda v, x: x * v["norm"]["scale"],
        lambda v, x, where=None: (x * v["norm"]["scale"], v),
        SGD,
        num_classes=3,
        image_shape=(3,),
        capacity=2,
        augment=turned,
    )
    state = adapter.init({"norm": {"scale": jnp.ones(3)}})
    batch = tta.Batch(jnp.array([[1.0, 2.0, 3.0], [3.0, 1.0, 1.0]]), jnp.ones(2, bool))
    state, info = jax.jit(adapter.step)(state, batch)
    assert bool(info.stepped)
    assert bool(jnp.any(state.params["norm"]["scale"] != 1))


def test_examples_of_another_shape():
    adapter = build(8)
    batch = tta.Batch(jnp.ones((4, 5)), jnp.ones(4, bool))
    with pytest.raises(ValueError, match=r"`image_shape` is \(6,\), but the examples have \(5,\)"):
        adapter.step(adapter.init(variables()), batch)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 1}, "`num_classes` must be at least 2, got 1"),
        ({"capacity": 0}, "`capacity` must be at least 1, got 0"),
        ({"time_weight": -1.0}, "`time_weight` must not be negative, got -1.0"),
        ({"entropy_weight": -1.0}, "`entropy_weight` must not be negative, got -1.0"),
        ({"teacher_rate": 0.0}, r"`teacher_rate` must be in \(0, 1\], got 0.0"),
    ],
)
def test_settings_that_make_no_sense(options, message):
    with pytest.raises(ValueError, match=message):
        rotta(KEY, apply_fn, update_fn, SGD, **{"num_classes": 3, "image_shape": (6,), **options})
