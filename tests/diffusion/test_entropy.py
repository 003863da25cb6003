import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from diffusion import golden
from hypothesis import given, settings
from hypothesis import strategies as st

from entropax import entropy
from entropax.diffusion.collision import collision_entropy
from entropax.diffusion.entropy import dse, dse_estimate, dse_profile
from entropax.diffusion.spectral import estimate, profile, spectral_entropy
from entropax.diffusion.spectrum import spectrum

# One shape for all that does not ask for another: a new one compiles again.
N, D = 40, 5


def normal(seed=0, shape=(N, D)):
    return np.random.default_rng(seed).normal(size=shape)


def eigenvalues(x, sigma, alpha=0.0):
    """Of the operator as it is defined, in float64."""
    squares = np.sum(np.square(x[:, None] - x), axis=-1)
    kernel = np.exp(-squares / (2 * sigma**2))
    for power in (alpha, 0.5):
        degrees = kernel.sum(1)
        kernel = kernel / np.outer(degrees, degrees) ** power
    return np.linalg.eigvalsh(kernel)


def by_definition(x, sigma, alpha=0.0, t=1.0, order=1.0):
    powers = np.abs(eigenvalues(x, sigma, alpha)) ** t
    with jax.enable_x64(True):
        return float(entropy.renyi(jnp.asarray(powers / powers.sum()), order=order))


@functools.cache
def padded_walk(name, sigma, alpha):
    """The spectrum of a recorded input in one shape for all: more rows, columns of zeros."""
    x = golden.features({"input": name}).astype(np.float64)
    rows = np.zeros((300, 64))
    rows[: len(x), : x.shape[1]] = x
    return spectrum(rows, sigma=sigma, alpha=alpha, where=np.arange(300) < len(x))


def recorded():
    """Input, sigma, alpha, t, order and the entropy in nats of every recorded case that is ours."""
    for case in golden.cases(fn="dse"):
        p = case["params"]
        if set(p) <= {"gaussian_kernel_sigma", "t"} and "cache" not in case:
            arguments = case["input"], p.get("gaussian_kernel_sigma", 10.0), 0.0
            yield *arguments, p.get("t", 1), 1.0, case["value"] * math.log(2)
    for case in golden.cases(fn="derived"):
        arguments = case["input"], *(case["params"][k] for k in ("sigma", "alpha", "t"))
        for order, name in ((1.0, "value"), (2.0, "renyi2"), (math.inf, "renyi_inf")):
            yield *arguments, order, case[name] * math.log(2)


@pytest.mark.parametrize("x64", [False, True])
def test_the_recorded_values(x64):
    padded_walk.cache_clear()
    errors = []
    with jax.enable_x64(x64):
        for name, sigma, alpha, t, order, expected in recorded():
            value = spectral_entropy(padded_walk(name, sigma, alpha), t=t, order=order)
            # The published code adds 2e-16 to every probability, 52 n 2e-16 bits in all.
            # In float32 the rounding of 100 eigenvalues that should be 0, or 1, adds up: each by
            # half a last place, 6e-8, times ln 180. What it comes to depends on the processor.
            rounding = 5e-5 if order == math.inf else 3e-5
            allowed = 1e-9 + 1e-7 * expected if x64 else rounding
            errors.append((abs(float(value) - expected) / allowed, name, sigma, alpha, t, order))
    assert len(errors) > 600
    assert max(errors)[0] < 1, sorted(errors)[-5:]


@pytest.mark.parametrize("name", ["normal-200x16", "circle-180x5"])
def test_a_recorded_value_in_its_own_shape(name):
    cases = golden.cases(fn="dse", gaussian_kernel_sigma=4.0, t=2)
    case = next(case for case in cases if case["input"] == name)
    value = dse(golden.features(case), sigma=4.0, t=2)
    assert float(value) == pytest.approx(case["value"] * math.log(2), abs=1e-5)


@pytest.mark.parametrize(
    "order", [0.0, 0.5, 0.85, 0.999, 1.0, 1.001, 1.15, 2.0, 7.0, 1e6, math.inf]
)
@pytest.mark.parametrize("t", [0.0, 0.7, 1.0, 3.0])
def test_every_order_and_time_by_definition(order, t):
    x = normal()
    with jax.enable_x64(True):
        value = spectral_entropy(walk_of_64_bits(), t=t, order=order)
    assert float(value) == pytest.approx(by_definition(x, 2.0, 0.5, t, order), rel=1e-9)


