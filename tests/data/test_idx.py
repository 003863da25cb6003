import gzip
import struct

import numpy as np
import pytest

from entropax.data import load_idx, read_idx
from entropax.data.idx import idx_splits

CODES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}


def encode(array):
    header = struct.pack(
        f">BBBB{array.ndim}I", 0, 0, CODES[array.dtype.str[1:]], array.ndim, *array.shape
    )
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


def write_split(folder, prefix, images, labels, suffix="", separator="-"):
    pack = gzip.compress if suffix == ".gz" else bytes
    for kind, array in (("images", images), ("labels", labels)):
        name = f"{prefix}-{kind}{separator}idx{array.ndim}-ubyte{suffix}"
        (folder / name).write_bytes(pack(encode(array)))


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("shape", [(), (0,), (5,), (2, 3), (2, 1, 3, 2)])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_round_trip(tmp_path, code, shape, pack):
    array = (np.arange(np.prod(shape, dtype=int)) * 3 - 4).astype(code).reshape(shape)
    path = tmp_path / "file"
    path.write_bytes(pack(encode(array)))
    out = read_idx(path)
    np.testing.assert_array_equal(out, array, strict=True)
    assert out.flags.writeable


GOOD = encode(np.arange(12, dtype=np.uint8).reshape(3, 4))
# Without the time, which would give the tests other names in every process.
PACKED = gzip.compress(GOOD, mtime=0)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (GOOD[:-1], "cut short.*takes 24 bytes, found 23"),
        (GOOD[:9], "cut short.*header of rank 2 takes 12 bytes, found 9"),
        (GOOD + b"\0", "goes on after its last value.*takes 24 bytes, found 25"),
        (b"\x89PNG\r\n", "not an IDX file.*89 50 4e 47"),
        (b"\0\0\x0a\x01", "not an IDX file"),
        (b"", "not an IDX file.*nothing"),
        (PACKED[:-9], "gzip compression is damaged or the file is cut short"),
        (PACKED[:4], "gzip compression is damaged or the file is cut short"),
        (PACKED[:12] + b"\xff\xff\xff" + PACKED[15:], "gzip"),
        # A header that promises more than any memory holds.
        (b"\0\0\x0e\x03" + b"\xff" * 12 + b"\0" * 9, "cut short"),
    ],
)
def test_damaged_files(tmp_path, raw, message):
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=f"{path.name}: .*{message}"):
        read_idx(path)


@pytest.mark.parametrize(
    ("suffix", "separator"), [("", "-"), (".gz", "-"), ("", "."), (".gz", ".")]
)
def test_load_idx_reads_both_splits(tmp_path, suffix, separator):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 4, 4), np.uint8)
    write_split(tmp_path, "train", images, np.arange(6, dtype=np.uint8), suffix, separator)
    assert idx_splits(tmp_path) == ("train",)
    write_split(tmp_path, "t10k", images[:2], np.array([1, 0], np.uint8), suffix, separator)
    assert idx_splits(tmp_path) == ("train", "test")
    train, test = load_idx(tmp_path, "train"), load_idx(str(tmp_path), "test")
    np.testing.assert_array_equal(train.images[..., 0], images)
    np.testing.assert_array_equal(test.labels, [1, 0])
    # The test split does not know of the classes 2..5 by itself.
    assert test.class_names == train.class_names == tuple("012345")


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
        load_idx(tmp_path / "nowhere", "train")
    with pytest.raises(
        FileNotFoundError, match=r"images of the test split.*t10k-images-idx3-ubyte\.gz"
    ):
        load_idx(tmp_path, "test")
    with pytest.raises(ValueError, match="'train' and 'test', got 'val'"):
        load_idx(tmp_path, "val")


def test_labels_must_be_labels(tmp_path):
    images = np.zeros((2, 4, 4), np.uint8)
    write_split(tmp_path, "train", images, np.zeros(3, np.uint8))
    with pytest.raises(ValueError, match="2 images need labels"):
        load_idx(tmp_path, "train")
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(encode(images))
    with pytest.raises(ValueError, match="labels are integers of rank 1"):
        load_idx(tmp_path, "train")


def test_an_empty_set_is_refused(tmp_path):
    write_split(tmp_path, "train", np.zeros((0, 4, 4), np.uint8), np.zeros(0, np.uint8))
    with pytest.raises(ValueError, match="no images"):
        load_idx(tmp_path, "train")
