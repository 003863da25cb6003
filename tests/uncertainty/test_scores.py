"""Functions are compiled once for each shape here; step by step, every step would be."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from entropax.uncertainty import scores

ALL = {
    "max_softmax": scores.max_softmax,
    "log_odds": scores.log_odds,
    "entropy_score": scores.entropy_score,
    "margin": scores.margin,
    "logit_margin": functools.partial(scores.margin, of="logits"),
    "max_logit": scores.max_logit,
    "p_norm_max_logit": scores.p_norm_max_logit,
    "energy_score": scores.energy_score,
}
JITTED = {name: jax.jit(function) for name, function in ALL.items()}
# Up to a constant that is the same for all classes, these see nothing.
SHIFT_FREE = [name for name in ALL if name not in ("max_logit", "energy_score")]


def brute_force(name, z, p=5):
    """In float64, by the definition, of one example."""
    z = np.float64(z)
    probs = scipy.special.softmax(z)
    first, second = np.sort(probs)[::-1][:2]
    centred = z - z.mean()
    return {
        "max_softmax": lambda: first,
        "log_odds": lambda: math.log(first / (1 - first)),
        "entropy_score": lambda: -scipy.stats.entropy(probs),
        "margin": lambda: first - second,
        "logit_margin": lambda: np.diff(np.sort(z))[-1],
        "max_logit": lambda: z.max(),
        "p_norm_max_logit": lambda: centred.max() / np.linalg.norm(centred, p),
        "energy_score": lambda: math.log(np.exp(z).sum()),
    }[name]()


logits_5 = st.lists(st.floats(-8, 8, width=32), min_size=5, max_size=5).filter(
    lambda z: np.ptp(z) > 1e-2
)


@pytest.mark.parametrize("name", ALL)
@given(z=logits_5)
def test_definitions(name, z):
    z = np.array(z, np.float32)
    # float32: a few roundings of numbers up to 8, and of 1 - p in the odds of the oracle
    np.testing.assert_allclose(JITTED[name](z), brute_force(name, z), rtol=2e-6, atol=4e-6)


@pytest.mark.parametrize("name", ALL)
def test_float64(name):
    z = np.random.default_rng(0).normal(size=(3, 2, 7))
    expected = [[brute_force(name, row) for row in rows] for rows in z]
    with jax.enable_x64(True):
        found = JITTED[name](jnp.asarray(z))
        assert found.dtype == jnp.float64
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("name", ALL)
def test_half_precision_is_computed_in_single(name):
    z = jnp.asarray(np.random.default_rng(0).normal(size=(4, 7)), jnp.bfloat16)
    found = ALL[name](z)
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, ALL[name](z.astype(jnp.float32)))


@pytest.mark.parametrize("name", ALL)
def test_masked_classes_are_no_classes(name):
    z = np.random.default_rng(1).normal(size=(6, 7)).astype(np.float32)
    where = np.arange(7) < 4
    dirty = np.where(where, z, np.nan)
    expected = [brute_force(name, row[:4]) for row in z]
    for mask in (where, np.broadcast_to(where, z.shape)):
        np.testing.assert_allclose(JITTED[name](dirty, where=mask), expected, rtol=2e-6)
    assert np.isnan(JITTED[name](dirty, where=np.zeros(7, bool))).all()


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("wrong", [np.nan, np.inf])
@pytest.mark.parametrize("place", [0, 2])
def test_what_is_no_number_stays_so(name, wrong, place):
    z = np.array([[1, 3, 2], [1, 3, 2]], np.float32)
    z[1, place] = wrong
    found = JITTED[name](z)
    assert np.isnan(found).tolist() == [False, True]


@pytest.mark.parametrize("name", [name for name in ALL if name != "p_norm_max_logit"])
def test_a_class_of_probability_zero(name):
    z = np.array([1, 3, 2], np.float32)
    with_zero = np.append(z, np.float32(-np.inf))
    np.testing.assert_allclose(JITTED[name](with_zero), brute_force(name, z), rtol=1e-6)


@pytest.mark.parametrize("name", SHIFT_FREE)
def test_constants_change_no_score_of_differences(name):
    z = np.random.default_rng(2).normal(size=(5, 7)).astype(np.float32)
    # The shift costs 16 of 24 bits of the logits; multiples of 1/256 keep them all.
    z = np.round(z * 256) / 256
    np.testing.assert_allclose(JITTED[name](z + 1000), JITTED[name](z), rtol=1e-5, atol=1e-6)


def test_constants_change_those_of_sizes():
    z = np.array([1, 4, 2], np.float32)
    for name in ("max_logit", "energy_score"):
        np.testing.assert_allclose(JITTED[name](z + 7), JITTED[name](z) + 7, rtol=1e-6)


def test_scale_drops_out_of_the_p_norm_alone():
    z = np.random.default_rng(3).normal(size=(5, 7)).astype(np.float32)
    for p in (1, 2, 5, math.inf):
        of_p = jax.jit(functools.partial(scores.p_norm_max_logit, p=p))
        np.testing.assert_allclose(of_p(z * 2.0**40), of_p(z), rtol=1e-6)
        np.testing.assert_allclose(of_p(z * 2.0**-40), of_p(z), rtol=1e-6)
        expected = [brute_force("p_norm_max_logit", row, p) for row in z]
        np.testing.assert_allclose(of_p(z), expected, rtol=2e-6)
    odd = np.array([[3, 3, 3], [1, 2, -np.inf]], np.float32)
    np.testing.assert_array_equal(JITTED["p_norm_max_logit"](odd), [0, np.nan])


def test_the_odds_go_on_where_the_softmax_ends():
    gaps = jnp.array([5.0, 20.0, 40.0, 80.0, 1000.0])
    z = jnp.stack([gaps, jnp.zeros(5), -gaps], axis=-1)
    assert np.unique(scores.max_softmax(z)).size == 2  # ties at 1
    odds = scores.log_odds(z)
    assert np.all(np.diff(odds) > 0)
    assert float(odds[-1]) == 1000
    # Where both can be told apart, the order is the same.
    z = np.random.default_rng(4).normal(size=(200, 5)).astype(np.float32)
    np.testing.assert_array_equal(
        np.argsort(JITTED["log_odds"](z)),
        np.argsort([brute_force("max_softmax", row) for row in z]),
    )


def test_uniform_and_certain():
    z = np.zeros((2, 4), np.float32)
    z[1, 1:] = -np.inf
    ln = math.log(4)
    expected = {
        "max_softmax": (1 / 4, 1),
        "log_odds": (-math.log(3), math.inf),
        "entropy_score": (-ln, 0),
        "margin": (0, 1),
        "logit_margin": (0, math.inf),
        "max_logit": (0, 0),
        "p_norm_max_logit": (0, math.nan),
        "energy_score": (ln, 0),
    }
    for name, pair in expected.items():
        np.testing.assert_allclose(JITTED[name](z), pair, rtol=1e-6, err_msg=name)


def test_two_first_classes_have_no_margin():
    z = jnp.array([3.0, 1.0, 3.0])
    assert float(scores.margin(z)) == 0
    assert float(scores.margin(z, of="logits")) == 0
    # So close that a difference of probabilities would have no digit left.
    z = jnp.array([0.0, 1e-6])
    assert float(scores.margin(z)) == pytest.approx(math.tanh(0.5e-6), rel=1e-6)


def test_energy_between_its_limits():
    z = np.random.default_rng(5).normal(size=(5, 7)).astype(np.float32)
    energy_score = JITTED["energy_score"]
    for t in (0.01, 0.5, 1.0, 3.0):
        found = energy_score(z, temperature=t)
        expected = t * scipy.special.logsumexp(np.float64(z) / t, axis=-1)
        np.testing.assert_allclose(found, expected, rtol=2e-6, atol=2e-6)
    np.testing.assert_allclose(energy_score(z, temperature=1e-3), z.max(-1), atol=1e-2)
    np.testing.assert_allclose(
        scores.energy_score(jnp.asarray(z), temperature=2.0),
        energy_score(z, temperature=2.0),
        rtol=1e-6,
    )


@pytest.mark.parametrize("name", ALL)
def test_gradients(name):
    z = np.random.default_rng(6).normal(size=5)
    with jax.enable_x64(True):
        found = jax.jit(jax.grad(ALL[name]))(jnp.asarray(z))
    steps = 1e-6 * np.eye(5)
    expected = [
        (brute_force(name, z + step) - brute_force(name, z - step)) / 2e-6 for step in steps
    ]
    np.testing.assert_allclose(found, expected, atol=1e-8)


@pytest.mark.parametrize("name", ALL)
def test_gradients_stay_finite_beside_impossible_classes(name):
    z, where = jnp.array([1.0, 3.0, 2.0]), jnp.array([True, True, False])
    assert np.isfinite(jax.jit(jax.grad(ALL[name]))(z, where=where)).all()


def test_the_table_of_the_module():
    z = np.array([2, 1, -1], np.float32)
    lines = [line for line in scores.__doc__.splitlines() if line.startswith("| `")]
    assert len(lines) == 6
    for line in lines:
        names, values = (cell.replace("`", "").split(",") for cell in line.split("|")[1:3])
        for name, value in zip(names, values, strict=True):
            assert float(JITTED[name.strip()](z)) == pytest.approx(float(value), abs=6e-4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda z: scores.margin(z, of="odds"), "'probabilities' or 'logits', got 'odds'"),
        (lambda z: scores.p_norm_max_logit(z, p=0), "`p` must be positive, got 0"),
        (lambda z: scores.energy_score(z, temperature=0), "`temperature` must be positive, got 0"),
    ],
)
def test_options_are_checked(call, message):
    with pytest.raises(ValueError, match=message):
        call(jnp.zeros(3))


def test_odds_of_a_single_class():
    assert np.isnan(scores.log_odds(jnp.array([jnp.nan])))
    assert float(scores.log_odds(jnp.array([3.0]))) == math.inf
