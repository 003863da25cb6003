import jax
import jax.numpy as jnp
import linear_network as net
import numpy as np
import optax
import pytest

from entropax import tta
from entropax.tta.reset_rules import reset_on_flips, reset_on_low_accuracy
from entropax.tta.resets import reset_when

TENT = tta.tent(net.apply_fn, optax.sgd(0.05, momentum=0.9))
# A "network" that returns its inputs, which carry the accuracy that is to be estimated.
ESTIMATES = np.random.default_rng(0).uniform(0.3, 0.5, 60)
ESTIMATES[[12, 40]] = 0.0
ESTIMATES[25:] -= 0.12


def stream_of(estimates):
    x = jnp.asarray(estimates)[:, None, None] * jnp.ones((1, 2, 3))
    return tta.Batch(x, jnp.ones(x.shape[:2], bool))


def guarded(**options):
    adapter = tta.norm(lambda variables, x: x * variables)
    return reset_on_low_accuracy(adapter, lambda state, batch, info: batch.x[0, 0], **options)


def resets(adapter, batches, variables=None):
    variables = jnp.ones(()) if variables is None else variables
    return np.asarray(tta.adapt(adapter, variables, batches)[1].reset)


@pytest.mark.parametrize(("window", "decay"), [(5, 0.6), (2, 0.0), (1, 0.9)])
def test_the_rule_by_brute_force(window, decay):
    found = resets(guarded(window=window, decay=decay), stream_of(ESTIMATES))
    recent, expected = [], []
    for estimate in ESTIMATES:
        recent.append(decay * recent[-1] + (1 - decay) * estimate if recent else estimate)
        low = recent[-1] < 0.2
        old, new = recent[-2 * window : -window], recent[-window:]
        falling = len(recent) >= 2 * window and np.mean(new) + 0.02 < np.mean(old)
        expected.append(low or falling)
        if expected[-1]:
            recent = []
    np.testing.assert_array_equal(found, expected)
    assert 0 < sum(expected) < 30


def test_low_and_falling_are_two_reasons():
    steady = np.full(12, 0.15)
    assert resets(guarded(), stream_of(steady)).all()
    assert not resets(guarded(limit=0.1), stream_of(steady)).any()
    falling = np.linspace(0.9, 0.8, 12)
    expected = np.arange(12) == 9  # the tenth estimate is the first that has ten to go by
    np.testing.assert_array_equal(resets(guarded(), stream_of(falling)), expected)
    assert not resets(guarded(drop=0.1), stream_of(falling)).any()


def test_what_does_not_count():
    """A NaN estimate, padding and a broken batch are as if they had not been there."""
    estimates = np.linspace(0.9, 0.7, 12)
    usual = resets(guarded(), stream_of(estimates))
    for spoil in (
        lambda b: b._replace(x=b.x.at[4].set(jnp.nan)),
        lambda b: b._replace(where=b.where.at[4].set(False)),
    ):
        longer = spoil(stream_of(np.insert(estimates, 4, 0.0)))
        np.testing.assert_array_equal(np.delete(resets(guarded(), longer), 4), usual)
    adapter = tta.norm(lambda variables, x: jnp.ones_like(x))
    adapter = reset_on_low_accuracy(adapter, lambda state, batch, info: jnp.float32(jnp.nan))
    assert not resets(adapter, stream_of(estimates)).any()


def test_the_estimate_sees_the_network_that_predicted():
    def difference(state, batch, info):
        return 1 - jnp.max(jnp.abs(net.apply_fn(state.variables, batch.x) - info.logits))

    adapter = reset_on_low_accuracy(TENT, difference, limit=0.999)
    assert not resets(adapter, net.stream(), net.variables()).any()


