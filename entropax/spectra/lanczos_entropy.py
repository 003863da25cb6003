"""The entropy of an operator that is known only through its products with vectors."""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float, Key

from entropax.distributed import mesh_of
from entropax.spectra.estimate import spectral_estimate
from entropax.spectra.lanczos import MatVec
from entropax.spectra.quadrature import quadrature
from entropax.types import Array


class LanczosEntropy(NamedTuple):
    """An entropy with its uncertainty.

    Attributes:
      value: the estimate, in nats.
      stderr: its standard error over the probes.
      lower: lower end of an interval that holds the entropy with 95 % probability.
      upper: upper end. Where `upper - lower` is much wider than four `stderr`, more steps narrow
        it; otherwise more probes do.
      trace: the trace of the operator, as given or as estimated.
    """

    value: Float[Array, ""]
    stderr: Float[Array, ""]
    lower: Float[Array, ""]
    upper: Float[Array, ""]
    trace: Float[Array, ""]


def lanczos_entropy(
    key: Key[Array, ""],
    matvec: MatVec,
    n: int,
    *,
    order: float = 1.0,
    trace: float | Float[Array, ""] | None = None,
    num_probes: int = 16,
    num_deflated: int = 16,
    num_steps: int = 20,
    batch_size: int | None = None,
) -> LanczosEntropy:
    r"""Von Neumann (or Renyi) entropy of an operator, by stochastic Lanczos quadrature.

    $$S = \operatorname{tr} f(A), \qquad f(p) = -p \ln p, \qquad A = K / \operatorname{tr} K,$$

    $$\operatorname{tr} f(A) = \sum_i q_i^\top f(A)\, q_i + a\, (n - k)
      + b\, \Big(1 - \sum_i q_i^\top A q_i\Big)
      + \mathbb{E}\, \big[g^\top (f(A) - a - b A)\, g\big].$$

    The $k$ vectors $q_i$ nearly span the leading eigenvectors, and their part is exact. The probes
    $g$ are random signs made orthogonal to them, so that a dominant eigenvalue adds no variance.
    The line $a + b p$ is the best fit to $f$ in the spectrum that the probes have seen; its trace
    is known, and what is left of $f$ varies little. Each $v^\top f(A) v$ comes from two quadrature
    rules, Gauss and Gauss-Radau with a node at 0, which bracket it because the derivatives of $f$
    alternate in sign.

    On a Gaussian kernel of 1,000 digits whose first eigenvalue holds 75 % of the trace (entropy
    1.438), 660 products gave, as root mean square over 40 keys, an error of 0.078 with plain
    quadrature, 0.052 with the line, and 0.0025 with the line and the exact part; 0.018 without
    `trace`. Over 30 settings and spectra the interval held the entropy in 89 to 98 of 100 runs.
    float32 added at most 6e-6, for `n` up to 50,000.

    It takes `2 num_deflated + num_steps (num_deflated + num_probes)` products. Besides what
    `matvec` needs, memory is for `n` by `num_steps` by `batch_size` numbers and a few times `n` by
    `num_deflated + num_probes`. It runs under `jit`, which traces `matvec` a few times whatever the
    number of products. For gradients use `density`.

    Args:
      key: a key for the probes. With the same key the noise of two similar operators is similar,
        which helps to compare them.
      matvec: `K x [n]` for `x [n]`, symmetric and positive semi-definite, of any scale.
      n: the number of rows.
      order: 1 for von Neumann; any other positive number for the Renyi entropy of the eigenvalues.
      trace: the trace of `K`, if known exactly: for a neural tangent kernel, the sum of its
        diagonal. Otherwise the probes estimate it, which made the error 3 to 10 times larger.
      num_probes: how many random probes, at least 2.
      num_deflated: how many leading directions are treated exactly; fewer than `n`.
      num_steps: Lanczos steps, at least 2, of which at most `n` are taken.
      batch_size: how many vectors are multiplied at a time; all by default.

    Returns:
      The estimate with its standard error and an interval, which joins the gap between the two
      rules with Student's t over the probes. All 0 for an operator that is 0; NaN for one that
      shows itself not to be positive semi-definite, or gives NaN.

    Raises:
      ValueError: if an option is out of its range.

    Reference: S. Ubaru, J. Chen and Y. Saad, "Fast estimation of tr(f(A)) via stochastic Lanczos
    quadrature" (2017), algorithm 1; for the exact part, R. A. Meyer et al., "Hutch++: optimal
    stochastic trace estimation" (2021), algorithm 1; for the bracket, G. H. Golub and G. Meurant,
    "Matrices, moments and quadrature with applications" (2010), chapter 6.

    >>> from entropax import entropy
    >>> eigvals = jnp.arange(1.0, 101.0)
    >>> estimate = lanczos_entropy(jax.random.key(0), lambda x: eigvals * x, 100, trace=5050.0)
    >>> bool(estimate.lower < entropy.von_neumann(eigvals) < estimate.upper)
    True
    """
    if not 0 < order < math.inf:
        raise ValueError(f"`order` must be positive and finite, got {order}.")
    rules = quadrature(
        key,
        matvec,
        n,
        num_probes=num_probes,
        num_deflated=num_deflated,
        num_steps=num_steps,
        batch_size=batch_size,
    )
    if trace is None:
        total = spectral_estimate(rules, [lambda x: x], jnp.sum).value
    else:
        total = jnp.asarray(trace, rules.lengths.dtype)
    scale = jnp.where(total == 0, 1, total)
    rules = rules._replace(
        gauss_nodes=rules.gauss_nodes / scale,
        radau_nodes=rules.radau_nodes / scale,
        shorter_nodes=rules.shorter_nodes / scale,
    )

    def f(p: Array) -> Array:
        return -p * jnp.log(p) if order == 1 else p**order

    def of_sum(x: Array) -> Array:
        if order == 1:
            return x
        return jnp.log(jnp.maximum(x, jnp.finfo(x.dtype).tiny)) / (1 - order)

    def of_sums(sums: Array) -> Array:
        """The same where the shares sum to an estimate of 1, and its error is an error of them."""
        x, ones = sums
        return of_sum(x / ones + jnp.log(ones) if order == 1 else x / ones**order)

    if trace is None:
        estimate = spectral_estimate(rules, [f, lambda p: p], of_sums)
    else:
        estimate = spectral_estimate(rules, [f], lambda sums: of_sum(sums[0]), moments=[1.0])
    rounding = 10 * jnp.finfo(total.dtype).eps * math.log(n)
    result = LanczosEntropy(
        value=jnp.clip(estimate.value, 0, math.log(n)),
        stderr=estimate.stderr,
        lower=jnp.clip(estimate.lower - rounding, 0, math.log(n)),
        upper=jnp.clip(estimate.upper + rounding, 0, math.log(n)),
        trace=total,
    )
    result = jax.tree.map(lambda x: jnp.where(total == 0, 0, x), result)
    valid = rules.definite & (total >= 0)
    return jax.tree.map(lambda x: jnp.where(valid, x, jnp.nan), result)


