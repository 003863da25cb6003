"""Recorded inputs, and what the published code, float64 formulas and other libraries say of them.

The values are numbers only; `raises` marks an exception, None or "nan" what is not defined.
"""

import functools
import json
import pathlib

import numpy as np

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "uncertainty"


@functools.cache
def _table(name):
    return json.loads((GOLDEN / f"metric_{name}.json").read_text())


@functools.cache
def _inputs():
    with np.load(GOLDEN / "metric_inputs.npz", allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def names():
    return list(_table("reference")["cases"])


def case(name):
    """Confidence `[n]` in float32 and correct `[n]` in uint8."""
    return _inputs()[f"{name}__conf"], _inputs()[f"{name}__correct"]


def order(name, kind="ref_order"):
    """The permutation that the published code saw, where ties make a difference and it is kept."""
    return _inputs().get(f"{name}__{kind}")


def has_ties(name):
    return bool(_table("reference")["cases"][name]["tied_samples"])


def reference(name):
    return _table("reference")["reference"][name]


def correct_values(name):
    return _table("correct")["correct"][name]


def others(name):
    return _table("others")["others"][name]


def csv_format():
    return _table("csv_format")


def padded(name):
    """Confidence, correct and where, filled up to one of two lengths, lest each case compiles."""
    confidence, correct = case(name)
    n = len(correct)
    fill = (0, (2048 if n <= 2048 else 50000) - n)
    where = np.pad(np.ones(n, bool), fill)
    confidence = np.pad(confidence, fill, constant_values=np.nan)
    return confidence, np.pad(correct, fill, constant_values=7), where
