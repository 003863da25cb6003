import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from entropax import tta
from entropax.data.corruptions import ALL, corrupt
from entropax.data.shifts import (
    continual_shift,
    corrupted_bank,
    gradual_shift,
    lookup,
    mixed_shift,
    single_shift,
    smooth_shift,
)
from entropax.data.streams import one_pass, shuffled_stream

FOG, SNOW, BOTH = (("fog", 5),), (("snow", 2),), (("fog", 3), ("snow", 1))
DOMAINS = [FOG, (), SNOW, BOTH]
IMAGES = np.random.default_rng(0).integers(0, 256, (6, 12, 12, 1), np.uint8)
SHIFTS = {
    "single": lambda order: single_shift(order, BOTH),
    "continual": lambda order: continual_shift(order, DOMAINS, period=2),
    "gradual": lambda order: gradual_shift(order, ["fog", "spatter"], period=1),
    "mixed": lambda order: mixed_shift(order, DOMAINS, seed=3),
    "smooth": lambda order: smooth_shift(order, ["fog", "snow", "line"], period=4, seed=3),
}
shifts = pytest.mark.parametrize("shift", SHIFTS)


def severities(stream, name):
    """`[t, b]` severity of one corruption."""
    of_domain = np.array([dict(domain).get(name, 0) for domain in stream.domains])
    return of_domain[stream.domain]


@shifts
@settings(max_examples=12)
@given(st.integers(1, 30), st.integers(1, 7), st.integers(1, 30), st.integers(0, 3))
def test_streams_are_valid(shift, n, batch_size, steps, seed):
    order = shuffled_stream(n, batch_size=batch_size, steps=steps, seed=seed)
    stream = SHIFTS[shift](order)
    assert stream.domain.shape == stream.image.shape == stream.where.shape == (steps, batch_size)
    domain, image = np.asarray(stream.domain), np.asarray(stream.image)
    assert domain.min() >= 0
    assert domain.max() < len(stream.domains)
    assert 0 <= image.min() <= image.max() < n
    assert len(set(stream.domains)) == len(stream.domains)
    np.testing.assert_array_equal(image, order.x)
    np.testing.assert_array_equal(stream.where, order.where)
    again = SHIFTS[shift](order)
    np.testing.assert_array_equal(again.domain, domain)
    np.testing.assert_array_equal(stream.batches.x[..., 0], domain)
    np.testing.assert_array_equal(stream.batches.x[..., 1], image)


@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 3))
def test_continual_stays_with_each_domain_for_equal_times(period, count, rounds):
    order = shuffled_stream(20, batch_size=3, steps=period * count * rounds, seed=0)
    stream = continual_shift(order, DOMAINS[:count], period=period)
    domain = np.asarray(stream.domain)
    assert np.all(domain == domain[:, :1])
    assert np.bincount(domain[:, 0]).tolist() == [period * rounds] * count
    np.testing.assert_array_equal(
        domain[:, 0], np.tile(np.repeat(np.arange(count), period), rounds)
    )


def test_a_domain_that_returns_is_one_domain():
    stream = continual_shift(one_pass(4, batch_size=1), [FOG, SNOW, FOG, ()], period=1)
    assert stream.domains == (FOG, SNOW, ())
    assert stream.domain.ravel().tolist() == [0, 1, 0, 2]


def test_gradual_grows_and_fades():
    order = shuffled_stream(20, batch_size=3, steps=36, seed=0)
    stream = gradual_shift(order, ["fog", "snow"], period=2)
    for name, start in (("fog", 0), ("snow", 18)):
        severity = severities(stream, name)
        assert severity[start : start + 18 : 2, 0].tolist() == [1, 2, 3, 4, 5, 4, 3, 2, 1]
        assert severity.max(axis=1).tolist() == severity.min(axis=1).tolist()
        assert not np.delete(severity, np.s_[start : start + 18], axis=0).any()


def test_mixed_draws_all_domains_equally_often():
    order = shuffled_stream(50, batch_size=40, steps=100, seed=0)
    counts = np.bincount(np.asarray(mixed_shift(order, DOMAINS, seed=1).domain).ravel())
    # Four standard errors of a quarter of 4,000.
    assert np.all(np.abs(counts / 4000 - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 4000))
    twice = mixed_shift(order, [FOG, SNOW, FOG], seed=1)
    assert float(jnp.mean(twice.domain == 0)) == pytest.approx(2 / 3, abs=0.03)


def test_mixed_and_smooth_have_seeds():
    order = shuffled_stream(50, batch_size=40, steps=7, seed=0)
    assert np.any(
        mixed_shift(order, DOMAINS, seed=0).domain != mixed_shift(order, DOMAINS, seed=1).domain
    )
    a, b = (smooth_shift(order, ["fog", "snow"], period=9, seed=seed).domain for seed in (0, 1))
    assert np.any(a != b)


