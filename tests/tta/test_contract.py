"""One table of adapters, one set of promises, all pairs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from oracles import GoldenNet, golden_stream, golden_variables, unstack

from entropax import tta
from entropax.models import ConvNet, batch_statistics
from entropax.tta.alarm import collapse_alarm
from entropax.tta.conjugate_pseudo_labels import conjugate_pseudo_labels
from entropax.tta.deyo import DeyoLimits, deyo
from entropax.tta.resets import reset_on_low_entropy, restore_at_random
from entropax.tta.robust_pseudo_labels import robust_pseudo_labels
from entropax.tta.sar import SarLimits, sar
from entropax.types import Batch

APPLY = batch_statistics(GoldenNet())
SGD = optax.sgd(0.01, momentum=0.9)
FISHER = jax.tree.map(jnp.ones_like, tta.partition(golden_variables(), tta.is_norm_affine)[0])

ADAPTERS = {
    "norm": lambda f: tta.norm(f),
    "tent": lambda f: tta.tent(f, optax.adam(1e-3)),
    "eta": lambda f: tta.eta(f, SGD, num_classes=10),
    "eata": lambda f: tta.eata(f, SGD, FISHER, num_classes=10, fisher_weight=1.0),
    "rdumb": lambda f: tta.rdumb(f, SGD, num_classes=10, period=3),
    "sar": lambda f: sar(f, SGD, num_classes=10),
    "deyo": lambda f: deyo(jax.random.key(0), f, SGD, num_classes=10),
    "rpl": lambda f: robust_pseudo_labels(f, SGD),
    "cpl": lambda f: conjugate_pseudo_labels(f, SGD),
    "tent reset on low entropy": lambda f: reset_on_low_entropy(tta.tent(f, SGD), limit=0.2),
    "tent restored at random": lambda f: restore_at_random(
        jax.random.key(0), tta.tent(f, SGD), rate=0.1
    ),
    "tent with an alarm": lambda f: collapse_alarm(tta.tent(f, SGD), num_classes=10),
    "episodic tent": lambda f: tta.reset_every(tta.tent(f, SGD), period=1),
    "repeated eta": lambda f: tta.repeat(tta.eta(f, SGD, num_classes=10), steps=2),
    "tent on scaled inputs": lambda f: tta.map_inputs(tta.tent(f, SGD), lambda x: 0.9 * x),
}
adapters = pytest.mark.parametrize("name", ADAPTERS)


def stream(rows=24):
    """Four batches; the functions below compile once for each adapter and number of rows."""
    return jax.tree.map(lambda a: a[:4, :rows], golden_stream())


@functools.cache
def compiled(name):
    adapter = ADAPTERS[name](APPLY)
    return jax.jit(lambda variables, batches: tta.adapt(adapter, variables, batches))


def run(name, batches):
    return compiled(name)(golden_variables(), batches)


def numbers(tree):
    """The leaves of a tree, random keys as the integers that they are."""
    return [
        jax.random.key_data(leaf)
        if jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key)
        else leaf
        for leaf in jax.tree.leaves(tree)
    ]


def assert_trees_close(a, b, atol):
    for x, y in zip(numbers(a), numbers(b), strict=True):
        np.testing.assert_allclose(x, y, atol=atol, rtol=0)


def assert_finite(tree):
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(tree))


@adapters
def test_scan_is_loop_is_jit(name):
    adapter = ADAPTERS[name](APPLY)
    state, infos = run(name, stream())
    jitted, step = adapter.init(golden_variables()), jax.jit(adapter.step)
    for t, batch in enumerate(unstack(stream())):
        jitted, info = step(jitted, batch)
        assert_trees_close(info, jax.tree.map(lambda a, t=t: a[t], infos), 1e-5)
    assert_trees_close(state, jitted, 1e-5)
    _, info = adapter.step(adapter.init(golden_variables()), unstack(stream())[0])
    assert_trees_close(info, jax.tree.map(lambda a: a[0], infos), 1e-5)


@adapters
def test_padding_changes_nothing(name):
    state, infos = run(name, stream(17))
    for fill in (0.0, 1e6, np.nan):
        padded = stream()
        padded = Batch(padded.x.at[:, 17:].set(fill), padded.where.at[:, 17:].set(False))
        state_padded, infos_padded = run(name, padded)
        # Sums over more rows are added up in another order: rounding, after four steps.
        assert_trees_close(state_padded, state, 2e-6)
        np.testing.assert_allclose(infos_padded.logits[:, :17], infos.logits, atol=2e-5, rtol=0)
        np.testing.assert_array_equal(infos_padded.selected, infos.selected)
        np.testing.assert_array_equal(infos_padded.finite, True)
        np.testing.assert_array_equal(infos_padded.weight[:, 17:], 0)


@adapters
def test_only_norm_parameters_move(name):
    before = golden_variables()
    state, infos = run(name, stream())
    after = state.variables
    assert jax.tree.structure(before) == jax.tree.structure(after)
    for path, old in jax.tree_util.tree_leaves_with_path(before):
        new = after
        for key in path:
            new = new[key.key]
        moves = name != "norm" and tta.is_norm_affine(
            jax.tree_util.keystr(path, simple=True, separator="/")
        )
        assert bool(jnp.any(old != new)) == moves, path
    assert bool(jnp.all(infos.stepped)) == (name != "norm")


@adapters
def test_two_runs_are_identical(name):
    first, second = run(name, stream()), run(name, stream())
    for a, b in zip(numbers(first), numbers(second), strict=True):
        np.testing.assert_array_equal(a, b)


@adapters
def test_single_examples_give_finite_numbers(name):
    single = stream()._replace(where=stream().where.at[:, 1:].set(False))
    state, infos = run(name, single)
    assert_finite(state.variables)
    np.testing.assert_array_equal(infos.finite, True)
    assert bool(jnp.all(infos.selected <= 1))


@adapters
def test_a_batch_of_padding_moves_nothing(name):
    padding = Batch(jnp.full_like(stream().x, jnp.nan), jnp.zeros_like(stream().where))
    state, infos = run(name, padding)
    assert_trees_close(state.variables, golden_variables(), 0)
    np.testing.assert_array_equal(infos.selected, 0)
    np.testing.assert_array_equal(infos.stepped, False)
    np.testing.assert_array_equal(infos.finite, True)


@adapters
def test_a_nan_image_is_flagged_and_moves_nothing(name):
    broken = stream()._replace(x=stream().x.at[1, 3].set(jnp.nan))
    state, infos = run(name, broken)
    np.testing.assert_array_equal(infos.finite, [True, False, True, True])
    assert not bool(infos.stepped[1])
    assert_finite(state.variables)
    assert_finite(infos.logits[2:])


@adapters
def test_vmap_over_networks_and_streams_is_two_loops(name):
    networks = jax.tree.map(lambda a: jnp.stack([a, 1.1 * a]), golden_variables())
    streams = jax.tree.map(lambda a: jnp.stack([a, a[::-1]]), stream())

    def logits(variables, batches):
        return tta.adapt(ADAPTERS[name](APPLY), variables, batches)[1].logits

    over_splits = jax.vmap(logits, in_axes=(None, 0))
    table = jax.jit(jax.vmap(over_splits, in_axes=(0, None)))(networks, streams)
    for i in range(2):
        for j in range(2):
            variables = jax.tree.map(lambda a, i=i: a[i], networks)
            batches = jax.tree.map(lambda a, j=j: a[j], streams)
            _, infos = compiled(name)(variables, batches)
            np.testing.assert_allclose(table[i, j], infos.logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["tent", "rdumb", "sar", "deyo"])
@pytest.mark.parametrize("norm", ["group", "layer"])
def test_networks_without_batch_norm(name, norm):
    module = ConvNet(10, features=(8, 8), norm=norm)
    variables = module.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    adapter = ADAPTERS[name](batch_statistics(module))
    state, infos = jax.jit(lambda b: tta.adapt(adapter, variables, b))(stream())
    np.testing.assert_array_equal(infos.finite, True)
    moved = state.variables["params"]["norm0"]["scale"] != variables["params"]["norm0"]["scale"]
    np.testing.assert_array_equal(jnp.any(moved), jnp.any(infos.stepped))


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
    x = jax.random.normal(key, (6, 8, 8, 1))
    plain, _ = adapter.step(state, Batch(x[:4], jnp.ones(4, bool)))
    padded, info = adapter.step(state, Batch(x.at[4:].set(0), jnp.arange(6) < 4))
    assert bool(info.stepped)
    assert_trees_close(padded.params, plain.params, 1e-6)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (lambda a, s, x: a.step(s, tta.Batch(x, jnp.ones(3, bool))), r"one Batch\(x, where\)"),
        (lambda a, s, x: tta.adapt(a, s.variables, tta.Batch(x, jnp.ones(24, bool))), "Batch"),
    ],
)
def test_batches_of_the_wrong_shape(step, message):
    adapter = tta.tent(APPLY, SGD)
    with pytest.raises(ValueError, match=message):
        step(adapter, adapter.init(golden_variables()), stream().x[0])


def test_wrong_number_of_classes_and_wrong_outputs():
    batch = unstack(stream())[0]
    seven = tta.eta(APPLY, SGD, num_classes=7)
    with pytest.raises(ValueError, match="`num_classes` is 7, but the network has 10 logits"):
        seven.step(seven.init(golden_variables()), batch)
    for other in (
        sar(APPLY, SGD, num_classes=7),
        deyo(jax.random.key(0), APPLY, SGD, num_classes=7),
        collapse_alarm(tta.norm(APPLY), num_classes=7),
    ):
        with pytest.raises(ValueError, match="`num_classes` is 7, but the network has 10 logits"):
            other.step(other.init(golden_variables()), batch)
    both = tta.tent(lambda variables, x: (APPLY(variables, x), x), SGD)
    with pytest.raises(ValueError, match="must return one array of logits"):
        both.step(both.init(golden_variables()), batch)
    params = {"params": golden_variables()["params"]}
    adapter = tta.tent(APPLY, SGD)
    with pytest.raises(ValueError, match="hold no 'batch_stats' for the BatchNorm 'bn1'"):
        adapter.step(adapter.init(params), batch)


def test_unselected_images_do_not_decay_the_momentum():
    """The published code skips the optimiser on an empty selection, and so do we."""
    adapter = tta.eta(APPLY, SGD, num_classes=10)
    state, step = adapter.init(golden_variables()), jax.jit(adapter.step)
    states = [state]
    for batch in unstack(golden_stream(empty_at=(2,)))[:3]:
        state, info = step(state, batch)
        states.append(state)
    assert int(info.selected) == 0
    assert_trees_close(states[3], states[2], 0)


def test_literal_imagenet_limits_stop_adaptation_with_ten_classes():
    """Why limits scale with the number of classes."""
    literal = tta.eta(APPLY, SGD, num_classes=10, limits=tta.IMAGENET_LIMITS)
    _, infos = jax.jit(lambda b: tta.adapt(literal, golden_variables(), b))(stream())
    assert infos.selected.tolist() == [24, 0, 0, 0]
    _, infos = run("eta", stream())
    assert min(infos.selected.tolist()) > 0


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
            lambda: tta.tent(APPLY, SGD, trainable=lambda path: False).init(golden_variables()),
            "No variable is selected",
        ),
        (lambda: tta.fisher_information(APPLY, golden_variables(), []), "holds no image"),
        (
            lambda: tta.fisher_information(APPLY, golden_variables(), [], compat="torch"),
            "`compat` must be None or 'reference'",
        ),
        (lambda: batch_statistics(GoldenNet(), batch_weight=0.0), "`batch_weight` must be in"),
    ],
)
def test_bad_settings_fail_when_the_adapter_is_built(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_fisher_information_by_brute_force():
    """The default squares each example's gradient within its batch."""
    batches = jax.tree.map(lambda a: a[:2], stream(6))
    batches = unstack(batches._replace(where=batches.where.at[1, 4:].set(False)))
    fisher = tta.fisher_information(APPLY, golden_variables(), batches)
    params, frozen = tta.partition(golden_variables(), tta.is_norm_affine)

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