@partial(jax.jit, static_argnames=("order", "num_probes", "num_deflated", "num_steps"))
def kernel_entropy(
    key: Key[Array, ""],
    kernel: Float[Array, "n n"],
    *,
    order: float = 1.0,
    num_probes: int = 16,
    num_deflated: int = 16,
    num_steps: int = 20,
) -> LanczosEntropy:
    r"""Von Neumann (or Renyi) entropy of a kernel that is stored but too large to solve.

    $$S = -\operatorname{tr} A \ln A, \qquad A = K / \operatorname{tr} K.$$

    `lanczos_entropy` of products with the kernel, with its exact trace. The rows of the kernel may
    be split among devices (`kernels.pool_kernel`): they stay where they are, the Lanczos vectors
    are split alike, and what the devices send each other is `n` numbers for each vector and step.

    Args:
      key: a key for the probes.
      kernel: `[n, n]` symmetric and positive semi-definite, of any scale. Rows and columns of zeros
        leave the entropy alone.
      order: as for `lanczos_entropy`, like all that follows.
      num_probes: how many random probes.
      num_deflated: how many leading directions are treated exactly.
      num_steps: Lanczos steps.

    Returns:
      The estimate with its standard error and an interval.

    Raises:
      ValueError: an option is out of its range, or the kernel lies on a mesh with explicit axes.

    >>> estimate = kernel_entropy(jax.random.key(0), jnp.diag(jnp.arange(100.0)))
    >>> bool(estimate.lower < 4.411 < estimate.upper)
    True
    """
    mesh_of(kernel)  # raises an error where JAX would speak of a factorisation of its own
    return lanczos_entropy(
        key,
        partial(jnp.matmul, kernel, precision="highest"),
        len(kernel),
        order=order,
        trace=jnp.trace(kernel),
        num_probes=num_probes,
        num_deflated=num_deflated,
        num_steps=num_steps,
    )
