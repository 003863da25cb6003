"""Streams in pieces, in any order, on several devices, against all examples at once."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from devices import run_on_four_devices
from hypothesis import given
from hypothesis import strategies as st

from entropax.uncertainty import histogram, running_means
from entropax.uncertainty.accumulators import Accumulator, ranking_accumulator
from entropax.uncertainty.bootstrap import bootstrap
from entropax.uncertainty.calibration_error import calibration_error
from entropax.uncertainty.histogram import histogram_accumulator
from entropax.uncertainty.ordering import rank
from entropax.uncertainty.risk_coverage import augrc, aurc
from entropax.uncertainty.roc import auroc
from entropax.uncertainty.running_means import calibration_accumulator, mean_accumulator
from entropax.uncertainty.selective import coverage_at_accuracy

BATCH, NUM_BATCHES = 16, 6
N = BATCH * NUM_BATCHES
ACCUMULATORS = {
    "ranking": ranking_accumulator(N),
    "histogram": histogram_accumulator(),
    "calibration": calibration_accumulator(num_bins=15),
    "mean": mean_accumulator((0, 0)),
}
update = {name: jax.jit(x.update) for name, x in ACCUMULATORS.items()}
merge = {name: jax.jit(x.merge) for name, x in ACCUMULATORS.items()}
rank_all = jax.jit(rank)
compute = {name: jax.jit(x.compute) for name, x in ACCUMULATORS.items()}


@jax.jit
def ranking_metrics(ranking):
    return {
        "auroc": auroc(ranking),
        "aurc": aurc(ranking),
        "augrc": augrc(ranking),
        "sac": coverage_at_accuracy(ranking, accuracy=0.8),
    }


@jax.jit
def calibration_errors(confidence, correct=None):
    return [calibration_error(confidence, correct, norm=norm) for norm in ("l1", "l2", "max")]


def simulate(seed, n=N, sharpness=3.0, ties=False):
    """Confidences of which many are close to 1, correct about as often as they say."""
    rng = np.random.default_rng(seed)
    confidence = 1 / (1 + np.exp(-sharpness * rng.standard_normal(n) - sharpness))
    correct = rng.random(n) < confidence
    confidence = np.round(confidence * 20) / 20 if ties else confidence
    return confidence.astype(np.float32), correct


def arguments(name, confidence, correct):
    """What `update` takes: scores and hits, or terms."""
    return ((confidence, correct),) if name == "mean" else (confidence, correct)


def stream(name, confidence, correct, where=None):
    """All batches, one after the other."""
    state = ACCUMULATORS[name].init()
    where = np.ones(len(confidence), bool) if where is None else where
    for rows in np.split(np.arange(len(confidence)), len(confidence) // BATCH):
        data = arguments(name, confidence[rows], correct[rows])
        state = update[name](state, *data, where=where[rows])
    return state


def results(name, state):
    result = compute[name](state)
    return ranking_metrics(result) if name in ("ranking", "histogram") else result


def assert_close(found, expected, atol=2e-6):
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x, y, atol=atol, rtol=0)


@given(st.integers(0, 2**31), st.booleans())
def test_a_stream_is_the_whole(seed, ties):
    """Ranking metrics to the last bit; sums in float32 within 96 roundings of 6e-8 or fewer."""
    confidence, correct = simulate(seed, ties=ties)
    whole = rank_all(confidence, correct)
    ranking = compute["ranking"](stream("ranking", confidence, correct))
    np.testing.assert_array_equal(ranking.scores, whole.scores)
    np.testing.assert_array_equal(ranking.weights, whole.weights)
    # equal scores may stand in any order
    np.testing.assert_array_equal(*(np.sort(x.scores + 2 * x.correct) for x in (ranking, whole)))
    found = compute["calibration"](stream("calibration", confidence, correct))
    assert_close(found[1:], calibration_errors(confidence, correct))
    means = compute["mean"](stream("mean", confidence, correct))
    np.testing.assert_allclose(means, (np.mean(confidence, dtype=float), correct.mean()), rtol=1e-7)


@pytest.mark.parametrize("name", ACCUMULATORS)
@given(st.permutations(range(NUM_BATCHES)), st.integers(0, NUM_BATCHES), st.integers(0, 2**31))
def test_any_order_and_any_merge_give_the_same(name, order, cut, seed):
    """Two streams that share the batches in any way; whichever of the two comes first."""
    confidence, correct = simulate(seed, ties=seed % 2 == 0)
    expected = results(name, stream(name, confidence, correct))
    rows = np.arange(N).reshape(NUM_BATCHES, BATCH)[list(order)]
    one, two = rows[:cut].ravel(), rows[cut:].ravel()
    states = [
        stream(name, confidence[x], correct[x]) if len(x) else ACCUMULATORS[name].init()
        for x in (one, two)
    ]
    for pair in (states, states[::-1]):
        merged = merge[name](*pair)
        # Sums hold twice the digits of float32, so that even their rounding is the same.
        assert_close(results(name, merged), expected, atol=0 if name != "calibration" else 1e-7)


@pytest.mark.parametrize("name", ACCUMULATORS)
@given(st.lists(st.booleans(), min_size=N, max_size=N), st.integers(0, 2**31))
def test_padding_changes_nothing(name, where, seed):
    where = np.array(where)
    confidence, correct = simulate(seed)
    kept = np.flatnonzero(where)
    front = np.arange(N) < len(kept)
    moved, hits = np.full(N, np.nan, np.float32), np.zeros(N, bool)
    moved[: len(kept)], hits[: len(kept)] = confidence[kept], correct[kept]
    confidence[~where] = np.nan
    found = results(name, stream(name, confidence, correct, where))
    expected = results(name, stream(name, moved, hits, front))
    assert_close(found, expected, atol=0 if name != "calibration" else 1e-7)
    if where.any():
        assert np.isfinite(jax.tree.leaves(found)[-1])


@pytest.mark.parametrize("name", ACCUMULATORS)
def test_scan_and_vmap(name):
    """The body of a scan; a mapped axis holds streams that know nothing of each other."""
    data = [simulate(seed) for seed in range(3)]
    confidence, correct = (jnp.stack([jnp.asarray(x[i]) for x in data]) for i in range(2))
    accumulator = ACCUMULATORS[name]

    def scanned(confidence, correct):
        batches = confidence.reshape(-1, BATCH), correct.reshape(-1, BATCH)
        state, _ = jax.lax.scan(
            lambda state, batch: (accumulator.update(state, *arguments(name, *batch)), None),
            accumulator.init(),
            batches,
        )
        return state

    found = jax.jit(jax.vmap(scanned))(confidence, correct)
    for i, pair in enumerate(data):
        assert_close(jax.tree.map(lambda x, i=i: x[i], found), stream(name, *pair), atol=1e-5)
    together = jax.jit(jax.vmap(lambda x: accumulator.psum(x, "streams"), axis_name="streams"))
    merged = functools.reduce(merge[name], [stream(name, *pair) for pair in data])
    summed = jax.tree.map(lambda x: x[1], together(found))
    if name == "ranking":
        merged = accumulator.init()._replace(words=jnp.full(3 * N, 2**32 - 1, jnp.uint32))
        for pair in data:
            merged = accumulator.merge(merged, stream(name, *pair))
        assert summed.words.shape == (3 * N,)
    assert_close(results(name, summed), results(name, merged), atol=1e-7)


def test_more_than_fits_is_flagged():
    accumulator = Accumulator(*map(jax.jit, ranking_accumulator(10)))
    confidence, correct = simulate(0, n=8)
    part = accumulator.update(accumulator.init(), confidence, correct)
    assert (int(part.filled), int(part.dropped)) == (8, 0)
    assert np.isfinite(ranking_metrics(accumulator.compute(part))["auroc"])
    where = np.arange(8) < 2
    full = accumulator.update(part, confidence, correct, where=where)
    assert (int(full.filled), int(full.dropped)) == (10, 0)
    assert np.isfinite(ranking_metrics(accumulator.compute(full))["auroc"])
    for over in (
        accumulator.update(part, confidence, correct),
        accumulator.merge(part, part),
    ):
        assert int(over.filled) == 10
        assert int(over.dropped) > 0
        assert np.isnan(accumulator.compute(over).scores).all()
    over = accumulator.update(part, confidence, correct)
    assert int(over.dropped) == 6
    assert int(accumulator.merge(accumulator.init(), over).dropped) == 6
    merged = accumulator.merge(accumulator.init(), over)
    assert np.isnan(ranking_metrics(accumulator.compute(merged))["aurc"])


@pytest.mark.parametrize("score", [0.0, -0.0, 1e-45, 1e-38, 1.0, 3e38, np.inf])
def test_words_hold_every_score_that_is_not_negative(score):
    accumulator = ranking_accumulator(5)
    scores = jnp.array([score, 0.5, score], jnp.float32)
    state = accumulator.update(accumulator.init(), scores, jnp.array([1, 0, 0]))
    ranking = accumulator.compute(state)
    kept = np.array(ranking.scores[:3])
    np.testing.assert_array_equal(np.sort(kept), np.sort(np.abs(np.array(scores))))
    np.testing.assert_array_equal(ranking.scores[3:], -np.inf)
    np.testing.assert_array_equal(ranking.weights, [1, 1, 1, 0, 0])
    assert float(np.sum(ranking.correct)) == 1
    assert float(ranking.correct[np.flatnonzero(kept == np.float32(score))].sum()) == 1


@pytest.mark.parametrize("name", ["ranking", "histogram", "calibration"])
@pytest.mark.parametrize(("score", "correct"), [(np.nan, 1), (-0.5, 1), (0.5, 0.5), (0.5, np.nan)])
def test_invalid_data_is_nan_for_good(name, score, correct):
    confidence, hits = simulate(0, n=BATCH)
    hits = hits.astype(np.float32)
    confidence[3], hits[3] = score, correct
    start = ACCUMULATORS[name].init()
    state = update[name](start, confidence, hits, where=np.ones(BATCH, bool))
    before = stream(name, *simulate(1, n=N - BATCH))
    found = results(name, merge[name](before, state))
    errors = found[1:] if name == "calibration" else found
    assert np.isnan(jax.tree.leaves(errors)).all()
    state = update[name](start, confidence, hits, where=np.arange(BATCH) != 3)
    assert np.isfinite(jax.tree.leaves(results(name, state))[-1])


def test_a_loss_that_is_not_finite_stays():
    terms = (np.float32([1.0, np.inf]), np.float32([np.nan, 2.0]))
    state = update["mean"](ACCUMULATORS["mean"].init(), terms, where=np.ones(2, bool))
    state = update["mean"](state, (np.ones(2, np.float32),) * 2, where=np.ones(2, bool))
    infinite, nan = compute["mean"](state)
    assert np.isposinf(infinite)
    assert np.isnan(nan)


def test_nothing_seen_is_nan():
    for name, accumulator in ACCUMULATORS.items():
        found = results(name, accumulator.init())
        found = found[1:] if name == "calibration" else found
        assert np.isnan(jax.tree.leaves(found)).all()


def test_sums_keep_twice_the_digits():
    """Large numbers that cancel, and a million small ones on top of a large one."""
    rng = np.random.default_rng(0)
    terms = (rng.standard_normal(999) * 10.0 ** rng.integers(-6, 7, 999)).astype(np.float32)
    terms = np.concatenate([terms, -terms[::-1], np.float32([1e-3])])
    total = jax.jit(running_means._sum)(terms)
    exact = math.fsum(terms.astype(float))
    largest = float(np.abs(terms).max())
    assert float(total.total) + float(total.residue) == pytest.approx(exact, abs=1e-12 * largest)

    @jax.jit
    def many():
        one = running_means.Sum(jnp.float32(1e6), jnp.float32(0))
        small = running_means.Sum(jnp.float32(0.01), jnp.float32(0))
        return jax.lax.fori_loop(0, 100_000, lambda _, x: running_means._add(x, small), one)

    total = many()
    expected = 1e6 + 100_000 * float(np.float32(0.01))
    # 100,000 roundings of 2**-49 or less, all in one direction; float32 would lose every term
    assert float(total.total) + float(total.residue) == pytest.approx(expected, rel=2e-10)


def test_counts_are_exact_beyond_float32():
    """2**24 + 1 examples, which float32 cannot count; and too many for int32.

    Keys 16000 and 16128 are confidences of 0.75 and 0.5.
    """
    state = histogram_accumulator().init()
    counts = state.counts.at[0, 16000].set(2**24 + 1).at[1, 16128].set(2**24 + 3)
    more = ACCUMULATORS["histogram"].merge(state._replace(counts=counts), state)
    ranking = compute["histogram"](more)
    assert int(ranking.weights.sum()) == 2**25 + 4
    assert float(auroc(ranking)) == 0  # the wrong ones have the higher confidence
    assert float(coverage_at_accuracy(ranking, accuracy=0.5)) == 1  # by two examples
    full = state._replace(counts=counts.at[0, 16000].set(2**31))
    assert np.isnan(auroc(compute["histogram"](full)))
    calibration = ACCUMULATORS["calibration"]
    half = running_means.Sum(jnp.full(15, 2.0**23), jnp.zeros(15))
    state = calibration.init()._replace(
        number=jnp.full(15, 2**24 + 1, jnp.uint32).at[1:].set(0), confidence=half
    )
    assert int(calibration.merge(state, state).number[0]) == 2**25 + 2


@pytest.mark.parametrize("sharpness", [1.0, 3.0, 6.0])
def test_histogram_is_close(sharpness):
    """Off by no more than the docstring says, for networks that are sharper or less so."""
    confidence, correct = simulate(0, n=50_000, sharpness=sharpness)
    state = update["histogram"](histogram_accumulator().init(), confidence, correct)
    ranking = compute["histogram"](state)
    found = ranking_metrics(ranking)
    exact = ranking_metrics(rank_all(confidence, correct))
    assert abs(float(found["auroc"]) - float(exact["auroc"])) <= 1e-5
    assert abs(float(found["aurc"]) - float(exact["aurc"])) <= 1e-5
    assert abs(float(found["augrc"]) - float(exact["augrc"])) <= 2e-6
    # only whole bins can be kept
    assert abs(float(found["sac"]) - float(exact["sac"])) <= 5e-3
    errors = calibration_errors(ranking), calibration_errors(confidence, correct)
    assert float(errors[0][0]) == pytest.approx(float(errors[1][0]), abs=1e-3)


def test_bins_have_different_confidences_where_they_can_be_filled():
    """Every float32 number near 1, a grid below, and powers near 0; order and value are kept."""
    near = 1 - np.arange(2**16, dtype=np.float64) * 2.0**-24
    small = 10 ** np.linspace(-37, 0, 2**16)
    confidence = np.concatenate([near, np.linspace(0, 1, 2**16), small]).astype(np.float32)
    index = np.array(jax.jit(histogram._bin)(confidence))
    named = histogram._bin_confidences()
    assert (named[0], named[-1]) == (1, 0)
    used = np.unique(index)
    assert np.all(np.diff(named[used]) < 0)
    assert np.all(np.diff(index[np.argsort(-confidence)]) >= 0)
    exact = confidence.astype(float)
    assert np.all(np.abs(named[index] - exact) <= np.minimum(exact, 1 - exact) / 128)


def test_a_histogram_has_no_bootstrap():
    ranking = compute["histogram"](stream("histogram", *simulate(0, ties=True)))
    assert ranking.weights.max() > 1
    found = bootstrap(jax.random.key(0), auroc, ranking, num_replicates=5)
    assert np.isfinite(found.value)
    assert np.isnan([found.lower, found.upper, found.stderr]).all()


def test_options_out_of_range():
    with pytest.raises(ValueError, match="`capacity` must be positive, got 0"):
        ranking_accumulator(0)
    with pytest.raises(ValueError, match="`num_bins` must be positive, got -1"):
        calibration_accumulator(num_bins=-1)


ON_FOUR_DEVICES = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, PartitionSpec
from entropax.uncertainty.accumulators import ranking_accumulator
from entropax.uncertainty.histogram import histogram_accumulator
from entropax.uncertainty.running_means import calibration_accumulator, mean_accumulator

rng = np.random.default_rng(0)
confidence = jnp.asarray(rng.random(64), jnp.float32)
pair = confidence, jnp.asarray(rng.random(64) < confidence, jnp.float32)
where = jnp.arange(64) != 5
mesh = Mesh(np.array(jax.devices()), ("data",))
assert mesh.size == 4
for on_each, on_one, data in (
    (ranking_accumulator(16), ranking_accumulator(64), pair),
    (histogram_accumulator(), histogram_accumulator(), pair),
    (calibration_accumulator(), calibration_accumulator(), pair),
    (mean_accumulator((0, 0)), mean_accumulator((0, 0)), [pair]),
):
    def gathered(data, where):
        return on_each.psum(on_each.update(on_each.init(), *data, where=where), "data")

    spread = jax.shard_map(
        gathered, mesh=mesh, in_specs=PartitionSpec("data"), out_specs=PartitionSpec()
    )
    found = on_each.compute(jax.jit(spread)(data, where))
    expected = on_one.compute(on_one.update(on_one.init(), *data, where=where))
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-7)
"""


