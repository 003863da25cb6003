"""RDumb: ETA that goes back to the source network at regular intervals."""

import optax

from entropax.parameters import PathPredicate, is_norm_affine
from entropax.tta.base import Adapter
from entropax.tta.eata import Limits, eta
from entropax.tta.wrappers import reset_every
from entropax.types import ApplyFn


def rdumb(
    apply_fn: ApplyFn,
    tx: optax.GradientTransformation,
    *,
    num_classes: int,
    period: int = 1000,
    limits: Limits | None = None,
    trainable: PathPredicate = is_norm_affine,
) -> Adapter:
    """RDumb: `reset_every(eta(...), period=1000)`.

    Arguments and errors are those of `eta` and `reset_every`. Published:
    `optax.sgd(2.5e-4, momentum=0.9)`, 64 images, `limits=IMAGENET_LIMITS`.

    Reference: O. Press et al., "RDumb: a simple approach that questions our progress in continual
    test-time adaptation" (2023), section 4.

    >>> tx = optax.sgd(2.5e-4, momentum=0.9)
    >>> adapter = rdumb(lambda variables, x: x, tx, num_classes=1000)
    """
    adapter = eta(apply_fn, tx, num_classes=num_classes, limits=limits, trainable=trainable)
    return reset_every(adapter, period=period)
