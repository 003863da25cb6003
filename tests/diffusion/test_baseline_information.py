"""Values of the published code to 1e-10 (the directed graph to 1e-6), and closed forms."""

import math

import jax
import numpy as np
import pytest
from diffusion import golden

from entropax import entropy
from entropax.diffusion.baseline_information import (
    adjacency_mutual_information,
    binned_mutual_information,
)
from entropax.diffusion.mutual_information import dsmi

N, D = 60, 4
BLOBS = np.random.default_rng(0).normal(size=(N, D)) + 4 * np.eye(D)[np.arange(N) % 3]
LABELS = np.arange(N) % 3


def of_blobs(fn, **params):
    chosen = golden.cases(fn=fn, **params)
    kind, name = "mod", "blobs-240x32"  # classes of one size: another would compile again
    found = [case for case in chosen if case["labels"]["kind"] == kind and case["input"] == name]
    assert found
    return pytest.mark.parametrize("case", found, ids=lambda case: case["id"])


@of_blobs("asmi", use_knn=None)
def test_the_published_values_of_gaussian_kernels(case):
    params = case["params"]
    with jax.enable_x64(True):
        found = adjacency_mutual_information(
            golden.features(case),
            golden.labels(case),
            sigma=params["gaussian_kernel_sigma"],
            kernel="anisotropic" if params.get("anisotropic") else "gaussian",
            scheme="compat",
        )
    assert found.value / math.log(2) == pytest.approx(case["value"], abs=1e-10)


@of_blobs("asmi", use_knn=True)
def test_the_published_values_of_graphs(case):
    with jax.enable_x64(True):
        found = adjacency_mutual_information(
            golden.features(case),
            golden.labels(case),
            kernel="knn",
            symmetric=False,
            scheme="compat",
        )
    assert found.value / math.log(2) == pytest.approx(case["value"], abs=1e-6)


@pytest.mark.parametrize(
    "case", golden.cases(fn="dsmi", classic_shannon_entropy=True), ids=lambda case: case["id"]
)
def test_the_published_values_of_bins(case):
    found = binned_mutual_information(
        golden.features(case),
        golden.labels(case),
        num_bins=case["params"]["num_bins_per_dim"],
        scheme="compat",
    )
    assert found.value / math.log(2) == pytest.approx(case["value"], abs=1e-10)


def test_the_holevo_quantity_of_a_kernel():
    """Of the kernel over the number of points, whose blocks are the kernels of the classes."""
    kernel = np.exp(-np.sum((BLOBS[:, None] - BLOBS) ** 2, axis=-1) / 8)

    def entropy_of(block):
        return float(entropy.von_neumann(np.linalg.eigvalsh(block)))

    blocks = [entropy_of(kernel[np.ix_(rows, rows)]) for rows in np.arange(N).reshape(-1, 3).T]
    found = adjacency_mutual_information(BLOBS, LABELS, sigma=2.0, scheme="holevo")
    assert found.value == pytest.approx(entropy_of(kernel) - np.mean(blocks), abs=1e-5)  # float32
    assert found.maximum == pytest.approx(math.log(3))
    assert 0 < found.adjusted < 1


def test_the_anisotropic_kernel_is_the_diffusion_operator():
    found = adjacency_mutual_information(BLOBS, LABELS, sigma=2.0, kernel="anisotropic")
    assert found.value == dsmi(BLOBS, LABELS, sigma=2.0).value


def test_the_graph_of_each_class():
    def entropy_of(x, neighbours=5):
        squares = np.sum((x[:, None] - x) ** 2, axis=-1)
        nearest = squares <= np.sort(squares, axis=1)[:, [neighbours - 1]]
        p = np.abs(np.linalg.eigvalsh(np.float64(nearest | nearest.T)))
        p = p[p > 0] / p.sum()
        return -np.sum(p * np.log(p))

    found = adjacency_mutual_information(BLOBS, LABELS, kernel="knn", neighbours=5)
    expected = [entropy_of(BLOBS[number == LABELS]) for number in range(3)]
    np.testing.assert_allclose(found.classes.entropies, expected, atol=1e-5)  # float32


def test_a_class_of_fewer_points_than_neighbours_is_told_of():
    y = LABELS.copy()
    y[:3] = 9
    with pytest.warns(UserWarning, match="smallest class has 3 points, fewer than the 10"):
        found = adjacency_mutual_information(BLOBS, y, kernel="knn")
    assert found.classes.entropies[-1] == pytest.approx(0, abs=1e-5)  # all are neighbours
    assert not np.isnan(np.array(found[:8])).any()


def test_bins_give_the_classical_information():
    x = np.array([[0.0], [0.1], [0.2], [0.8], [0.9], [1.0]])
    y = [0, 0, 1, 1, 1, 1]  # cells 000111: one of the three in the first is of class 1
    found = binned_mutual_information(x, y)
    conditional = 4 / 6 * (-0.25 * math.log(0.25) - 0.75 * math.log(0.75))
    assert found.value == pytest.approx(math.log(2) - conditional, abs=1e-12)
    assert found.entropy == pytest.approx(math.log(2), abs=1e-12)
    assert found.maximum == pytest.approx(-(math.log(1 / 3) / 3 + 2 * math.log(2 / 3) / 3))


def test_bins_of_many_dimensions_tell_nothing_beyond_chance():
    x = np.random.default_rng(3).normal(size=(60, 40))
    found = binned_mutual_information(x, LABELS)
    assert found.value == pytest.approx(math.log(3))  # every point has its own cell
    assert found.adjusted == 0
    assert found.p_value == 1


@pytest.mark.parametrize(
    ("function", "options", "message"),
    [
        (adjacency_mutual_information, {}, "needs `sigma`|needs a bandwidth"),
        (adjacency_mutual_information, {"sigma": 1.0, "kernel": "cosine"}, "`kernel` must be"),
        (adjacency_mutual_information, {"kernel": "knn", "scheme": "holevo"}, "no density matrix"),
        (adjacency_mutual_information, {"sigma": 1.0, "scheme": "best"}, "`scheme` must be"),
        (binned_mutual_information, {"num_bins": 0}, "`num_bins` must be at least 1, got 0"),
        (binned_mutual_information, {"num_repetitions": 0}, "`num_repetitions`"),
        (binned_mutual_information, {"scheme": "best"}, "`scheme` must be"),
    ],
)
def test_what_is_refused(function, options, message):
    with pytest.raises(ValueError, match=message):
        function(BLOBS, LABELS, **options)


def test_neighbours_of_the_graph_and_of_the_bandwidth():
    """More neighbours than a padded class has rows link all of it: no entropy."""
    with pytest.warns(UserWarning, match="all points are neighbours"):
        found = adjacency_mutual_information(BLOBS, LABELS, kernel="knn", neighbours=40)
    assert found.value == pytest.approx(0, abs=1e-5)
    values = [
        adjacency_mutual_information(BLOBS, LABELS, sigma="knn", neighbours=k, num_repetitions=2)
        for k in (2, 10)
    ]
    assert abs(values[0].value - values[1].value) > 1e-3