@functools.cache
def walk_of_64_bits():
    return spectrum(normal(), sigma=2.0, alpha=0.5)


def test_two_points():
    # The other eigenvalue is (1 - g) / (1 + g), with g the similarity of the two.
    for distance in (1e-4, 0.1, 1.0, 5.0):
        g = math.exp(-(distance**2) / 2)
        p = (1 - g) / (1 + g)
        p = np.array([1, p]) / (1 + p)
        expected = -np.sum(p * np.log(p))
        value = dse(jnp.array([[0.0], [distance]]), sigma=1.0)
        assert float(value) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("offset", [0.0, 100.0])
@pytest.mark.parametrize("convert", [np.asarray, lambda x: jnp.asarray(x, jnp.float32)])
def test_points_that_nearly_coincide_keep_their_digits(offset, convert):
    # A float32 array has itself lost digits to the offset, which is what it is then compared with.
    x = convert(normal() + offset)
    value = dse(x, sigma=600.0)
    with jax.enable_x64(True):
        exact = float(dse(np.asarray(x, np.float64), sigma=600.0))
    assert 1e-5 < exact < 2e-4
    assert float(value) == pytest.approx(exact, rel=1e-4)


def test_an_offset_is_harmless():
    value = dse(normal(), sigma="median")
    assert float(dse(normal() + 100, sigma="median")) == pytest.approx(float(value), abs=1e-6)
    moved = jnp.asarray(normal() + 100, jnp.float32)
    assert float(dse(moved, sigma="median")) == pytest.approx(float(value), abs=1e-4)


def test_one_point_has_no_entropy():
    one = normal(shape=(1, D))
    for options in ({"sigma": 1.0}, {"sigma": "median"}, {"sigma": "knn"}, {"kernel": "knn"}):
        assert float(dse(one, **options)) == 0
    assert dse_estimate(one, sigma="median").saturation == 0
    assert float(dse(one, sigma=1.0, method="slq")) == 0


@pytest.mark.parametrize("sigma", [1.0, "median", "knn", "adaptive"])
def test_equal_points_have_no_entropy(sigma):
    assert float(dse(np.full((N, D), 3.3), sigma=sigma)) == 0


