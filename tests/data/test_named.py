import json
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from entropax.data import image_set, load_named
from entropax.data.prepare import prepare

RNG = np.random.default_rng(0)


def random_set(n, channels=1, classes=3):
    images = RNG.integers(0, 256, (n, 5, 6, channels), np.uint8)
    names = tuple(f"class {i}" for i in range(classes))
    return image_set(images, RNG.integers(0, classes, n), class_names=names)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("tfds")
    splits = {"train": random_set(50), "test": random_set(20)}
    prepare("shapes", splits, data_dir)
    prepare("plain", {"test": image_set(splits["test"].images)}, data_dir)
    return data_dir, splits


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a data source tried to use the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def multiset(data):
    labels = [None] * len(data) if data.labels is None else data.labels.tolist()
    return sorted(
        (image.tobytes(), label) for image, label in zip(data.images, labels, strict=True)
    )


def test_reads_what_was_prepared(prepared):
    data_dir, splits = prepared
    for name, written in splits.items():
        read = load_named("shapes", name, data_dir=data_dir)
        assert multiset(read) == multiset(written)
        assert read.class_names == written.class_names
    plain = load_named("plain", "test", data_dir=str(data_dir))
    assert plain.labels is None
    assert len(plain) == 20


def test_split_expressions(prepared):
    data_dir, _ = prepared

    def read(split):
        return load_named("shapes", split, data_dir=data_dir)

    whole = read("train")
    np.testing.assert_array_equal(read("train[:80%]").images, whole.images[:40])
    np.testing.assert_array_equal(read("train[40:]").labels, whole.labels[40:])
    assert len(read("train[:10]+test")) == 30
    assert len(read("all")) == 70
    for split in ("train[:0]", "train[:x]", "train[5:2]"):
        with pytest.raises(ValueError, match=r"cannot be read or is empty"):
            read(split)


def test_blocks_do_not_change_the_result(prepared, monkeypatch):
    data_dir, _ = prepared
    whole = load_named("shapes", "all", data_dir=data_dir)
    monkeypatch.setattr("entropax.data.named._BLOCK", 7)
    again = load_named("shapes", "all", data_dir=data_dir)
    np.testing.assert_array_equal(again.images, whole.images)
    np.testing.assert_array_equal(again.labels, whole.labels)


def test_default_folder_is_that_of_tfds(prepared, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared[0]))
    assert len(load_named("shapes", "test")) == 20


def test_plain_tfds_reads_it_too(prepared):
    import tensorflow_datasets as tfds

    data_dir, _ = prepared
    source = tfds.data_source("shapes", data_dir=data_dir, split="test", download=False)
    ours = load_named("shapes", "test", data_dir=data_dir)
    for i in (0, 19):
        np.testing.assert_array_equal(source[i]["image"], ours.images[i])
        assert source[i]["label"] == ours.labels[i]


def test_missing_data_set_fails_at_once_and_says_what_to_do(prepared, tmp_path):
    start = time.perf_counter()
    with pytest.raises(FileNotFoundError) as error:
        load_named("shapse", "train", data_dir=prepared[0])
    message = str(error.value)
    assert f"'shapse' is not prepared in {prepared[0]}" in message
    assert "plain, shapes (did you mean shapes?)" in message
    assert (
        "python -m entropax.experiments.prepare --name shapse --source idx --path RAW_FILES "
        f"--data-dir {prepared[0]}" in message
    )
    with pytest.raises(FileNotFoundError, match=r"'mnist' .*nowhere, where there is no prepared"):
        load_named("mnist", "train", data_dir=tmp_path / "nowhere")
    assert time.perf_counter() - start < 1


def test_missing_split_and_version(prepared):
    with pytest.raises(FileNotFoundError, match="no split 'val'; it has train, test"):
        load_named("shapes", "val[:10]", data_dir=prepared[0])
    with pytest.raises(FileNotFoundError, match=r"not in version 2\.0\.0; there is 1\.0\.0"):
        load_named("shapes:2.0.0", "train", data_dir=prepared[0])
    with pytest.raises(ValueError, match="local or mounted"):
        load_named("shapes", "train", data_dir="gs://bucket/tfds")


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_newest_version_and_configurations(tmp_path):
    small, large = random_set(3), random_set(4)
    prepare("shapes", {"test": small}, tmp_path, version="1.9.0")
    prepare("shapes", {"test": large}, tmp_path, version="1.10.0")
    assert len(load_named("shapes", "test", data_dir=tmp_path)) == 4
    assert len(load_named("shapes:1.9.0", "test", data_dir=tmp_path)) == 3
    # A killed run of tensorflow-datasets leaves such a folder.
    (tmp_path / "shapes" / "1.10.0").rename(tmp_path / "shapes" / "incomplete.AB_1.10.0")
    assert len(load_named("shapes", "test", data_dir=tmp_path)) == 3
    (tmp_path / "shapes" / "hard").mkdir()
    (tmp_path / "shapes" / "1.9.0").rename(tmp_path / "shapes" / "hard" / "1.9.0")
    edit(tmp_path / "shapes" / "hard" / "1.9.0" / "dataset_info.json", configName="hard")
    assert len(load_named("shapes", "test", data_dir=tmp_path)) == 3
    assert len(load_named("shapes/hard:1.9.0", "test", data_dir=tmp_path)) == 3


