import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from oracles import GoldenNet, golden, golden_stream, golden_variables

from entropax import tta
from entropax.models import batch_statistics
from entropax.types import Batch

CASES = golden("tta/flips.json")["cases"]


@pytest.mark.parametrize("name", CASES)
def test_published_counts(name):
    """Exact, in float64: the published code sums percentile ranks over n images."""
    arrays = {k: golden("tta/flips.npz")[f"{name}/{k}"] for k in ("y0", "yT", "conf0")}
    with jax.enable_x64(True):
        rank = tta.confidence_rank(jnp.asarray(arrays["conf0"]))
        labels = jnp.asarray(arrays["y0"]), jnp.asarray(arrays["yT"])
        weighted = tta.flip_rate(*labels, weight=rank)
        unweighted = tta.flip_rate(*labels)
    case, weighted, unweighted = CASES[name], float(weighted), float(unweighted)
    assert case["n"] * weighted == pytest.approx(case["weighted_flips"], abs=1e-9)
    assert case["n"] * unweighted == pytest.approx(case["unweighted_flips"], abs=1e-9)
    assert 1000 * weighted == pytest.approx(case["weighted_flips_rescaled_to_1000"], abs=1e-9)


@given(st.lists(st.integers(0, 5), min_size=12, max_size=12), st.integers(0, 2**12 - 1))
def test_rank_is_scipy_rankdata_and_ignores_padding(levels, bits):
    confidence = jnp.asarray(levels, jnp.float32) / 5
    where = np.array([bool(bits >> i & 1) for i in range(12)])
    rank = np.asarray(tta.confidence_rank(confidence, where=jnp.asarray(where)))
    expected = scipy.stats.rankdata(np.asarray(confidence)[where]) / max(where.sum(), 1)
    np.testing.assert_allclose(rank[where], expected, atol=1e-7)
    np.testing.assert_array_equal(rank[~where], 0)


def test_rank_works_on_leading_axes():
    confidence = jnp.array([[0.1, 0.2, 0.3], [0.3, 0.2, 0.2]])
    rank = tta.confidence_rank(confidence)
    np.testing.assert_allclose(rank, [[1 / 3, 2 / 3, 1], [1, 0.5, 0.5]], atol=1e-7)


def test_all_flipped_is_the_maximum():
    n = 10
    rank = tta.confidence_rank(jnp.linspace(0.1, 1, n))
    rate = tta.flip_rate(jnp.zeros(n, int), jnp.ones(n, int), weight=rank)
    np.testing.assert_allclose(rate, (n + 1) / (2 * n), rtol=1e-6)


def test_labels_that_are_not_finite_count_as_flips():
    assert float(tta.flip_rate(jnp.array([-1, 2]), jnp.array([-1, 2]))) == 0.5


def test_no_images_give_zero():
    labels = jnp.array([1, 2])
    assert float(tta.flip_rate(labels, 1 - labels, where=jnp.zeros(2, bool))) == 0


def test_counting_along_the_stream_is_stopping_earlier():
    apply_fn = batch_statistics(GoldenNet())
    adapter = tta.tent(apply_fn, optax.sgd(0.3, momentum=0.9))
    stream = golden_stream()
    held = Batch(stream.x[:3], stream.where[:3].at[2, 40:].set(False))
    state = adapter.init(golden_variables())
    count = jax.jit(lambda b, every: tta.count_flips(adapter, state, b, held, every=every),
                    static_argnums=1)  # fmt: skip
    end, flips = count(stream, 3)
    assert flips.steps.tolist() == [3, 6, 9, 12]
    assert flips.labels.shape == (4, 192)
    assert int(flips.where.sum()) == 64 + 64 + 40
    _, earlier = count(jax.tree.map(lambda a: a[:6], stream), None)
    np.testing.assert_allclose(earlier.weighted[0], flips.weighted[1], rtol=1e-6)
    np.testing.assert_allclose(earlier.unweighted[0], flips.unweighted[1], rtol=1e-6)
    assert flips.unweighted[-1] > 0
    logits = adapter.predict(end, Batch(held.x[0], held.where[0]))
    np.testing.assert_array_equal(jnp.argmax(logits, -1), flips.labels[-1, :64])


@pytest.mark.parametrize("every", [0, 5, 24])
def test_every_must_divide_the_stream(every):
    adapter = tta.norm(batch_statistics(GoldenNet()))
    stream = golden_stream()
    with pytest.raises(ValueError, match="positive divisor of the number of steps"):
        tta.count_flips(adapter, adapter.init(golden_variables()), stream, stream, every=every)


@given(st.lists(st.booleans(), min_size=8, max_size=8))
def test_stderr_is_that_of_a_mean_or_of_one_flip(changed):
    weight = jnp.linspace(0.125, 1, 8)
    labels = jnp.where(jnp.array(changed), 1, 0)
    contributions = np.asarray(weight) * np.array(changed)
    expected = contributions.std(ddof=1) / np.sqrt(8) if any(changed) else 0.125 / 8
    stderr = tta.flip_rate_stderr(jnp.zeros(8, int), labels, weight=weight)
    assert float(stderr) == pytest.approx(expected, rel=1e-5)
    padded = tta.flip_rate_stderr(
        jnp.zeros(10, int),
        jnp.concatenate([labels, jnp.ones(2, int)]),
        weight=jnp.concatenate([weight, jnp.ones(2)]),
        where=jnp.arange(10) < 8,
    )
    assert float(padded) == pytest.approx(expected, rel=1e-5)


def test_flips_tell_when_nothing_could_be_learnt():
    """No flip among images that nothing was learnt from is no sign of accuracy."""
    adapter = tta.eta(
        batch_statistics(GoldenNet()), optax.sgd(0.1), num_classes=10, limits=tta.Limits(1e-9, 1.0)
    )
    stream = golden_stream()
    _, flips = jax.jit(lambda s: tta.count_flips(adapter, adapter.init(golden_variables()), s, s))(
        stream
    )
    assert flips.selected.tolist() == [0] * 12
    assert float(flips.unweighted[0]) == 0
    assert bool(flips.finite.all())
