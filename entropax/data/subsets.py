"""Networks of many classes on sets that hold a few of them."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from entropax.types import Array


def restrict_logits(
    logits: Float[Array, "*b c"], classes: Int[np.ndarray, " k"] | Int[Array, " k"]
) -> Float[Array, "*b c"]:
    r"""Leave a network the choice between some of its classes.

    $$\tilde z_j = z_j \;\text{ for } j \in S, \qquad \tilde z_j = -\infty \;\text{ otherwise.}$$

    Softmax, argmax and entropy are then those over the classes in $S$, and labels keep the numbers
    they have in the network. So do the authors of ImageNet-R and ImageNet-A, whose 200 classes are
    among the 1,000 that a network knows: without it, an image can be taken for a class that is not
    in the set.

    Where outputs of the network's width are not needed, `logits[..., classes]` has the same softmax
    with `k` columns; labels are then places in `classes`.

    Args:
      logits: of all classes.
      classes: $S$, e.g. `np.unique(folder.labels)` or `class_numbers(...)`.

    Raises:
      ValueError: no classes, or, where their values are known, one outside `[0, c)`.

    Reference: Hendrycks et al., "The Many Faces of Robustness", ICCV 2021 (ImageNet-R); "Natural
    Adversarial Examples", CVPR 2021 (ImageNet-A).

    >>> restrict_logits(jnp.array([3.0, 1.0, 2.0]), np.array([1, 2])).tolist()
    [-inf, 1.0, 2.0]
    """
    count = logits.shape[-1]
    if not len(classes):
        raise ValueError("`classes` must hold at least one class.")
    if isinstance(classes, np.ndarray) and (classes.min() < 0 or classes.max() >= count):
        raise ValueError(
            f"`classes` must lie in [0, {count}), the logits there are, got "
            f"{int(classes.min())} to {int(classes.max())}."
        )
    kept = jnp.zeros(count, bool).at[jnp.asarray(classes)].set(True)
    return jnp.where(kept, logits, -jnp.inf)
