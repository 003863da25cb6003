"""SAR: entropy minimisation that looks for flat minima and recovers from collapse."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Float

from entropax.entropy import softmax_entropy
from entropax.parameters import PathPredicate, is_norm_affine, partition
from entropax.tta.base import Adapter, Info, State, finite_rows, require_classes
from entropax.tta.minimisation import Descent, all_finite, descend, mean_weight, weighted_sum
from entropax.tta.resets import reset_on_low_entropy
from entropax.types import ApplyFn, Array, Batch, Params, Variables, forward


class SarLimits(NamedTuple):
    """The two thresholds of SAR, in nats.

    Attributes:
      entropy: an example is reliable if its entropy is below this.
      recovery: the network is reset once the running mean of the entropies is below this.
    """

    entropy: float
    recovery: float

    @classmethod
    def scaled(cls, num_classes: int) -> "SarLimits":
        r"""Limits for any number of classes $C$: $0.4 \ln C$ and $0.029 \ln C$ nats.

        The published recovery limit is 0.2 nats for 1,000 classes. With 10 classes, many a healthy
        network's reliable examples have less entropy than that, and it would be reset at every
        step.

        Raises:
          ValueError: fewer than 2 classes.
        """
        if num_classes < 2:
            raise ValueError(f"`num_classes` must be at least 2, got {num_classes}.")
        return cls(0.4 * math.log(num_classes), 0.029 * math.log(num_classes))


IMAGENET_SAR_LIMITS = SarLimits(0.4 * math.log(1000), 0.2)


def sar(
    apply_fn: ApplyFn,
    tx: optax.GradientTransformation,
    *,
    num_classes: int,
    limits: SarLimits | None = None,
    radius: float = 0.05,
    compat: str | None = None,
    trainable: PathPredicate = is_norm_affine,
) -> Adapter:
    r"""SAR: follow the entropy's gradient at the worst point near by, on reliable examples only.

    $$\hat\theta = \theta + \rho\, g / \lVert g \rVert, \qquad
      g = \nabla_\theta \frac{1}{|S|} \sum_{i \in S} H(z_i(\theta)), \qquad
      S = \{i : H(z_i(\theta)) < E_0\},$$

    $$L = \frac{1}{|S'|} \sum_{i \in S'} H(z_i(\hat\theta)), \qquad
      S' = \{i \in S : H(z_i(\hat\theta)) < E_0\};$$

    the gradient of $L$ at $\hat\theta$ is applied at $\theta$. When the running mean of $L$ is
    below the recovery limit, the network is reset (`reset_on_low_entropy`). The weights in the info
    are those of $S'$. When $S'$ is empty nothing moves.

    Args:
      apply_fn: the network with batch statistics, `(variables, x) -> logits [b, c]`. The method was
        made for group and layer normalisation.
      tx: an optax optimiser; published: `optax.sgd(2.5e-4, momentum=0.9)` at 64 images, twice that
        for single images.
      num_classes: C.
      limits: $E_0$ and the recovery limit; `SarLimits.scaled(num_classes)` unless given.
        `IMAGENET_SAR_LIMITS` are the published constants.
      radius: $\rho$.
      compat: `"reference"` does as the published code: an empty selection is a step with gradient 0
        (the momentum goes on), and the recovery keeps the momentum and the running mean.
      trainable: which paths of the variables to adapt. The published code leaves out the last stage
        of the network (layer4 of a ResNet, blocks 9 to 11 and the last norm of a ViT).

    Raises:
      ValueError: fewer than 2 classes, a limit or radius that is not positive, an unknown `compat`.

    Reference: S. Niu et al., "Towards stable test-time adaptation in dynamic wild world" (2023).

    >>> adapter = sar(lambda variables, x: x, optax.sgd(5e-3, momentum=0.9), num_classes=10)
    """
    scaled = SarLimits.scaled(num_classes)
    limits = scaled if limits is None else limits
    if not limits.entropy > 0:
        raise ValueError(f"The entropy limit must be positive, got {limits.entropy} nats.")
    if not radius > 0:
        raise ValueError(f"`radius` must be positive, got {radius}.")
    logits_of = forward(apply_fn)

    def init(variables: Variables) -> State:
        params, frozen = partition(variables, trainable)
        return State(params, frozen, Descent(tx.init(params), ()))

    def step(state: State, batch: Batch) -> tuple[State, Info]:
        def mean_entropy(
            params: Params, candidates: Array
        ) -> tuple[Float[Array, ""], tuple[Float[Array, "b c"], Float[Array, " b"]]]:
            logits = logits_of(state._replace(params=params).variables, batch)
            require_classes(logits, num_classes)
            entropy = softmax_entropy(logits)
            weight = mean_weight(candidates & (entropy < limits.entropy))
            return weighted_sum(weight, entropy), (logits, weight)

        ascend = jax.value_and_grad(mean_entropy, has_aux=True)
        (first, (logits, reliable)), uphill = ascend(state.params, batch.where)
        scale = radius / (optax.tree.norm(uphill) + 1e-12)
        worst = jax.tree.map(lambda p, g: p + scale * g, state.params, uphill)
        (loss, (_, weight)), grads = ascend(worst, reliable > 0)

        selected = jnp.sum(weight > 0)
        finite = finite_rows(batch, logits) & all_finite((first, uphill, loss, grads))
        stepped = finite & jnp.any(batch.where if compat == "reference" else weight > 0)
        info = Info(
            logits=logits,
            entropy=softmax_entropy(logits),
            weight=weight,
            selected=selected,
            loss=loss,
            stepped=stepped,
            finite=finite,
        )
        return descend(tx, state, grads, (), allowed=stepped), info

    def predict(state: State, batch: Batch) -> Array:
        return logits_of(state.variables, batch)

    return reset_on_low_entropy(
        Adapter(init, step, predict),
        limit=limits.recovery,
        watch=lambda info: info.loss,
        compat=compat,
    )
