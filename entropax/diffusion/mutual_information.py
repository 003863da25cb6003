r"""Mutual information between a representation and labels, from diffusion and other entropies.

    information = dsmi(features, labels, sigma="median")
    information.value, information.z_score          # nats, and how far from chance
    dsmi(features, labels, sigma="median", scheme="holevo").adjusted   # 0 for chance, at most 1

Labels may be of any type, values to be binned, or vectors to be clustered (`classes`). Cluster a
reference that stays the same once, with `cluster_reference`.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Key

from entropax.diffusion.classes import Classes
from entropax.diffusion.entropy import dse, dse_estimate
from entropax.diffusion.holevo import block_entropies, row_scales
from entropax.diffusion.information import (
    MutualInformation,
    check_repetitions,
    check_scheme,
    holevo_information,
    points_and_classes,
    random_subset_information,
    rounding_of,
)
from entropax.diffusion.points import check_kernel, scaled
from entropax.diffusion.sampling import Lanczos
from entropax.diffusion.subsets import entropies_by_size, subset_entropies
from entropax.kernels.gaussian import centred
from entropax.types import Array

# Subsets of up to so many points are solved exactly, in batches, unless `method` says otherwise.
_EXACT = 2000


def dsmi(
    z: Array | np.ndarray,
    y: Any,
    *,
    sigma: float | str | Array | None,
    t: float = 1.0,
    alpha: float = 0.0,
    neighbours: int = 10,
    scheme: str = "permutation",
    num_repetitions: int = 5,
    key: Key[Array, ""] | None = None,
    seed: int | None = 0,
    method: str | Lanczos = "auto",
    memory: int = 2**31,
) -> MutualInformation:
    r"""Diffusion spectral mutual information between points and labels, in nats.

    With the diffusion entropy `H` of `dse`, there are three schemes.

    - `"permutation"`: $I = \sum_c \frac{n_c}{n} (\overline{H}_{n_c} - H(z_c))$, where random
      classes are compared with: the labels, permuted.
    - `"compat"`: the same, with the random subsets of the published code to the last member. The
      value then varies eight times as much for the same number of entropies. All are exact, of at
      most 10,000 points; of a larger class the published code takes a sample.
    - `"holevo"`: $\chi = H(S) - \sum_c w_c H(S[c, c])$ from the blocks of the diffusion operator
      of all points, $w_c = \operatorname{tr} S[c, c] / \operatorname{tr} S$. With `t = 1` it is
      between 0 and $H(w)$, so that `adjusted` compares data sets with any number of classes: it is
      about 0 for labels that tell nothing and 1 for classes that lie apart, while the other two
      values shrink where classes are many and small. With another `t` there is no bound.

    The bandwidth is found once, from all points.

    Args:
      z: `[n, d]` points. A NumPy array is centred in its own precision.
      y: `[n]` labels, or anything that `classes` takes; what it returns, if it is to have options.
      sigma: bandwidth, a number (10 in the published studies) or a rule: see `kernels.bandwidth`.
      t: the diffusion time.
      alpha: how far the density of the points is divided out.
      neighbours: which neighbour counts, for sigma="knn" and "adaptive".
      scheme: "permutation", "compat" or "holevo".
      num_repetitions: random classes, or subsets for each class, to compare with; 19 for a p-value
        of 0.05.
      key: for the random classes and for sampled spectra; `jax.random.key(0)` by default.
      seed: of the random subsets of "compat"; None is a different one each time.
      method: "auto" solves subsets of up to 2,000 points exactly and samples the spectra of larger
        ones, where that is faster (`dse`); "exact" solves all; "slq" or `Lanczos(...)` samples all
        larger ones.
      memory: bytes that matrices of all pairs of points may take in a spectrum that is sampled.

    Returns:
      The information with its null distribution and a table of the classes. A class of one point
      has the entropy 0. One class tells nothing: the value is 0, adjusted or not, and its p-value
      1. Neither do classes of points that are all equal.

    Raises:
      ValueError: if `z` and `y` differ in length, a number is NaN, or an option is out of its
        range.

    Reference: D. Liao et al., "Assessing neural network representations during training using
    noise-resilient diffusion spectral entropy" (2023), equation 4 (the value of "permutation" and
    "compat").

    >>> z = np.eye(2)[[0, 0, 0, 1, 1, 1]] * 9
    >>> information = dsmi(z, list("aaabbb"), sigma=1.0, scheme="holevo")
    >>> round(information.value, 4), round(information.adjusted, 4)  # ln 2
    (0.6931, 1.0)
    """
    check_scheme(scheme)
    check_repetitions(num_repetitions)
    data, groups = points_and_classes(z, y)
    data, widths = with_bandwidth(data, sigma, neighbours)
    shared: dict[str, Any] = {"num_repetitions": num_repetitions, "key": key}
    if scheme == "holevo":
        return _holevo(data, groups, widths, t, alpha, method, memory, **shared)
    if scheme == "compat":
        method = "exact"
    rows, exact = _diffusion_entropy(data, widths, float(t), float(alpha))
    largest = _largest(method, widths)

    def single(subset: np.ndarray) -> tuple[float, float]:
        estimate = dse_estimate(
            data[subset],
            sigma=widths if widths.ndim == 0 else widths[subset],
            t=t,
            alpha=alpha,
            method=method,
            key=key,
            memory=memory,
        )
        return estimate.value, estimate.stderr

    def entropies(subsets: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        return entropies_by_size(
            subsets,
            largest=largest,
            batched=lambda small: subset_entropies(exact, rows, small),
            single=single,
        )

    return random_subset_information(
        entropies,
        groups,
        scheme=scheme,
        seed=seed,
        rounding=rounding_of(data),
        **shared,
    )


def _largest(method: str | Lanczos, widths: Array) -> int | None:
    """Size of the largest subset that is solved exactly, or None if all are."""
    if not (isinstance(method, Lanczos) or method in ("auto", "exact", "slq")):
        raise ValueError(
            f"`method` must be 'auto', 'exact', 'slq' or `Lanczos(...)`, got {method!r}."
        )
    # With a bandwidth for each point, eigenvalues may be negative, which cannot be sampled.
    return None if method == "exact" or widths.ndim else _EXACT


def _diffusion_entropy(
    data: Float[Array, "n d"], widths: Float[Array, " *n"], t: float, alpha: float
) -> tuple[Any, Callable[..., Float[Array, ""]]]:
    """What to give `subset_entropies`: the rows, and a function that is the same next time.

    The points in units of the bandwidth, which then is 1 and no reason to compile again.
    """
    entropy_fn = _unit_entropy if widths.ndim == 0 else _adaptive_entropy
    return in_bandwidths(data, widths), entropy_fn(t, alpha)


def with_bandwidth(
    data: Float[Array, "n d"], sigma: float | str | Array | None, neighbours: int
) -> tuple[Float[Array, "n d"], Float[Array, " *n"]]:
    """Points and their bandwidth in a unit that keeps squares of distances in range."""
    check_kernel("gaussian", sigma, neighbours)
    rule = sigma if isinstance(sigma, str) else None
    number = None if rule else jnp.asarray(sigma, data.dtype)
    x, widths, _ = scaled(data, number, rule, neighbours=neighbours)
    return centred(x)[0], widths


def in_bandwidths(x: Float[Array, "n d"], widths: Float[Array, " *n"]) -> Any:
    """Points in units of a bandwidth that all share, or together with one for each."""
    if widths.ndim:
        return x, widths
    # Below this no two points that differ have anything to do with each other.
    return x / jnp.maximum(widths, jnp.finfo(x.dtype).tiny ** 0.25)


@functools.cache
def _unit_entropy(t: float, alpha: float) -> Callable[..., Float[Array, ""]]:
    return functools.partial(dse, sigma=1.0, t=t, alpha=alpha, method="exact")


@functools.cache
def _adaptive_entropy(t: float, alpha: float) -> Callable[..., Float[Array, ""]]:
    def entropy_fn(rows: tuple[Array, Array], where: Bool[Array, " k"] | None) -> Float[Array, ""]:
        return dse(rows[0], sigma=rows[1], t=t, alpha=alpha, method="exact", where=where)

    return entropy_fn


def _holevo(
    data: Float[Array, "n d"],
    groups: Classes,
    widths: Array,
    t: float,
    alpha: float,
    method: str | Lanczos,
    memory: int,
    *,
    num_repetitions: int,
    key: Key[Array, ""] | None,
) -> MutualInformation:
    if not t > 0:
        raise ValueError(f"`t` must be positive in the scheme 'holevo', got {t}.")
    whole = dse_estimate(
        data, sigma=widths, t=t, alpha=alpha, method=method, key=key, memory=memory
    )
    each = jnp.broadcast_to(widths, (len(data),))
    scales = row_scales(data, each, alpha=float(alpha))
    weights = np.square(np.asarray(scales, np.float64))

    def entropies(subsets: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        return block_entropies(
            data,
            each,
            scales,
            subsets,
            t=float(t),
            largest=_largest(method, widths),
            settings=method if isinstance(method, Lanczos) else None,
            memory=memory,
            key=key,
        )

    return holevo_information(
        whole.value,
        whole.stderr,
        weights / weights.sum(),
        entropies,
        groups,
        num_repetitions=num_repetitions,
        key=key,
        bounded=t == 1,
        rounding=rounding_of(data),
    )
