import io
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from entropax.data.decoding import (
    Preprocessing,
    UnreadableImageError,
    check_preprocessing,
    decode_image,
)

RNG = np.random.default_rng(0)
AS_IS = Preprocessing(resize=None, crop=None)
# Recorded with torchvision 0.29.2 and pillow 13.0.0: `HEIGHTxWIDTH` holds an image of noise, and
# `HEIGHTxWIDTH|RESIZE|CROP|INTERPOLATION` what Resize and CenterCrop made of it.
GOLDEN = Path(__file__).parents[1] / "golden" / "data" / "preprocessing.npz"


def encoded(image, kind, **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def recorded():
    with np.load(GOLDEN, allow_pickle=False) as arrays:
        return dict(arrays)


def setting(word):
    if word.startswith("("):
        height, width = word[1:-1].split(",")
        return int(height), int(width)
    return None if word == "None" else int(word)


@pytest.mark.parametrize("name", [name for name in recorded() if "|" in name])
def test_equal_to_torchvision(name):
    arrays = recorded()
    size, resize, crop, interpolation = name.split("|")
    found = decode_image(
        encoded(Image.fromarray(arrays[size]), "png"),
        Preprocessing(setting(resize), setting(crop), interpolation),
        name=size,
    )
    np.testing.assert_array_equal(found, arrays[name])


def test_cut_and_border_by_hand():
    image = RNG.integers(1, 256, (5, 8, 3), np.uint8)
    cut = decode_image(encoded(Image.fromarray(image), "png"), Preprocessing(None, 3), name="image")
    # (8 - 3) / 2 = 2.5 is rounded to the even 2.
    np.testing.assert_array_equal(cut, image[1:4, 2:5])
    framed = decode_image(
        encoded(Image.fromarray(image), "png"), Preprocessing(None, 8), name="image"
    )
    # 3 rows are missing, of which the odd one is below.
    np.testing.assert_array_equal(framed, np.pad(image, ((1, 2), (0, 0), (0, 0))))


def test_grey_gets_three_channels_and_colour_one_when_asked():
    grey = RNG.integers(0, 256, (4, 6), np.uint8)
    source = encoded(Image.fromarray(grey), "png")
    np.testing.assert_array_equal(
        decode_image(source, AS_IS, name="grey"), np.repeat(grey[..., None], 3, -1)
    )
    colour = RNG.integers(0, 256, (4, 6, 3), np.uint8)
    luma = decode_image(
        encoded(Image.fromarray(colour), "png"), AS_IS._replace(channels=1), name="colour"
    )
    assert luma.shape == (4, 6, 1)
    # Pillow's weights are these in fixed point: the rounding differs by less than one level.
    np.testing.assert_allclose(luma[..., 0], colour @ [0.299, 0.587, 0.114], atol=0.501)


def test_alpha_and_palette_become_rgb():
    rgba = RNG.integers(0, 256, (4, 6, 4), np.uint8)
    found = decode_image(encoded(Image.fromarray(rgba), "png"), AS_IS, name="alpha")
    np.testing.assert_array_equal(found, rgba[..., :3])
    palette = Image.fromarray(rgba[..., :3]).quantize(4)
    source = encoded(palette, "png", transparency=bytes([0, 9, 255, 255]))
    found = decode_image(source, AS_IS, name="palette")
    np.testing.assert_array_equal(found, np.asarray(palette.convert("RGB")))


def test_cmyk_jpeg_becomes_rgb():
    # R = (255 - C)(255 - K) / 255; one colour all over, which compression changes by little.
    cmyk = Image.new("CMYK", (16, 16), (51, 102, 204, 25))
    source = encoded(cmyk, "jpeg", quality=95)
    with Image.open(io.BytesIO(source)) as image:
        assert image.mode == "CMYK"
    found = decode_image(source, AS_IS, name="cmyk")
    expected = (255 - np.array([51, 102, 204])) * (255 - 25) / 255
    np.testing.assert_allclose(found, np.broadcast_to(expected, (16, 16, 3)), atol=3)


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "16 bits"])
def test_damage_is_named(damage):
    whole = encoded(Image.fromarray(RNG.integers(0, 256, (40, 40, 3), np.uint8)), "jpeg")
    source = {
        "cut": whole[: len(whole) // 2],
        "empty": b"",
        "text": b"this is not an image",
        "16 bits": encoded(Image.fromarray(np.full((4, 4), 4000, np.uint16)), "png"),
    }[damage]
    with pytest.raises(UnreadableImageError, match="file 7: the image cannot be decoded"):
        decode_image(source, AS_IS, name="file 7")


def test_the_shortage_of_the_system_is_not_the_fault_of_an_image(monkeypatch):
    def no_more_files(*_):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(Image, "open", no_more_files)
    with pytest.raises(OSError, match="Too many open files"):
        decode_image(b"", AS_IS, name="file 7")


@pytest.mark.parametrize("tolerant", [False, True])
def test_strict_in_every_thread_and_then_as_before(monkeypatch, tolerant):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", tolerant)
    whole = encoded(Image.fromarray(RNG.integers(0, 256, (64, 64, 3), np.uint8)), "jpeg")
    refused = []
    together = threading.Barrier(4)

    def decode():
        together.wait()
        for _ in range(20):
            decode_image(whole, AS_IS, name="whole")
            try:
                decode_image(whole[: len(whole) // 2], AS_IS, name="cut")
            except UnreadableImageError:
                refused.append(True)

    threads = [threading.Thread(target=decode) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 80
    assert ImageFile.LOAD_TRUNCATED_IMAGES is tolerant


@pytest.mark.parametrize(
    ("preprocessing", "message"),
    [
        (Preprocessing(resize=0), "`resize` must be at least one pixel.*got 0"),
        (Preprocessing(resize=(224, 0)), r"`resize` must be .*got \(224, 0\)"),
        (Preprocessing(crop=0), "`crop` must be at least one pixel, got 0"),
        (Preprocessing(interpolation="cubic"), "`interpolation` must be one of .*got 'cubic'"),
        (Preprocessing(channels=4), "`channels` must be 1 or 3, got 4"),
    ],
)
def test_wrong_preprocessing(preprocessing, message):
    with pytest.raises(ValueError, match=message):
        check_preprocessing(preprocessing)