def test_four_devices():
    run_on_four_devices(ON_FOUR_DEVICES)


FULL = np.uint32(2**32 - 1)


def test_a_histogram_is_full_and_does_not_start_again():
    accumulator = histogram_accumulator()
    pair = jnp.array([0.5, 0.9]), jnp.array([1, 1])
    state = update["histogram"](accumulator.init(), *pair)
    nearly = state._replace(counts=jnp.where(state.counts > 0, FULL - np.uint32(1), 0))
    for state in (
        update["histogram"](update["histogram"](nearly, *pair), *pair),
        merge["histogram"](nearly, nearly),
        jax.vmap(lambda x: accumulator.psum(x, "i"), axis_name="i")(
            jax.tree.map(lambda x: jnp.stack([x, x]), nearly)
        ),
    ):
        assert int(state.counts.max()) == FULL
    assert np.isnan(compute["histogram"](merge["histogram"](nearly, nearly)).scores).all()


def test_running_means_are_full_and_do_not_start_again():
    of_mean, of_bins = mean_accumulator(), calibration_accumulator()
    terms = jnp.array([0.25, 0.75])
    state = of_mean.update(of_mean.init(), terms)
    nearly = state._replace(num_examples=jnp.asarray(FULL - np.uint32(2)))
    assert np.isfinite(of_mean.compute(nearly))
    for more in (of_mean.update(nearly, terms), of_mean.merge(nearly, nearly)):
        assert np.isnan(of_mean.compute(of_mean.update(more, terms)))
    state = of_bins.update(of_bins.init(), terms, jnp.array([0, 1]))
    nearly = state._replace(number=jnp.where(state.number > 0, FULL - np.uint32(1), 0))
    assert np.isfinite(of_bins.compute(nearly).expected)
    for more in (of_bins.update(nearly, terms, jnp.array([0, 1])), of_bins.merge(nearly, nearly)):
        found = of_bins.compute(of_bins.update(more, terms, jnp.array([0, 1])))
        assert np.isnan([found.expected, found.root_mean_square, found.maximum]).all()


def test_merging_takes_the_larger_capacity():
    small, large = ranking_accumulator(2), ranking_accumulator(5)
    scores = jnp.array([0.5, 0.25, 0.75])
    few = small.update(small.init(), scores[:2], jnp.ones(2))
    many = large.update(large.init(), scores, jnp.zeros(3))
    for state in (large.merge(many, few), small.merge(few, many)):
        assert (len(state.words), int(state.filled), int(state.dropped)) == (5, 5, 0)
