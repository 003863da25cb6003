import numpy as np
import pytest
from PIL import Image, ImageFile

from entropax.data import load_folder, load_folder_split

RNG = np.random.default_rng(0)


def rgb(height=6, width=6):
    return RNG.integers(0, 256, (height, width, 3), np.uint8)


def save(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return array


def test_class_folders_become_labels(tmp_path):
    expected = [
        save(tmp_path / "cat" / "b.png", rgb()),
        save(tmp_path / "dog" / "a.BMP", rgb()),
        save(tmp_path / "dog" / "c.webp", rgb(), lossless=True),
    ]
    (tmp_path / "dog" / "notes.txt").write_text("not an image")
    (tmp_path / "dog" / "._c.png").write_text("hidden")
    (tmp_path / ".cache").mkdir()
    data = load_folder(tmp_path)
    np.testing.assert_array_equal(data.images, expected)
    np.testing.assert_array_equal(data.labels, [0, 1, 1])
    assert data.class_names == ("cat", "dog")


def test_folder_without_classes_is_unlabelled(tmp_path):
    second, first = save(tmp_path / "2.png", rgb()), save(tmp_path / "1.jpg.png", rgb())
    data = load_folder(str(tmp_path))
    np.testing.assert_array_equal(data.images, [first, second])
    assert data.labels is None


def test_grey_only_if_every_image_is(tmp_path):
    grey = save(tmp_path / "1.png", RNG.integers(0, 256, (4, 4), np.uint8))
    Image.new("1", (4, 4)).save(tmp_path / "2.png")
    assert load_folder(tmp_path).images.shape == (2, 4, 4, 1)
    colour = save(tmp_path / "3.png", rgb(4, 4))
    data = load_folder(tmp_path)
    assert data.images.shape == (3, 4, 4, 3)
    np.testing.assert_array_equal(data.images[0], np.repeat(grey[..., None], 3, -1))
    np.testing.assert_array_equal(data.images[2], colour)


def test_palettes_and_transparency_become_rgb_without_a_warning(tmp_path):
    array = rgb()
    save(tmp_path / "alpha.png", np.dstack([array, np.full((6, 6), 9, np.uint8)]))
    palette = Image.fromarray(array).quantize(4)
    palette.save(tmp_path / "palette.png", transparency=bytes([0, 9, 255, 255]))
    data = load_folder(tmp_path)
    np.testing.assert_array_equal(data.images[0], array)
    np.testing.assert_array_equal(data.images[1], np.asarray(palette.convert("RGB")))


def test_sizes_must_agree_unless_asked_to_resize(tmp_path):
    save(tmp_path / "x" / "a.png", rgb(6, 9))
    save(tmp_path / "x" / "b.png", rgb(12, 8))
    with pytest.raises(ValueError, match=r"a\.png is 9x6 and .*b\.png is 8x12.*pass size="):
        load_folder(tmp_path)
    assert load_folder(tmp_path, size=5).images.shape == (2, 5, 5, 3)
    with pytest.raises(ValueError, match="`size` must be at least one pixel, got 0"):
        load_folder(tmp_path, size=0)


def test_resizing_keeps_the_centre_and_antialiases(tmp_path):
    array = save(tmp_path / "wide.png", rgb(8, 14))
    np.testing.assert_array_equal(load_folder(tmp_path, size=8).images[0], array[:, 3:11])
    # A fine checkerboard averages out: sampling every other pixel would give black or white.
    checkers = np.indices((64, 64)).sum(0).astype(np.uint8) % 2 * 255
    save(tmp_path / "wide.png", checkers)
    small = load_folder(tmp_path, size=16).images[0, 2:-2, 2:-2]
    assert np.abs(small.astype(int) - 127).max() <= 8


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "webp"])
@pytest.mark.parametrize("tolerant", [False, True])
def test_truncated_images_are_refused_and_named(tmp_path, monkeypatch, suffix, tolerant):
    # Another library may have asked pillow to make up what is missing.
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", tolerant)
    save(tmp_path / "x" / f"1.{suffix}", rgb())
    cut = tmp_path / "x" / f"2.{suffix}"
    save(cut, rgb())
    cut.write_bytes(cut.read_bytes()[: -cut.stat().st_size // 3])
    with pytest.raises(ValueError, match=rf"x/2\.{suffix}: the image cannot be decoded"):
        load_folder(tmp_path)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is tolerant


@pytest.mark.parametrize("content", [b"", b"this is not an image"])
def test_files_that_are_not_images(tmp_path, content):
    (tmp_path / "1.jpeg").write_bytes(content)
    with pytest.raises(ValueError, match=r"1\.jpeg: the image cannot be decoded"):
        load_folder(tmp_path)


def test_sixteen_bits_are_refused(tmp_path):
    save(tmp_path / "1.png", np.full((4, 4), 4000, np.uint16))
    with pytest.raises(ValueError, match=r"1\.png: .* more than 8 bits a channel"):
        load_folder(tmp_path)


def test_missing_and_empty_folders(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is not there"):
        load_folder(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(FileNotFoundError, match="file is a file, not a folder"):
        load_folder(tmp_path / "file")
    with pytest.raises(ValueError, match="neither class folders nor images"):
        load_folder(tmp_path)
    save(tmp_path / "cat" / "1.png", rgb())
    (tmp_path / "dog").mkdir()
    with pytest.raises(ValueError, match=r"class folder .*dog holds no images.*fill it"):
        load_folder(tmp_path)
    save(tmp_path / "dog" / "deep" / "1.png", rgb())
    with pytest.raises(ValueError, match=r"but folders \(deep\)"):
        load_folder(tmp_path)


def test_images_in_folders_of_a_class_are_not_lost_silently(tmp_path):
    save(tmp_path / "cat" / "1.png", rgb())
    save(tmp_path / "cat" / "more" / "2.png", rgb())
    with pytest.raises(ValueError, match=r"cat holds 1 images and also folders \(more\)"):
        load_folder(tmp_path)


def test_folders_called_by_numbers_are_labels_by_value(tmp_path):
    for number in range(11):
        save(tmp_path / str(number) / "1.png", rgb())
    data = load_folder(tmp_path)
    assert data.class_names == tuple(str(number) for number in range(11))
    assert data.names[10] == "10/1.png"
    np.testing.assert_array_equal(data.labels, np.arange(11))


def test_images_beside_class_folders_are_not_lost_silently(tmp_path):
    save(tmp_path / "cat" / "1.png", rgb())
    save(tmp_path / "stray.png", rgb())
    with pytest.raises(ValueError, match=r"also 1 images beside them, such as stray\.png"):
        load_folder(tmp_path)


def test_splits_are_not_taken_for_classes(tmp_path):
    save(tmp_path / "train" / "cat" / "1.png", rgb())
    with pytest.raises(ValueError, match=r"looks like a split.*split='train'"):
        load_folder(tmp_path)


def test_a_class_has_the_same_label_in_every_split(tmp_path):
    for name in ("ant", "bee", "cat"):
        save(tmp_path / "train" / name / "1.png", rgb())
    save(tmp_path / "val" / "cat" / "1.png", rgb())
    test = load_folder_split(tmp_path, "test")
    np.testing.assert_array_equal(test.labels, [2])
    assert test.class_names == load_folder_split(tmp_path, "train").class_names
    with pytest.raises(ValueError, match="no label is known for the class folders cat"):
        load_folder(tmp_path / "val", class_names=("ant", "bee"))


def test_missing_split_says_what_was_looked_for(tmp_path):
    (tmp_path / "other").mkdir()
    with pytest.raises(
        FileNotFoundError, match=r"split 'test'; looked for test, val, validation and found other"
    ):
        load_folder_split(tmp_path, "test")
