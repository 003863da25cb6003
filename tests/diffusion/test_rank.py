import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entropax import entropy
from entropax.diffusion.rank import covariance_spectrum, gram_spectrum, rank_me

rank_me = jax.jit(rank_me)
covariance_spectrum = jax.jit(covariance_spectrum)
seeds = st.integers(0, 10**6)


def exp_entropy(values):
    probs = np.asarray(values, np.float64)
    probs = probs[probs > 0] / probs.sum()
    return np.exp(-np.sum(probs * np.log(probs)))


def with_singular_values(values, shape, seed=0):
    """A matrix made from its singular values, in float64."""
    rng = np.random.default_rng(seed)
    left = np.linalg.qr(rng.standard_normal((shape[0], len(values))))[0]
    right = np.linalg.qr(rng.standard_normal((shape[1], len(values))))[0]
    return left * np.asarray(values) @ right.T


@pytest.mark.parametrize("shape", [(30, 8), (8, 30)])
@given(seed=seeds)
def test_from_singular_values(shape, seed):
    values = np.random.default_rng(seed).exponential(size=5) + 1e-3
    x = with_singular_values(values, shape, seed)
    for scale in (1.0, 1e15, 1e-15):
        value = rank_me(jnp.asarray(scale * x, jnp.float32))
        # float32: singular values off by 3e-7 of the largest, which 5 of them share
        assert float(value) == pytest.approx(exp_entropy(values), rel=1e-5)
        assert 1 <= float(value) <= 5 * (1 + 1e-6)


def test_never_above_the_rank():
    """Of 512 by 100 numbers of rank 3, 97 singular values are rounding."""
    x = jnp.asarray(with_singular_values([1, 1, 1], (512, 100)), jnp.float32)
    assert float(rank_me(x)) == pytest.approx(3, rel=1e-6)


def test_published_epsilon_lets_it_exceed_the_rank():
    """Why it is left out: 1e-7 for each of 4,096 values that are 0."""
    probs = np.append(1, np.zeros(4095)) + 1e-7
    assert np.exp(-np.sum(probs * np.log(probs))) > 1.006
    assert float(rank_me(jnp.ones((2, 2)))) == 1


def test_gradient_is_that_of_float64_differences():
    x, direction = np.random.default_rng(0).standard_normal((2, 6, 4))
    with jax.enable_x64(True):
        gradient = jax.grad(rank_me)(jnp.asarray(x))
        step = 1e-6
        ends = [float(rank_me(jnp.asarray(x + s * step * direction))) for s in (1, -1)]
    expected = (ends[0] - ends[1]) / (2 * step)
    assert np.sum(np.asarray(gradient) * direction) == pytest.approx(expected, rel=1e-7, abs=1e-9)


@pytest.mark.parametrize(
    "x", [np.zeros((4, 3)), np.ones((4, 3)), np.eye(4)[:, :3], np.diag([1.0, 1, 0])]
)
def test_gradient_is_finite_at_any_rank(x):
    for function in (rank_me, lambda x: entropy.effective_rank(covariance_spectrum(x))):
        assert np.isfinite(jax.grad(function)(jnp.asarray(x, jnp.float32))).all()


@pytest.mark.parametrize("shape", [(30, 8), (8, 30)])
@given(seed=seeds)
def test_covariance_is_that_of_numpy(shape, seed):
    x = np.random.default_rng(seed).standard_normal(shape) + 3
    expected = np.linalg.eigvalsh(np.cov(x.T, bias=True))[-min(shape) :]
    value = covariance_spectrum(jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(value, expected, atol=1e-5 * expected[-1])


def test_padding_does_not_count():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((6, 4)), jnp.float32)
    where = jnp.array([True] * 6 + [False] * 3)
    padded = jnp.concatenate([x, jnp.full((3, 4), jnp.nan)])
    assert float(rank_me(padded, where=where)) == pytest.approx(float(rank_me(x)), rel=1e-6)
    value, expected = covariance_spectrum(padded, where=where), covariance_spectrum(x)
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)
    gradient = jax.grad(rank_me)(padded, where=where)
    assert np.isfinite(gradient).all()
    assert not np.any(gradient[6:])
    assert float(rank_me(x, where=jnp.zeros(6, bool))) == 0


def test_gram_spectrum_is_the_same_either_way():
    x = np.random.default_rng(0).standard_normal((5, 9)).astype(np.float32)
    np.testing.assert_allclose(gram_spectrum(jnp.asarray(x)), gram_spectrum(jnp.asarray(x.T)))


def test_bad_input():
    assert np.isnan(float(rank_me(jnp.array([[1.0, jnp.nan]]))))
    assert np.isnan(float(rank_me(jnp.array([[1.0, jnp.inf]]))))
    assert np.isnan(covariance_spectrum(jnp.array([[1.0, jnp.nan], [1.0, 1.0]]))).all()
    with pytest.raises(ValueError, match=r"features \[n, d\], got the shape \(0, 3\)"):
        rank_me(jnp.zeros((0, 3)))


@pytest.mark.parametrize("dtype", [np.int32, np.float16, np.float64, jnp.bfloat16])
def test_features_of_any_type(dtype):
    x = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 0]])
    for function in (covariance_spectrum, rank_me):
        np.testing.assert_allclose(function(x.astype(dtype)), function(jnp.float32(x)), rtol=1e-6)
