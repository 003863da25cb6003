"""Test-time adaptation: let a classifier follow shifted data without labels.

Every method is an `Adapter(init, step, predict)` whose `step` is a `jax.lax.scan` body.

- `norm`: statistics of the batch, nothing learnt.
- `tent`: minimises the mean entropy of each batch.
- `eta`, `eata`: reliable and non-redundant examples only; EATA adds an anchor to the source weights
  (`fisher_information`).
- `rdumb`: ETA with a periodic reset; `reset_every`, `repeat` and `map_inputs` wrap any adapter.
- `Batch(x, where)`: examples and which of them are real; `adapt`: a whole stream of batches as one
  scan.
- `count_flips`, `Flips`: predictions that change during adaptation, from which `estimation` reads
  the accuracy; `confidence_rank`, `flip_rate` and `flip_rate_stderr` are its formulas.
- `is_norm_affine`, `partition`, `merge`: which variables are adapted.
"""

from entropax.parameters import is_norm_affine, merge, partition
from entropax.tta.base import Adapter, Info, State, adapt
from entropax.tta.eata import (
    CIFAR10_LIMITS,
    CIFAR100_LIMITS,
    IMAGENET_LIMITS,
    Limits,
    eata,
    eta,
    fisher_information,
)
from entropax.tta.flips import Flips, confidence_rank, count_flips, flip_rate, flip_rate_stderr
from entropax.tta.minimisation import minimise_entropy
from entropax.tta.norm import norm
from entropax.tta.rdumb import rdumb
from entropax.tta.tent import tent
from entropax.tta.wrappers import map_inputs, repeat, reset_every
from entropax.types import Batch

__all__ = [
    "CIFAR10_LIMITS",
    "CIFAR100_LIMITS",
    "IMAGENET_LIMITS",
    "Adapter",
    "Batch",
    "Flips",
    "Info",
    "Limits",
    "State",
    "adapt",
    "confidence_rank",
    "count_flips",
    "eata",
    "eta",
    "fisher_information",
    "flip_rate",
    "flip_rate_stderr",
    "is_norm_affine",
    "map_inputs",
    "merge",
    "minimise_entropy",
    "norm",
    "partition",
    "rdumb",
    "repeat",
    "reset_every",
    "tent",
]
