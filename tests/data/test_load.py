import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from entropax.data import ImageSet, load
from entropax.data.prepare import prepare

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 5, 5, 3), np.uint8)
LABELS = np.array([0, 1, 1, 0], np.int32)


@pytest.mark.parametrize("split", [None, "all"])
def test_digits(split):
    assert len(load("digits", split)) == 1797


def test_digits_have_no_splits():
    with pytest.raises(ValueError, match="without splits, got split='train'"):
        load("digits", "train")


def test_npz(tmp_path):
    np.savez(tmp_path / "a.npz", x_test=IMAGES, y_test=LABELS)
    np.testing.assert_array_equal(load("npz", "test", path=tmp_path / "a.npz").images, IMAGES)
    np.savez(tmp_path / "b.npz", x=IMAGES)
    assert load("npz", None, path=tmp_path / "b.npz").labels is None


def test_folder(tmp_path):
    folder = tmp_path / "val" / "cat"
    folder.mkdir(parents=True)
    Image.fromarray(IMAGES[0]).save(folder / "1.png")
    np.testing.assert_array_equal(load("folder", "test", path=tmp_path).images, IMAGES[:1])
    assert load("folder", None, path=folder, size=3).images.shape == (1, 3, 3, 3)


def test_named(tmp_path):
    prepare("pets", {"test": ImageSet(IMAGES, LABELS, ("cat", "dog"))}, tmp_path)
    assert load("pets", "test", data_dir=tmp_path).class_names == ("cat", "dog")
    assert load("pets", "test", data_dir=tmp_path, size=3).images.shape == (4, 3, 3, 3)


@pytest.mark.parametrize("source", ["idx", "folder", "npz"])
def test_files_need_a_path(source, tmp_path):
    with pytest.raises(ValueError, match=f"'{source}' needs `path`"):
        load(source, "train")
    with pytest.raises(ValueError, match="takes no `data_dir`"):
        load(source, "train", path=tmp_path, data_dir=tmp_path)


@pytest.mark.parametrize("source", ["digits", "mnist"])
def test_others_take_no_path(source, tmp_path):
    with pytest.raises(ValueError, match=f"'{source}' takes no `path`"):
        load(source, "train", path=tmp_path)


@pytest.mark.parametrize(("source", "path"), [("digits", None), ("idx", "p"), ("npz", "p")])
def test_arrays_are_not_resized(source, path):
    with pytest.raises(ValueError, match="have one size"):
        load(source, "all", path=path, size=8)


@pytest.mark.parametrize(("source", "path"), [("mnist", None), ("idx", "p")])
def test_some_sources_need_a_split(source, path):
    with pytest.raises(ValueError, match="split"):
        load(source, None, path=path)


def test_importing_the_package_is_light():
    heavy = ["sklearn", "PIL", "tensorflow_datasets", "tensorflow"]
    code = f"import sys, entropax.data; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
