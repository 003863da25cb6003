"""The oracle draws rows and computes the metric again from the definition, in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from devices import run_on_four_devices
from hypothesis import given
from hypothesis import strategies as st

from entropax.uncertainty.bootstrap import (
    Sample,
    bootstrap,
    compare,
    mean,
    multiplicities,
    sample,
)
from entropax.uncertainty.ordering import rank
from entropax.uncertainty.proper_scores import (
    brier_score,
    brier_terms,
    negative_log_likelihood,
    negative_log_likelihood_terms,
)
from entropax.uncertainty.risk_coverage import aurc
from entropax.uncertainty.roc import auroc

N = 40
REPLICATES = 60


def ranking_metrics(ranking):
    return {"auroc": auroc(ranking), "aurc": aurc(ranking)}


interval_of_ranking = jax.jit(
    lambda key, scores, correct, where: bootstrap(
        key, ranking_metrics, rank(scores, correct, where=where), num_replicates=REPLICATES
    )
)
compare_rankings = jax.jit(
    lambda key, a, b, where: compare(
        key, ranking_metrics, a, b, num_replicates=REPLICATES, where=where
    )
)
interval_of_mean = jax.jit(
    functools.partial(bootstrap, metric=mean, num_replicates=REPLICATES),
    static_argnames=("level", "method", "batch_size"),
)


def numpy_metrics(scores, correct):
    """AUROC by pairs; AURC as the expectation over the order of equal scores, rank by rank."""
    scores, correct = np.float64(scores), np.asarray(correct, bool)
    right, wrong = scores[correct], scores[~correct]
    pairs = (right[:, None] > wrong) + 0.5 * (right[:, None] == wrong)
    area = pairs.mean() if pairs.size else np.nan
    errors = []
    for score in np.unique(scores)[::-1]:
        block = ~correct[scores == score]
        errors += [block.mean()] * len(block)
    return {"auroc": area, "aurc": np.mean(np.cumsum(errors) / np.arange(1, len(errors) + 1))}


@functools.partial(jax.jit, static_argnums=(1, 2))
def draws_of(key, n, num_replicates):
    return jax.vmap(lambda key: multiplicities(key, n))(jax.random.split(key, num_replicates))


def replicate_draws(key, n, num_replicates=REPLICATES):
    return np.array(draws_of(key, n, num_replicates))


def resampled(metrics, draws):
    """Each metric for each draw: copy the rows as often as they were drawn, and start again."""
    found = [metrics(np.repeat(np.arange(len(w)), w)) for w in draws]
    return {name: np.array([x[name] for x in found]) for name in found[0]}


def simulate(seed, n=N, ties=True):
    rng = np.random.default_rng(seed)
    scores = rng.random(n)
    correct = rng.random(n) < 0.4 + 0.5 * scores
    scores = np.round(scores * 8) / 8 if ties else scores
    return scores.astype(np.float32), correct


@pytest.mark.parametrize("seed", range(3))
def test_ranking_replicates_are_those_of_resampling_and_sorting(seed):
    """By the order in which a Ranking stands: equal scores may stand in any."""
    key = jax.random.key(seed)
    scores, correct = simulate(seed)
    found = interval_of_ranking(key, scores, correct, np.ones(N, bool))
    ranking = rank(jnp.asarray(scores), jnp.asarray(correct))
    in_order = np.array(ranking.scores), np.array(ranking.correct)
    expected = resampled(
        lambda rows: numpy_metrics(*(x[rows] for x in in_order)), replicate_draws(key, N)
    )
    value = numpy_metrics(scores, correct)
    for name, replicates in expected.items():
        lower, upper = np.quantile(replicates, [0.025, 0.975])
        # float32: 40 terms of at most 1
        close = functools.partial(np.testing.assert_allclose, atol=2e-6, rtol=0)
        close(found.value[name], value[name])
        close(found.lower[name], lower)
        close(found.upper[name], upper)
        close(found.stderr[name], replicates.std(ddof=1))
        assert found.num_dropped[name] == 0


@pytest.mark.parametrize("method", ["percentile", "basic"])
def test_means_and_methods(method):
    """Of trees, with trailing axes, and in float64 where the input is."""
    rng = np.random.default_rng(0)
    key = jax.random.key(1)
    losses, hits = rng.exponential(size=(N, 2)), rng.random(N) < 0.8
    draws = replicate_draws(key, N)
    with jax.enable_x64(True):
        data = sample({"loss": jnp.asarray(losses), "hit": jnp.asarray(hits, float)})
        found = interval_of_mean(key, data=data, level=0.8, method=method, batch_size=7)
    for name, terms in (("loss", losses), ("hit", hits)):
        replicates, value = draws @ terms / N, terms.mean(axis=0)
        ends = np.quantile(replicates, [0.1, 0.9], axis=0)
        ends = 2 * value - ends[::-1] if method == "basic" else ends
        np.testing.assert_allclose(found.value[name], value, atol=1e-12)
        np.testing.assert_allclose((found.lower[name], found.upper[name]), ends, atol=1e-12)


def test_comparison_draws_the_same_examples_for_both():
    key = jax.random.key(5)
    (scores, correct), (other, wrong) = simulate(0), simulate(1)
    draws = replicate_draws(key, N)
    a, b = (
        resampled(lambda rows, x=x: numpy_metrics(x[0][rows], x[1][rows]), draws)
        for x in ((scores, correct), (other, wrong))
    )
    found = compare_rankings(key, (scores, correct), (other, wrong), np.ones(N, bool))
    for name in a:
        differences = a[name] - b[name]
        value = numpy_metrics(scores, correct)[name] - numpy_metrics(other, wrong)[name]
        np.testing.assert_allclose(found.value[name], value, atol=2e-6)
        ends = np.quantile(differences, [0.025, 0.975])
        np.testing.assert_allclose((found.lower[name], found.upper[name]), ends, atol=2e-6)
        least = min(np.sum(differences <= 0), np.sum(differences >= 0))
        assert float(found.p_value[name]) == pytest.approx(
            min(1, 2 * (1 + least) / (1 + REPLICATES)), rel=1e-6
        )


@given(st.integers(0, 2**31), st.lists(st.booleans(), min_size=N, max_size=N))
def test_what_does_not_count_changes_nothing(seed, where):
    """The same draws whether examples are left out or were never there."""
    where = np.array(where)
    scores, correct = simulate(seed)
    key = jax.random.key(seed)
    padded_scores = np.where(where, scores, np.nan)
    kept = np.flatnonzero(where)
    moved = np.full(N, np.nan, np.float32)
    moved[: len(kept)] = scores[kept]
    moved_correct = np.zeros(N, bool)
    moved_correct[: len(kept)] = correct[kept]
    one = interval_of_ranking(key, padded_scores, correct, where)
    two = interval_of_ranking(key, moved, moved_correct, np.arange(N) < len(kept))
    for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_allclose(x, y, atol=2e-6)
    a, b = (scores, correct), simulate(seed + 1)
    one = compare_rankings(key, a, b, where)
    moved_pairs = [tuple(np.pad(x[kept], (0, N - len(kept))) for x in pair) for pair in (a, b)]
    two = compare_rankings(key, *moved_pairs, np.arange(N) < len(kept))
    for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_allclose(x, y, atol=2e-6)


def test_multiplicities_are_multinomial():
    """Sums, means, variances and covariances of the multinomial distribution; padding is 0."""
    key, n = jax.random.key(2), 20
    draws = replicate_draws(key, n, 4000)
    np.testing.assert_array_equal(draws.sum(axis=1), n)
    # standard errors of 4,000 draws: 0.016 for a mean, about 0.025 for a variance; five of them
    np.testing.assert_allclose(draws.mean(axis=0), 1, atol=0.08)
    covariance = np.cov(draws.T)
    np.testing.assert_allclose(np.diag(covariance), 1 - 1 / n, atol=0.13)
    off = covariance[~np.eye(n, dtype=bool)]
    np.testing.assert_allclose(off, -1 / n, atol=0.08)
    # how often one example is drawn: binomial
    seen = np.bincount(draws.ravel(), minlength=8)[:8]
    expected = scipy.stats.binom.pmf(np.arange(8), n, 1 / n) * draws.size
    # within 5 standard deviations of a count; 20 examples of a draw depend on each other weakly
    np.testing.assert_allclose(seen, expected, atol=5 * np.sqrt(expected.max()))
    longer = np.array(multiplicities(key, n + 13, number=n))
    np.testing.assert_array_equal(longer[:n], multiplicities(key, n))
    np.testing.assert_array_equal(longer[n:], 0)
    assert not np.any(multiplicities(key, 5, number=0))


@functools.partial(jax.jit, static_argnames=("n", "method"))
def simulated_intervals(key, n, method):
    """200 data sets with an AUROC of Phi(1), and the interval of each."""

    def one(key):
        noise, order, draws = jax.random.split(key, 3)
        correct = jax.random.bernoulli(order, 0.7, (n,))
        scores = jax.random.normal(noise, (n,)) + np.sqrt(2) * correct
        return bootstrap(
            draws, auroc, rank(scores, correct), num_replicates=200, method=method, level=0.9
        )

    return jax.lax.map(one, jax.random.split(key, 200))


@pytest.mark.parametrize("method", ["percentile", "basic"])
def test_interval_covers_as_often_as_it_says(method):
    found = simulated_intervals(jax.random.key(3), 200, method)
    truth = scipy.stats.norm.cdf(1)
    covered = np.mean((found.lower <= truth) & (truth <= found.upper))
    # binomial standard deviation of 200 sets: 0.021; three of them, and 0.01 that the bootstrap of
    # 200 examples is known to lack
    assert 0.9 - 0.074 <= covered <= 0.9 + 0.064
    spread = np.std(found.value, ddof=1)
    assert np.mean(found.stderr) == pytest.approx(float(spread), rel=0.15)  # 3 / sqrt(2 * 200)


def test_differences_of_the_same_examples_vary_less():
    """Two models that find the same examples hard: the paired interval is narrower."""
    rng = np.random.default_rng(0)
    n = 300
    hard = rng.random(n)
    losses = [jnp.asarray(hard + 0.1 * rng.random(n) + shift, jnp.float32) for shift in (0, 0.05)]
    found = compare(jax.random.key(0), mean, *map(sample, losses), num_replicates=400)
    apart = [
        bootstrap(jax.random.key(i), mean, sample(x), num_replicates=400).stderr
        for i, x in enumerate(losses)
    ]
    assert float(found.stderr) < 0.3 * np.hypot(*apart)
    assert float(found.p_value) == pytest.approx(2 / 401)  # the smallest that there is
    assert float(found.upper) < 0


def test_p_value_is_uniform_without_a_difference():
    """Exchangeable losses: small p-values come as often as they say."""

    def one(key):
        noise, draws = jax.random.split(key)
        losses = jax.random.normal(noise, (2, 50))
        a, b = sample(losses[0]), sample(losses[1])
        return compare(draws, mean, a, b, num_replicates=199).p_value

    p_values = np.array(jax.lax.map(one, jax.random.split(jax.random.key(0), 300)))
    # binomial standard deviations 0.017 and 0.029; three of them
    assert np.mean(p_values <= 0.1) == pytest.approx(0.1, abs=0.052)
    assert np.mean(p_values <= 0.5) == pytest.approx(0.5, abs=0.087)


def test_a_model_compared_with_itself():
    scores, correct = simulate(3)
    found = compare_rankings(
        jax.random.key(0), (scores, correct), (scores, correct), correct | True
    )
    for name in ("auroc", "aurc"):
        assert found.value[name] == found.lower[name] == found.upper[name] == 0
        assert found.p_value[name] == 1


def test_replicates_without_an_error_are_dropped_and_counted():
    key, every = jax.random.key(0), np.ones(N, bool)
    scores, _ = simulate(0)
    correct = np.arange(N) != 7
    found = interval_of_ranking(key, scores, correct, every)
    (position,) = np.flatnonzero(rank(jnp.asarray(scores), jnp.asarray(correct)).correct == 0)
    missing = np.sum(replicate_draws(key, N)[:, position] == 0)
    assert 0 < missing < REPLICATES
    assert found.num_dropped == {"auroc": missing, "aurc": 0}
    assert np.isfinite(found.stderr["auroc"])


@pytest.mark.parametrize("case", ["all_correct", "nan", "empty"])
def test_an_undefined_value_has_no_interval(case):
    scores, correct = simulate(0)
    where = np.ones(N, bool)
    if case == "all_correct":
        correct = correct | True
    elif case == "nan":
        scores[3] = np.nan
    else:
        where = ~where
    found = interval_of_ranking(jax.random.key(0), scores, correct, where)
    for part in (found.value, found.lower, found.upper, found.stderr):
        assert np.isnan(part["auroc"])
        assert np.isnan(part["aurc"]) == (case != "all_correct")
    difference = compare_rankings(jax.random.key(0), (scores, correct), simulate(1), where)
    assert np.isnan(difference.p_value["auroc"])


def test_a_loss_that_is_nan_is_seen_even_where_it_was_not_drawn():
    losses = jnp.arange(N, dtype=jnp.float32).at[0].set(jnp.nan)
    found = interval_of_mean(jax.random.key(0), data=sample(losses))
    assert np.isnan([found.value, found.lower, found.upper, found.stderr]).all()
    fine = interval_of_mean(jax.random.key(0), data=sample(losses, where=jnp.arange(N) > 0))
    assert fine.lower < fine.value == 20 < fine.upper


def test_rows_that_stand_for_several_examples_have_no_interval():
    data = Sample(jnp.arange(3.0), jnp.array([1.0, 2.0, 1.0]))
    assert float(mean(data)) == 1
    found = bootstrap(jax.random.key(0), mean, data, num_replicates=20)
    assert found.value == 1
    assert np.isnan(found.lower)
    assert np.isnan(compare(jax.random.key(0), mean, data, data, num_replicates=20).p_value)


def test_options_out_of_range():
    data, key = sample(jnp.arange(3.0)), jax.random.key(0)
    with pytest.raises(ValueError, match="`num_replicates` must be at least 2, got 1"):
        bootstrap(key, mean, data, num_replicates=1)
    with pytest.raises(ValueError, match="`level` must lie between 0 and 1, got 1"):
        bootstrap(key, mean, data, level=1)
    with pytest.raises(ValueError, match=r"`method` must be one of .*, got 'bca'"):
        compare(key, mean, data, data, method="bca")
    with pytest.raises(ValueError, match=r"the same examples, got \[3, 2\]"):
        compare(key, mean, data, sample(jnp.arange(2.0)))


def test_half_precision_is_promoted():
    """As `rank` does."""
    scores, correct = simulate(0)
    half = jnp.asarray(scores, jnp.float16)
    pair = half.astype(jnp.float32), correct
    key, every, other = jax.random.key(0), np.ones(N, bool), simulate(1)
    one, two = (compare_rankings(key, x, other, every) for x in ((half, correct), pair))
    for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_array_equal(x, y)
    assert one.value["aurc"].dtype == jnp.float32
    assert np.isfinite(one.stderr["aurc"])


def test_several_sets_of_examples_are_refused():
    key = jax.random.key(0)
    ranking = rank(jnp.ones((2, 3)), jnp.ones((2, 3)))
    several = Sample(jnp.ones((2, 3)), jnp.ones((2, 3)))
    with pytest.raises(
        ValueError, match=r"`jax.vmap` for several, such as these of shape \(2, 3\)"
    ):
        bootstrap(key, aurc, ranking)
    with pytest.raises(ValueError, match="one set of examples"):
        compare(key, mean, several, several)
    of_each = jax.vmap(lambda data: bootstrap(key, aurc, data, num_replicates=9))(ranking)
    assert of_each.lower.tolist() == [0, 0]


def test_no_example_at_all():
    key, nothing = jax.random.key(0), jnp.zeros(0)
    for found in (
        bootstrap(key, mean, sample(nothing), num_replicates=9),
        bootstrap(key, aurc, rank(nothing, nothing), num_replicates=9),
        compare(key, mean, sample(nothing), sample(nothing), num_replicates=9),
        compare(key, aurc, (nothing, nothing), (nothing, nothing), num_replicates=9),
    ):
        assert np.isnan([found.value, found.lower, found.upper, found.stderr]).all()
        assert found.num_dropped == 9


def test_losses_of_several_classes():
    """Their terms, draw for draw the score of the rows that were drawn."""
    key = jax.random.key(4)
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(size=(N, 3)), jnp.float32)
    labels = jnp.asarray(rng.integers(0, 3, N))
    probs = jax.nn.softmax(logits)
    draws = replicate_draws(key, N)
    for terms, metric, inputs in (
        (negative_log_likelihood_terms, negative_log_likelihood, logits),
        (brier_terms, brier_score, probs),
    ):
        found = interval_of_mean(key, data=sample(terms(inputs, labels)))
        assert float(found.value) == pytest.approx(float(metric(inputs, labels)), rel=1e-6)
        rows = np.array([np.repeat(np.arange(N), w) for w in draws])
        replicates = jax.jit(metric)(inputs[rows], labels[rows])
        assert float(found.stderr) == pytest.approx(float(np.std(replicates, ddof=1)), rel=1e-4)


ON_FOUR_DEVICES = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from entropax.uncertainty.bootstrap import bootstrap, mean, sample
from entropax.uncertainty.ordering import rank
from entropax.uncertainty.risk_coverage import aurc

scores = np.random.default_rng(0).random(64).astype(np.float32)
correct = (scores > 0.3).astype(np.float32)

@jax.jit
def run(scores, correct):
    key = jax.random.key(0)
    of_rank = bootstrap(key, aurc, rank(scores, correct), num_replicates=50)
    return of_rank, bootstrap(key, mean, sample(correct), num_replicates=50)

mesh = Mesh(np.array(jax.devices()), ("data",))
spread = jax.device_put((scores, correct), NamedSharding(mesh, PartitionSpec("data")))
assert len(spread[0].sharding.device_set) == 4
one = run(jnp.asarray(scores), jnp.asarray(correct))
for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(run(*spread)), strict=True):
    np.testing.assert_allclose(x, y, atol=2e-6)
"""


def test_four_devices_draw_the_same():
    run_on_four_devices(ON_FOUR_DEVICES)
