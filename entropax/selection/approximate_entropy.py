"""The best of many random sets by von Neumann entropy, and the entropies of many sets."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from entropax import entropy, spectra
from entropax.selection.base import Agent, Info, State, empty
from entropax.selection.checks import Pool, check_kernel
from entropax.selection.random import check_compat, check_pairs, random_subset
from entropax.types import Array


def subset_entropies(
    kernel: Float[Array, "m m"], indices: Int[Array, "*batch k"], *, batch_size: int = 256
) -> Float[Array, "*batch"]:
    r"""Von Neumann entropies of the kernels of many subsets, in nats.

    $$S(K_s), \qquad (K_s)_{ij} = K_{s_i s_j}.$$

    In float32 the entropies of 30 examples are right to about 1e-6; every eigenvalue that should be
    0 adds up to 1e-6 to that. Every set is one eigenvalue problem: `bordered_entropies` is much
    faster for the entropies of one set with each of many additional examples.

    Args:
      kernel: `[m, m]` symmetric positive semi-definite kernel of the pool.
      indices: `[..., k]` sets of rows of the pool; -1 is an empty place, which changes nothing.
      batch_size: number of sets worked on at a time, which bounds the memory to about three
        times `batch_size * k * k` numbers beside the kernel.

    Returns:
      `[...]` entropies in `[0, ln k]`; divide by `ln k` for the effective entropy. NaN where
      `entropy.von_neumann` is.

    Raises:
      ValueError: `batch_size` is below 1.

    >>> subset_entropies(jnp.eye(3), jnp.array([[1, 0, -1], [0, 1, 2]])).tolist()  # ln 2 and ln 3
    [0.6931471824645996, 1.0986123085021973]
    """
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")

    def entropy_of(subset: Int[Array, " k"]) -> Float[Array, ""]:
        return entropy.von_neumann(spectra.density(spectra.submatrices(kernel, subset)))

    kernel, indices = jnp.asarray(kernel), jnp.asarray(indices)
    flat = indices.reshape(-1, indices.shape[-1])
    return jax.lax.map(entropy_of, flat, batch_size=batch_size).reshape(indices.shape[:-1])


def entropy_curve(
    kernel: Float[Array, "m m"], indices: Int[Array, " n"], *, batch_size: int = 16
) -> Float[Array, " n"]:
    r"""Von Neumann entropy of the first 1, 2, ... n examples of a selection, in nats.

    The same measure for every agent, whatever its own objective is.

    Args:
      kernel: `[m, m]` symmetric positive semi-definite kernel of the pool.
      indices: `[n]` rows of the pool in the order chosen.
      batch_size: number of sets worked on at a time.

    Returns:
      `[n]` entropies; the first is 0.

    >>> entropy_curve(jnp.eye(3), jnp.array([2, 0, 1]))[1:].tolist()  # ln 2 and ln 3
    [0.6931471824645996, 1.0986123085021973]
    """
    n = len(indices)
    prefixes = jnp.where(jnp.tri(n, dtype=bool), indices, -1)
    return subset_entropies(kernel, prefixes, batch_size=batch_size)


class _Memory(NamedTuple):
    key: Array
    drawn: Int[Array, ""]
    best: Float[Array, ""]


def approximate_entropy(
    num_candidates: int, *, batch: int = 256, compat: str | None = None
) -> Agent:
    r"""The random set of the highest von Neumann entropy among `num_candidates`.

    $$\arg\max_{s \in \{s_1, \dots, s_k\}} S(K_s), \qquad s_i \text{ uniform}.$$

    The kernel of the pool is computed once and every candidate is a sub-matrix of it, so thousands
    of candidates cost seconds. They are numbered: `batch` does not change them, and more candidates
    contain those of a smaller number, so the entropy never falls. It grows slowly, though: see
    `greedy_entropy`. The order of the indices means nothing. The objective is the highest entropy
    so far, in nats.

    Args:
      num_candidates: number of random sets.
      batch: number of sets that a step examines.
      compat: "reference" draws each set with replacement and never the last example, as ZnNL did
        in 2022: an example may occur twice in the set.

    Raises:
      ValueError: `num_candidates` or `batch` is below 1, or `compat` is something else.

    Reference: ApproximateMaximumEntropy in ZnNL, which computes the kernel of every set anew.

    >>> from entropax.selection.base import select
    >>> kernel = jnp.diag(jnp.arange(9.0))
    >>> selection = select(jax.random.key(0), approximate_entropy(1000), kernel, 2)
    >>> sorted(selection.indices.tolist())  # the pair whose values are most alike
    [7, 8]
    """
    for name, value in (("num_candidates", num_candidates), ("batch", batch)):
        if value < 1:
            raise ValueError(f"`{name}` must be at least 1, got {value}.")
    check_compat(compat)
    batch = min(batch, num_candidates)

    def init(key: Array, pool: Float[Array, "m m"], n: int) -> State:
        return State(empty(n), _Memory(key, jnp.array(0), jnp.array(-jnp.inf, pool.dtype)))

    def step(state: State, pool: Float[Array, "m m"]) -> tuple[State, Info]:
        key, drawn, best = state.memory
        numbers = drawn + jnp.arange(batch)

        def draw(number: Int[Array, ""]) -> Int[Array, " n"]:
            return random_subset(
                jax.random.fold_in(key, number), len(pool), len(state.indices), compat=compat
            )

        subsets = jax.vmap(draw)(numbers)
        entropies = subset_entropies(pool, subsets, batch_size=batch)
        usable = (numbers < num_candidates) & ~jnp.isnan(entropies)
        entropies = jnp.where(usable, entropies, -jnp.inf)
        winner = jnp.argmax(entropies)
        better = entropies[winner] > best
        indices = jnp.where(better, subsets[winner].astype(jnp.int32), state.indices)
        objective = jnp.where(better, entropies[winner], best)
        gain = jnp.where(drawn == 0, objective, objective - best)
        drawn = drawn + batch
        info = Info(objective, gain, better, drawn >= num_candidates)
        return State(indices, _Memory(key, drawn, objective)), info

    def check(pool: Pool, n: int) -> None:
        check_kernel(pool, n)
        check_pairs(pool, compat)

    return Agent(init, step, lambda n: -(-num_candidates // batch), check)
