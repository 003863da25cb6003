import math

import jax
import jax.numpy as jnp
import linear_network as net
import numpy as np
import optax
import pytest

from entropax import tta
from entropax.tta.sar import IMAGENET_SAR_LIMITS, SarLimits, sar

SGD = optax.sgd(0.05, momentum=0.9)
LIMITS = SarLimits(0.9, 0.3)


def run(*, limits=LIMITS, batches=None, scale=1.0, **options):
    adapter = sar(net.apply_fn, SGD, num_classes=4, limits=limits, **options)

    def step(state, batch):
        state, info = adapter.step(state, batch)
        memory = state.memory
        return state, (state, info, memory.watched.value, memory.memory.opt_state[0].trace)

    scan = jax.jit(lambda s, b: jax.lax.scan(step, s, b)[1])
    return scan(adapter.init(net.variables(scale)), net.stream() if batches is None else batches)


def by_hand(*, limits=LIMITS, reference=False, scale=1.0, radius=0.05):
    start = np.stack([np.full(6, scale), np.zeros(6)])
    theta, momentum, average = start, np.zeros_like(start), None
    for x in net.X:
        before = net.entropy(net.logits(theta, x)) < limits.entropy
        n = max(before.sum(), 1)
        uphill = net.entropy_gradient(theta, x, before / n)
        worst = theta + radius * uphill / (np.linalg.norm(uphill) + 1e-12)
        entropy = net.entropy(net.logits(worst, x))
        after = before & (entropy < limits.entropy)
        grads = net.entropy_gradient(worst, x, after / max(after.sum(), 1))
        if after.any() or reference:
            momentum = 0.9 * momentum + grads
            theta = theta - 0.05 * momentum
        if after.any():
            loss = entropy[after].mean()
            average = loss if average is None else 0.9 * average + 0.1 * loss
        due = average is not None and average < limits.recovery
        if due:
            theta = start
            if not reference:
                momentum = np.zeros_like(start)
        yield theta, momentum, average, due, after
        if due and not reference:
            average = None


@pytest.mark.parametrize("recovery", [1e-3, 0.53, 0.6])
@pytest.mark.parametrize("compat", [None, "reference"])
def test_by_brute_force(compat, recovery):
    """Five steps against gradients worked out by hand, in float64: rounding only."""
    limits = SarLimits(0.9, recovery)
    with jax.enable_x64(True):
        states, infos, averages, traces = run(limits=limits, compat=compat)
        resets = []
        for t, expected in enumerate(by_hand(limits=limits, reference=compat is not None)):
            theta, momentum, average, due, after = expected
            resets.append(due)
            state = jax.tree.map(lambda a, t=t: a[t], states)
            np.testing.assert_allclose(net.theta_of(state), theta, atol=1e-10, rtol=0)
            trace = np.stack([traces["norm"]["scale"][t], traces["norm"]["bias"][t]])
            np.testing.assert_allclose(trace, momentum, atol=1e-10, rtol=0)
            forgotten = due and compat is None
            np.testing.assert_allclose(averages[t], 0 if forgotten else average, atol=1e-10)
            np.testing.assert_array_equal(infos.weight[t] > 0, after)
        np.testing.assert_array_equal(infos.reset, resets)
    assert any(resets) == (recovery > 1e-3)


def test_an_empty_selection_moves_nothing_but_does_in_the_published_code():
    """There, the gradient is 0 and the momentum goes on."""
    # Only the first two batches are sure of anything.
    where = net.stream().where & (jnp.arange(5) < 2)[:, None]
    uncertain = jnp.where(where[..., None], net.stream().x, 1e-3 * net.stream().x)
    batches = net.stream()._replace(x=uncertain)
    for compat in (None, "reference"):
        states, infos, _, _ = run(batches=batches, limits=SarLimits(0.9, 1e-6), compat=compat)
        scale = states.params["norm"]["scale"]
        assert infos.selected.tolist()[2:] == [0, 0, 0]
        assert infos.stepped.tolist() == [True, True] + 3 * [compat is not None]
        assert bool(jnp.all(jnp.any(scale[2:] != scale[1:-1], axis=1))) == (compat is not None)
        np.testing.assert_array_equal(infos.loss[2:], 0)


def test_limits_follow_the_number_of_classes():
    assert SarLimits.scaled(1000).entropy == IMAGENET_SAR_LIMITS.entropy == 0.4 * math.log(1000)
    assert SarLimits.scaled(1000).recovery == pytest.approx(IMAGENET_SAR_LIMITS.recovery, rel=2e-3)
    assert SarLimits.scaled(10).recovery == pytest.approx(0.0668, abs=1e-4)


def test_the_literal_recovery_limit_resets_a_healthy_network_at_every_step():
    """Why limits scale: these predictions are right to be sure."""
    sure = {"limits": SarLimits(0.4 * math.log(4), 0.2), "scale": 3.0}
    assert run(**sure)[1].reset.tolist() == 5 * [True]
    assert run(**(sure | {"limits": None}))[1].reset.tolist() == 5 * [False]


def test_prediction_leaves_the_state_alone():
    adapter = sar(net.apply_fn, SGD, num_classes=4)
    state = adapter.init(net.variables())
    batch = tta.Batch(net.stream().x[0], net.stream().where[0])
    np.testing.assert_allclose(
        adapter.predict(state, batch), adapter.step(state, batch)[1].logits, atol=1e-6
    )
