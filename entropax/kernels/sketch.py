"""Cheap stand-ins for the tangent kernel, to screen many examples with."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float, PyTree

from entropax.kernels.base import FeatureKernel, num_examples
from entropax.kernels.features import Features, Jacobian
from entropax.kernels.ntk import differentiated, inner_products_compiled, one_example
from entropax.parameters import PathPredicate
from entropax.types import ApplyFn, Array, Params


def ntk_sketch(
    key: Array,
    apply_fn: ApplyFn,
    *,
    dimension: int,
    outputs: str = "mean",
    classes: Sequence[int] | None = None,
    trainable: PathPredicate | None = None,
) -> FeatureKernel:
    r"""The tangent kernel of randomly projected derivatives.

    $$\hat\Theta_{ij}^{cd} = \frac1r \sum_{s=1}^r (J_i R_s)_c (J_j R_s)_d, \qquad
      R_s \sim N(0, 1),$$

    by one forward-mode derivative along each random direction $R_s$. It is unbiased; the standard
    error of an entry of the kernel of one output is
    $\sqrt{(\Theta_{ii} \Theta_{jj} + \Theta_{ij}^2) / r}$, and smaller for the mean over outputs
    whose derivatives differ.

    Args:
      key: of the random directions, the same for all examples.
      apply_fn: the network, as for `ntk`.
      dimension: $r$; the kernel has rank r times c at most.
      outputs: `"mean"`, `"trace"` or `"full"`, as for `ntk`.
      classes: numbers of the outputs to use; by default all.
      trainable: which paths to differentiate by; by default those of `ntk`.

    Raises:
      ValueError: an unknown option, or a dimension that is not positive.

    Reference: S. M. Park et al., "TRAK: attributing model behavior at scale" (2023), section 3.1.

    >>> x = jnp.array([[1.0, 0.0], [1.0, 1.0]])
    >>> kernel_fn = ntk_sketch(jax.random.key(0), lambda params, x: x @ params, dimension=4000)
    >>> kernel = kernel_fn(jnp.ones((2, 3)), x)
    >>> bool(jnp.allclose(kernel, x @ x.T, atol=0.1))
    True
    """
    if dimension < 1:
        raise ValueError(f"`dimension` must be positive, got {dimension}.")
    inner = inner_products_compiled(outputs)
    function = one_example(apply_fn, classes=classes)

    @partial(jax.jit, static_argnums=2)
    def features(params: Params, x: PyTree[Any], partners: int) -> Features:
        num_examples(x)
        chosen = differentiated(params, trainable)

        def of_all(leaves: list[Array]) -> Float[Array, "n c"]:
            return jax.vmap(lambda one: function(chosen.merge(leaves), one))(x)

        def along(key: Array) -> Float[Array, "n c"]:
            keys = jax.random.split(key, len(chosen.leaves))
            direction = [
                jax.random.normal(k, leaf.shape, leaf.dtype)
                for k, leaf in zip(keys, chosen.leaves, strict=True)
            ]
            return jax.jvp(of_all, (chosen.leaves,), (direction,))[1]

        slopes = jax.lax.map(along, jax.random.split(key, dimension))
        return (Jacobian(jnp.moveaxis(slopes, 0, 2) / jnp.sqrt(dimension)),)

    return FeatureKernel(features, inner)


def feature_kernel(feature_fn: Callable[[Params, PyTree[Any]], Array]) -> FeatureKernel:
    r"""The linear kernel of features, $K_{ij} = \phi(x_i)^\top \phi(x_j)$.

    With the penultimate activations as features it is, up to a bias, the tangent kernel of the last
    layer alone (which `ntk` gives exactly, with `trainable` true on that layer's paths).

    Args:
      feature_fn: `(params, x [n, ...]) -> [n, ...]`; all axes but the first are features.

    >>> kernel_fn = feature_kernel(lambda params, x: x * params)
    >>> kernel_fn(2.0, jnp.eye(2)).tolist()
    [[4.0, 0.0], [0.0, 4.0]]
    """

    @partial(jax.jit, static_argnums=2)
    def features(params: Params, x: PyTree[Any], partners: int) -> Features:
        phi = feature_fn(params, x)
        return (Jacobian(phi.reshape(len(phi), 1, -1)),)

    return FeatureKernel(features, inner_products_compiled("trace"))
