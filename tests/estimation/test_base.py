"""One table of estimators, one set of promises."""

import functools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from entropax.estimation.aetta import aetta
from entropax.estimation.agreement import disagreement
from entropax.estimation.atc import average_thresholded_confidence
from entropax.estimation.base import Estimator, Evidence, correctness
from entropax.estimation.confidence_transport import confidence_transport
from entropax.estimation.difference import difference_of_confidences
from entropax.estimation.importance import importance_weighting
from entropax.estimation.mano import mano
from entropax.estimation.nuclear_norm import nuclear_norm
from entropax.estimation.thresholded_transport import thresholded_transport
from entropax.uncertainty import mean, sample

ESTIMATORS = {
    "DoC": difference_of_confidences(),
    "ATC-MC": average_thresholded_confidence(score="confidence"),
    "ATC-NE": average_thresholded_confidence(score="entropy"),
    "GDE": disagreement(),
    "COT": confidence_transport(solver="exact"),
    "COT sinkhorn": confidence_transport(solver="sinkhorn"),
    "COTT": thresholded_transport(solver="exact"),
    "nuclear norm": nuclear_norm(),
    "MaNo softmax": mano(),
    "MaNo taylor": mano(normalisation="taylor"),
    "AETTA": aetta(),
    "IM": importance_weighting(),
}
# These take several labelled splits, or know nothing of the source.
SPLITS = ("nuclear norm", "MaNo softmax", "MaNo taylor")
UNFITTED = ("GDE", "AETTA")
estimators = pytest.mark.parametrize("name", ESTIMATORS)
KEY = jax.random.key(0)
SOURCE, TARGET, CLASSES = 40, 24, 4


