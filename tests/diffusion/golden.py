"""Values of the published code (dse-dsmi 1.1) on small inputs, in bits, from NumPy in float64.

Cases of `fn` "derived" come from NumPy alone: the operator of any alpha, and Renyi entropies.
"""

import functools
import json

from diffusion import recipes
from oracles import GOLDEN


@functools.cache
def record():
    """All that was recorded: "meta", "inputs" by name, "cases"."""
    return json.loads((GOLDEN / "diffusion" / "golden.json").read_text())


def cases(*, fn=None, raises=False, **params):
    """The cases of a function of the published code, in the order of their ids.

    With `params`, those whose parameters have these values; `None` for one that was not given.
    Cases that raise are left out, or are the only ones with `raises=True`.
    """
    return [
        case
        for case in record()["cases"]
        if fn in (None, case["fn"])
        and raises == ("raises" in case)
        and all(case["params"].get(name) == value for name, value in params.items())
    ]


def features(case):
    """`[N, D]` input of a case."""
    return recipes.make_input(record()["inputs"][case["input"]]["recipe"])


def labels(case):
    """Classes, numbers or reference vectors of a case, as given to the published code."""
    return recipes.make_labels(case["labels"])


def clusters(case):
    """`[N]` precomputed clusters of a case that was given some."""
    return recipes.make_labels(case["clusters"])