def test_configurations_are_listed(tmp_path):
    for config in ("easy", "hard"):
        path = prepare("shapes", {"test": random_set(3)}, tmp_path)
        (tmp_path / "shapes" / config).mkdir()
        path.rename(tmp_path / "shapes" / config / "1.0.0")
    with pytest.raises(FileNotFoundError, match="pass one of shapes/easy, shapes/hard"):
        load_named("shapes", "test", data_dir=tmp_path)


def test_other_file_format(tmp_path):
    path = prepare("shapes", {"test": random_set(3)}, tmp_path)
    edit(path / "dataset_info.json", fileFormat="tfrecord")
    with pytest.raises(FileNotFoundError, match="prepared as tfrecord, which takes TensorFlow"):
        load_named("shapes", "test", data_dir=tmp_path)
    (path / "dataset_info.json").write_text("{")
    with pytest.raises(ValueError, match=r"dataset_info\.json: this is not JSON"):
        load_named("shapes", "test", data_dir=tmp_path)
    (path / "features.json").unlink()
    with pytest.raises(FileNotFoundError, match="'shapes' is not prepared"):
        load_named("shapes", "test", data_dir=tmp_path)


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "flipped"])
def test_damaged_records(tmp_path, damage):
    path = prepare("shapes", {"test": random_set(200)}, tmp_path)
    (file,) = path.glob("*array_record*")
    raw = bytearray(file.read_bytes())
    middle = raw.rindex(b"PNG")
    raw[middle : middle + 20] = bytes(20)
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes({"empty": b"", "cut": raw[: len(raw) // 2], "flipped": raw}[damage])
    with pytest.raises(ValueError, match="damaged or missing; prepare the data set again"):
        load_named("shapes", "test", data_dir=tmp_path)


def test_features_by_other_names(tmp_path):
    path = prepare("shapes", {"test": random_set(3)}, tmp_path)
    features = (path / "features.json").read_text()
    (path / "features.json").write_text(features.replace('"label"', '"kind"'))
    edit(path / "dataset_info.json", supervisedKeys=None)
    with pytest.raises(ValueError, match="no `image` and `label` among image, kind"):
        load_named("shapes", "test", data_dir=tmp_path)


def test_supervised_keys_palettes_and_features_that_are_not_read(tmp_path):
    import tensorflow_datasets as tfds

    arrays = RNG.integers(0, 256, (9, 6, 5, 3), np.uint8)
    pictures = [Image.fromarray(array).quantize(8) for array in arrays]
    features = tfds.features.FeaturesDict(
        {
            "photo": tfds.features.Image(),
            "kind": tfds.features.ClassLabel(num_classes=3),
            "words": tfds.features.Sequence(tfds.features.Text()),
        }
    )
    with tfds.core.registered.skip_registration():

        class Shapes(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version("1.0.0")
            pkg_dir_path = None

            def _info(self):
                keys = ("photo", "kind")
                return tfds.core.DatasetInfo(builder=self, features=features, supervised_keys=keys)

            def _split_generators(self, manager):
                return {"test": self._generate_examples()}

            def _generate_examples(self):
                for i, picture in enumerate(pictures):
                    yield i, {"photo": picture, "kind": i % 3, "words": ["not", "read"]}

    Shapes(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    expected = [np.asarray(picture.convert("RGB")) for picture in pictures]
    written = image_set(np.array(expected), np.arange(9) % 3)
    read = load_named("shapes", "test", data_dir=tmp_path)
    assert multiset(read) == multiset(written)
    assert read.class_names == ("0", "1", "2")


def test_unknown_labels(tmp_path):
    """Public test sets store -1 where the answers are kept secret."""
    data = random_set(4)
    data.labels[:] = -1
    prepare("shapes", {"test": data}, tmp_path, check=False)
    assert load_named("shapes", "test", data_dir=tmp_path).labels is None


def test_tensorflow_is_not_imported(prepared):
    code = (
        "import sys; from entropax.data import load; "
        f"assert len(load('shapes', 'test', data_dir={str(prepared[0])!r})) == 20; "
        "assert 'tensorflow_datasets' in sys.modules; "
        "assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


@pytest.mark.parametrize("fraction", [0.1, 0.3, 0.5, 0.7, 0.9, 0.99])
def test_records_cut_anywhere(tmp_path, fraction):
    path = prepare("shapes", {"test": random_set(2000)}, tmp_path)
    (file,) = path.glob("*array_record*")
    raw = file.read_bytes()
    file.write_bytes(raw[: int(len(raw) * fraction)])
    with pytest.raises(ValueError, match="damaged or missing"):
        load_named("shapes", "test", data_dir=tmp_path)
