"""Data selection: which `n` of the `m` examples of a pool to label, or to train on.

Every method is an `Agent(init, step, num_steps, check)` whose `step` is a `jax.lax.scan` body.

    kernel = kernels.gram(kernel_fn, params, x)
    indices = selection.select(key, selection.greedy_entropy(), kernel, 30).indices

On the kernel of the pool:

- `greedy_entropy`: adds the example that raises the von Neumann entropy, or the Renyi entropy of
  order 2, most; `local_search` exchanges examples until no exchange helps.
- `approximate_entropy`: the best of many random sets.
- `greedy_determinant`: the largest determinant; `kernel_herding`: the set most like the pool.
- `subset_entropies`, `entropy_curve`: the measure for any sets, whoever selected them.

On examples or features:

- `random`; `class_balanced`, which sees labels; `k_means`.
- `distillation`: random network distillation; `entropax.selection.distances` has its distances.

`select` checks the pool and runs an agent; `run` is the same as a pure function, for `vmap`.
"""

from entropax.selection import distances
from entropax.selection.approximate_entropy import (
    approximate_entropy,
    entropy_curve,
    subset_entropies,
)
from entropax.selection.base import Agent, Info, Selection, State, run, select
from entropax.selection.bordering import bordered_entropies
from entropax.selection.distillation import distillation
from entropax.selection.greedy_determinant import greedy_determinant
from entropax.selection.greedy_entropy import greedy_entropy
from entropax.selection.k_means import k_means
from entropax.selection.kernel_herding import kernel_herding
from entropax.selection.local_search import local_search
from entropax.selection.random import class_balanced, random, random_subset

__all__ = [
    "Agent",
    "Info",
    "Selection",
    "State",
    "approximate_entropy",
    "bordered_entropies",
    "class_balanced",
    "distances",
    "distillation",
    "entropy_curve",
    "greedy_determinant",
    "greedy_entropy",
    "k_means",
    "kernel_herding",
    "local_search",
    "random",
    "random_subset",
    "run",
    "select",
    "subset_entropies",
]
