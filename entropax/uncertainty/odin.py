"""ODIN: confidence after a step of the input towards the predicted class."""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Shaped

from entropax.types import ApplyFn, Array, Variables
from entropax.uncertainty.scores import log_odds, max_softmax


def odin(
    apply_fn: ApplyFn,
    variables: Variables,
    x: Shaped[Array, "b *shape"],
    *,
    temperature: float = 1000,
    step: float = 0.0014,
    where: Bool[Array, "*#batch #c"] | None = None,
) -> Float[Array, " b"]:
    r"""Largest softmax probability at a temperature, of an input moved to make it larger.

    $$\tilde x = x + \varepsilon \operatorname{sign} \nabla_x \ln \max_k p_k(x; T), \qquad
      s = \max_k p_k(\tilde x; T), \qquad p(x; T) = \mathrm{softmax}(f(x) / T).$$

    Inputs like those of the training gain more by the step than others. It costs two forward passes
    and one backward pass; at `step=0` it is `max_softmax` of `logits / temperature`.

    Args:
      apply_fn: `apply_fn(variables, x) -> logits [b, c]`; its output for one example must not
        depend on the others.
      variables: its first argument.
      x: inputs, floating-point numbers.
      temperature: $T$, positive. It is about the order: at the published 1000 all scores are close
        to `1 / c`.
      step: $\varepsilon$, in the units of `x`. The published value is for images in [0, 1].
      where: `[c]` or `[b, c]` classes that count.

    Returns:
      Scores in `[1/c, 1]`; NaN where a logit is NaN or `+inf`.

    Raises:
      ValueError: a temperature that is not positive, a negative step, or inputs that are integers.

    Reference: S. Liang, Y. Li and R. Srikant, "Enhancing the reliability of out-of-distribution
    image detection in neural networks" (2018), equations 1 and 2. Their gradient is taken of the
    logarithm of the largest probability, as here; their code divides it by the standard deviation
    of each colour, which here belongs into `apply_fn`.

    >>> odin(lambda w, x: x @ w, jnp.eye(2), jnp.array([[1.0, 0.0]]), temperature=1, step=0.0)
    Array([0.7310586], dtype=float32)
    """
    if not temperature > 0:
        raise ValueError(f"`temperature` must be positive, got {temperature}.")
    if not step >= 0:
        raise ValueError(f"`step` must not be negative, got {step}.")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"`x` must be floating-point numbers to have a gradient, got {x.dtype}.")

    def total(x: Array) -> Array:
        # It rises where the logarithm of the probability does, but does not level off at 1, where
        # the sign of a vanished gradient would be 0.
        return jnp.sum(log_odds(apply_fn(variables, x) / temperature, where=where))

    direction = jnp.sign(jax.grad(total)(x))
    return max_softmax(apply_fn(variables, x + step * direction) / temperature, where=where)
