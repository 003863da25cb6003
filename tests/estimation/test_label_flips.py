import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from entropax import tta
from entropax.estimation.flip_curve import fit_flip_curve
from entropax.estimation.label_flips import label_flips
from entropax.uncertainty import Sample, sample

FORMS = ("logistic", "linear", "quadratic", "cubic", "isotonic")
KEY = jax.random.key(0)
SPLITS, M, N, CLASSES = 20, 60, 40, 4


def pair(seed, n, shift):
    """Logits before and after some adaptation, the more shifted the more labels flip."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, n)
    before = rng.normal(size=(n, CLASSES))
    before[np.arange(n), labels] += 3 - shift
    after = before + shift * rng.normal(size=(n, CLASSES)) / 2
    return np.float32(before), np.float32(after), labels


def splits():
    before, after, labels = zip(*(pair(i, M, 0.15 * i) for i in range(SPLITS)), strict=True)
    return (jnp.stack(before), jnp.stack(after)), jnp.stack(labels)


def target(seed=100, shift=1.5):
    before, after, _ = pair(seed, N, shift)
    return jnp.asarray(before), jnp.asarray(after)


def rate(before, after, where=None, weighted=True):
    flips = jnp.argmax(before, -1), jnp.argmax(after, -1)
    confidence = jnp.max(jax.nn.softmax(before), -1)
    rank = tta.confidence_rank(confidence, where=where) if weighted else None
    return tta.flip_rate(*flips, weight=rank, where=where)


@functools.cache
def fitted(weighted=True, form="quadratic"):
    return label_flips(weighted=weighted, form=form).fit(*splits())


@functools.partial(jax.jit, static_argnames=("weighted", "level"))
def run(table, outputs, where, *, weighted=True, level=0.9):
    return label_flips(weighted=weighted).estimate(
        KEY, table, outputs, where=where, level=level, num_replicates=50
    )


def curve(weighted, form):
    (before, after), labels = splits()
    rates = [float(rate(b, a, weighted=weighted)) for b, a in zip(before, after, strict=True)]
    accuracies = np.mean(np.argmax(before, -1) == np.asarray(labels), axis=-1)
    return fit_flip_curve(rates, accuracies, target="batch_statistics", form=form)


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_table_is_the_curve(form, weighted):
    """To 2e-6, at float32 rates, wherever they are: also where the logistic curve is steep."""
    table, expected = fitted(weighted, form), curve(weighted, form)
    rng = np.random.default_rng(0)
    rates = np.concatenate([rng.uniform(0, 1, 2000), 10 ** rng.uniform(-12, 0, 2000)])
    rates = rates.astype(np.float32).astype(float)
    curves = (expected.curve, *expected.left_out)
    for values, f in zip([table.curve, *table.left_out], curves, strict=True):
        np.testing.assert_allclose(jnp.interp(rates, table.rates, values), f(rates), atol=2e-6)
    np.testing.assert_allclose(table.residuals, expected.residuals, rtol=1e-5, atol=1e-6)
    assert len(table.rates) < 20_000


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_estimates_are_those_of_the_curve(weighted, seed):
    outputs = target(seed, shift=0.8 * seed)
    found = run(fitted(weighted), outputs, jnp.ones(N, bool), weighted=weighted)
    expected = curve(weighted, "quadratic").estimate(float(rate(*outputs, weighted=weighted)))
    assert float(found.value) == pytest.approx(float(expected.value), abs=2e-6)
    assert float(found.lower) <= expected.lower + 2e-6
    assert float(found.upper) >= expected.upper - 2e-6
    assert bool(found.extrapolated) == bool(expected.extrapolated)


def test_other_accuracies_than_that_before():
    (before, after), labels = splits()
    other = jnp.roll(before, 1, axis=-1)
    for of, logits in (("before", before), ("after", after), (other, other)):
        table = label_flips(form="isotonic").fit((before, after), labels, of=of)
        accuracies = np.mean(np.argmax(logits, -1) == np.asarray(labels), axis=-1)
        rates = [float(rate(b, a)) for b, a in zip(before, after, strict=True)]
        expected = fit_flip_curve(rates, accuracies, target="adapted", form="isotonic")
        np.testing.assert_allclose(
            jnp.interp(0.1, table.rates, table.curve), expected.estimate(0.1).value, atol=2e-6
        )


def test_replicates_are_the_examples_drawn():
    """A weighted example is as many copies of it; their ranks are tied."""
    estimator, outputs = label_flips(), target()
    found = estimator.evidence(fitted(), outputs)
    weights = np.random.default_rng(0).multinomial(N, np.full(N, 1 / N))
    copies = tuple(jnp.asarray(np.repeat(np.asarray(a), weights, axis=0)) for a in outputs)
    table = fitted()
    expected = jnp.interp(rate(*copies), table.rates, table.curve)
    drawn = Sample(found.values, jnp.asarray(weights, jnp.float32))
    assert float(found.statistic(drawn)) == pytest.approx(float(expected), abs=2e-6)


@given(st.integers(0, 1000), st.sampled_from([0.0, 1e6, np.nan]))
@settings(max_examples=15)
def test_padding_and_order_change_nothing(seed, fill):
    before, after = target(seed)
    expected = run(fitted(), (before, after), jnp.arange(N) < N - 6)
    rng = np.random.default_rng(seed)
    order = rng.permutation(N)
    where = (jnp.arange(N) < N - 6)[order]
    padded = tuple(jnp.where(where[:, None], a[order], fill) for a in (before, after))
    found = run(fitted(), padded, where)
    # The order decides which examples the bootstrap draws, so only the value is the same.
    assert float(found.value) == pytest.approx(float(expected.value), abs=2e-6)
    few = label_flips().evidence(fitted(), (before[: N - 6], after[: N - 6]))
    assert float(few.statistic(sample(few.values))) == pytest.approx(float(found.value), abs=2e-6)


def test_padding_of_the_splits():
    (before, after), labels = splits()
    where = jnp.broadcast_to(jnp.arange(M) < M - 9, labels.shape)
    padded = tuple(jnp.where(where[..., None], a, jnp.nan) for a in (before, after))
    found = label_flips().fit(padded, jnp.where(where, labels, -1), where=where)
    few = tuple(a[:, : M - 9] for a in (before, after))
    expected = label_flips().fit(few, labels[:, : M - 9])
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_logits_in_half_precision():
    """Rates, accuracies and confidences of bfloat16 logits are as fine as any."""
    outputs, labels = splits()
    half = tuple(a.astype(jnp.bfloat16) for a in outputs)
    estimator = label_flips(form="linear")
    table = estimator.fit(half, labels)
    expected = estimator.fit(tuple(a.astype(jnp.float32) for a in half), labels)
    for a, b in zip(table, expected, strict=True):
        np.testing.assert_array_equal(a, b)
    half = tuple(a.astype(jnp.bfloat16) for a in target())
    whole = tuple(a.astype(jnp.float32) for a in half)
    found, expected = (estimator.evidence(table, pair) for pair in (half, whole))
    assert found.statistic(sample(found.values)) == expected.statistic(sample(expected.values))
    assert found.margin(0.8) == expected.margin(0.8)


def test_vmap_over_targets():
    outputs = jax.tree.map(lambda *a: jnp.stack(a), target(1), target(2, shift=0.5))
    found = jax.vmap(lambda pair: run(fitted(), pair, jnp.ones(N, bool)))(outputs)
    for i in range(2):
        single = run(fitted(), jax.tree.map(lambda a, i=i: a[i], outputs), jnp.ones(N, bool))
        for a, b in zip(found, single, strict=True):
            np.testing.assert_allclose(a[i], b, atol=2e-6)


def test_nan_and_nothing_give_nan():
    before, after = target()
    for outputs in ((before.at[3, 1].set(jnp.nan), after), (before, after.at[3, 1].set(jnp.nan))):
        assert np.isnan(run(fitted(), outputs, jnp.ones(N, bool)).value)
    assert np.isnan(run(fitted(), (before, after), jnp.zeros(N, bool)).value)


def test_beyond_the_splits():
    before, _ = target()
    upside_down = run(fitted(), (before, -before), jnp.ones(N, bool))
    assert bool(upside_down.extrapolated)
    assert float(upside_down.lower) == 0
    # The first split is not shifted and has no flips, which is inside.
    assert not run(fitted(), (before, before), jnp.ones(N, bool)).extrapolated
    assert float(fitted().lowest) == 0


def test_few_splits_give_wide_intervals():
    found = run(fitted(), target(), jnp.ones(N, bool), level=0.99)
    assert (float(found.lower), float(found.upper)) == (0, 1)


def test_intervals_grow_with_the_level():
    widths = [
        float(found.upper - found.lower)
        for found in (run(fitted(), target(), jnp.ones(N, bool), level=q) for q in (0.5, 0.7, 0.9))
    ]
    assert widths[0] < widths[1] < widths[2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"of": "source"}, "`of` must be 'before', 'after' or logits, got 'source'"),
        ({"labels": jnp.full((SPLITS, M), CLASSES)}, "not one of the 4 classes"),
        ({"where": jnp.ones((SPLITS, M), bool).at[2].set(False)}, "needs an example that counts"),
        ({"outputs": tuple(a.at[0, 0, 0].set(jnp.nan) for a in splits()[0])}, "logit that is NaN"),
    ],
)
def test_bad_splits(change, message):
    outputs, labels = splits()
    arguments = {"outputs": outputs, "labels": labels, **change}
    with pytest.raises(ValueError, match=message):
        label_flips().fit(arguments.pop("outputs"), arguments.pop("labels"), **arguments)


def test_too_few_splits_and_unknown_forms():
    (before, after), labels = splits()
    with pytest.raises(ValueError, match="4 splits or more"):
        label_flips().fit((before[:3], after[:3]), labels[:3])
    with pytest.raises(ValueError, match="`form` must be one of"):
        label_flips(form="septic")


def test_fit_is_not_compiled():
    with pytest.raises(ValueError, match="outside of jit"):
        jax.jit(label_flips().fit)(*splits())