def examples(seed, n, shift=0.0):
    """Logits and labels of a network that is often right; labels of all classes."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % CLASSES)
    logits = 2 * rng.normal(size=(n, CLASSES))
    logits[np.arange(n), labels] += 4 - shift
    return jnp.asarray(logits, jnp.float32), jnp.asarray(labels)


def source(name, seed=0):
    if name not in SPLITS:
        return examples(seed, SOURCE)
    splits = [examples(seed + i, SOURCE, shift=i) for i in range(4)]
    return tuple(map(jnp.stack, zip(*splits, strict=True)))


def outputs(name, seed=100, n=TARGET):
    logits, _ = examples(seed, n, shift=1.5)
    others = jnp.stack([logits + 2 * examples(seed + i, n)[0] for i in range(1, 4)])
    return {"GDE": (logits, others[0]), "AETTA": (logits, others)}.get(name, logits)


def first_rows(a):
    return a[: TARGET - 3]


def rows(name, logits, function):
    """Apply a function along the axis of the examples."""
    if name == "AETTA":
        return function(logits[0]), jax.vmap(function)(logits[1])
    return jax.tree.map(function, logits)


@functools.cache
def compiled(name):
    """Compiled and mapped over two targets, once for each estimator."""

    @jax.jit
    def table(key, source_logits, labels, outputs, where_source, where):
        estimator = ESTIMATORS[name]
        fitted = estimator.fit(source_logits, labels, where=where_source)
        estimate = functools.partial(estimator.estimate, key, fitted, num_replicates=20)
        return jax.vmap(lambda outputs: estimate(outputs, where=where))(outputs)

    return table


def run_two(name, target, other, *, source_data=None, where_source=None, where=None):
    logits, labels = source(name) if source_data is None else source_data
    where_source = jnp.ones(labels.shape, bool) if where_source is None else where_source
    where = jnp.ones(TARGET, bool) if where is None else where
    both = jax.tree.map(lambda *a: jnp.stack(a), target, other)
    return compiled(name)(KEY, logits, labels, both, where_source, where)


def run(name, *, target=None, **options):
    target = outputs(name) if target is None else target
    return jax.tree.map(lambda a: a[0], run_two(name, target, target, **options))


@functools.partial(jax.jit, static_argnums=0)
def plain_value(name, source_data, target):
    """The accuracy before it is clipped or drawn again; not mapped."""
    estimator = ESTIMATORS[name]
    found = estimator.evidence(estimator.fit(*source_data), target)
    return found.statistic(sample(found.values))


@estimators
def test_in_the_unit_interval_and_ordered(name):
    found = run(name)
    assert 0 <= found.lower < found.value < found.upper <= 1


@estimators
def test_padding_changes_nothing(name):
    """Against the same without it, which is not mapped over targets either."""
    logits, labels = source(name)
    few, few_target = SOURCE - 5, TARGET - 3
    expected = plain_value(
        name, (logits[..., :few, :], labels[..., :few]), rows(name, outputs(name), first_rows)
    )
    where_source, where = jnp.arange(SOURCE) < few, jnp.arange(TARGET) < few_target
    found = [
        run(
            name,
            source_data=(
                jnp.where(where_source[:, None], logits, fill),
                jnp.where(where_source, labels, -1),
            ),
            target=rows(
                name, outputs(name), lambda a, fill=fill: jnp.where(where[:, None], a, fill)
            ),
            where_source=jnp.broadcast_to(where_source, labels.shape),
            where=where,
        )
        for fill in (0.0, 1e6, np.nan)
    ]
    # The iterations of Sinkhorn are rounded otherwise when they are fused otherwise.
    np.testing.assert_allclose(found[0].value, expected, atol=2e-5)
    for other in found[1:]:
        for a, b in zip(other, found[0], strict=True):
            np.testing.assert_allclose(a, b, atol=2e-6)


@estimators
@hypothesis.settings(max_examples=10)
@hypothesis.given(st.integers(0, 1000))
def test_order_does_not_matter(name, seed):
    rng = np.random.default_rng(seed)
    logits, labels = source(name, seed)
    data = (logits, labels)
    expected = run(name, source_data=data, target=outputs(name, seed))
    order, order_target = rng.permutation(SOURCE), rng.permutation(TARGET)
    found = run(
        name,
        source_data=(jnp.take(logits, order, -2), jnp.take(labels, order, -1)),
        target=rows(name, outputs(name, seed), lambda a: a[order_target]),
    )
    np.testing.assert_allclose(found.value, expected.value, atol=2e-5)
    assert bool(found.extrapolated) == bool(expected.extrapolated)


@estimators
def test_vmap_over_targets_is_a_loop(name):
    first, second = (outputs(name, seed) for seed in (7, 8))
    table = run_two(name, first, second)
    swapped = run_two(name, second, first)
    for a, b in zip(table, swapped, strict=True):
        np.testing.assert_allclose(a, b[::-1], atol=2e-6)
    # One that is NaN leaves the other alone.
    broken = run_two(name, first, jax.tree.map(lambda a: a * jnp.nan, second))
    np.testing.assert_allclose(broken.value, [table.value[0], np.nan], atol=2e-6)


@estimators
def test_nan_of_the_target_gives_nan(name):
    target = rows(name, outputs(name), lambda a: a.at[3, 1].set(jnp.nan))
    found = run(name, target=target)
    assert all(np.isnan(x) for x in (found.value, found.lower, found.upper))


@pytest.mark.parametrize("name", [name for name in ESTIMATORS if name not in UNFITTED])
def test_invalid_sources_give_nan(name):
    logits, labels = source(name)
    broken = [(logits, labels.at[..., 0].set(CLASSES)), (logits, labels.at[..., 0].set(-1))]
    if name not in ("COT", "COT sinkhorn"):  # which look at the labels alone
        broken.append((logits.at[..., 0, 1].set(jnp.nan), labels))
    for data in broken:
        assert np.isnan(run(name, source_data=data).value)


@estimators
def test_nothing_that_counts_gives_nan(name):
    found = run(name, where=jnp.zeros(TARGET, bool))
    assert all(np.isnan(x) for x in (found.value, found.lower, found.upper))


@estimators
def test_one_example_tells_nothing(name):
    found = run(name, where=jnp.arange(TARGET) == 2)
    assert 0 <= found.lower <= found.value <= found.upper <= 1
    # 95 % of the target may look like none of what was seen.
    assert found.upper - found.lower >= min(0.95, 1 - 1e-6)


@estimators
def test_certain_predictions_give_numbers(name):
    """Every confidence is exactly 1, right or wrong."""
    logits, labels = source(name)
    certain = 1000 * jax.nn.one_hot(jnp.argmax(logits, axis=-1), CLASSES)
    target = jax.tree.map(
        lambda a: 1000 * jax.nn.one_hot(jnp.argmax(a, -1), CLASSES), outputs(name)
    )
    found = run(name, source_data=(certain, labels), target=target)
    assert 0 <= found.lower <= found.value <= found.upper <= 1
    if name in ("ATC-MC", "ATC-NE", "DoC", "IM"):
        # The target is as sure as the source, and nothing else is known of it.
        accuracy = float(jnp.mean(jnp.argmax(logits, -1) == labels))
        assert float(found.value) == pytest.approx(accuracy, abs=1e-6)


@estimators
def test_one_class(name):
    """A network that can only say one thing is right."""
    logits, labels = source(name)
    target = jax.tree.map(lambda a: a[..., :1], outputs(name))
    found = plain_value(name, (logits[..., :1], jnp.zeros_like(labels)), target)
    assert float(found) == pytest.approx(1)


def test_interval_of_a_proportion_covers():
    """Against the truth of a proportion, and of 0 and 1 against Clopper and Pearson."""
    estimator = Estimator(
        lambda logits, labels: (),
        lambda fitted, outputs, where: Evidence(outputs, mean, jnp.array(False)),
    )
    estimate = functools.partial(estimator.estimate, level=0.8, num_replicates=60)
    keys = jax.random.split(KEY, 300)
    data = jax.random.bernoulli(jax.random.key(1), 0.7, (300, 60)).astype(jnp.float32)
    data = data.at[0].set(1).at[1].set(0)
    found = jax.jit(jax.vmap(lambda key, x: estimate(key, (), x)))(keys, data)
    covered = np.mean((found.lower[2:] <= 0.7) & (found.upper[2:] >= 0.7))
    # 300 draws know 80 % to 2.3 points; the bootstrap of a proportion is a little off besides.
    assert 0.72 < covered < 0.9
    exact = scipy.stats.binomtest(60, 60).proportion_ci(0.8, method="exact")
    np.testing.assert_allclose(found.lower[:2], [exact.low, 0], rtol=1e-6)
    np.testing.assert_allclose(found.upper[:2], [1, 1 - exact.low], atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"level": 90.0}, "must lie between 0 and 1"), ({"num_replicates": 1}, "at least 2")],
)
def test_bad_options(options, message):
    doc = ESTIMATORS["DoC"]
    fitted = doc.fit(*source("DoC"))
    with pytest.raises(ValueError, match=message):
        doc.estimate(KEY, fitted, outputs("DoC"), **options)


def test_correctness():
    logits = jnp.array([[2.0, 1.0], [2.0, 1.0], [2.0, 1.0], [2.0, jnp.nan], [1.0, 2.0]])
    found = correctness(logits, jnp.array([0, 1, 2, 0, -1]))
    np.testing.assert_array_equal(found, [1, 0, np.nan, np.nan, np.nan])
