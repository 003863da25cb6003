import threading

import jax
import numpy as np
import pytest

from entropax.diffusion.cache import SpectrumCache, identify
from entropax.diffusion.spectral import spectral_entropy
from entropax.diffusion.spectrum import Lanczos, spectrum

N, D = 40, 5
SAMPLED = Lanczos(num_probes=4, num_deflated=4, num_steps=4)


def points():
    return np.random.default_rng(0).normal(size=(N, D)).astype(np.float32)


def leaves(walk):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(walk)]


@pytest.mark.parametrize("method", ["exact", SAMPLED])
def test_what_is_read_is_what_was_written_bit_for_bit(tmp_path, method):
    cache = SpectrumCache(tmp_path / "not" / "there" / "yet")
    options = {"sigma": 1.5, "method": method, "cache": cache}
    first = spectrum(points(), **options)
    (file,) = cache.folder.iterdir()
    written = file.stat().st_mtime_ns
    second = spectrum(points(), **options)
    assert [file.stat().st_mtime_ns for file in cache.folder.iterdir()] == [written]
    assert jax.tree.structure(first) == jax.tree.structure(second)
    for one, other in zip(leaves(first), leaves(second), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    assert float(spectral_entropy(first)) == float(spectral_entropy(second))


def test_a_graph_has_no_bandwidth_to_keep(tmp_path):
    for _ in range(2):
        walk = spectrum(points(), kernel="knn", cache=SpectrumCache(tmp_path))
        assert walk.sigma is None


def test_everything_that_matters_is_in_the_name(tmp_path):
    x = points()
    options = {"sigma": 1.5, "alpha": 0.0, "where": None, "sampling": {"num_probes": 4}}
    others = [
        identify(np.nextafter(x, 9), options),
        identify(x.reshape(D, N), options),
        identify(x.astype(np.float64), options),
        identify(x, {**options, "sigma": 1.5 + 1e-12}),
        identify(x, {**options, "alpha": 0.5}),
        identify(x, {**options, "where": np.ones(N, bool)}),
        identify(x, {**options, "sampling": {"num_probes": 5}}),
        identify(x, {**options, "sampling": None}),
        identify(x, options),
    ]
    cache = SpectrumCache(tmp_path)
    assert len({cache.path(identity) for identity in others}) == len(others)
    assert cache.path(identify(x, options)) == cache.path(others[-1])


def test_other_options_make_another_file(tmp_path):
    cache = SpectrumCache(tmp_path)
    options = {"sigma": 1.5, "cache": cache}
    spectrum(points(), **options)
    spectrum(points(), **options, alpha=0.5)
    spectrum(points(), **options, where=np.arange(N) < 30)
    spectrum(points(), **options, method=SAMPLED)
    spectrum(points(), **options, method=SAMPLED, key=jax.random.key(1))
    assert len(list(tmp_path.iterdir())) == 5
    spectrum(points(), **options, method="exact")  # what "auto" chose
    spectrum(points(), **options, method=SAMPLED, key=jax.random.key(0))  # the default
    assert len(list(tmp_path.iterdir())) == 5


def test_a_bare_name_is_a_folder_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spectrum(points(), sigma=1.5, cache=SpectrumCache("spectra"))
    assert len(list((tmp_path / "spectra").glob("*.npz"))) == 1
    assert repr(SpectrumCache("spectra")) == "SpectrumCache('spectra')"


def test_a_damaged_file_is_named(tmp_path):
    cache, identity = SpectrumCache(tmp_path), identify(points(), {})
    cache.save(identity, {"eigvals": np.arange(200.0)})
    whole = cache.path(identity).read_bytes()
    half = bytearray(whole)
    half[len(whole) // 2] ^= 1
    for damaged in (whole[: len(whole) // 2], whole[:-1], b"", b"not an archive", bytes(half)):
        cache.path(identity).write_bytes(damaged)
        with pytest.raises(ValueError, match=f"{cache.path(identity).name} cannot be read"):
            cache.load(identity)


def test_a_file_of_something_else_is_refused(tmp_path):
    cache = SpectrumCache(tmp_path)
    mine, other = (identify(points(), {"sigma": sigma}) for sigma in (1.0, 2.0))
    cache.save(other, {"eigvals": np.ones(3)})
    cache.path(other).rename(cache.path(mine))
    with pytest.raises(ValueError, match=r"is of something else: it differs in \['options'\]"):
        cache.load(mine)
    np.savez(cache.path(mine), eigvals=np.ones(3))  # no identity at all
    with pytest.raises(ValueError, match="cannot be read"):
        cache.load(mine)


def test_pickles_are_not_read(tmp_path):
    cache, identity = SpectrumCache(tmp_path), identify(points(), {})
    with pytest.raises(ValueError, match="allow_pickle"):
        cache.save(identity, {"eigvals": np.array([{}], object)})
    assert list(tmp_path.iterdir()) == []  # nothing half written
    np.savez(cache.path(identity), identity=np.array([{}], object))
    with pytest.raises(ValueError, match="cannot be read"):
        cache.load(identity)


def test_writers_at_the_same_time(tmp_path):
    cache, identity = SpectrumCache(tmp_path), identify(points(), {})
    arrays, failures = {"eigvals": np.arange(20_000.0)}, []

    def write_and_read():
        try:
            for _ in range(10):
                cache.save(identity, arrays)
                np.testing.assert_array_equal(cache.load(identity)["eigvals"], arrays["eigvals"])
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=write_and_read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert list(tmp_path.iterdir()) == [cache.path(identity)]


def test_a_traced_spectrum_is_not_cached(tmp_path):
    cache = SpectrumCache(tmp_path)
    with pytest.raises(ValueError, match="no numbers yet for a cache"):
        jax.jit(lambda x: spectrum(x, sigma=1.0, cache=cache).residual)(points())
