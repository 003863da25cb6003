"""The table of agents, and the pools that they work on.

An agent is compiled once for each shape of the pool and each n: tests that take the agents from
here, with 12 examples of which they choose 5, share what is compiled.
"""

import functools

import numpy as np
import optax

from entropax import selection

M, D = 12, 4
LABELS = np.array([0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 2, 2])


def features(seed=0):
    """Examples 5 and 7 are those numbered 0 and 3 once more."""
    x = np.random.default_rng(seed).normal(size=(M, D)).astype(np.float32)
    x[5], x[7] = x[0], x[3]
    return x


def kernel(seed=0):
    x = features(seed)
    return np.exp(-0.3 * np.sum(np.square(x[:, None] - x), axis=-1)).astype(np.float32)


def linear(params, x):
    return x.reshape(len(x), -1) @ params


TARGET = np.random.default_rng(1).normal(size=(D, 3)).astype(np.float32)


def distillation(**options):
    start = np.zeros((D, 3), np.float32)
    return selection.distillation(
        linear, linear, TARGET, start, optax.sgd(0.05), training_steps=3, **options
    )


# How to build each agent, and the pool that it works on.
AGENTS = {
    "random": (lambda: selection.random(), features),
    "class balanced": (lambda: selection.class_balanced(LABELS), features),
    "approximate entropy": (lambda: selection.approximate_entropy(7, batch=3), kernel),
    "greedy entropy": (lambda: selection.greedy_entropy(), kernel),
    "greedy entropy of order 2": (lambda: selection.greedy_entropy(order=2), kernel),
    "greedy determinant": (lambda: selection.greedy_determinant(), kernel),
    "local search": (lambda: selection.local_search(selection.random()), kernel),
    "kernel herding": (lambda: selection.kernel_herding(), kernel),
    "k-means": (lambda: selection.k_means(iterations=8), features),
    "distillation": (lambda: distillation(batch_size=5), features),
}


@functools.cache
def agent_of(name):
    return AGENTS[name][0]()
