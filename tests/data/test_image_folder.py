import shutil
import warnings

import numpy as np
import pytest
from PIL import Image

from entropax.data import load_folder
from entropax.data.decoding import Preprocessing
from entropax.data.image_folder import index_folder, read_images

RNG = np.random.default_rng(0)
SMALL = Preprocessing(resize=10, crop=8)


def save(path, array=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    array = RNG.integers(0, 256, (12, 14, 3), np.uint8) if array is None else array
    Image.fromarray(array).save(path, **options)
    return array


def three_classes(root):
    for name in ("ant/1.png", "ant/2.JPEG", "bee/1.png", "cat/1.png", "cat/2.png"):
        save(root / name)
    return root


def test_index_is_that_of_load_folder_and_opens_nothing(tmp_path):
    root = three_classes(tmp_path)
    loaded = load_folder(root)
    for file in root.rglob("*.*"):
        file.write_bytes(b"")
    index = index_folder(root)
    assert index.files == loaded.names == tuple(sorted(loaded.names))
    np.testing.assert_array_equal(index.labels, loaded.labels)
    assert index.labels.dtype == np.int32
    assert index.class_names == ("ant", "bee", "cat")
    assert len(index) == 5


def test_folder_without_classes(tmp_path):
    save(tmp_path / "2.png")
    save(tmp_path / "1.PNG")
    index = index_folder(str(tmp_path))
    assert (index.files, index.labels, index.class_names) == (("1.PNG", "2.png"), None, ())
    assert index.take([1]).labels is None


def test_labels_are_those_of_the_network(tmp_path):
    network = ("cat", "eel", "ant", "dog", "bee")
    index = index_folder(three_classes(tmp_path / "names"), class_names=network)
    np.testing.assert_array_equal(index.labels, [2, 2, 4, 0, 0])
    assert index.class_names == network
    # Folders called by numbers, ImageNet-V2's, are numbers of classes.
    save(tmp_path / "numbers" / "4" / "1.png")
    save(tmp_path / "numbers" / "0" / "1.png")
    numbered = index_folder(tmp_path / "numbers", class_names=network)
    np.testing.assert_array_equal(numbered.labels, [0, 4])
    with pytest.raises(ValueError, match="no label is known for the class folders ant, bee"):
        index_folder(tmp_path / "names", class_names=("cat",))


def test_splits_share_their_classes(tmp_path):
    three_classes(tmp_path / "train")
    save(tmp_path / "val" / "cat" / "1.png")
    index = index_folder(tmp_path, split="test")
    assert index.root == tmp_path / "val"
    np.testing.assert_array_equal(index.labels, [2])
    renamed = index_folder(tmp_path, split="val", class_names=("cat",))
    np.testing.assert_array_equal(renamed.labels, [0])
    with pytest.raises(FileNotFoundError, match="no folder for the split 'other'"):
        index_folder(tmp_path, split="other")


def test_a_class_folder_without_images(tmp_path):
    root = three_classes(tmp_path)
    shutil.rmtree(root / "bee")
    (root / "bee").mkdir()
    with pytest.raises(ValueError, match=r"bee holds no images.*fill it"):
        index_folder(root)
    index = index_folder(root, on_empty="skip")
    np.testing.assert_array_equal(index.labels, [0, 0, 2, 2])
    with pytest.raises(ValueError, match="`on_empty` must be 'stop' or 'skip', got 'pass'"):
        index_folder(root, on_empty="pass")
    # What lies deeper is never passed over, it would be lost.
    save(root / "bee" / "deep" / "1.png")
    with pytest.raises(ValueError, match=r"bee holds no images.*but folders \(deep\)"):
        index_folder(root, on_empty="skip")


def test_nothing_but_empty_class_folders(tmp_path):
    (tmp_path / "ant").mkdir()
    with pytest.raises(ValueError, match="none of its 1 class folders holds an image"):
        index_folder(tmp_path, on_empty="skip")


def test_taking_rows(tmp_path):
    index = index_folder(three_classes(tmp_path))
    taken = index.take(np.array([4, 0, 4]))
    assert taken.files == ("cat/2.png", "ant/1.png", "cat/2.png")
    np.testing.assert_array_equal(taken.labels, [2, 0, 2])
    assert taken.class_names == index.class_names
    for rows, message in (
        ([5], "rows count from 0 to 4, got 5"),
        ([-1, 0], "rows count from 0 to 4, got -1"),
        ([], "at least one whole number"),
    ):
        with pytest.raises(ValueError, match=message):
            index.take(rows)


@pytest.mark.parametrize("workers", [1, 3, None])
def test_reading_keeps_the_order(tmp_path, workers):
    arrays = [save(tmp_path / f"{i}.png") for i in range(6)]
    rows = np.array([5, 0, 3, 3, 1])
    images, readable = read_images(
        index_folder(tmp_path), rows, Preprocessing(None, None), workers=workers
    )
    np.testing.assert_array_equal(images, [arrays[row] for row in rows])
    assert images.dtype == np.uint8
    assert readable.all()


def test_sizes_come_from_the_preprocessing_or_must_agree(tmp_path):
    save(tmp_path / "1.png")
    save(tmp_path / "2.png", RNG.integers(0, 256, (9, 20), np.uint8))
    index = index_folder(tmp_path)
    assert read_images(index, [0, 1], SMALL)[0].shape == (2, 8, 8, 3)
    squashed = Preprocessing(resize=(6, 7), crop=None, channels=1)
    assert read_images(index, [0, 1], squashed)[0].shape == (2, 6, 7, 1)
    for on_error in ("stop", "skip"):
        with pytest.raises(ValueError, match=r"2\.png is 20x9 and others are 14x12"):
            read_images(index, [0, 1], Preprocessing(None, None), on_error=on_error)


def damaged(root):
    save(root / "ant" / "1.png")
    save(root / "ant" / "2.JPEG", quality=95)
    cut = root / "ant" / "2.JPEG"
    cut.write_bytes(cut.read_bytes()[:-200])
    (root / "bee").mkdir()
    (root / "bee" / "1.jpg").write_bytes(b"")
    save(root / "bee" / "2.png")
    return index_folder(root)


def test_unreadable_images_stop_and_are_all_counted(tmp_path):
    index = damaged(tmp_path)
    with pytest.raises(
        ValueError, match=r"2 of 4 images cannot be read: .*ant/2\.JPEG: .*; .*bee/1\.jpg: .*skip"
    ):
        read_images(index, range(4), SMALL)


def test_unreadable_images_are_skipped_and_reported_once(tmp_path):
    index = damaged(tmp_path)
    with pytest.warns(UserWarning, match=r"2 of 4 images cannot be read and are") as caught:
        images, readable = read_images(index, [1, 0, 2, 3], SMALL, on_error="skip")
    assert len(caught) == 1
    np.testing.assert_array_equal(readable, [False, True, False, True])
    assert not images[~readable].any()
    with warnings.catch_warnings(action="error"):
        whole, _ = read_images(index, [0, 3], SMALL, on_error="skip")
    np.testing.assert_array_equal(images[readable], whole)


@pytest.mark.parametrize("preprocessing", [SMALL, Preprocessing(None, None)])
def test_nothing_is_readable(tmp_path, preprocessing):
    index = damaged(tmp_path)
    with pytest.raises(ValueError, match=r"2 (of 2 )?images (can be|cannot be) read"):
        read_images(index, [1, 2], preprocessing, on_error="skip")


def test_a_file_that_is_gone_is_unreadable(tmp_path):
    index = damaged(tmp_path)
    (tmp_path / "ant" / "1.png").unlink()
    with pytest.raises(ValueError, match=r"1 of 1 images .*ant/1\.png: .*No such file"):
        read_images(index, [0], SMALL)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 0}, "`workers` must be at least 1, got 0"),
        ({"on_error": "ignore"}, "`on_error` must be 'stop' or 'skip', got 'ignore'"),
    ],
)
def test_wrong_options(tmp_path, options, message):
    save(tmp_path / "1.png")
    with pytest.raises(ValueError, match=message):
        read_images(index_folder(tmp_path), [0], SMALL, **options)
