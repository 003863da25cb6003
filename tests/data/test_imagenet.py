import pytest

from entropax.data.imagenet import corruption_folders, imagenet_classes


def make(root, *folders):
    for folder in folders:
        (root / folder).mkdir(parents=True)


def test_the_thousand_classes():
    classes = imagenet_classes()
    assert len(set(classes)) == 1000
    assert list(classes) == sorted(classes)
    assert all(len(name) == 9 and name[0] == "n" and name[1:].isdigit() for name in classes)
    # Numbers that are known from the published list of labels.
    known = {"n01440764": 0, "n02123045": 281, "n02504458": 386, "n04285008": 817, "n15075141": 999}
    assert {name: classes.index(name) for name in known} == known


def test_corruptions_with_and_without_groups(tmp_path):
    make(tmp_path, "noise/shot_noise/2", "noise/gaussian_noise/5", "extra/saturate/1")
    make(tmp_path, "fog/3", "fog/1", "zebra/4", ".hidden/1")
    found = corruption_folders(tmp_path)
    assert list(found) == [
        ("gaussian_noise", 5),
        ("shot_noise", 2),
        ("fog", 1),
        ("fog", 3),
        ("saturate", 1),
        ("zebra", 4),
    ]
    assert found["shot_noise", 2] == tmp_path / "noise" / "shot_noise" / "2"
    assert found["fog", 3] == tmp_path / "fog" / "3"
    assert list(corruption_folders(tmp_path / "noise")) == [
        ("gaussian_noise", 5),
        ("shot_noise", 2),
    ]


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (["fog/3", "weather/fog/1"], "holds fog twice"),
        (["1/n01440764", "5/n01440764"], "holds the severities of one corruption; pass"),
        (["fog/n01440764"], "fog should hold a corruption's severities.*holds n01440764"),
        (["fog/1", "snow"], "snow should hold .*holds no folders"),
        (["fog/6"], "named 1 to 5, and holds 6"),
        (["noise"], "holds no folders CORRUPTION/SEVERITY/CLASS"),
        ([], "holds no folders CORRUPTION/SEVERITY/CLASS"),
    ],
)
def test_other_layouts(tmp_path, folders, message):
    make(tmp_path, *folders)
    with pytest.raises(ValueError, match=message):
        corruption_folders(tmp_path)


def test_no_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is not there"):
        corruption_folders(tmp_path / "nowhere")
