"""The inputs and the labels of the recorded values, from NumPy's PCG64 and scikit-learn's digits.

The recorded hash of every input depends on the order of the draws, so it must stay as it is.
"""

import functools
import hashlib
import json

import numpy as np


def _generator(recipe):
    return np.random.Generator(np.random.PCG64(recipe.get("seed", 0)))


@functools.cache
def _digits():
    from sklearn.datasets import load_digits

    digits = load_digits()
    return digits.data.astype(np.float64), digits.target


def _normal(recipe, rng):
    return rng.standard_normal((recipe["N"], recipe["D"]))


def _uniform(recipe, rng):
    return rng.random((recipe["N"], recipe["D"]))


def _blobs(recipe, rng):
    """Row i belongs to class i mod C."""
    centres = recipe["sep"] * rng.standard_normal((recipe["C"], recipe["D"]))
    noise = recipe.get("std", 1.0) * _normal(recipe, rng)
    return centres[np.arange(recipe["N"]) % recipe["C"]] + noise


def _powerlaw(recipe, rng):
    columns = np.arange(1.0, recipe["D"] + 1)
    return _normal(recipe, rng) * columns ** (-recipe["decay"] / 2)


def _circle(recipe, rng):
    angles = 2 * np.pi * rng.random(recipe["N"])
    plane = np.zeros((recipe["N"], recipe["D"]))
    plane[:, :2] = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return recipe["radius"] * plane + recipe["noise"] * _normal(recipe, rng)


def _mixed_density(recipe, rng):
    """Three quarters of the points N(0, 1); the rest half spread out, half narrow."""
    first = 3 * recipe["N"] // 4
    second = (recipe["N"] - first) // 2
    groups = [(first, 1.0, 0.0), (second, 4.0, 6.0), (recipe["N"] - first - second, 0.3, -5.0)]
    draws = [std * rng.standard_normal((n, recipe["D"])) + mean for n, std, mean in groups]
    return np.concatenate(draws)


def _duplicated(recipe, rng):
    return np.repeat(rng.standard_normal((recipe["N"] // 2, recipe["D"])), 2, axis=0)


def _constant(recipe, rng):
    return np.full((recipe["N"], recipe["D"]), recipe.get("value", 1.0))


def _relu(recipe, rng):
    """One random layer of rectified units on H normal inputs."""
    inputs = rng.standard_normal((recipe["N"], recipe["H"]))
    weights = rng.standard_normal((recipe["H"], recipe["D"])) / np.sqrt(recipe["H"])
    return np.maximum(inputs @ weights, 0.0)


def _offset(recipe, rng):
    return recipe["offset"] + _normal(recipe, rng)


def _digit_rows(recipe, rng):
    return _digits()[0][recipe["start"] :][: recipe["N"]]


_INPUTS = {
    "normal": _normal,
    "uniform": _uniform,
    "blobs": _blobs,
    "powerlaw": _powerlaw,
    "circle": _circle,
    "mixed_density": _mixed_density,
    "duplicated": _duplicated,
    "constant": _constant,
    "relu": _relu,
    "offset": _offset,
    "digits": _digit_rows,
}


@functools.cache
def _made(text):
    recipe = json.loads(text)
    x = _INPUTS[recipe["kind"]](recipe, _generator(recipe))
    if "const_dim" in recipe:
        x[:, recipe["const_dim"]] = 3.0
    x = x.astype(recipe.get("dtype", "float64"))
    x.flags.writeable = False
    return x


def make_input(recipe):
    """`[N, D]` features, read-only."""
    return _made(json.dumps(recipe, sort_keys=True))


def digest(x):
    """The first 16 hexadecimal digits of SHA-256 of the values to 9 decimals."""
    return hashlib.sha256(np.round(x.astype(np.float64), 9).tobytes()).hexdigest()[:16]


def make_labels(recipe):
    """`[N]` integer classes or real numbers, or `[N, D']` reference vectors."""
    kind, n, rng = recipe["kind"], recipe.get("N"), _generator(recipe)
    if kind == "mod":
        return np.arange(n) % recipe["C"]
    if kind == "singleton":  # as "mod", but for the first point, a class of its own
        return np.where(np.arange(n) == 0, recipe["C"], np.arange(n) % recipe["C"])
    if kind == "randint":
        return rng.integers(0, recipe["C"], n)
    if kind == "choice":  # class c is as likely as ratio ** c
        weights = recipe["ratio"] ** np.arange(recipe["C"])
        return rng.choice(recipe["C"], n, p=weights / weights.sum())
    if kind == "digits":
        return _digits()[1][recipe["start"] :][:n]
    if kind == "scalar_uniform":
        return rng.uniform(-1, 1, n)
    if kind == "scalar_col":
        column = make_input(recipe["input"])[:, 0]
        return column + recipe["noise"] * rng.standard_normal(len(column))
    if kind == "vectors":
        return make_input(recipe["input"])
    raise ValueError(f"There is no recipe for labels of kind {kind!r}.")
