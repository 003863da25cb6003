import gzip
import struct
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from entropax.data import load
from entropax.experiments.prepare import Config, main, run

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (6, 5, 5), np.uint8)
LABELS = np.arange(6, dtype=np.uint8) % 3


def write_idx(folder, prefix, images, labels):
    folder.mkdir(exist_ok=True)
    for kind, array in (("images", images), ("labels", labels)):
        header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
        path = folder / f"{prefix}-{kind}-idx{array.ndim}-ubyte.gz"
        path.write_bytes(gzip.compress(header + array.tobytes()))


def multiset(data):
    return sorted(zip([x.tobytes() for x in data.images], data.labels.tolist(), strict=True))


def test_idx_from_the_command_line(tmp_path, capsys):
    write_idx(tmp_path / "raw", "train", IMAGES, LABELS)
    write_idx(tmp_path / "raw", "t10k", IMAGES[:3], LABELS[:3])
    args = f"--name toys --source idx --path {tmp_path}/raw --data-dir {tmp_path}/out"
    main([*args.split(), "--class-names", "ant", "bee", "cat"])
    out = capsys.readouterr().out
    assert "train: 6 images of 5x5x1" in out
    assert "test: 3 images of 5x5x1" in out
    assert "3 classes" in out
    assert f"written to {tmp_path}/out/toys/1.0.0" in out
    assert f'entropax.data.load("toys", "train", data_dir="{tmp_path}/out")' in out
    read = load("toys", "train", data_dir=tmp_path / "out")
    assert multiset(read) == multiset(load("idx", "train", path=tmp_path / "raw"))
    assert read.class_names == ("ant", "bee", "cat")


def test_folder_with_splits(tmp_path):
    for split, n in (("train", 6), ("val", 2)):
        for i in range(n):
            folder = tmp_path / "raw" / split / f"class{i % 2}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(IMAGES[i]).save(folder / f"{i}.png")
    result = run(
        Config("toys", "folder", tmp_path / "raw", data_dir=tmp_path, size=4, version="1.2.3")
    )
    assert result.counts == {"train": 6, "val": 2}
    assert (result.num_classes, result.image_shape) == (2, (4, 4, 1))
    assert result.path == tmp_path / "toys" / "1.2.3"
    only = Config("only", "folder", tmp_path / "raw", data_dir=tmp_path, splits=("val",))
    assert run(only).counts == {"val": 2}


def test_npz_with_and_without_splits(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    np.savez(tmp_path / "a.npz", x_train=IMAGES, y_train=LABELS, x_test=IMAGES, y_test=LABELS)
    assert run(Config("toys", "npz", tmp_path / "a.npz")).counts == {"train": 6, "test": 6}
    np.savez(tmp_path / "b.npz", x=IMAGES)
    target = run(Config("target", "npz", tmp_path / "b.npz", splits=("test",)))
    assert (target.counts, target.num_classes) == ({"test": 6}, 0)
    assert run(Config("other", "npz", tmp_path / "b.npz")).counts == {"train": 6}
    with pytest.raises(ValueError, match="makes one, not train, test"):
        run(Config("third", "npz", tmp_path / "b.npz", splits=("train", "test")))
    assert load("target", "test").labels is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 32}, "`size` is for source 'folder', not 'npz'"),
        ({"source": "folder", "size": 0}, "at least one pixel, got 0"),
        ({"source": "folder", "class_names": ("a",)}, "class folders name themselves"),
        ({"splits": ("a", "b", "a")}, "names a more than once"),
    ],
)
def test_bad_configurations(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        Config(**{"name": "toys", "source": "npz", "path": tmp_path} | changes)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("--name toys --source npz --path {}/nowhere.npz", "There is no file"),
        ("--name toys --source idx --path {}/nowhere", "is not a folder"),
        ("--name toys --source folder --path {}/nowhere", "is not there"),
        ("--name Toys --source npz --path {}/set.npz", "got 'Toys'"),
        ("--name toys --source npz --path {}/set.npz --version 1", "got '1'"),
        ("--name toys --source npz --path {}/set.npz --splits a b", "no images found"),
        ("--name toys --source npz --path {}/set.npz --class-names a b", "label 2 has no class"),
    ],
)
def test_wrong_input_is_one_sentence_and_exit_code_2(tmp_path, capsys, args, message):
    np.savez(tmp_path / "set.npz", x_train=IMAGES, y_train=LABELS)
    with pytest.raises(SystemExit) as error:
        main([*args.format(tmp_path).split(), "--data-dir", str(tmp_path / "out")])
    assert error.value.code == 2
    captured = capsys.readouterr()
    line = next(line for line in captured.err.splitlines() if line.startswith("error: "))
    assert message in line
    assert captured.out == ""


def test_an_existing_data_set_is_kept(tmp_path, capsys):
    np.savez(tmp_path / "set.npz", x_train=IMAGES, y_train=LABELS)
    args = f"--name toys --source npz --path {tmp_path}/set.npz --data-dir {tmp_path}".split()
    main(args)
    with pytest.raises(SystemExit):
        main(args)
    assert "exists already" in capsys.readouterr().err
    main([*args, "--overwrite"])


def test_help():
    done = subprocess.run(
        [sys.executable, "-m", "entropax.experiments.prepare", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "python -m entropax.experiments.prepare --name mnist" in done.stdout
    assert "--source {idx,folder,npz}" in done.stdout
