"""The networks of a study, as the three functions that it needs."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from entropax import kernels
from entropax.experiments.mnist_entropy.config import Config
from entropax.experiments.mnist_entropy.images import Images
from entropax.models import CNN, Trainer, ensemble_trainer, running_statistics
from entropax.types import ApplyFn, Array, Params


class Networks(NamedTuple):
    """One architecture.

    Attributes:
      init: `key -> params`, compiled.
      apply_fn: `(params, x) -> logits`, quick to evaluate.
      differentiable: the same function, quick to differentiate inside a loop.
      kernel_fn: its neural tangent kernel, for the mean over the logits.
      trainer: Adam on the cross-entropy.
    """

    init: Callable[[Array], Params]
    apply_fn: ApplyFn
    differentiable: ApplyFn
    kernel_fn: kernels.FeatureKernel
    trainer: Trainer


def build_networks(config: Config, images: Images) -> Networks:
    """The network of the study, with padding if the images are too small to do without."""
    example = jnp.asarray(images.pool.x[:1])
    small = min(example.shape[1:3]) < 10

    def module(**options: Any) -> CNN:
        return CNN(
            num_classes=len(images.class_names),
            padding="SAME" if small else "VALID",
            parameterization=config.parameterization,
            **options,
        )

    by_patches = module()
    apply_fn = running_statistics(module(convolution=lax.conv_general_dilated))
    differentiable = running_statistics(by_patches)

    return Networks(
        init=jax.jit(lambda key: by_patches.init(key, example)),
        apply_fn=apply_fn,
        differentiable=differentiable,
        kernel_fn=kernels.ntk(apply_fn),
        trainer=ensemble_trainer(
            differentiable,
            optax.adam(config.amounts.learning_rate),
            batch_size=config.batch_size,
        ),
    )
