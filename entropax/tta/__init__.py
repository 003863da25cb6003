"""Test-time adaptation: let a classifier follow shifted data without labels.

Every method is an `Adapter(init, step, predict)` whose `step` is a `jax.lax.scan` body.

- `norm`: statistics of the batch, nothing learnt; `moving_norm`: running ones that follow.
- `tent`: minimises the mean entropy of each batch.
- `eta`, `eata`: reliable and non-redundant examples only; EATA adds an anchor to the source weights
  (`fisher_information`).
- `rdumb`: ETA with a periodic reset.
- `sar`: sharpness-aware, with a reset when the entropy gets too low; `deyo`: examples whose
  prediction needs the shape of things, by shuffled patches (`patch_shuffle`).
- `robust_pseudo_labels`, `conjugate_pseudo_labels`: other losses than the entropy.
- `cotta`, `rotta`: a student and its slow average, the teacher, with augmented images (`augment`);
  RoTTA has a balanced memory for correlated streams. `memo`: each example alone.
- `asr`: round another method, resets that go only as deep as they have to.
- `reset_every`, `reset_on_low_entropy`, `reset_on_low_accuracy`, `reset_on_flips`, `reset_when`,
  `restore_at_random`, `collapse_alarm`, `repeat` and `map_inputs` wrap any adapter.
- `Batch(x, where)`: examples and which of them are real; `adapt`: a whole stream of batches as one
  scan.
- `count_flips`, `Flips`: predictions that change during adaptation, from which `estimation` reads
  the accuracy; `confidence_rank`, `flip_rate` and `flip_rate_stderr` are its formulas.
- `track_embeddings`, `embedding_shift`, `silhouette`: how a network's features move meanwhile.
- `is_norm_affine`, `partition`, `merge`: which variables are adapted.
"""

from entropax.parameters import is_norm_affine, merge, partition
from entropax.tta.alarm import collapse_alarm
from entropax.tta.asr import AsrSettings, asr
from entropax.tta.augmentation import (
    COTTA_AUGMENTATION,
    SOFT_COTTA_AUGMENTATION,
    Augmentation,
    augment,
)
from entropax.tta.base import Adapter, Info, State, adapt
from entropax.tta.conjugate_pseudo_labels import conjugate_poly_loss, conjugate_pseudo_labels
from entropax.tta.cotta import confidence_threshold, cotta
from entropax.tta.deyo import DeyoLimits, deyo, patch_shuffle
from entropax.tta.eata import (
    CIFAR10_LIMITS,
    CIFAR100_LIMITS,
    IMAGENET_LIMITS,
    Limits,
    eata,
    eta,
    fisher_information,
)
from entropax.tta.embedding import (
    EmbeddingShift,
    EmbeddingTrack,
    embedding_shift,
    silhouette,
    track_embeddings,
)
from entropax.tta.flips import Flips, confidence_rank, count_flips, flip_rate, flip_rate_stderr
from entropax.tta.memo import marginal_entropy, memo
from entropax.tta.minimisation import minimise_entropy
from entropax.tta.moving_norm import is_running_statistic, moving_norm
from entropax.tta.norm import norm
from entropax.tta.rdumb import rdumb
from entropax.tta.reset_rules import reset_on_flips, reset_on_low_accuracy
from entropax.tta.resets import reset_on_low_entropy, reset_when, restore_at_random
from entropax.tta.robust_pseudo_labels import generalised_cross_entropy, robust_pseudo_labels
from entropax.tta.rotta import rotta
from entropax.tta.sar import IMAGENET_SAR_LIMITS, SarLimits, sar
from entropax.tta.tent import tent
from entropax.tta.wrappers import map_inputs, repeat, reset_every
from entropax.types import Batch

__all__ = [
    "CIFAR10_LIMITS",
    "CIFAR100_LIMITS",
    "COTTA_AUGMENTATION",
    "IMAGENET_LIMITS",
    "IMAGENET_SAR_LIMITS",
    "SOFT_COTTA_AUGMENTATION",
    "Adapter",
    "AsrSettings",
    "Augmentation",
    "Batch",
    "DeyoLimits",
    "EmbeddingShift",
    "EmbeddingTrack",
    "Flips",
    "Info",
    "Limits",
    "SarLimits",
    "State",
    "adapt",
    "asr",
    "augment",
    "collapse_alarm",
    "confidence_rank",
    "confidence_threshold",
    "conjugate_poly_loss",
    "conjugate_pseudo_labels",
    "cotta",
    "count_flips",
    "deyo",
    "eata",
    "embedding_shift",
    "eta",
    "fisher_information",
    "flip_rate",
    "flip_rate_stderr",
    "generalised_cross_entropy",
    "is_norm_affine",
    "is_running_statistic",
    "map_inputs",
    "marginal_entropy",
    "memo",
    "merge",
    "minimise_entropy",
    "moving_norm",
    "norm",
    "partition",
    "patch_shuffle",
    "rdumb",
    "repeat",
    "reset_every",
    "reset_on_flips",
    "reset_on_low_accuracy",
    "reset_on_low_entropy",
    "reset_when",
    "restore_at_random",
    "robust_pseudo_labels",
    "rotta",
    "sar",
    "silhouette",
    "tent",
    "track_embeddings",
]
