"""Against values of the published code, and where the two differ on purpose."""

import math
import random

import numpy as np
import pytest
from diffusion import golden

from entropax.diffusion import compat


def some(cases, step):
    """One of so many cases, and all with a cache: the shapes of all take minutes."""
    return [case for i, case in enumerate(cases) if i % step == 0 or "cache" in case]


POINTS = np.random.default_rng(0).standard_normal((30, 4))


def case_id(case):
    return case["id"]


def close(value, case, *, rel=1e-7, absolute=1e-9):
    return value == pytest.approx(case["value"], rel=rel, abs=absolute)


@pytest.mark.parametrize("case", some(golden.cases(fn="dse"), 3), ids=case_id)
def test_diffusion_entropies(case, tmp_path):
    path = tmp_path if "cache" in case else None
    value = compat.diffusion_spectral_entropy(
        golden.features(case), eigval_save_path=path, **case["params"]
    )
    # The published value comes from eigenvalues rounded to this type.
    rel = {"float16": 1e-3, "float32": 1e-6}.get(case.get("cache"), 1e-7)
    # An epsilon of 2.2e-16 in n (or n^2) logarithms adds 1e-10 (or 1e-9) bits there.
    assert close(value, case, rel=rel)


@pytest.mark.parametrize("case", some(golden.cases(fn="ase"), 3), ids=case_id)
def test_adjacency_entropies(case):
    value = compat.adjacency_spectral_entropy(golden.features(case), **case["params"])
    # Complex eigenvalues of a defective matrix are good to the root of rounding.
    assert close(value, case, rel=1e-6 if "use_knn" in case["params"] else 1e-7)


def information(case):
    options = dict(case["params"])
    if "clusters" in case:
        options["precomputed_clusters"] = golden.clusters(case)
    function = {
        "dsmi": compat.diffusion_spectral_mutual_information,
        "asmi": compat.adjacency_spectral_mutual_information,
    }[case["fn"]]
    return function(golden.features(case), golden.labels(case), **options)


@pytest.mark.parametrize(
    "case", some(golden.cases(fn="dsmi") + golden.cases(fn="asmi"), 7), ids=case_id
)
def test_mutual_informations(case):
    value, labels = information(case)
    exact = not (case["params"].keys() & {"use_knn", "matrix_entry_entropy"})
    assert close(value, case, rel=0, absolute=1e-10 if exact else 1e-6)
    if "cluster_labels" in case:
        np.testing.assert_array_equal(labels[:, 0], case["cluster_labels"])
    assert labels.shape == (len(golden.features(case)), 1)


@pytest.mark.parametrize("case", golden.cases(raises=True), ids=case_id)
def test_what_raised(case):
    if case["fn"] == "asmi":  # classes with fewer points than neighbours
        with pytest.warns(UserWarning, match="neighbours"):
            assert math.isfinite(information(case)[0])
    elif case["fn"] == "dsmi":
        with pytest.raises(ValueError, match=r"must belong to the same|clusters"):
            information(case)
    elif case["fn"] == "ase":
        with pytest.raises(ValueError, match="got 10"):
            compat.adjacency_spectral_entropy(golden.features(case), **case["params"])
    else:
        with pytest.raises(ValueError, match=r"`sigma` must be positive and finite, got 0\.0"):
            compat.diffusion_spectral_entropy(golden.features(case), **case["params"])


def test_points_are_drawn_without_touching_the_global_generator(monkeypatch):
    monkeypatch.setattr(random, "seed", lambda *_: pytest.fail("the global generator is seeded"))
    monkeypatch.setattr(random, "sample", lambda *_, **__: pytest.fail("and drawn from"))
    value = compat.diffusion_spectral_entropy(POINTS, 2, max_N=10, random_seed=3)
    rows = random.Random(3).sample(range(30), k=10)
    assert value == compat.diffusion_spectral_entropy(POINTS[rows], 2)
    assert value != compat.diffusion_spectral_entropy(POINTS, 2, max_N=10, random_seed=4)
    whole = compat.diffusion_spectral_entropy(POINTS, 2, max_N=None)
    assert whole == compat.diffusion_spectral_entropy(POINTS, 2)
    with pytest.raises(ValueError, match="`max_N` must be at least 1, got 0"):
        compat.diffusion_spectral_entropy(POINTS, 2, max_N=0)


def test_lists_integers_and_other_types():
    integers = (10 * POINTS).astype(int)
    value = compat.diffusion_spectral_entropy(integers.astype(float), 20)
    assert compat.diffusion_spectral_entropy(integers, 20) == value
    assert compat.diffusion_spectral_entropy(integers.tolist(), 20) == value


def test_binned_goes_before_matrix_entries():
    both = compat.diffusion_spectral_entropy(
        POINTS, classic_shannon_entropy=True, matrix_entry_entropy=True
    )
    assert both == compat.diffusion_spectral_entropy(POINTS, classic_shannon_entropy=True)
    graph = compat.adjacency_spectral_entropy(POINTS, use_knn=True, anisotropic=True)
    assert graph == compat.adjacency_spectral_entropy(POINTS, use_knn=True)


