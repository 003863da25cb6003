"""The adapters of the comparison by name, each with the settings it is run with.

Optimisers: SGD with momentum 0.9 at the learning rate of the run for those that move scales and
shifts by entropy; Adam 1e-3, as published for CIFAR, for CoTTA and RoTTA. CoTTA and MEMO take 8
augmented copies where 32 are published, which would make a step on a CPU take seconds.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import optax

from entropax import tta
from entropax.types import ApplyFn, Array, Params, Variables

_COPIES = 8
# Published for CIFAR-10, a set of ten classes like those at hand.
_CONFIDENCE = 0.92


class Setting(NamedTuple):
    """What an adapter may be built from.

    Attributes:
      key: for the methods that draw at random.
      source_fn: the network with running statistics.
      apply_fn: with batch statistics.
      mixed_fn: with a tenth of batch statistics and nine of running ones.
      update_fn: with running statistics of which every batch renews a twentieth.
      fisher: Fisher information of the adapted parameters, on clean images.
      num_classes: C.
      image_shape: height, width, channels.
      learning_rate: of SGD.
      period: steps between two resets of RDumb.
    """

    key: Array
    source_fn: ApplyFn
    apply_fn: ApplyFn
    mixed_fn: ApplyFn
    update_fn: Callable[..., tuple[Array, Variables]]
    fisher: Params
    num_classes: int
    image_shape: tuple[int, ...]
    learning_rate: float
    period: int

    @property
    def sgd(self) -> optax.GradientTransformation:
        """The optimiser of most methods."""
        return optax.sgd(self.learning_rate, momentum=0.9)


METHODS: Mapping[str, Callable[[Setting], tta.Adapter]] = {
    "source": lambda s: tta.norm(s.source_fn),
    "norm": lambda s: tta.norm(s.apply_fn),
    "norm-alpha": lambda s: tta.norm(s.mixed_fn),
    "norm-ema": lambda s: tta.moving_norm(s.update_fn),
    "tent": lambda s: tta.tent(s.apply_fn, s.sgd),
    "eta": lambda s: tta.eta(s.apply_fn, s.sgd, num_classes=s.num_classes),
    "eata": lambda s: tta.eata(
        s.apply_fn, s.sgd, s.fisher, num_classes=s.num_classes, fisher_weight=1.0
    ),
    "rdumb": lambda s: tta.rdumb(s.apply_fn, s.sgd, num_classes=s.num_classes, period=s.period),
    "sar": lambda s: tta.sar(s.apply_fn, s.sgd, num_classes=s.num_classes),
    "deyo": lambda s: tta.deyo(s.key, s.apply_fn, s.sgd, num_classes=s.num_classes),
    "rpl": lambda s: tta.robust_pseudo_labels(s.apply_fn, s.sgd),
    "cpl": lambda s: tta.conjugate_pseudo_labels(s.apply_fn, s.sgd),
    "asr": lambda s: tta.asr(s.apply_fn, s.sgd, num_classes=s.num_classes),
    "cotta": lambda s: tta.cotta(
        s.key,
        s.apply_fn,
        optax.adam(1e-3),
        threshold=_CONFIDENCE,
        num_augmentations=_COPIES,
    ),
    "rotta": lambda s: tta.rotta(
        s.key,
        s.source_fn,
        s.update_fn,
        optax.adam(1e-3),
        num_classes=s.num_classes,
        image_shape=s.image_shape,
    ),
    "memo": lambda s: tta.memo(
        s.key, s.mixed_fn, optax.sgd(5e-3), num_copies=_COPIES, examples_at_once=_COPIES
    ),
}
# What predicts is not what adapts, or is no network of its own.
TEACHERS = frozenset({"cotta", "rotta", "memo"})
