"""Matrices made from their eigenvalues, so that the answer is known beforehand."""

import numpy as np


def rotation(n, seed):
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(n, n)))
    return q * np.sign(np.diag(r))


def matrix(eigvals, seed=0):
    q = rotation(len(eigvals), seed)
    return (q * np.asarray(eigvals)) @ q.T


def random_kernel(seed, n=8):
    rng = np.random.default_rng(seed)
    return matrix(rng.exponential(size=n) ** 3, seed + 1)


def float64_entropy(eigvals, order=1.0):
    p = np.clip(eigvals, 0, None)
    p = p[p > 0] / p.sum()
    if order == 1:
        return -np.sum(p * np.log(p))
    return np.log(np.sum(p**order)) / (1 - order)