@pytest.mark.parametrize("severity", [1, 3, 5])
def test_smooth_transitions(severity):
    names, period = ["fog", "snow", "line"], 40
    order = shuffled_stream(90, batch_size=64, steps=4 * period, seed=0)
    stream = smooth_shift(order, names, period=period, seed=2, severity=severity)
    levels = np.stack([severities(stream, name) for name in names])
    np.testing.assert_array_equal(levels.sum(axis=0), severity)
    for transition in range(4):
        # The first image is pure, and the fourth transition is the first again.
        start = transition * period
        first, second = levels[[transition % 3, (transition + 1) % 3]][:, start : start + period]
        assert np.all(first[0] == severity)
        assert np.all(first + second == severity)
        mean = np.mean(second, axis=1)
        # No batch is further than one severity from the line, and no mean than its own error.
        line = severity * np.arange(period)[:, None] / period
        assert np.all(np.abs(second - line) < 1)
        assert np.all(np.abs(mean - line[:, 0]) < 5 * 0.5 / np.sqrt(64))
    # The first corruption of a composition is the one that fades out.
    composed = [domain for domain in stream.domains if len(domain) == 2]
    assert {tuple(name for name, _ in domain) for domain in composed} <= {
        ("fog", "snow"), ("snow", "line"), ("line", "fog")}  # fmt: skip
    assert len(stream.domains) == 3 * severity


def test_bank_and_lookup():
    bank = corrupted_bank(IMAGES, DOMAINS, seed=4, scale="cifar")
    assert bank.shape == (4, *IMAGES.shape)
    assert bank.dtype == np.uint8
    options = {"seed": 4, "scale": "cifar"}
    np.testing.assert_array_equal(bank[1], IMAGES)
    np.testing.assert_array_equal(bank[0], corrupt(IMAGES, "fog", 5, **options))
    np.testing.assert_array_equal(
        bank[3], corrupt(corrupt(IMAGES, "fog", 3, **options), "snow", 1, **options)
    )
    np.testing.assert_array_equal(
        corrupted_bank(IMAGES, [BOTH, FOG], seed=4, scale="cifar"), bank[[3, 0]]
    )
    assert np.any(corrupted_bank(IMAGES, [FOG], seed=5, scale="cifar")[0] != bank[0])
    x = jnp.array([[3, 5], [0, 0], [1, 2]])
    np.testing.assert_array_equal(lookup(bank)(x), [bank[3, 5], bank[0, 0], bank[1, 2]])


def test_adapting_on_indices_is_adapting_on_images():
    order = one_pass(6, batch_size=4, seed=0)
    stream = mixed_shift(order, DOMAINS, seed=0)
    bank = corrupted_bank(IMAGES, stream.domains)
    variables = {"scale": jnp.ones(144), "kernel": jax.random.normal(jax.random.key(0), (144, 3))}

    def apply_fn(variables, x):
        return (x * variables["scale"]) @ variables["kernel"]

    adapter = tta.tent(apply_fn, optax.sgd(0.1), trainable=lambda path: path == "scale")

    def to_float(images):
        return images.reshape(len(images), -1) / 255.0

    @jax.jit
    def run(bank, batches):
        on_images = tta.map_inputs(tta.map_inputs(adapter, to_float), lookup(bank))
        return tta.adapt(on_images, variables, batches)

    state, infos = run(bank, stream.batches)
    images = bank[np.asarray(stream.domain), np.asarray(stream.image)]
    expected, others = tta.adapt(
        adapter, variables, tta.Batch(jax.vmap(to_float)(jnp.asarray(images)), stream.where)
    )
    np.testing.assert_allclose(infos.entropy, others.entropy, atol=1e-5)
    for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(expected.params), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


ORDER = one_pass(4, batch_size=2)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: single_shift(ORDER, (("rain", 1),)), f"'rain'; the known ones are {ALL[0]}"),
        (lambda: single_shift(ORDER, (("fog", 6),)), "Severities are 1, 2, 3, 4 or 5, got 6"),
        (lambda: single_shift(ORDER, (("fog", 1), ("fog", 2))), "one corruption twice"),
        (lambda: continual_shift(ORDER, [], period=1), "`domains` must be at least 1, got 0"),
        (lambda: continual_shift(ORDER, [()], period=0), "`period` must be at least 1, got 0"),
        (lambda: gradual_shift(ORDER, [], period=1), "`names` must be at least 1, got 0"),
        (lambda: gradual_shift(ORDER, ["fog"], period=1, severities=[]), "`severities` must be at"),
        (lambda: gradual_shift(ORDER, ["fog"], period=1, severities=[-1]), "got -1"),
        (lambda: mixed_shift(ORDER, [], seed=0), "`domains` must be at least 1, got 0"),
        (lambda: smooth_shift(ORDER, ["fog"], period=2, seed=0), r"got \['fog'\]"),
        (lambda: smooth_shift(ORDER, ["fog", "fog", "snow"], period=2, seed=0), "next to itself"),
        (lambda: smooth_shift(ORDER, [], period=2, seed=0), "two corruptions or more"),
        (lambda: smooth_shift(ORDER, ["fog", "snow"], period=2, seed=0, severity=6), "got 6"),
        (lambda: corrupted_bank(IMAGES, []), "`domains` must be at least 1, got 0"),
        (lambda: corrupted_bank(IMAGES, [(("rain", 1),)]), "Unknown corruption 'rain'"),
    ],
)
def test_bad_options(build, message):
    with pytest.raises(ValueError, match=message):
        build()
