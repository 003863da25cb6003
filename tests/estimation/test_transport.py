import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import golden
from scipy import optimize

from entropax.estimation.transport import label_distribution, reduced_costs, transport

# The package exports the function under the name of its module.
MODULE = sys.modules[transport.__module__]

VALUES = golden("tta/estimators.json")
DATA = golden("tta/estimators.npz")
SOLVERS = pytest.mark.parametrize("solver", ["exact", "sinkhorn"])
# What Sinkhorn's plan costs above the optimum on sets of some hundreds, at most.
GAPS = {"exact": 1e-6, "sinkhorn": 1.5e-3}
SOLVE = jax.jit(transport, static_argnames="solver")


def problem(seed, n=40, c=4):
    """Labels whose number divides n, so that each label can be written down."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, c - 1, n)  # nobody has the last class
    probs = jax.nn.softmax(jnp.asarray(3 * rng.normal(size=(n, c)), jnp.float32))
    return probs, jnp.asarray(labels)


def dual(probs, marginal, potentials):
    return jnp.mean(reduced_costs(1 - probs, potentials)) + marginal @ potentials


@SOLVERS
@pytest.mark.parametrize("seed", range(5))
def test_against_the_assignment_of_single_labels(solver, seed):
    """The published form: n predictions and n labels, with half the distance as cost."""
    probs, labels = problem(seed)
    one_hot = np.eye(4)[labels]
    cost = 0.5 * np.abs(one_hot[None] - np.asarray(probs)[:, None]).sum(-1)
    pairs = optimize.linear_sum_assignment(cost)
    marginal = label_distribution(labels, 4)
    plan = SOLVE(probs, marginal, solver=solver)
    expected = cost[pairs].mean()
    # With so few rows many are divided by Sinkhorn; its potentials are good all the same.
    assert float(jnp.mean(plan.costs)) == pytest.approx(expected, abs=10 * GAPS[solver])
    assert float(dual(probs, marginal, plan.potentials)) == pytest.approx(expected, abs=1e-5)
    assert -1e-6 < float(plan.gap) < 10 * GAPS[solver]


@SOLVERS
@pytest.mark.parametrize(
    ("rows", "name"), [(300, "COT_error"), (257, "COT_error_first257"), (0, "COT_error_val")]
)
def test_recorded_costs(solver, rows, name):
    logits = DATA["test_logits"][:rows] if rows else DATA["val_logits"]
    probs = jax.nn.softmax(jnp.asarray(logits))
    marginal = label_distribution(jnp.asarray(DATA["val_y"]), 10)
    plan = transport(probs, marginal, solver=solver)
    expected = VALUES[name]["value"]
    assert float(jnp.mean(plan.costs)) == pytest.approx(expected, abs=GAPS[solver])
    # 257 rows cannot be dealt out in whole labels; the potentials are then found to 2e-4.
    atol = 1e-6 if solver == "exact" else 2e-4
    assert float(dual(probs, marginal, plan.potentials)) == pytest.approx(expected, abs=atol)


def test_recorded_cost_of_each_example():
    marginal = label_distribution(jnp.asarray(DATA["val_y"]), 10)
    for name in ("val", "test"):
        probs = jax.nn.softmax(jnp.asarray(DATA[f"{name}_logits"]))
        np.testing.assert_allclose(
            transport(probs, marginal).costs, DATA[f"cot_{name}_cost"], atol=1e-6
        )


def test_exact_in_double_precision():
    with jax.enable_x64(True):
        probs = jax.nn.softmax(jnp.asarray(DATA["test_logits"], float))
        marginal = label_distribution(jnp.asarray(DATA["val_y"]), 10)
        cost = float(jnp.mean(transport(probs, marginal.astype(float)).costs))
        assert cost == pytest.approx(VALUES["COT_error"]["value"], abs=1e-9)
        uniform = float(jnp.mean(transport(probs, jnp.full(10, 0.1)).costs))
        expected = VALUES["COT_error_uniform_marginal"]["value"]
        assert uniform == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("iterations", [1, 10])
def test_a_plan_that_has_not_converged_is_still_a_plan(monkeypatch, iterations):
    """It costs no less than the best one, the potentials say no more, and the gap is known."""
    monkeypatch.setattr(MODULE, "_ITERATIONS", iterations)
    monkeypatch.setattr(MODULE, "_SCALES", 5)
    probs, _ = problem(3)
    marginal = jnp.array([0.85, 0.05, 0.05, 0.05])
    best = float(jnp.mean(transport(probs, marginal, solver="exact").costs))
    plan = transport(probs, marginal, solver="sinkhorn")
    above, below = float(jnp.mean(plan.costs)), float(dual(probs, marginal, plan.potentials))
    assert below < best < above
    assert float(plan.gap) == pytest.approx(above - below, abs=1e-6)
    np.testing.assert_allclose(jnp.sum(plan.masses, axis=0), marginal, atol=1e-6)
    np.testing.assert_allclose(jnp.sum(plan.masses, axis=1), 1 / 40, atol=1e-6)


@SOLVERS
def test_masses_have_their_marginals_and_costs(solver):
    probs, labels = problem(1)
    marginal, where = label_distribution(labels, 4), jnp.arange(40) < 33
    plan = SOLVE(probs, marginal, solver=solver, where=where)
    np.testing.assert_allclose(jnp.sum(plan.masses, axis=0), marginal, atol=1e-6)
    np.testing.assert_allclose(jnp.sum(plan.masses, axis=1), where / 33, atol=1e-6)
    np.testing.assert_allclose(
        plan.costs, 33 * jnp.sum(plan.masses * (1 - probs), axis=1), atol=1e-6
    )
    assert jnp.all(plan.masses >= 0)


def test_large_problems_are_left_to_sinkhorn(monkeypatch):
    probs, labels = problem(0)
    marginal = label_distribution(labels, 4)
    monkeypatch.setattr(MODULE, "EXACT_SIZE", probs.size - 1)
    plan = transport(probs, marginal)
    expected = transport(probs, marginal, solver="sinkhorn")
    np.testing.assert_array_equal(plan.costs, expected.costs)
    assert not np.array_equal(plan.costs, transport(probs, marginal, solver="exact").costs)


def test_label_distribution():
    labels = jnp.array([0, 2, 2, 7])
    np.testing.assert_allclose(
        label_distribution(labels, 3, where=jnp.arange(4) < 3), [1 / 3, 0, 2 / 3], atol=1e-7
    )
    assert np.isnan(label_distribution(labels, 3)).all()
    assert np.isnan(label_distribution(labels, 3, where=jnp.zeros(4, bool))).all()


def test_bad_solver():
    with pytest.raises(ValueError, match="must be one of auto, exact, sinkhorn, got 'simplex'"):
        transport(problem(0)[0], jnp.full(4, 0.25), solver="simplex")
