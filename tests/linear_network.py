"""A network small enough to differentiate by hand: a scale and a shift, then a fixed matrix."""

import jax.numpy as jnp
import numpy as np

from entropax.types import Batch

RNG = np.random.default_rng(5)
KERNEL = RNG.normal(size=(6, 4))
X = 1.5 * RNG.normal(size=(5, 8, 6))


def apply_fn(variables, x):
    affine = variables["norm"]
    return (x * affine["scale"] + affine["bias"]) @ variables["kernel"]


def variables(scale=1.0):
    norm = {"scale": jnp.full(6, scale), "bias": jnp.zeros(6)}
    return {"norm": norm, "kernel": jnp.array(KERNEL, float)}


def stream():
    return Batch(jnp.array(X, float), jnp.ones(X.shape[:2], bool))


def logits(theta, x):
    return (x * theta[0] + theta[1]) @ KERNEL


def probabilities(z):
    p = np.exp(z - z.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def entropy(z):
    p = probabilities(z)
    return -(p * np.log(p)).sum(-1)


def entropy_gradient(theta, x, weight):
    """Gradient of the weighted sum of entropies: dH/dz = -p (ln p + H)."""
    z = logits(theta, x)
    p = probabilities(z)
    slope = -p * (np.log(p) + entropy(z)[:, None]) * weight[:, None]
    back = slope @ KERNEL.T
    return np.stack([(back * x).sum(0), back.sum(0)])


def theta_of(state):
    norm = state.params["norm"]
    return np.stack([norm["scale"], norm["bias"]])
