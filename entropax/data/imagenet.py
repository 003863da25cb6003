"""ImageNet's classes, and the folders in which its relatives are published."""

import functools
from importlib import resources
from pathlib import Path

from entropax.data.classes import some
from entropax.data.corruptions import HOLDOUT, IMAGENET_C
from entropax.data.folder import class_folders

# The folders of the archives of ImageNet-C, above those of their corruptions.
CORRUPTION_GROUPS = ("noise", "blur", "weather", "digital", "extra")


@functools.cache
def imagenet_classes() -> tuple[str, ...]:
    """The names of ImageNet's 1,000 classes in the order of the logits of published networks.

    They are WordNet's numbers, sorted, which are also the names of the class folders.

    >>> imagenet_classes().index("n02099601")  # golden retriever
    207
    """
    text = resources.files("entropax.data").joinpath("imagenet_classes.txt")
    return tuple(text.read_text(encoding="ascii").split())


def corruption_folders(path: str | Path) -> dict[tuple[str, int], Path]:
    """Find the folders `CORRUPTION/SEVERITY/CLASS/*.JPEG` in the layout of ImageNet-C.

    Archives may lie unpacked as they are published, one folder more above: `noise`, `blur`,
    `weather`, `digital` and `extra`. Each folder that is found is one for `index_folder`, with
    `class_names=imagenet_classes()`. Only folders are listed, no image is looked for.

    Args:
      path: where the corruptions or their groups are.

    Returns:
      The folder of each corruption and severity: the corruptions in the order of the paper, the
      held-out ones after them, then others by name; each with rising severity.

    Raises:
      FileNotFoundError: there is no such folder.
      ValueError: no corruptions, one whose folders are not named by severities 1 to 5, or one that
        lies there twice.

    Reference: Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common
    Corruptions and Perturbations", ICLR 2019.
    """
    root = Path(path)
    found: dict[str, Path] = {}
    for name in class_folders(root):
        grouped = name in CORRUPTION_GROUPS
        for corruption in class_folders(root / name) if grouped else (name,):
            folder = root / name / corruption if grouped else root / name
            if corruption in found:
                raise ValueError(
                    f"{root} holds {corruption} twice: {found[corruption]} and {folder}."
                )
            found[corruption] = folder
    if found and all(name in _SEVERITIES for name in found):
        raise ValueError(f"{root} holds the severities of one corruption; pass {root.parent}.")
    if not found:
        raise ValueError(f"{root} holds no folders CORRUPTION/SEVERITY/CLASS of images.")
    severities: dict[tuple[str, int], Path] = {}
    for corruption in sorted(found, key=_published_order):
        names = class_folders(found[corruption])
        if not names or any(name not in _SEVERITIES for name in names):
            raise ValueError(
                f"The folder {found[corruption]} should hold a corruption's severities, folders "
                f"named 1 to 5, and holds {some(names) if names else 'no folders'}."
            )
        severities |= {(corruption, int(name)): found[corruption] / name for name in names}
    return severities


_SEVERITIES = ("1", "2", "3", "4", "5")


def _published_order(corruption: str) -> tuple[int, str]:
    published = (*IMAGENET_C, *HOLDOUT)
    place = published.index(corruption) if corruption in published else len(published)
    return place, corruption