@pytest.mark.parametrize(
    "function", [compat.diffusion_spectral_entropy, compat.adjacency_spectral_entropy]
)
def test_cache_belongs_to_the_data(function, tmp_path):
    first = function(POINTS, 2, eigval_save_path=tmp_path / "spectra")
    assert len(list((tmp_path / "spectra").iterdir())) == 1
    assert (
        function(POINTS, 2, eigval_save_path=tmp_path / "spectra") == first == function(POINTS, 2)
    )
    for x, sigma in ((2 * POINTS, 2), (POINTS, 1)):
        assert function(x, sigma, eigval_save_path=tmp_path / "spectra") == function(x, sigma)
    assert len(list((tmp_path / "spectra").iterdir())) == 3
    (tmp_path / "old.npz").write_bytes(b"")
    with pytest.raises(ValueError, match=r"must be a folder, and .*old\.npz' is a file"):
        function(POINTS, 2, eigval_save_path=tmp_path / "old.npz")


def test_cache_is_read(tmp_path):
    compat.adjacency_spectral_entropy(POINTS, 2, eigval_save_path=tmp_path)
    (path,) = tmp_path.iterdir()
    with np.load(path) as file:
        arrays = dict(file)
    np.savez(path, **{**arrays, "entropy": math.log(2)})
    assert compat.adjacency_spectral_entropy(POINTS, 2, eigval_save_path=tmp_path) == 1


def test_chebyshev_warns_and_is_right():
    exact = compat.diffusion_spectral_entropy(POINTS, 2)
    with pytest.warns(UserWarning, match="not carried over"):
        assert compat.diffusion_spectral_entropy(POINTS, 2, chebyshev_approx=True) == exact
    y = np.arange(30) % 2
    exact = compat.diffusion_spectral_mutual_information(POINTS, y, gaussian_kernel_sigma=2)[0]
    with pytest.warns(UserWarning, match="not carried over"):
        value = compat.diffusion_spectral_mutual_information(
            POINTS, y, gaussian_kernel_sigma=2, chebyshev_approx=True
        )[0]
    assert value == exact


def test_verbose_prints(capsys):
    compat.diffusion_spectral_entropy(POINTS)
    assert not capsys.readouterr().out
    compat.diffusion_spectral_entropy(POINTS, 1e-3, verbose=True)
    assert capsys.readouterr().out == "Diffusion spectral entropy of 30 points: 4.90689 bits.\n"


def test_one_point():
    for options in ({}, {"classic_shannon_entropy": True}, {"matrix_entry_entropy": True}):
        assert compat.diffusion_spectral_entropy(POINTS[:1], **options) == 0
    assert compat.adjacency_spectral_entropy(POINTS[:1]) == 0
    assert compat.adjacency_spectral_entropy(POINTS[:1], use_knn=True, knn=1) == 0


def test_labels_of_any_type():
    y = np.arange(30) % 3
    expected = compat.diffusion_spectral_mutual_information(POINTS, y, gaussian_kernel_sigma=2)[0]
    for labels in (y[:, None], y.tolist(), np.array(list("abc"))[y], y.astype(float)):
        value, classes = compat.diffusion_spectral_mutual_information(
            POINTS, labels, gaussian_kernel_sigma=2
        )
        assert value == expected
    assert np.unique(classes).tolist() == [1, 6, 10]  # whole numbers that are floats: bins of ten
    value, classes = compat.diffusion_spectral_mutual_information(POINTS, y > 0)
    assert classes.dtype == bool


def test_what_is_a_label():
    information = compat.diffusion_spectral_mutual_information
    y = np.arange(30) % 3
    given = information(POINTS, y, precomputed_clusters=y // 2)  # labels need no clusters
    assert given[0] == information(POINTS, y)[0]
    given = information(POINTS, POINTS[:, 0], precomputed_clusters=y)
    assert given[0] == information(POINTS, y)[0]
    assert information(POINTS, y, reference_discrete=False)[1].max() == 10
    assert information(POINTS, 0.0 * y)[0] == 0  # one bin
    with pytest.raises(ValueError, match=r"one column of labels, got the shape \(30, 4\)"):
        information(POINTS, POINTS, reference_discrete=True)
    with pytest.raises(ValueError, match="`precomputed_clusters` has 29 entries for 30"):
        information(POINTS, POINTS, precomputed_clusters=y[1:])
    with pytest.raises(ValueError, match="`n_clusters` must be at least 1, got 0"):
        information(POINTS, POINTS[:, 0], n_clusters=0)
    with pytest.raises(ValueError, match="NaN or an infinite"):
        information(POINTS, POINTS[:, 0] * np.nan)


def test_bad_points():
    for function in (compat.diffusion_spectral_entropy, compat.adjacency_spectral_entropy):
        for sigma in (0, -2, np.inf, np.nan):
            with pytest.raises(ValueError, match="`sigma` must be positive"):
                function(POINTS, sigma)
        with pytest.raises(ValueError, match="NaN"):
            function(POINTS * np.nan)
        for x in (POINTS[:, 0], POINTS[:0], POINTS.reshape(5, 6, 4)):
            with pytest.raises(ValueError, match="shape"):
                function(x)
    with pytest.raises(ValueError, match="not negative, got -1"):
        compat.diffusion_spectral_entropy(POINTS, 2, t=-1)
    with pytest.raises(ValueError, match="`num_bins` must be at least 1, got 0"):
        compat.diffusion_spectral_entropy(POINTS, classic_shannon_entropy=True, num_bins_per_dim=0)
    with pytest.raises(ValueError, match="`num_repetitions` must be at least 1, got 0"):
        compat.diffusion_spectral_mutual_information(POINTS, [0] * 30, num_repetitions=0)
