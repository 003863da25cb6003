import itertools

import jax
import jax.numpy as jnp
import linear_network as net
import numpy as np
import optax
import pytest

from entropax import tta
from entropax.tta.asr import AsrSettings, asr

RATE, DECAY = 0.3, 0.9
STEPS = 12
RNG = np.random.default_rng(2)
# Every third batch leans to one side, as if few classes were left.
X = RNG.normal(size=(STEPS, 8, 6)) + np.where(np.arange(STEPS) % 3 == 2, 0.6, 0.0)[:, None, None]


def stream():
    return tta.Batch(jnp.asarray(X), jnp.ones((STEPS, 8), bool))


def build(settings, method=tta.tent):
    tx = optax.sgd(RATE, momentum=DECAY)
    return asr(net.apply_fn, tx, num_classes=4, method=method, settings=settings)


def trail(adapter, batches):
    def step(state, batch):
        state, info = adapter.step(state, batch)
        return state, (state, info)

    return jax.jit(lambda s, b: jax.lax.scan(step, s, b)[1])(adapter.init(net.variables()), batches)


def by_hand(settings):
    """Parameters `[scale, bias]`, threshold, weight of the pull, and how many arrays go back."""
    source = np.stack([np.ones(6), np.zeros(6)])
    theta, trace = source.copy(), np.zeros_like(source)
    importance = centre = np.zeros_like(source)
    squares, seen = [], []
    first = threshold = np.log(4 * settings.classes)
    weight, consolidated = 0.0, False
    for x in X:
        z = net.logits(theta, x)
        grad = net.entropy_gradient(theta, x, np.full(8, 1 / 8))
        squares.append(grad**2)
        seen.append(theta)
        trace = DECAY * trace + grad + 2 * weight * importance * (theta - centre)
        theta = theta - RATE * trace
        flips = np.mean(z.argmax(1) != net.logits(source, x).argmax(1))
        entropy = net.entropy(z.mean(0))
        weight = settings.recovery * flips**2
        back = 0
        if entropy < threshold:
            share = min(settings.share + settings.slope * (threshold - entropy), 1)
            taken = [i >= (1 - share) * 2 for i in range(2)]
            back = sum(taken)
            theta = np.where(np.array(taken)[:, None], source, theta)
            trace = np.zeros_like(trace)
            old = settings.decay if consolidated else 0
            importance = old * importance + (1 - old) * np.mean(squares, 0)
            centre = old * centre + (1 - old) * np.mean(seen, 0)
            consolidated, squares, seen, threshold = True, [], [], first
        else:
            inertia = settings.inertia * flips + 1 - settings.inertia
            threshold = inertia * threshold + (1 - inertia) * entropy
        yield theta, threshold, weight, back


def test_by_brute_force():
    """Twelve steps by hand in float64: resets of one array and of both, a pull, a threshold."""
    settings = AsrSettings(classes=0.55, inertia=0.5, share=0.5, slope=2.0, recovery=50.0)
    with jax.enable_x64(True):
        states, infos = trail(build(settings), stream())
        expected = list(by_hand(settings))
        for t, (theta, threshold, weight, back) in enumerate(expected):
            state = jax.tree.map(lambda a, t=t: a[t], states)
            np.testing.assert_allclose(net.theta_of(state), theta, atol=1e-9, rtol=0)
            np.testing.assert_allclose(state.memory.threshold, threshold, atol=1e-9, rtol=0)
            recovery = state.memory.memory.opt_state
            np.testing.assert_allclose(recovery.weight, weight, atol=1e-9, rtol=0)
            assert bool(infos.reset[t]) == bool(back)
    backs = [back for *_, back in expected]
    assert set(backs) == {0, 1, 2}
    # The pull acted: after the first reset there were steps with a weight and an importance.
    first = next(t for t, back in enumerate(backs) if back)
    assert any(weight > 0.1 for _, _, weight, _ in expected[first:-1])


