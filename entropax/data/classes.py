"""Names of classes: their order, and where each is among those that a network knows."""

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Int32


def ordered_classes(names: Iterable[str]) -> tuple[str, ...]:
    """Names of class folders in the order of their labels.

    The order is alphabetical, except that names which are all whole numbers follow their values, as
    in ImageNet-V2.

    >>> ordered_classes(["dog", "cat"]), ordered_classes(["10", "9", "0"])
    (('cat', 'dog'), ('0', '9', '10'))
    """
    distinct = set(names)
    if _all_numbers(distinct):
        return tuple(sorted(distinct, key=lambda name: (int(name), name)))
    return tuple(sorted(distinct))


def class_numbers(
    class_names: Sequence[str], known: Sequence[str], *, origin: str = "the folder"
) -> Int32[np.ndarray, " k"]:
    """Where each class is among those that a network knows.

    Args:
      class_names: the classes of a folder, by the names in `known`; or whole numbers, none of which
        is such a name: then they are the numbers of the classes themselves, as in ImageNet-V2.
      known: the classes of the network in the order of its logits.
      origin: where the names come from; it opens every error message.

    Returns:
      `[k]` int32 in `[0, len(known))`.

    Raises:
      ValueError: a class is not known, or stands there twice.

    >>> class_numbers(["dog", "ant"], ["ant", "bee", "cat", "dog"]).tolist()
    [3, 0]
    """
    number = {name: i for i, name in enumerate(known)}
    if len(number) < len(known):
        raise ValueError(f"{origin}: the names of the known classes are not all different.")
    if _all_numbers(class_names) and not any(name in number for name in class_names):
        number = {name: int(name) for name in class_names if int(name) < len(known)}
    if unlisted := [name for name in class_names if name not in number]:
        raise ValueError(f"{origin}: no label is known for the class folders {some(unlisted)}.")
    numbers = np.array([number[name] for name in class_names], np.int32)
    if len(np.unique(numbers)) < len(numbers):
        raise ValueError(f"{origin}: several of the names {some(class_names)} are one class.")
    return numbers


def some(names: Sequence[str]) -> str:
    """The first names, and how many there are if these are not all."""
    return ", ".join(names[:5]) + (f", ... ({len(names)} in all)" if len(names) > 5 else "")


def _all_numbers(names: Iterable[str]) -> bool:
    return all(name.isascii() and name.isdigit() for name in names)
