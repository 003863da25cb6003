"""One table of adapters, one set of promises, all pairs.

Each adapter is compiled twice: `outcomes` is one program for all streams and networks, with `vmap`,
and `loop` a jitted step in a Python loop, on batches without padding. What they agree on is that
a scan is a loop, `vmap` is many of them, and padding is not there.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import linear_network as linear
import numpy as np
import optax
import pytest
from oracles import GoldenNet, golden_stream, golden_variables, unstack

from entropax import tta
from entropax.models import batch_statistics, moving_statistics, running_statistics
from entropax.tta.alarm import collapse_alarm
from entropax.tta.asr import AsrSettings, asr
from entropax.tta.conjugate_pseudo_labels import conjugate_pseudo_labels
from entropax.tta.cotta import cotta
from entropax.tta.deyo import DeyoLimits, deyo
from entropax.tta.memo import memo
from entropax.tta.moving_norm import is_running_statistic, moving_norm
from entropax.tta.reset_rules import reset_on_flips, reset_on_low_accuracy
from entropax.tta.resets import reset_on_low_entropy, restore_at_random
from entropax.tta.robust_pseudo_labels import robust_pseudo_labels
from entropax.tta.rotta import rotta
from entropax.tta.sar import SarLimits, sar
from entropax.types import Batch


class Net(nn.Module):
    """As small as a network can be that has all the kinds of variables: quickly compiled."""

    normalisation: Callable[..., nn.Module] = functools.partial(
        nn.BatchNorm, use_running_average=True
    )

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(4, (3, 3), (2, 2), use_bias=False, name="conv")(x)
        x = nn.relu(self.normalisation(name="norm")(x))
        return nn.Dense(10, name="head")(x.reshape(len(x), -1))


def source(module):
    """Random variables, sure enough of themselves for the filters."""
    variables = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    head = jax.tree.map(lambda a: 8 * a, variables["params"]["head"])
    return variables | {"params": variables["params"] | {"head": head}}


SOURCE = source(Net())
APPLY = batch_statistics(Net())
MOVING = moving_statistics(Net())
SGD = optax.sgd(0.01, momentum=0.9)
FISHER = jax.tree.map(jnp.ones_like, tta.partition(SOURCE, tta.is_norm_affine)[0])
KEY = jax.random.key(0)


def darker(key, x):
    """An augmentation that is quickly compiled: each image times a number of its own."""
    factor = jax.random.uniform(key, (len(x),), x.dtype, 0.5, 1.0)
    return x * factor.reshape((-1,) + (1,) * (x.ndim - 1))


def confidence(state, batch, info):
    return jnp.mean(jax.nn.softmax(info.logits).max(-1), where=batch.where)


ADAPTERS = {
    "norm": lambda f: tta.norm(f),
    "moving norm": lambda f: moving_norm(MOVING),
    "tent": lambda f: tta.tent(f, optax.adam(1e-3)),
    "eta": lambda f: tta.eta(f, SGD, num_classes=10),
    "eata": lambda f: tta.eata(f, SGD, FISHER, num_classes=10, fisher_weight=1.0),
    "rdumb": lambda f: tta.rdumb(f, SGD, num_classes=10, period=3),
    "sar": lambda f: sar(f, SGD, num_classes=10),
    "deyo": lambda f: deyo(KEY, f, SGD, num_classes=10),
    "rpl": lambda f: robust_pseudo_labels(f, SGD),
    "cpl": lambda f: conjugate_pseudo_labels(f, SGD),
    "asr": lambda f: asr(f, SGD, num_classes=10, settings=AsrSettings(classes=0.13)),
    "cotta": lambda f: cotta(
        KEY, f, SGD, threshold=1.0, augment=darker, num_augmentations=2, teacher_decay=0.9
    ),
    "rotta": lambda f: rotta(
        KEY,
        running_statistics(Net()),
        MOVING,
        SGD,
        num_classes=10,
        image_shape=(8, 8, 1),
        augment=darker,
        capacity=8,
        teacher_rate=0.1,
    ),
    "memo": lambda f: memo(KEY, f, SGD, augment=darker, num_copies=2, examples_at_once=12),
    "tent reset on low entropy": lambda f: reset_on_low_entropy(tta.tent(f, SGD), limit=0.2),
    "tent reset on low accuracy": lambda f: reset_on_low_accuracy(
        tta.tent(f, SGD), confidence, limit=0.15, drop=0.5
    ),
    "tent reset on flips": lambda f: reset_on_flips(tta.tent(f, SGD), f, limit=0.5),
    "tent restored at random": lambda f: restore_at_random(KEY, tta.tent(f, SGD), rate=0.1),
    "tent with an alarm": lambda f: collapse_alarm(tta.tent(f, SGD), num_classes=10),
    "episodic tent": lambda f: tta.reset_every(tta.tent(f, SGD), period=1),
    "repeated eta": lambda f: tta.repeat(tta.eta(f, SGD, num_classes=10), steps=2),
    "tent on scaled inputs": lambda f: tta.map_inputs(tta.tent(f, SGD), lambda x: 0.9 * x),
}
adapters = pytest.mark.parametrize("name", ADAPTERS)

# What the others move are the scales and shifts of normalisation layers.
MOVES = {
    "norm": lambda path: False,
    "memo": lambda path: False,  # forgets after each example
    "moving norm": is_running_statistic,
    "rotta": lambda path: tta.is_norm_affine(path) or is_running_statistic(path),
    "cotta": lambda path: path.startswith("params/"),
}
NEVER_STEP = {"norm", "memo"}
# A step of RoTTA is due after 8 examples; moving statistics need no loss.
STEPS_ON_SINGLE_EXAMPLES = set(ADAPTERS) - NEVER_STEP - {"rotta"}

ROWS = 9


def stream(rows=12):
    """Four batches."""
    return jax.tree.map(lambda a: a[:4, :rows], golden_stream())


def padded(fill):
    """Batches of 12 rows, of which 9 count."""
    plain = stream()
    return Batch(plain.x.at[:, ROWS:].set(fill), plain.where.at[:, ROWS:].set(False))


STREAMS = {
    "plain": stream(),
    "padded": padded(0.0),
    "padded with large numbers": padded(1e6),
    "padded with NaN": padded(jnp.nan),
    "padded, backwards": jax.tree.map(lambda a: a[::-1], padded(0.0)),
    "single examples": stream()._replace(where=stream().where.at[:, 1:].set(False)),
    "padding": Batch(jnp.full_like(stream().x, jnp.nan), jnp.zeros_like(stream().where)),
    "broken": stream()._replace(x=stream().x.at[1, 3].set(jnp.nan)),
}
NETWORKS = jax.tree.map(lambda a: jnp.stack([a, 1.1 * a]), SOURCE)
# Half the time to compile; what is compared is then compiled alike.
QUICK = {"xla_backend_optimization_level": 0}


@functools.cache
def compiled(name):
    """States and infos `[2 networks, streams, ...]`."""
    adapter = ADAPTERS[name](APPLY)
    over_streams = jax.vmap(functools.partial(tta.adapt, adapter), in_axes=(None, 0))
    over_both = jax.vmap(over_streams, in_axes=(0, None))
    together = jax.tree.map(lambda *a: jnp.stack(a), *STREAMS.values())
    program = jax.jit(over_both, compiler_options=QUICK)
    return functools.partial(program, NETWORKS, together)


@functools.cache
def outcomes(name):
    return jax.tree.map(np.asarray, without_keys(compiled(name)()))


def run(name, which, network=0):
    """The last state and the infos of the scan over one stream."""
    where = network, list(STREAMS).index(which)
    return jax.tree.map(lambda a: a[where], outcomes(name))


@functools.cache
def loop(name, which, network=0):
    """The same from single steps, on the rows that count alone."""
    adapter, step = stepper(name)
    state = adapter.init(jax.tree.map(lambda a: a[network], NETWORKS))
    infos = []
    for batch in unstack(jax.tree.map(lambda a: np.asarray(a)[:, :ROWS], STREAMS[which])):
        state, info = step(state, batch)
        infos.append(info)
    return state, jax.tree.map(lambda *a: np.stack(a), *infos)


@functools.cache
def stepper(name):
    adapter = ADAPTERS[name](APPLY)
    return adapter, jax.jit(adapter.step, compiler_options=QUICK)


def of_rows(infos):
    """What is said of the rows that count."""
    return infos._replace(
        logits=infos.logits[:, :ROWS],
        entropy=infos.entropy[:, :ROWS],
        weight=infos.weight[:, :ROWS],
    )


def without_keys(tree):
    """Random keys as the integers that they are."""
    return jax.tree.map(
        lambda leaf: (
            jax.random.key_data(leaf)
            if jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key)
            else leaf
        ),
        tree,
    )


def numbers(tree):
    return jax.tree.leaves(without_keys(tree))


def assert_trees_close(a, b, atol):
    for x, y in zip(numbers(a), numbers(b), strict=True):
        np.testing.assert_allclose(x, y, atol=atol, rtol=0)


def assert_finite(tree):
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(tree))


@adapters
def test_scan_is_a_loop_of_jitted_steps(name):
    state, infos = run(name, "padded")
    looped, looped_infos = loop(name, "padded")
    # Sums over more rows are added up in another order: rounding, after four steps.
    assert_trees_close(of_rows(infos), looped_infos, 2e-5)
    assert_trees_close(state, looped, 1e-5)


@adapters
def test_padding_changes_nothing(name):
    state, infos = run(name, "padded")
    looped, looped_infos = loop(name, "padded")
    np.testing.assert_array_equal(infos.selected, looped_infos.selected)
    assert_trees_close(state.variables, looped.variables, 2e-6)
    for which in STREAMS:
        if which.startswith("padded with"):
            other, other_infos = run(name, which)
            assert_trees_close(other, state, 0)
            assert_trees_close(of_rows(other_infos), of_rows(infos), 0)
            np.testing.assert_array_equal(other_infos.finite, True)
            np.testing.assert_array_equal(other_infos.weight[:, ROWS:], 0)


@adapters
def test_vmap_over_networks_and_streams_is_a_table_of_loops(name):
    for network, which in ((0, "padded, backwards"), (1, "padded")):
        _, infos = run(name, which, network)
        _, looped_infos = loop(name, which, network)
        np.testing.assert_allclose(of_rows(infos).logits, looped_infos.logits, atol=1e-4, rtol=0)


@adapters
def test_only_what_the_method_adapts_moves(name):
    before = SOURCE
    state, infos = run(name, "plain")
    after = state.variables
    assert jax.tree.structure(before) == jax.tree.structure(after)
    moves = MOVES.get(name, tta.is_norm_affine)
    for path, old in jax.tree_util.tree_leaves_with_path(before):
        new = functools.reduce(lambda tree, key: tree[key.key], path, after)
        expected = moves(jax.tree_util.keystr(path, simple=True, separator="/"))
        assert bool(jnp.any(old != new)) == expected, path
    np.testing.assert_array_equal(infos.stepped, name not in NEVER_STEP)


@adapters
def test_two_runs_are_identical(name):
    for a, b in zip(numbers(outcomes(name)), numbers(compiled(name)()), strict=True):
        np.testing.assert_array_equal(a, b)


@adapters
def test_single_examples_give_finite_numbers(name):
    state, infos = run(name, "single examples")
    assert_finite(state.variables)
    np.testing.assert_array_equal(infos.finite, True)
    assert bool(jnp.all(infos.selected <= 1))
    if name not in STEPS_ON_SINGLE_EXAMPLES:
        np.testing.assert_array_equal(infos.stepped, False)


@adapters
def test_a_batch_of_padding_moves_nothing(name):
    state, infos = run(name, "padding")
    assert_trees_close(state.variables, SOURCE, 0)
    np.testing.assert_array_equal(infos.selected, 0)
    np.testing.assert_array_equal(infos.stepped, False)
    np.testing.assert_array_equal(infos.finite, True)


@adapters
def test_a_nan_image_is_flagged_and_moves_nothing(name):
    state, infos = run(name, "broken")
    np.testing.assert_array_equal(infos.finite, [True, False, True, True])
    assert not bool(infos.stepped[1])
    assert_finite(state.variables)
    assert_finite(infos.logits[2:])


def test_a_step_need_not_be_jitted():
    adapter = tta.tent(linear.apply_fn, SGD)
    state = adapter.init(linear.variables())
    batch = unstack(linear.stream())[0]
    assert_trees_close(adapter.step(state, batch), jax.jit(adapter.step)(state, batch), 1e-5)


@pytest.mark.parametrize(
    ("name", "norm"),
    [
        ("tent", functools.partial(nn.GroupNorm, 2)),
        ("rdumb", nn.LayerNorm),
        ("sar", functools.partial(nn.GroupNorm, 2)),
        ("asr", nn.LayerNorm),
    ],
)
def test_networks_without_batch_norm(name, norm):
    module = Net(norm)
    variables = source(module)
    adapter = ADAPTERS[name](batch_statistics(module))
    state, info = jax.jit(adapter.step, compiler_options=QUICK)(
        adapter.init(variables), unstack(stream())[0]
    )
    assert bool(info.finite)
    assert bool(info.stepped)
    moved = state.variables["params"]["norm"]["scale"] != variables["params"]["norm"]["scale"]
    assert bool(jnp.any(moved))


def test_padding_may_be_what_a_network_cannot_digest():
    """A network that divides by the length of a row has no derivative at a row of zeros."""

    def apply_fn(variables, x):
        x = x.reshape(len(x), -1)
        x = x / jnp.linalg.norm(x, axis=1, keepdims=True)
        return (x * variables["norm"]["scale"]) @ variables["head"]["kernel"]

    key = jax.random.key(0)
    head = {"kernel": jax.random.normal(key, (64, 10))}
    adapter = tta.tent(apply_fn, SGD)
    state = adapter.init({"norm": {"scale": jnp.ones(64)}, "head": head})
    step = jax.jit(adapter.step)
    x = jax.random.normal(key, (6, 8, 8, 1))
    plain, _ = step(state, Batch(x[:4], jnp.ones(4, bool)))
    filled, info = step(state, Batch(x.at[4:].set(0), jnp.arange(6) < 4))
    assert bool(info.stepped)
    assert_trees_close(filled.params, plain.params, 1e-6)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (lambda a, s, x: a.step(s, tta.Batch(x, jnp.ones(3, bool))), r"one Batch\(x, where\)"),
        (lambda a, s, x: tta.adapt(a, s.variables, tta.Batch(x, jnp.ones(12, bool))), "Batch"),
    ],
)
def test_batches_of_the_wrong_shape(step, message):
    adapter = tta.tent(APPLY, SGD)
    with pytest.raises(ValueError, match=message):
        step(adapter, adapter.init(SOURCE), stream().x[0])


def test_wrong_number_of_classes_and_wrong_outputs():
    batch = unstack(stream())[0]
    seven = tta.eta(APPLY, SGD, num_classes=7)
    with pytest.raises(ValueError, match="`num_classes` is 7, but the network has 10 logits"):
        seven.step(seven.init(SOURCE), batch)
    for other in (
        sar(APPLY, SGD, num_classes=7),
        deyo(jax.random.key(0), APPLY, SGD, num_classes=7),
        collapse_alarm(tta.norm(APPLY), num_classes=7),
    ):
        with pytest.raises(ValueError, match="`num_classes` is 7, but the network has 10 logits"):
            other.step(other.init(SOURCE), batch)
    both = tta.tent(lambda variables, x: (APPLY(variables, x), x), SGD)
    with pytest.raises(ValueError, match="must return one array of logits"):
        both.step(both.init(SOURCE), batch)
    params = {"params": SOURCE["params"]}
    adapter = tta.tent(APPLY, SGD)
    with pytest.raises(ValueError, match="hold no 'batch_stats' for the BatchNorm 'norm'"):
        adapter.step(adapter.init(params), batch)


def test_unselected_images_do_not_decay_the_momentum():
    """The published code skips the optimiser on an empty selection, and so do we."""
    adapter, step = stepper("eta")
    state = adapter.init(SOURCE)
    first, unsure = unstack(jax.tree.map(lambda a: a[:2, :ROWS], stream()))
    before, _ = step(state, first)
    # A flat image has the logits of the head's bias: as many nats as there can be.
    after, info = step(before, unsure._replace(x=jnp.zeros_like(unsure.x)))
    assert int(info.selected) == 0
    assert_trees_close(after, before, 0)


def test_literal_imagenet_limits_stop_adaptation_with_ten_classes():
    """Why limits scale with the number of classes."""
    scaled, literal = (
        tta.eta(batch_statistics(GoldenNet()), SGD, num_classes=10, limits=limits)
        for limits in (None, tta.IMAGENET_LIMITS)
    )
    batches = jax.tree.map(lambda a: a[:4, :24], golden_stream())

    @jax.jit
    def selected():
        return [tta.adapt(a, golden_variables(), batches)[1].selected for a in (literal, scaled)]

    of_literal, of_scaled = selected()
    assert of_literal.tolist() == [24, 0, 0, 0]
    assert min(of_scaled.tolist()) > 0


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: tta.reset_every(tta.norm(APPLY), period=0), "`period` must be at least 1"),
        (lambda: tta.rdumb(APPLY, SGD, num_classes=10, period=-1), "`period` must be at least 1"),
        (lambda: tta.repeat(tta.norm(APPLY), steps=0), "`steps` must be at least 1"),
        (lambda: tta.eta(APPLY, SGD, num_classes=1), "`num_classes` must be at least 2"),
        (lambda: sar(APPLY, SGD, num_classes=1), "`num_classes` must be at least 2"),
        (lambda: sar(APPLY, SGD, num_classes=10, radius=0.0), "`radius` must be positive"),
        (lambda: sar(APPLY, SGD, num_classes=10, compat="torch"), "`compat` must be None or"),
        (
            lambda: sar(APPLY, SGD, num_classes=10, limits=SarLimits(0.0, 0.1)),
            "entropy limit must be positive, got 0.0",
        ),
        (
            lambda: deyo(jax.random.key(0), APPLY, SGD, num_classes=1),
            "`num_classes` must be at least 2",
        ),
        (
            lambda: deyo(
                jax.random.key(0), APPLY, SGD, num_classes=10, limits=DeyoLimits(1.0, 1.0, 1.5)
            ),
            r"PLPD must be in \[-1, 1\], got 1.5",
        ),
        (
            lambda: deyo(
                jax.random.key(0), APPLY, SGD, num_classes=10, limits=DeyoLimits(-1.0, 1.0, 0.2)
            ),
            "entropy limit must be positive, got -1.0",
        ),
        (lambda: robust_pseudo_labels(APPLY, SGD, exponent=1.1), r"`exponent` must be in \(0, 1\]"),
        (
            lambda: conjugate_pseudo_labels(APPLY, SGD, poly_weight=-1.0),
            "`poly_weight` must not be",
        ),
        (lambda: reset_on_low_entropy(tta.norm(APPLY), limit=0.0), "`limit` must be positive"),
        (
            lambda: reset_on_low_entropy(tta.norm(APPLY), limit=0.1, decay=1.0),
            r"`decay` must be in \[0, 1\), got 1.0",
        ),
        (
            lambda: restore_at_random(jax.random.key(0), tta.norm(APPLY), rate=1.5),
            r"`rate` must be in \[0, 1\], got 1.5",
        ),
        (lambda: collapse_alarm(tta.norm(APPLY), num_classes=1), "`num_classes` must be at least"),
        (
            lambda: collapse_alarm(tta.norm(APPLY), num_classes=10, diversity_limit=3.0),
            "`diversity_limit` must be in",
        ),
        (
            lambda: collapse_alarm(tta.norm(APPLY), num_classes=10, entropy_limit=0.0),
            "`entropy_limit` must be positive",
        ),
        (
            lambda: collapse_alarm(tta.norm(APPLY), num_classes=10, window=0.0),
            "`window` must be a positive number",
        ),
        (
            lambda: tta.eta(APPLY, SGD, num_classes=10, limits=tta.Limits(0.9, 0.0)),
            "cosine limit must be positive",
        ),
        (
            lambda: tta.eata(APPLY, SGD, FISHER, num_classes=10, fisher_weight=-1.0),
            "`fisher_weight` must not be negative",
        ),
        (
            lambda: tta.tent(APPLY, SGD, trainable=lambda path: False).init(SOURCE),
            "No variable is selected",
        ),
        (lambda: tta.fisher_information(APPLY, SOURCE, []), "holds no image"),
        (
            lambda: tta.fisher_information(APPLY, SOURCE, [], compat="torch"),
            "`compat` must be None or 'reference'",
        ),
        (lambda: batch_statistics(Net(), batch_weight=0.0), "`batch_weight` must be in"),
    ],
)
def test_bad_settings_fail_when_the_adapter_is_built(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_fisher_information_by_brute_force():
    """The default squares each example's gradient within its batch."""
    batches = jax.tree.map(lambda a: a[:2], stream(6))
    batches = unstack(batches._replace(where=batches.where.at[1, 4:].set(False)))
    fisher = tta.fisher_information(APPLY, SOURCE, batches)
    params, frozen = tta.partition(SOURCE, tta.is_norm_affine)

    @jax.jit
    @jax.grad
    def gradient(params, batch, i):
        logits = APPLY(tta.merge(params, frozen), batch.x, where=batch.where)[i]
        return -jax.nn.log_softmax(logits)[jnp.argmax(logits)]

    squares = [
        jax.tree.map(jnp.square, gradient(params, batch, i))
        for batch, n in zip(batches, (6, 4), strict=True)
        for i in range(n)
    ]
    mean = jax.tree.map(lambda *leaves: sum(leaves) / 10, *squares)
    assert_trees_close(fisher, mean, 1e-6)
