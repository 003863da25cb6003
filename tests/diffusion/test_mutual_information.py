"""Values of the published code to 1e-10, and each scheme against a loop over subsets in NumPy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from diffusion import golden

from entropax.diffusion import mutual_information
from entropax.diffusion.classes import classes
from entropax.diffusion.mutual_information import dsmi
from entropax.diffusion.random_classes import published_subsets, random_partitions
from entropax.diffusion.sampling import Lanczos

N, D = 60, 4
BLOBS = np.random.default_rng(0).normal(size=(N, D)) + 4 * np.eye(D)[np.arange(N) % 3]
LABELS = np.arange(N) % 3


def by_definition(x, sigma, alpha=0.0, t=1.0):
    """Diffusion entropy in float64; `sigma` may be one for each point."""
    kernel = np.exp(-np.sum((x[:, None] - x) ** 2, -1) / (2 * np.multiply.outer(sigma, sigma)))
    for power in (alpha, 0.5):
        degrees = kernel.sum(1)
        kernel = kernel / np.outer(degrees, degrees) ** power
    powers = np.abs(np.linalg.eigvalsh(kernel)) ** t
    p = powers / powers.sum()
    return -np.sum(p[p > 1e-300] * np.log(p[p > 1e-300]))


def cases():
    """Every kind of label of one input, and one class of one point: other shapes compile again."""
    chosen = []
    for case in golden.cases(fn="dsmi"):
        params, kind = case["params"], case["labels"]["kind"]
        if "matrix_entry_entropy" in params or "classic_shannon_entropy" in params:
            continue
        of_blobs = case["input"] == "blobs-240x32" and (kind != "vectors" or "clusters" in case)
        if of_blobs or (kind == "singleton" and "t" not in params):
            chosen.append(case)
    return chosen


@pytest.mark.parametrize("case", cases(), ids=lambda case: case["id"])
def test_the_published_values(case):
    params = case["params"]
    y = golden.clusters(case) if "clusters" in case else golden.labels(case)
    with jax.enable_x64(True):
        found = dsmi(
            golden.features(case),
            classes(y, num_bins=params.get("n_clusters", 10)),
            sigma=params["gaussian_kernel_sigma"],
            t=params.get("t", 1),
            scheme="compat",
            num_repetitions=params.get("num_repetitions", 5),
            seed=params.get("random_seed", 0),
        )
    assert found.value / math.log(2) == pytest.approx(case["value"], abs=1e-10)
    np.testing.assert_allclose(
        found.classes.entropies / math.log(2), case["H_given_class"], atol=1e-10
    )


def test_the_published_values_cover_every_kind_of_label():
    kinds = {case["labels"]["kind"] for case in cases()}
    assert kinds >= {"mod", "singleton", "vectors"}
    assert len(cases()) >= 10


@pytest.mark.parametrize(
    "options", [{"alpha": 0.5, "t": 2.0}, {"sigma": "adaptive"}], ids=["corrected", "adaptive"]
)
def test_permutation_is_a_loop_over_partitions(options):
    key = jax.random.key(3)
    options = {"sigma": 2.0, **options}
    with jax.enable_x64(True):
        found = dsmi(BLOBS, LABELS, key=key, num_repetitions=4, **options)
        if options["sigma"] == "adaptive":
            distances = np.sort(np.linalg.norm(BLOBS[:, None] - BLOBS, axis=-1), axis=1)
            widths = distances[:, 10]
        else:
            widths = np.full(N, options["sigma"])
        shared = {"alpha": options.get("alpha", 0.0), "t": options.get("t", 1.0)}
        groups = classes(LABELS)
        values = np.array(
            [
                [by_definition(BLOBS[rows], widths[rows], **shared) for rows in partition]
                for partition in (groups.members(), *random_partitions(groups, 4, key))
            ]
        )
    means = values.mean(axis=1)  # classes of one size
    assert found.value == pytest.approx(means[1:].mean() - means[0], abs=1e-10)
    assert found.stderr == pytest.approx(means[1:].std(ddof=1) / 2, abs=1e-10)
    assert found.maximum == pytest.approx(means[1:].mean(), abs=1e-10)
    assert found.adjusted == pytest.approx(found.value / found.maximum, abs=1e-10)
    assert found.null_mean == pytest.approx(0, abs=1e-12)
    assert found.z_score == pytest.approx(
        found.value / (means[1:].std(ddof=1) * math.sqrt(1.25)), rel=1e-6
    )
    assert found.p_value == pytest.approx(1 / 5)
    np.testing.assert_allclose(found.classes.entropies, values[0], atol=1e-10)
    np.testing.assert_allclose(found.classes.null_entropies, values[1:].mean(0), atol=1e-10)
    assert found.classes.contributions.sum() == pytest.approx(found.value, abs=1e-10)
    assert found.entropy is None


def test_permutation_varies_by_less_than_a_quarter_of_the_published_scheme():
    """Equal cost: ten classes and five repetitions; 1 to 8 was measured for 1,000 points."""
    x = np.random.default_rng(5).normal(size=(160, D)).astype(np.float32)
    y = classes(np.arange(160) % 10)
    published = [dsmi(x, y, sigma=2.0, scheme="compat", seed=seed).value for seed in range(30)]
    ours = [dsmi(x, y, sigma=2.0, key=jax.random.key(seed)).value for seed in range(30)]
    assert np.std(ours) < np.std(published) / 4
    assert (
        abs(np.mean(ours)) < 0.07
    )  # labels that tell nothing: four times the spread of a partition


def test_the_standard_error_tells_how_much_the_value_varies():
    y = classes(LABELS)
    found = [dsmi(BLOBS, y, sigma=2.0, key=jax.random.key(seed)) for seed in range(30)]
    spread = np.std([each.value for each in found])
    typical = np.sqrt(np.mean([each.stderr**2 for each in found]))
    assert 0.6 < typical / spread < 1.6  # the spread itself is known to 13 %


def test_chance_and_certainty():
    shuffled = np.random.default_rng(1).permutation(LABELS)
    chance = dsmi(BLOBS, shuffled, sigma=2.0, num_repetitions=19)
    assert abs(chance.z_score) < 4
    assert chance.p_value > 0.05
    assert abs(chance.adjusted) < 0.05
    certain = dsmi(BLOBS, LABELS, sigma=2.0, num_repetitions=19)
    assert certain.z_score > 10
    assert certain.p_value == 0.05
    assert certain.value > 10 * abs(chance.value)


@pytest.mark.parametrize("scheme", ["permutation", "compat", "holevo"])
def test_labels_of_any_type_are_one_and_the_same(scheme):
    expected = dsmi(BLOBS, LABELS, sigma=2.0, scheme=scheme)
    for y in (LABELS.astype(str).tolist(), LABELS[:, None].astype(float), jnp.asarray(LABELS)):
        found = dsmi(BLOBS, y, sigma=2.0, scheme=scheme)
        assert found[:8] == expected[:8]
    assert found.classes.names == (0, 1, 2)


@pytest.mark.parametrize("scheme", ["permutation", "compat", "holevo"])
def test_one_class_tells_nothing(scheme):
    found = dsmi(BLOBS[:32], np.zeros(32, int), sigma=2.0, scheme=scheme)
    assert found.value == pytest.approx(0, abs=1e-5)  # float32
    assert found.adjusted == pytest.approx(0, abs=1e-5)
    assert found.z_score == 0
    assert found.p_value == 1


@pytest.mark.parametrize("scheme", ["permutation", "compat", "holevo"])
def test_points_that_are_all_equal(scheme):
    found = dsmi(np.ones((N, D)), LABELS, sigma=2.0, scheme=scheme)
    numbers = np.array(found[:8])
    # A difference of 0 to its maximum, but for rounding of 0 in a block of many equal points.
    np.testing.assert_allclose(numbers[[0, 1, 2, 4, 5, 6]], 0, atol=2e-5)
    assert found.p_value == 1


@pytest.mark.parametrize("scheme", ["permutation", "compat", "holevo"])
def test_classes_of_one_point_count_with_entropy_0(scheme):
    y = LABELS.copy()
    y[5] = 9
    found = dsmi(BLOBS, y, sigma=2.0, scheme=scheme)
    assert found.classes.counts[-1] == 1
    assert found.classes.entropies[-1] == pytest.approx(0, abs=1e-6)
    assert found.classes.contributions[-1] == pytest.approx(0, abs=1e-6)
    every = dsmi(BLOBS, np.arange(N), sigma=2.0, scheme=scheme)
    assert every.adjusted == pytest.approx(0, abs=1e-5)
    assert every.z_score == 0
    assert every.p_value == 1
    assert not np.isnan(np.array(every[:8])).any()


def test_one_repetition_has_no_spread():
    found = dsmi(BLOBS, LABELS, sigma=2.0, num_repetitions=1)
    assert math.isfinite(found.value)
    assert math.isnan(found.stderr)
    assert math.isnan(found.null_std)
    assert math.isnan(found.z_score)
    assert found.p_value == 0.5


def test_the_scale_of_points_and_bandwidth_is_one():
    first = dsmi(BLOBS, LABELS, sigma="median")
    second = dsmi(1000 * BLOBS + 5e4, LABELS, sigma="median")  # NumPy centres in float64
    assert second.value == pytest.approx(first.value, abs=1e-5)


def test_large_subsets_are_sampled(monkeypatch):
    exact = dsmi(BLOBS, LABELS, sigma=2.0)
    monkeypatch.setattr(mutual_information, "_EXACT", 10)
    settings = Lanczos(num_probes=8, num_deflated=8, num_steps=10)
    sampled = dsmi(BLOBS, LABELS, sigma=2.0, method=settings)
    assert sampled.value == pytest.approx(exact.value, abs=0.02)
    assert sampled.value != exact.value
    still_exact = dsmi(BLOBS, LABELS, sigma=2.0, method="exact")
    assert still_exact.value == exact.value


def test_the_published_code_starts_anew_after_a_large_class():
    """What it does with more than `max_points`: all repetitions but the first are the same."""
    subsets = published_subsets(np.array([12, 3]), num_repetitions=4, seed=1, max_points=6)
    large = [tuple(of_classes[0]) for of_classes in subsets]
    assert {len(rows) for rows in large} == {6}
    assert len(set(large)) == 2
    assert large[1] == large[2] == large[3]
    assert len({tuple(of_classes[1]) for of_classes in subsets}) == 4


def test_without_a_seed_the_published_subsets_differ():
    first, second = published_subsets(np.full(2, 40), num_repetitions=1, seed=None)[0][:2]
    assert first.tolist() != second.tolist()


def test_the_table_names_the_classes():
    table = dsmi(BLOBS, np.array(["ant", "bee", "caterpillar"])[LABELS], sigma=2.0).table()
    assert [line.split()[0] for line in table.splitlines()[1:]] == [
        "class",
        "ant",
        "bee",
        "caterpillar",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scheme": "best"}, "`scheme` must be one of .*'best'"),
        ({"num_repetitions": 0}, "`num_repetitions` must be at least 1, got 0"),
        ({"sigma": 0.0}, "`sigma` must be positive"),
        ({"sigma": None}, "needs a bandwidth"),
        ({"sigma": "mode"}, "`sigma` must be"),
        ({"method": "fast"}, "`method` must be"),
        ({"scheme": "holevo", "t": 0.0}, "`t` must be positive"),
        ({"y": LABELS[:-1]}, "got 60 and 59"),
        ({"z": np.where(BLOBS > 3, np.nan, BLOBS)}, "NaN"),
        ({"z": BLOBS[:, 0]}, r"points \[n, d\]"),
        ({"y": np.where(LABELS == 1, np.nan, LABELS)}, "must be finite"),
    ],
)
def test_what_is_refused(options, message):
    arguments = {"z": BLOBS, "y": LABELS, "sigma": 2.0, **options}
    with pytest.raises(ValueError, match=message):
        dsmi(arguments.pop("z"), arguments.pop("y"), **arguments)
