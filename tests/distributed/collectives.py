"""What the devices of a compiled program send each other, read from its text."""

import re
from math import prod
from typing import NamedTuple

KINDS = ("all-reduce", "all-gather", "all-to-all", "reduce-scatter", "collective-permute")
_BITS = re.compile(r"[a-z]+(\d+)")
_ARRAY = re.compile(r"\b(pred|token|[a-z]+\d+[a-z0-9]*)\[([\d,]*)\]")
_CALL = re.compile(rf"= (.*?) ({'|'.join(KINDS)})(-start)?\(")


class Collective(NamedTuple):
    """One collective of a program. In a loop it runs many times and is counted once.

    Attributes:
      kind: one of `KINDS`.
      bytes: of its result on one device.
    """

    kind: str
    bytes: int


def collectives(program: str) -> list[Collective]:
    """All collectives in the text of a compiled program (HLO), in its order."""
    found = []
    for line in program.splitlines():
        match = _CALL.search(line)
        if match is not None:
            shape, kind, start = match.groups()
            # The start of an all-reduce has the shape of the result; that of the others is a
            # tuple, which begins with the operands and the results.
            if start and kind != "all-reduce":
                shape = _elements(shape)[1]
            found.append(Collective(kind, _size(shape)))
    return found


def _size(shape: str) -> int:
    return sum(
        _width(dtype) * prod(int(length) for length in lengths.split(",") if length)
        for dtype, lengths in _ARRAY.findall(shape)
    )


def _width(dtype: str) -> int:
    bits = _BITS.match(dtype)
    if bits is None:
        return {"pred": 1, "token": 0}[dtype]
    return -(-int(bits[1]) // 8)


def _elements(shape: str) -> list[str]:
    """The elements of a tuple, which may be tuples themselves."""
    elements, depth, begin = [], 0, 1
    for i, letter in enumerate(shape):
        if letter in "([{":
            depth += 1
        elif letter in ")]}":
            depth -= 1
        if (letter == "," and depth == 1) or (letter == ")" and depth == 0):
            elements.append(shape[begin:i].strip())
            begin = i + 1
    return elements
