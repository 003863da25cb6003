"""DeYO: entropy minimisation on examples whose prediction depends on the object's shape."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Float, PRNGKeyArray

from entropax.entropy import softmax_entropy
from entropax.parameters import PathPredicate, is_norm_affine
from entropax.tta.base import Adapter, Info, State, require_classes
from entropax.tta.minimisation import follow_gradient, mean_weight, weighted_sum
from entropax.types import ApplyFn, Array, Batch, Params, forward


class DeyoLimits(NamedTuple):
    """The thresholds of DeYO.

    Attributes:
      entropy: an example is reliable if its entropy is below this many nats.
      margin: entropy in nats at which the factor of an example is 1; below, it is larger.
      plpd: the predicted class must lose more than this probability when the object is destroyed.
    """

    entropy: float
    margin: float
    plpd: float

    @classmethod
    def scaled(cls, num_classes: int, *, plpd: float = 0.2) -> "DeyoLimits":
        r"""Limits for $C$ classes: $0.5 \ln C$ and $0.4 \ln C$ nats, and `plpd`.

        Published: 0.2 for mixed shifts, label shift and single images, 0.3 for one shift at a time.

        Raises:
          ValueError: fewer than 2 classes.
        """
        if num_classes < 2:
            raise ValueError(f"`num_classes` must be at least 2, got {num_classes}.")
        return cls(0.5 * math.log(num_classes), 0.4 * math.log(num_classes), plpd)


class Shuffling(NamedTuple):
    """Memory of DeYO: the key from which the next batch's patches are shuffled."""

    key: PRNGKeyArray


def patch_shuffle(
    key: PRNGKeyArray, x: Float[Array, "b h w *channels"], *, grid: int = 4
) -> Float[Array, "b h w *channels"]:
    """Cut each image into `grid` x `grid` patches and put them together in a random order.

    Every image has an order of its own, which depends on the key and its place in the batch only.

    Args:
      key: for the orders.
      x: `[b, h, w, ...]` images.
      grid: patches along each side.

    Raises:
      ValueError: `grid` does not divide height and width.

    >>> x = jnp.arange(16.0).reshape(1, 4, 4)
    >>> y = patch_shuffle(jax.random.key(0), x, grid=2)
    >>> bool(jnp.all(jnp.sort(y.ravel()) == x.ravel()))
    True
    """
    b, height, width, *channels = x.shape
    if grid < 1 or height % grid or width % grid:
        raise ValueError(
            f"`grid` must divide the height and width of the images, got {grid} for {height} x "
            f"{width}."
        )
    cut = (b, grid, height // grid, grid, width // grid, *channels)
    patches = jnp.swapaxes(x.reshape(cut), 2, 3)
    patches = patches.reshape(b, grid * grid, *patches.shape[3:])
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(b))
    patches = jax.vmap(lambda key, image: jax.random.permutation(key, image))(keys, patches)
    patches = patches.reshape(b, grid, grid, *patches.shape[2:])
    return jnp.swapaxes(patches, 2, 3).reshape(x.shape)


def deyo(
    key: PRNGKeyArray,
    apply_fn: ApplyFn,
    tx: optax.GradientTransformation,
    *,
    num_classes: int,
    limits: DeyoLimits | None = None,
    destroy: Callable[[PRNGKeyArray, Array], Array] = patch_shuffle,
    trainable: PathPredicate = is_norm_affine,
) -> Adapter:
    r"""DeYO: minimise entropy where the prediction suffers from the destruction of the object.

    $$L(\theta) = \frac{1}{|S|} \sum_{i \in S} \big(e^{E_0 - H_i} + e^{\mathrm{PLPD}_i}\big)
      H(z_i(\theta)), \qquad
      S = \{i : H_i < E,\ \mathrm{PLPD}_i > \tau\},$$

    $$\mathrm{PLPD}_i = p_{\hat y_i}(x_i) - p_{\hat y_i}(x_i'), \qquad
      \hat y_i = \arg\max_k p_k(x_i),$$

    with the factors held constant and $x'$ the image with its patches in disorder. If a network
    uses batch statistics, those of $x'$ come from the examples with $H_i < E$ alone. When $S$ is
    empty nothing moves but the key.

    Args:
      key: for the shuffling; it is carried in the state, and a new one is used at every step.
      apply_fn: the network with batch statistics, `(variables, x) -> logits [b, c]`.
      tx: an optax optimiser; published: that of `sar`.
      num_classes: C.
      limits: $E$, $E_0$ and $\tau$; `DeyoLimits.scaled(num_classes)` unless given. For biased data
        (Waterbirds, coloured MNIST) the published ones are $\ln C$, $\ln C$ and 0.5.
      destroy: `(key, x) -> x'` of the same shape.
      trainable: which paths of the variables to adapt.

    Raises:
      ValueError: fewer than 2 classes, an entropy limit that is not positive, a `plpd` outside
        [-1, 1].

    Reference: J. Lee et al., "Entropy is not enough for test-time adaptation: from the perspective
    of disentangled factors" (2024).

    >>> tx = optax.sgd(5e-3, momentum=0.9)
    >>> adapter = deyo(jax.random.key(0), lambda variables, x: x, tx, num_classes=10)
    """
    scaled = DeyoLimits.scaled(num_classes)
    limits = scaled if limits is None else limits
    if not limits.entropy > 0:
        raise ValueError(f"The entropy limit must be positive, got {limits.entropy} nats.")
    if not -1 <= limits.plpd <= 1:
        raise ValueError(f"The limit on the PLPD must be in [-1, 1], got {limits.plpd}.")
    logits_of = forward(apply_fn)

    def objective(
        state: State, params: Params, batch: Batch, logits: Float[Array, "b c"]
    ) -> tuple[Float[Array, ""], Float[Array, " b"], Shuffling]:
        require_classes(logits, num_classes)
        memory: Shuffling = state.memory.method
        entropy = softmax_entropy(logits)
        constant, certainty = jax.lax.stop_gradient((logits, entropy))
        reliable = batch.where & (certainty < limits.entropy)
        now, _ = jax.random.split(memory.key)
        broken = logits_of(state.variables, Batch(destroy(now, batch.x), reliable))
        label = jnp.argmax(constant, axis=-1, keepdims=True)
        probs = jax.nn.softmax(constant), jax.nn.softmax(broken)
        plpd = -jnp.diff(jnp.take_along_axis(jnp.stack(probs), label[None], axis=-1), axis=0)[
            0, :, 0
        ]
        share = mean_weight(reliable & (plpd > limits.plpd))
        weight = jnp.where(
            share > 0, share * (jnp.exp(limits.margin - certainty) + jnp.exp(plpd)), 0
        )
        return weighted_sum(weight, entropy), weight, memory

    adapter = follow_gradient(
        apply_fn, tx, start=lambda params: Shuffling(key), objective=objective, trainable=trainable
    )

    def step(state: State, batch: Batch) -> tuple[State, Info]:
        moved, info = adapter.step(state, batch)
        # The key moves on even if nothing was selected: another disorder may select something.
        _, after = jax.random.split(state.memory.method.key)
        return moved._replace(memory=moved.memory._replace(method=Shuffling(after))), info

    return adapter._replace(step=step)
