import pickle

import numpy as np
import pytest

from entropax.data import load_npz
from entropax.data.arrays import npz_splits

RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (5, 4, 4, 3), np.uint8)
Y = np.array([0, 2, 1, 0, 2])


@pytest.mark.parametrize(
    "keys", ["x_{} y_{}", "{}_x {}_y", "images_{} labels_{}", "{}_images {}_labels"]
)
def test_archive_with_splits(tmp_path, keys):
    path = tmp_path / "set.npz"
    names = [key for split in ("train", "test") for key in keys.format(split, split).split()]
    np.savez_compressed(path, **dict(zip(names, (X, Y, X[:2], Y[:1].repeat(2)), strict=True)))
    assert npz_splits(path) == ("train", "test")
    train, test = load_npz(path, "train"), load_npz(str(path), "test")
    np.testing.assert_array_equal(train.images, X)
    np.testing.assert_array_equal(train.labels, Y)
    np.testing.assert_array_equal(test.images, X[:2])
    assert test.class_names == train.class_names == ("0", "1", "2")
    with pytest.raises(ValueError, match="Pass split=, one of train, test"):
        load_npz(path)


@pytest.mark.parametrize(("images", "labels"), [("x", "y"), ("images", "labels")])
def test_archive_with_one_set(tmp_path, images, labels):
    path = tmp_path / "set.npz"
    np.savez(path, **{images: X})
    assert load_npz(path).labels is None
    assert npz_splits(path) == ()
    np.savez(path, **{images: X, labels: Y[:, None]}, class_names=np.array(["a", "b", "c"]))
    data = load_npz(path)
    np.testing.assert_array_equal(data.labels, Y)
    assert data.class_names == ("a", "b", "c")
    with pytest.raises(ValueError, match="one set without splits: pass split=None"):
        load_npz(path, "train")


def test_channels_first_is_an_error(tmp_path):
    np.savez(tmp_path / "set.npz", x=X.transpose(0, 3, 1, 2), y=Y)
    with pytest.raises(ValueError, match=r"set\.npz \(x, y\): .*channels-first.*transpose"):
        load_npz(tmp_path / "set.npz")


def test_nan_is_an_error(tmp_path):
    np.savez(tmp_path / "set.npz", x=np.full((2, 3, 3), np.nan))
    with pytest.raises(ValueError, match="2 of 2 images hold NaN"):
        load_npz(tmp_path / "set.npz")


def test_labels_out_of_range(tmp_path):
    np.savez(tmp_path / "set.npz", x=X, y=Y, class_names=["a", "b"])
    with pytest.raises(ValueError, match="label 2 has no class name"):
        load_npz(tmp_path / "set.npz")


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was executed",))


def test_pickles_are_never_executed(tmp_path):
    path = tmp_path / "set.npz"
    np.savez(path, x=np.array([Bomb()]))
    with pytest.raises(ValueError, match="'x' is refused, for it holds Python objects"):
        load_npz(path)
    np.savez(path, x=X, y=np.array([Bomb()] * 5))
    with pytest.raises(ValueError, match="'y' is refused"):
        load_npz(path)
    path.write_bytes(pickle.dumps({"x": Bomb()}))
    with pytest.raises(ValueError, match="pickled data is never loaded"):
        load_npz(path)


def test_other_files(tmp_path):
    path = tmp_path / "set.npz"
    with pytest.raises(FileNotFoundError, match="There is no file"):
        load_npz(path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"not an \.npz archive"):
        load_npz(path)
    with path.open("wb") as file:
        np.save(file, X)
    with pytest.raises(ValueError, match="this is a single array"):
        load_npz(path)
    np.savez(path)
    with pytest.raises(ValueError, match=r"looked for x, images among the arrays \(none\)"):
        load_npz(path)
    np.savez(path, x=X, images=X)
    with pytest.raises(ValueError, match="either of x and images could be meant"):
        load_npz(path)


def test_damaged_archives(tmp_path):
    path = tmp_path / "set.npz"
    np.savez_compressed(path, x=X, y=Y)
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    with pytest.raises(ValueError, match="damaged or cut short"):
        load_npz(path)
    path.write_bytes(whole[:120] + bytes(20) + whole[140:])
    with pytest.raises(ValueError, match="'x' is"):
        load_npz(path)