def test_without_a_reset_it_is_the_method():
    never = AsrSettings(classes=1e-3)
    states, infos = trail(build(never), stream())
    plain, plain_infos = trail(tta.tent(net.apply_fn, optax.sgd(RATE, momentum=DECAY)), stream())
    np.testing.assert_allclose(states.params["norm"]["scale"], plain.params["norm"]["scale"])
    np.testing.assert_allclose(infos.loss, plain_infos.loss, rtol=1e-6)
    assert not bool(jnp.any(infos.reset))


def test_a_reset_of_everything_is_a_fresh_start():
    """The wrapped method begins anew; what has been learnt lives on in the pull alone."""
    always = AsrSettings(classes=1.0, share=1.0, recovery=0.0)
    method = lambda f, tx: tta.eta(f, tx, num_classes=4, limits=tta.Limits(2.0, 2.0))  # noqa: E731
    adapter = build(always, method)
    states, infos = trail(adapter, stream())
    assert bool(jnp.all(infos.reset))
    np.testing.assert_array_equal(states.params["norm"]["scale"], 1)
    inner = states.memory.memory
    assert not bool(jnp.any(inner.method.redundancy.seen))
    for leaf in jax.tree.leaves(inner.opt_state.opt_state):
        np.testing.assert_array_equal(leaf, 0)
    assert bool(jnp.all(inner.opt_state.importance["norm"]["bias"] > 0))


def test_what_does_not_count():
    """NaN and padding leave threshold, pull and averages alone."""
    adapter = build(AsrSettings(inertia=0.5))
    broken = stream()._replace(x=stream().x.at[1, 3].set(jnp.nan))
    empty = stream()._replace(where=stream().where.at[1].set(False))
    for batches in (broken, empty):
        states, infos = trail(adapter, batches)
        assert not bool(infos.reset[1])
        before, after = (jax.tree.map(lambda a, t=t: a[t], states) for t in (0, 1))
        assert jax.tree.all(jax.tree.map(lambda a, b: bool(jnp.all(a == b)), before, after))


def test_the_deepest_go_back():
    """Three layers whose names do not tell their order; the reset takes the last two of six."""

    def apply_fn(variables, x):
        for name in ("bn_b", "bn_c", "bn_a"):
            x = x * variables[name]["scale"] + variables[name]["bias"]
        return x

    names = ("bn_a", "bn_b", "bn_c")
    variables = {name: {"scale": jnp.ones(4), "bias": jnp.zeros(4)} for name in names}
    settings = AsrSettings(classes=1.0, share=0.34, slope=1e-6)
    tx = optax.sgd(0.1)
    adapter = asr(apply_fn, tx, num_classes=4, method=tta.tent, settings=settings)
    batch = tta.Batch(jnp.asarray(X[0, :, :4]) + jnp.arange(4), jnp.ones(8, bool))
    state, info = jax.jit(adapter.step)(adapter.init(variables), batch)
    assert bool(info.reset)
    for name, key in itertools.product(names, ("scale", "bias")):
        moved = bool(jnp.any(state.params[name][key] != variables[name][key]))
        assert moved == (name != "bn_a"), (name, key)


def test_a_method_that_does_not_use_the_optimiser():
    adapter = build(AsrSettings(), lambda f, tx: tta.norm(f))
    with pytest.raises(ValueError, match="its memory has 0 states"):
        adapter.init(net.variables())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": 0.0}, r"`classes` is a share in \(0, 1\], got 0.0"),
        ({"classes": 500.0}, r"`classes` is a share in \(0, 1\], got 500.0"),
        ({"slope": -1.0}, "`slope` must be positive"),
        ({"inertia": 1.5}, r"`inertia` must be in \[0, 1\]"),
        ({"share": -0.5}, r"`share` must be in \[0, 1\]"),
        ({"decay": float("nan")}, r"`decay` must be in \[0, 1\]"),
        ({"recovery": -1.0}, "`recovery` must not be negative"),
    ],
)
def test_bad_settings(change, message):
    with pytest.raises(ValueError, match=message):
        build(AsrSettings(**change))
