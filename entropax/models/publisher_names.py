"""Tensors under the names that a module has for them, whoever published the file."""

import re
from collections.abc import Mapping

from entropax.models.tensors import Tensors


def renamed(tensors: Tensors, rules: Mapping[str, str]) -> Tensors:
    r"""Rename each tensor by the first rule whose pattern is its whole name.

    Args:
      tensors: by name; those that no rule matches keep theirs.
      rules: from a regular expression to the new name, in which `\1` is the first group.

    Raises:
      ValueError: two tensors get the same name.

    >>> import numpy as np
    >>> tensors = {"blocks.3.norm1.weight": np.ones(8), "head.weight": np.ones((5, 8))}
    >>> list(renamed(tensors, {r"blocks\.(\d+)\.norm1\.(\w+)": r"block\1.norm0.\2"}))
    ['block3.norm0.weight', 'head.weight']
    """
    found: Tensors = {}
    for name, value in tensors.items():
        matches = (re.fullmatch(pattern, name) for pattern in rules)
        chosen = next(((m, m.re.pattern) for m in matches if m), None)
        new = chosen[0].expand(rules[chosen[1]]) if chosen else name
        if new in found:
            raise ValueError(f"Two tensors belong to {new}; the second one is {name}.")
        found[new] = value
    return found


def count(tensors: Tensors, pattern: str) -> int:
    """The number of tensors whose whole name matches."""
    return sum(re.fullmatch(pattern, name) is not None for name in tensors)


def as_path(layer: str) -> str:
    """`block0.norm1` as a path in the module, `block0/norm1`."""
    return layer.replace(".", "/")
