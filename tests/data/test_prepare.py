import subprocess
import sys
import textwrap

import numpy as np
import pytest

from entropax.data import ImageSet, image_set, load_named
from entropax.data.prepare import prepare

RNG = np.random.default_rng(0)


def random_set(n, channels=3, labels=True, classes=4):
    images = RNG.integers(0, 256, (n, 6, 5, channels), np.uint8)
    if not labels:
        return image_set(images)
    return image_set(
        images, np.arange(n) % classes, class_names=[f"class {i}" for i in range(classes)]
    )


def files(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("labels", [True, False])
def test_round_trip_in_the_order_of_tfds(tmp_path, channels, labels):
    data = random_set(30, channels, labels)
    path = prepare("toys", {"train": data, "test": data}, tmp_path / "new", version="2.3.10")
    assert path == tmp_path / "new" / "toys" / "2.3.10"
    orders = []
    for split in ("train", "test"):
        read = load_named("toys", split, data_dir=tmp_path / "new")
        order = [next(i for i in range(30) if (data.images[i] == x).all()) for x in read.images]
        assert sorted(order) == list(range(30))
        if labels:
            np.testing.assert_array_equal(read.labels, data.labels[order])
        orders.append(order)
    # Shuffled, each split in its own way, so that a slice is a fair sample.
    assert orders[0] != orders[1]
    assert list(range(30)) not in orders


def test_the_order_is_that_of_the_builder_of_tfds(tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets")
    from PIL import Image

    data = random_set(40)
    with tfds.core.registered.skip_registration():

        class Toys(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version("1.0.0")
            pkg_dir_path = None

            def _info(self):
                features = tfds.features.FeaturesDict(
                    {
                        "image": tfds.features.Image(shape=(6, 5, 3)),
                        "label": tfds.features.ClassLabel(names=data.class_names),
                    }
                )
                return tfds.core.DatasetInfo(builder=self, features=features)

            def _split_generators(self, manager):
                return {"test": self._generate_examples()}

            def _generate_examples(self):
                for i, (image, label) in enumerate(zip(data.images, data.labels, strict=True)):
                    yield i, {"image": Image.fromarray(image), "label": int(label)}

    Toys(data_dir=tmp_path / "theirs", file_format="array_record").download_and_prepare()
    prepare("toys", {"test": data}, tmp_path / "ours")
    theirs = load_named("toys", "test", data_dir=tmp_path / "theirs")
    ours = load_named("toys", "test", data_dir=tmp_path / "ours")
    np.testing.assert_array_equal(ours.images, theirs.images)
    np.testing.assert_array_equal(ours.labels, theirs.labels)


def test_two_runs_give_the_same_bytes(tmp_path):
    splits = {"train": random_set(20), "test": random_set(10)}
    first = prepare("toys", splits, tmp_path / "a")
    second = prepare("toys", splits, tmp_path / "b" / "c")
    assert files(first) == files(second)
    assert str(tmp_path).encode() not in b"".join(files(first).values())


def test_existing_target(tmp_path):
    old, new = random_set(5), random_set(7)
    path = prepare("toys", {"train": old}, tmp_path)
    before = files(tmp_path)
    with pytest.raises(FileExistsError, match=r"toys/1\.0\.0 exists already; pass overwrite"):
        prepare("toys", {"train": new}, tmp_path)
    assert files(tmp_path) == before
    assert prepare("toys", {"train": new}, tmp_path, overwrite=True) == path
    assert len(load_named("toys", "train", data_dir=tmp_path)) == 7
    assert [p.name for p in tmp_path.iterdir()] == ["toys"]


def test_failure_half_way_leaves_nothing(tmp_path):
    def fail(split):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare("toys", {"train": random_set(5)}, tmp_path, on_image=fail)
    assert list(tmp_path.iterdir()) == []


def test_killed_run_leaves_nothing_that_loads(tmp_path):
    code = """
        import os, signal, sys
        import numpy as np
        from entropax.data import image_set
        from entropax.data.prepare import prepare

        written = []
        def kill(split):
            written.append(split)
            if len(written) == 15:
                os.kill(os.getpid(), signal.SIGKILL)

        data = image_set(np.zeros((10, 4, 4), np.uint8))
        prepare("toys", {"train": data, "test": data}, sys.argv[1], on_image=kill)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code), str(tmp_path)])
    assert done.returncode == -9
    with pytest.raises(FileNotFoundError, match="where there is no prepared data set"):
        load_named("toys", "train", data_dir=tmp_path)
    prepare("toys", {"train": random_set(5)}, tmp_path)


def test_what_does_not_read_back_is_not_kept(tmp_path, monkeypatch):
    other = random_set(5)
    monkeypatch.setattr("entropax.data.named.load_named", lambda *args, **kwargs: other)
    with pytest.raises(RuntimeError, match="does not read back as it was written"):
        prepare("toys", {"train": random_set(5)}, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_jpeg_is_close_and_smaller(tmp_path):
    ramp = np.linspace(0, 255, 32 * 32 * 3).reshape(1, 32, 32, 3).astype(np.uint8)
    prepare("toys", {"test": image_set(ramp, np.array([0]))}, tmp_path, encoding="jpeg")
    read = load_named("toys", "test", data_dir=tmp_path)
    assert 0 < np.abs(read.images.astype(int) - ramp).mean() < 4


def test_splits_may_differ_in_size_and_in_known_classes(tmp_path):
    train = image_set(np.zeros((4, 8, 8), np.uint8), np.arange(4))
    test = image_set(np.zeros((2, 6, 8), np.uint8), np.arange(2))
    prepare("toys", {"train": train, "test": test}, tmp_path)
    read = load_named("toys", "test", data_dir=tmp_path)
    assert read.images.shape == (2, 6, 8, 1)
    assert read.class_names == tuple("0123")


@pytest.mark.parametrize(
    "name", ["", "Toys", "1toys", "to-ys", "toys/x", "../toys", "digits", "npz"]
)
def test_bad_names(tmp_path, name):
    with pytest.raises(ValueError, match="name of a data set"):
        prepare(name, {"train": random_set(2)}, tmp_path)


def test_bad_arguments(tmp_path):
    good = random_set(4)
    with pytest.raises(ValueError, match=r"three numbers such as 1\.0\.0, got '1\.0'"):
        prepare("toys", {"train": good}, tmp_path, version="1.0")
    with pytest.raises(ValueError, match="'png' or 'jpeg', got 'gif'"):
        prepare("toys", {"train": good}, tmp_path, encoding="gif")
    with pytest.raises(ValueError, match="no split to write"):
        prepare("toys", {}, tmp_path)
    for split in ("all", "a-b", "train[:10]", ""):
        with pytest.raises(ValueError, match="name of a split"):
            prepare("toys", {split: good}, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_splits_that_do_not_go_together(tmp_path):
    good = random_set(4)
    with pytest.raises(ValueError, match="split 'test' of 'toys' has no labels but others have"):
        prepare("toys", {"train": good, "test": random_set(4, labels=False)}, tmp_path)
    with pytest.raises(ValueError, match="mix grey and RGB"):
        prepare("toys", {"train": good, "test": random_set(4, channels=1)}, tmp_path)
    renamed = ImageSet(good.images, good.labels, ("w", "x", "y", "z"))
    with pytest.raises(ValueError, match="they must be the same"):
        prepare("toys", {"train": good, "test": renamed}, tmp_path)
    for bad in (" w", "", "two\nlines"):
        with pytest.raises(ValueError, match="one line without blanks"):
            prepare(
                "toys", {"a": ImageSet(good.images, good.labels, (bad, "x", "y", "z"))}, tmp_path
            )
