import numpy as np
import pytest

from entropax.data.classes import class_numbers, ordered_classes

KNOWN = ("ant", "bee", "cat", "dog")


def test_order_is_alphabetical_or_by_value():
    assert ordered_classes(["b", "a", "b"]) == ("a", "b")
    assert ordered_classes([str(i) for i in range(999, -1, -1)])[8:12] == ("8", "9", "10", "11")
    assert ordered_classes(["10", "9", "x"]) == ("10", "9", "x")  # not all of them are numbers
    assert ordered_classes([]) == ()


def test_names_and_numbers():
    numbers = class_numbers(["dog", "bee"], KNOWN)
    assert numbers.dtype == np.int32
    assert numbers.tolist() == [3, 1]
    assert class_numbers(["3", "0"], KNOWN).tolist() == [3, 0]
    # Numbers that are names stay names.
    assert class_numbers(["1", "5"], ["5", "3", "1"]).tolist() == [2, 0]


@pytest.mark.parametrize(
    ("names", "known", "message"),
    [
        (["ant", "eel"], KNOWN, "here: no label is known for the class folders eel"),
        (["0", "4"], KNOWN, "here: no label is known for the class folders 4"),
        (["1", "ant"], KNOWN, "no label is known for the class folders 1"),
        (["1", "01"], KNOWN, "several of the names 1, 01 are one class"),
        (["ant"], ("ant", "ant"), "the known classes are not all different"),
    ],
)
def test_what_has_no_number(names, known, message):
    with pytest.raises(ValueError, match=message):
        class_numbers(names, known, origin="here")