def test_a_reset_restores_everything():
    """Right after it comes the first step of a new adapter."""
    adapter = reset_on_low_accuracy(TENT, lambda state, batch, info: jnp.float32(0.1))
    step = jax.jit(adapter.step)
    state = adapter.init(net.variables())
    begin = jax.tree.leaves(state)
    for t in range(2):
        state, info = step(state, jax.tree.map(lambda a, t=t: a[t], net.stream()))
        assert bool(info.reset)
        for a, b in zip(jax.tree.leaves(state), begin, strict=True):
            np.testing.assert_array_equal(a, b)


def test_flips_by_brute_force():
    """The network's only weight grows with every step and so turns labels round."""
    x = np.random.default_rng(1).normal(size=(20, 16, 2))

    def apply_fn(variables, x):
        return x + variables["norm"]["bias"] * jnp.array([1.0, -1.0])

    variables = {"norm": {"bias": jnp.zeros(())}}
    tent = tta.tent(apply_fn, optax.sgd(1.5))
    where = np.random.default_rng(2).random((20, 16)) < 0.8
    batches = tta.Batch(jnp.asarray(x), jnp.asarray(where))
    adapter = reset_on_flips(tent, apply_fn, limit=0.25, decay=0.5)
    found = tta.adapt(adapter, variables, batches)[1]
    expected, average = [], None
    for t in range(20):
        before = x[t].argmax(1)
        flips = np.mean((np.asarray(found.logits[t]).argmax(1) != before)[where[t]])
        average = flips if average is None else 0.5 * average + 0.5 * flips
        expected.append(average > 0.25)
        if expected[-1]:
            average = None
    np.testing.assert_array_equal(found.reset, expected)
    assert 0 < sum(expected) < 20
    # Right after a reset nothing has flipped.
    for t in np.flatnonzero(expected[:-1]):
        same = np.asarray(found.logits[t + 1]).argmax(1) == x[t + 1].argmax(1)
        assert same[where[t + 1]].all()


def test_flips_that_do_not_count():
    broken = net.stream()._replace(x=net.stream().x.at[1, 0, 0].set(jnp.nan))
    adapter = reset_on_flips(TENT, net.apply_fn, limit=0.5)
    first, second = (
        tta.adapt(adapter, net.variables(), jax.tree.map(lambda a, n=n: a[:n], broken))[0]
        for n in (1, 2)
    )
    assert first.memory.watched == second.memory.watched
    assert bool(first.memory.watched.seen)


def test_parameters_alone():
    """Half a reset keeps the momentum and what the rule remembers."""
    adapter = reset_when(
        TENT,
        start=lambda variables: jnp.zeros((), int),
        judge=lambda count, source, state, batch, info: (count + 1, count == 1),
        whole=False,
    )
    state, infos = tta.adapt(adapter, net.variables(), jax.tree.map(lambda a: a[:2], net.stream()))
    assert infos.reset.tolist() == [False, True]
    np.testing.assert_array_equal(state.params["norm"]["scale"], 1)
    assert bool(jnp.any(state.memory.memory.opt_state[0].trace["norm"]["scale"] != 0))
    assert int(state.memory.watched) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit": 20.0}, r"`limit` is an accuracy in \[0, 1\], got 20.0"),
        ({"drop": -0.1}, r"`drop` is an accuracy"),
        ({"window": 0}, "`window` must be at least 1 step, got 0"),
        ({"decay": 1.0}, r"`decay` must be in \[0, 1\), got 1.0"),
    ],
)
def test_bad_settings_of_the_accuracy_rule(options, message):
    with pytest.raises(ValueError, match=message):
        guarded(**options)


@pytest.mark.parametrize("options", [{"limit": 0.0}, {"limit": 0.5, "decay": -0.1}])
def test_bad_settings_of_the_flip_rule(options):
    with pytest.raises(ValueError, match="must be in"):
        reset_on_flips(TENT, net.apply_fn, **options)


def test_an_estimate_for_each_example_is_refused():
    adapter = reset_on_low_accuracy(TENT, lambda state, batch, info: info.entropy)
    with pytest.raises(ValueError, match=r"one number, got shape \(8,\)"):
        tta.adapt(adapter, net.variables(), net.stream())