def test_every_point_counts_at_time_and_order_0():
    x = np.repeat(normal()[: N // 2], 2, axis=0)
    assert float(dse(x, sigma=2.0, t=0)) == pytest.approx(math.log(N), rel=1e-6)
    assert float(dse(x, sigma=2.0, order=0)) == pytest.approx(math.log(N), rel=1e-6)
    assert float(dse(x, sigma=2.0, method="slq", t=0)) == pytest.approx(math.log(N), rel=1e-6)


def test_duplicates_leave_the_entropy_alone():
    x = normal()
    with jax.enable_x64(True):
        single = float(dse(x[: N // 2], sigma=1.0))
        doubled = float(dse(np.concatenate([x[: N // 2]] * 2), sigma=1.0))
    assert doubled == pytest.approx(single, rel=1e-10)


def test_it_falls_with_time_and_order():
    walk = spectrum(normal(), sigma=1.5)
    along_t = profile(walk, [0, 0.5, 1, 2, 4, 50, 1e4, 1e9])
    assert np.all(np.diff(along_t) <= 0)
    assert float(along_t[-1]) == 0
    orders = [0.0, 0.5, 1.0, 1.1, 2.0, 5.0, math.inf]
    along_order = [float(spectral_entropy(walk, order=order)) for order in orders]
    assert np.all(np.diff(along_order) < 0)


def test_a_profile_is_the_entropy_at_each_time():
    x, ts = normal(), [0.0, 0.5, 1.0, 8.0]
    expected = [float(dse(x, sigma=1.5, t=t, order=2)) for t in ts]
    np.testing.assert_allclose(dse_profile(x, ts, sigma=1.5, order=2), expected, rtol=1e-5)


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_the_collision_entropy_takes_no_eigenvalues(alpha):
    x = normal()
    options = {"sigma": 1.5, "alpha": alpha}
    expected = by_definition(x, 1.5, alpha, order=2)
    for value in (
        collision_entropy(x, **options),
        collision_entropy(x, memory=0, **options),  # block by block
        dse(x, order=2, **options),
        spectral_entropy(spectrum(x, **options), order=2),
        jax.jit(lambda x: dse(x, order=2, **options))(x.astype(np.float32)),
    ):
        assert float(value) == pytest.approx(expected, rel=2e-6)
    assert dse_estimate(x, order=2, **options).method == "exact, from traces"
    with pytest.raises(ValueError, match="one bandwidth for each point"):
        collision_entropy(x, sigma="adaptive")


def test_the_collision_entropy_of_points_that_nearly_coincide():
    x = normal()
    expected = by_definition(x, 600.0, order=2)
    assert expected < 1e-4
    assert float(collision_entropy(x, sigma=600.0)) == pytest.approx(expected, rel=1e-4)
    assert float(collision_entropy(x, sigma=600.0, memory=0)) == pytest.approx(expected, rel=1e-4)


def test_an_estimate_says_how_far_it_can_be_trusted():
    x = normal()
    exact = dse_estimate(x, sigma="median")
    assert exact.stderr == 0
    assert exact.lower == exact.value == exact.upper == float(dse(x, sigma="median"))
    assert exact.saturation == pytest.approx(exact.value / math.log(N))
    squares = np.sum(np.square(x[:, None] - x), -1)[np.triu_indices(N, 1)]
    assert exact.sigma == pytest.approx(np.sqrt(np.median(squares) / 2), rel=1e-5)
    assert (exact.n, exact.method) == (N, "exact")
    assert all(isinstance(field, int | float | str) for field in exact)
    assert dse_estimate(x, sigma=1e-3).saturation == pytest.approx(1)
    assert dse_estimate(x, sigma=1e4).saturation < 1e-6
    assert dse_estimate(x, kernel="knn").sigma is None
    assert estimate(spectrum(x, sigma="median")) == exact
    with pytest.raises(ValueError, match="not known yet"):
        jax.jit(lambda x: dse_estimate(x, sigma=1.0).value)(x)
    with pytest.raises(ValueError, match="not known yet"):
        jax.jit(lambda x: dse_estimate(x, sigma=1.0, order=2).value)(x)


def test_under_jit_and_vmap():
    x = np.stack([normal(seed) for seed in range(3)]).astype(np.float32)
    expected = [float(dse(row, sigma="median", alpha=0.5)) for row in x]
    values = jax.jit(jax.vmap(lambda x: dse(x, sigma="median", alpha=0.5)))(x)
    np.testing.assert_allclose(values, expected, rtol=1e-6)
    walks = jax.vmap(lambda x: spectrum(x, sigma="median", alpha=0.5))(x)
    np.testing.assert_allclose(jax.vmap(spectral_entropy)(walks), expected, rtol=1e-6)
    assert walks.method == "exact"


def test_nan_stays_nan_under_jit():
    entropy_of = jax.jit(lambda x, order: dse(x, sigma=1.0, order=order), static_argnums=1)
    x = jnp.asarray(normal(), jnp.float32).at[3, 2].set(jnp.nan)
    assert all(math.isnan(entropy_of(x, order)) for order in (0.0, 1.0, 2.0, 3.0, math.inf))


@pytest.mark.parametrize(
    "options",
    [
        {"sigma": 1.5, "alpha": 0.5, "t": 2.0},
        {"sigma": "median"},
        {"sigma": 1.5, "order": 2},
    ],
)
def test_gradients_are_finite_differences(options):
    entropy_of = jax.jit(functools.partial(dse, **options))
    step = 1e-5
    with jax.enable_x64(True):
        x, direction = jnp.asarray(normal()), jnp.asarray(normal(1))
        slope = jnp.sum(direction * jax.grad(entropy_of)(x))
        ends = [float(entropy_of(x + side * step * direction)) for side in (-1, 1)]
    assert float(slope) == pytest.approx((ends[1] - ends[0]) / (2 * step), rel=1e-6)


@pytest.mark.parametrize("sigma", [1.5, "median", "adaptive"])
def test_gradients_are_finite_where_points_are_equal(sigma):
    gradient = jax.jit(jax.grad(lambda x: dse(x, sigma=sigma)))
    x = jnp.asarray(normal(), jnp.float32)
    assert np.all(np.isfinite(gradient(x.at[N // 2 :].set(x[: N // 2]))))
    assert np.all(np.isfinite(gradient(jnp.ones_like(x))))


@pytest.mark.parametrize("sigma", [1.5, "median"])
def test_ascending_the_gradient_raises_the_entropy(sigma):
    step = jax.jit(jax.value_and_grad(lambda x: dse(x, sigma=sigma)))
    x = jnp.asarray(normal() * np.array([1, 1, 0.1, 0.1, 0.1]), jnp.float32)
    values = []
    for _ in range(5):
        value, slope = step(x)
        values.append(float(value))
        x = x + 5 * slope
    assert np.all(np.diff(values) > 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"t": -1.0}, "`t` must be finite and not negative, got -1.0"),
        ({"t": math.inf}, "`t` must be finite"),
        ({"order": -0.5}, "`order` must be a number from 0 to infinity, got -0.5"),
        ({"order": math.nan}, "got nan"),
    ],
)
def test_times_and_orders_out_of_range(options, message):
    for function in (dse, dse_estimate):
        with pytest.raises(ValueError, match=message):
            function(normal(), sigma=1.0, **options)
    if "t" in options:
        with pytest.raises(ValueError, match=message[:20]):
            dse_profile(normal(), [1.0, options["t"]], sigma=1.0)


seeds = st.integers(0, 2**31 - 1)
scales = st.sampled_from([0.0, 1e-38, 1e-20, 1e-5, 1.0, 1e3, 1e18, 1e30])


@given(seeds, st.tuples(scales, scales, scales), st.integers(1, 12), scales.filter(bool))
@settings(max_examples=1000)
def test_wild_points_have_an_entropy(seed, widths, distinct, sigma):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(distinct, 3))[rng.integers(0, distinct, 12)] * widths
    value = float(dse(x.astype(np.float32), sigma=sigma))
    assert 0 <= value <= math.log(12) * (1 + 1e-6)
    assert value <= math.log(distinct) + 1e-5


@given(seeds, st.floats(0.1, 10))
def test_only_distances_matter(seed, scale):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(12, 3))
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    moved = rng.permutation(x) @ rotation * scale + rng.normal(size=3)
    value = float(dse(x.astype(np.float32), sigma="median"))
    # Of float32: the points themselves are rounded after they moved.
    assert float(dse(moved.astype(np.float32), sigma="median")) == pytest.approx(value, abs=2e-5)
    fixed = float(dse(x.astype(np.float32), sigma=0.7))
    assert float(dse(moved.astype(np.float32), sigma=0.7 * scale)) == pytest.approx(fixed, abs=2e-5)


@pytest.mark.parametrize("as_array", [np.asarray, jnp.asarray])
def test_points_that_are_constants_under_jit(as_array):
    x = as_array(normal().astype(np.float32))
    found = jax.jit(lambda sigma: dse(x, sigma=sigma))(2.0)
    assert float(found) == pytest.approx(float(dse(x, sigma=2.0)), rel=1e-5)
    with pytest.raises(ValueError, match="not known yet under jit"):
        jax.jit(lambda sigma: dse_estimate(x, sigma=sigma).value)(2.0)


def test_shapes_that_do_not_fit():
    x = normal()
    for sigma in (jnp.ones(N - 1), jnp.ones((N, 1))):
        with pytest.raises(ValueError, match=r"`sigma` must be one number or \[40\]"):
            dse(x, sigma=sigma)
    with pytest.raises(ValueError, match="`x` must be real"):
        dse(x + 1j, sigma=1.0)
    with pytest.raises(ValueError, match="no features"):
        dse(x[:, :0], sigma=1.0)


def test_order_two_differentiated_by_alpha():
    x = jnp.asarray(normal(), jnp.float32)
    slope = jax.grad(lambda alpha: dse(x, sigma=2.0, alpha=alpha, order=2))(0.5)
    ends = [float(dse(x, sigma=2.0, alpha=alpha, order=2)) for alpha in (0.45, 0.55)]
    assert float(slope) == pytest.approx((ends[1] - ends[0]) / 0.1, rel=0.02, abs=1e-4)
