"""The entropy of an operator that is known only through its products with vectors."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import scipy.special
from jaxtyping import Bool, Float, Int, Key

from entropax import entropy
from entropax.types import Array

MatVec = Callable[[Array], Array]


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


def _length(x: Float[Array, " n"]) -> Float[Array, ""]:
    """Euclidean length, for entries of any size."""
    largest = jnp.max(jnp.abs(x))
    safe = jnp.where(largest > 0, largest, 1)
    return safe * jnp.sqrt(jnp.sum(jnp.square(x / safe)))


def _unit(x: Float[Array, " n"]) -> tuple[Float[Array, " n"], Float[Array, ""]]:
    """The direction of `x` (0 if it has none) and its length."""
    length = _length(x)
    return x / jnp.where(length > 0, length, 1), length


def lanczos(
    matvec: MatVec, start: Float[Array, " n"], *, num_steps: int
) -> tuple[Float[Array, " t"], Float[Array, " t-1"]]:
    r"""Lanczos' tridiagonalisation of a symmetric operator, with full re-orthogonalisation.

    $$Q^\top A Q = T, \qquad Q^\top Q = I, \qquad Q e_1 = v / \|v\|.$$

    Where the products of `A` with the vectors so far lead to no new direction, the rest of `T` is
    0. The basis takes `n` times `num_steps` numbers.

    Args:
      matvec: `A x` for `x [n]`, linear and symmetric.
      start: `[n]` the first vector `v`.
      num_steps: the size `t` of `T`, and the number of products; at most `n`.

    Returns:
      The diagonal `[t]` and the off-diagonal `[t - 1]` of `T`.

    Reference: G. H. Golub and G. Meurant, "Matrices, moments and quadrature with applications"
    (2010), section 4.1.

    >>> diagonal, off = lanczos(lambda x: jnp.array([1.0, 3.0]) * x, jnp.ones(2), num_steps=2)
    >>> diagonal.round(5).tolist(), off.round(5).tolist()
    ([2.0, 2.0], [1.0])
    """

    def step(
        carry: tuple[Array, Array], t: Int[Array, ""]
    ) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        basis, q = carry
        basis = basis.at[t].set(q)

        def orthogonal(x: Array) -> Array:
            inside = jnp.matmul(basis, x, precision="highest")
            return x - jnp.matmul(inside, basis, precision="highest")

        product = matvec(q)
        if product.shape != q.shape:
            raise ValueError(f"`matvec` must map {q.shape} to itself, got {product.shape}.")
        diagonal = jnp.sum(q * product)
        following, first = _unit(orthogonal(product))
        following, second = _unit(orthogonal(following))
        # Twice is enough, unless the first residual was rounding that lies in the old directions:
        # then there is no new one, and to go on from noise would give values outside the spectrum.
        new = second > 0.5
        return (basis, following * new), (diagonal, first * second * new)

    q, _ = _unit(start)
    basis = jnp.zeros((num_steps, *start.shape), start.dtype)
    _, (diagonal, off) = jax.lax.scan(step, (basis, q), jnp.arange(num_steps))
    return diagonal, off[:-1]


class _Rule(NamedTuple):
    """Nodes and weights of quadrature rules, stacked over rows."""

    nodes: Float[Array, "k t"]
    weights: Float[Array, "k t"]


def _rules(
    diagonals: Float[Array, "k t"], offs: Float[Array, "k t-1"]
) -> tuple[_Rule, _Rule, Bool[Array, ""]]:
    """The Gauss rules of tridiagonal matrices, and the Gauss-Radau rules with a node at 0.

    From the singular values of a Cholesky factor rather than the eigenvalues of the matrix: nodes
    are their squares, so that those far below the largest, where the entropy lives, keep their
    digits in float32. Making the last pivot 0 makes 0 a node.

    The last value tells whether all matrices are positive semi-definite, but for rounding.
    """
    # The pivots of the matrix plus as much as rounding explains are positive if it is definite.
    slack = entropy.ROUNDING * jnp.max(jnp.abs(diagonals))

    def over(x: Array, pivot: Array) -> Array:
        return jnp.where(pivot > 0, x / jnp.where(pivot > 0, pivot, 1) * x, 0)

    def step(
        carry: tuple[Array, Array], row: tuple[Array, Array]
    ) -> tuple[tuple[Array, Array], tuple[Array, Array, Array]]:
        pivot, slackened = carry
        following, between = row
        # Rounding may leave a row more to give to the next than a semi-definite matrix can.
        taken = jnp.minimum(over(between, pivot), jnp.maximum(following, 0))
        after = following + slack - over(between, slackened)
        return (following - taken, after), (pivot, taken, slackened)

    first = (diagonals[:, 0], diagonals[:, 0] + slack)
    rows = (diagonals[:, 1:].T, offs.T)
    (last, slackened), (pivots, taken, before) = jax.lax.scan(step, first, rows)
    definite = jnp.all(slackened >= 0) & jnp.all(before >= 0)
    gauss = jnp.vstack([pivots, last])
    pivots = jnp.hstack([gauss, gauss.at[-1].set(0)]).T
    taken = jnp.hstack([taken, taken]).T

    def decompose(row: tuple[Array, Array]) -> _Rule:
        pivots, taken = row
        factor = jnp.diag(jnp.sqrt(jnp.maximum(pivots, 0))) + jnp.diag(jnp.sqrt(taken), -1)
        vectors, values, _ = jnp.linalg.svd(factor)
        return _Rule(jnp.square(values), jnp.square(vectors[0]))

    # One after the other: a batched decomposition can dead-lock on several simulated devices.
    both = jax.lax.map(decompose, (pivots, taken))
    k = len(diagonals)
    return _Rule(*(x[:k] for x in both)), _Rule(*(x[k:] for x in both)), definite


def _rows(
    key: Key[Array, ""],
    products: Callable[[Float[Array, "k n"]], Float[Array, "k n"]],
    n: int,
    num_deflated: int,
    num_probes: int,
) -> Float[Array, "k n"]:
    """Orthonormal rows that nearly span the leading eigenvectors, then probes orthogonal to them.

    Two rounds of subspace iteration: the second halves the error of the entropy on kernels with a
    dominant eigenvalue, at the price of `num_deflated` products.
    """
    key_leading, key_probes = jax.random.split(key)
    probes = jax.random.rademacher(key_probes, (num_probes, n), dtype=float)
    if num_deflated == 0:
        return probes
    leading = jax.random.rademacher(key_leading, (num_deflated, n), dtype=float)
    for _ in range(2):
        leading = products(leading)
        largest = jnp.max(jnp.abs(leading))
        leading = jnp.linalg.qr((leading / jnp.where(largest > 0, largest, 1)).T)[0].T
    for _ in range(2):
        inside = jnp.matmul(probes, leading.T, precision="highest")
        probes = probes - jnp.matmul(inside, leading, precision="highest")
    return jnp.concatenate([leading, probes])


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

    >>> eigvals = jnp.arange(1.0, 101.0)
    >>> estimate = lanczos_entropy(jax.random.key(0), lambda x: eigvals * x, 100, trace=5050.0)
    >>> bool(estimate.lower < entropy.von_neumann(eigvals) < estimate.upper)
    True
    """
    if not 0 < order < math.inf:
        raise ValueError(f"`order` must be positive and finite, got {order}.")
    if num_probes < 2:
        raise ValueError(f"`num_probes` must be at least 2, got {num_probes}.")
    if not 0 <= num_deflated < n:
        raise ValueError(
            f"`num_deflated` must be from 0 to n - 1 = {n - 1}, got {num_deflated}; a "
            "small kernel is better solved exactly, with `density`."
        )
    if num_steps < 2:
        raise ValueError(f"`num_steps` must be at least 2, got {num_steps}.")
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")

    def map_rows(f: Callable[[Array], Any], rows: Float[Array, "k n"]) -> Any:
        return jax.lax.map(f, rows, batch_size=batch_size or len(rows))

    rows = _rows(key, lambda x: map_rows(matvec, x), n, num_deflated, num_probes)
    diagonals, offs = map_rows(lambda x: lanczos(matvec, x, num_steps=min(num_steps, n)), rows)

    lengths = jnp.sum(jnp.square(rows), axis=1)
    traces = lengths * diagonals[:, 0]

    # From here on: numbers that add up over the exact rows, and have a mean over the probes.
    exact, probes = slice(0, num_deflated), slice(num_deflated, None)
    if trace is None:
        mean = jnp.sum(traces[probes]) / jnp.sum(lengths[probes])
        total = jnp.sum(traces[exact]) + (n - num_deflated) * mean
    else:
        total = jnp.asarray(trace, traces.dtype)
    scale = jnp.where(total == 0, 1, total)
    traces, diagonals, offs = traces / scale, diagonals / scale, offs / scale
    gauss_rule, radau_rule, definite = _rules(diagonals, offs)

    def f(p: Array) -> Array:
        safe = jnp.where(p > 0, p, 1)
        return jnp.where(p > 0, -p * jnp.log(safe) if order == 1 else safe**order, 0)

    seen = gauss_rule.nodes[probes]
    heights = f(seen)
    measure = lengths[probes, None] * gauss_rule.weights[probes] / jnp.sum(lengths[probes])
    middle, height = jnp.sum(measure * seen), jnp.sum(measure * heights)
    spread = jnp.sum(measure * jnp.square(seen - middle))
    slope = jnp.sum(measure * (seen - middle) * (heights - height))
    # Equal eigenvalues differ by rounding, and a slope through rounding is noise.
    varied = spread > jnp.square(100 * jnp.finfo(spread.dtype).eps * middle)
    slope = jnp.where(varied, slope / jnp.where(varied, spread, 1), 0)
    intercept = height - slope * middle
    line = intercept * lengths + slope * traces
    line_trace = intercept * (n - num_deflated) + slope * (1 - jnp.sum(traces[exact]))

    def known_and_random(rule: _Rule) -> tuple[Array, Array]:
        forms = lengths * jnp.sum(rule.weights * f(rule.nodes), axis=1)
        return jnp.sum(forms[exact]) + line_trace, (forms - line)[probes]

    gauss_known, gauss = known_and_random(gauss_rule)
    radau_known, radau = known_and_random(radau_rule)
    if trace is None:
        # How the result follows the trace of each probe. Its mean is 0: it only adds to the error.
        rough = gauss_known + jnp.mean(gauss)
        drift = slope + (1 - rough if order == 1 else -order * rough)
        mean = jnp.sum(traces[probes]) / jnp.sum(lengths[probes])
        drift = drift * (traces - mean * lengths)[probes]
        gauss, radau = gauss + drift, radau + drift

    def error(x: Array) -> Array:
        return jnp.std(x, ddof=1) / math.sqrt(num_probes)

    def in_nats(x: Array) -> Array:
        if order != 1:
            x = jnp.log(jnp.maximum(x, jnp.finfo(x.dtype).tiny)) / (1 - order)
        return jnp.clip(x, 0, math.log(n))

    student = float(scipy.special.stdtrit(num_probes - 1, 0.975))
    middles = jnp.stack([gauss_known + jnp.mean(gauss), radau_known + jnp.mean(radau)])
    halves = student * jnp.stack([error(gauss), error(radau)])
    ends = in_nats(jnp.stack([middles - halves, middles + halves]))
    # On the kernels measured the Gauss rule was off by 0.03 to 0.47 of the gap between the two.
    value = 0.75 * middles[0] + 0.25 * middles[1]
    stderr = error(0.75 * gauss + 0.25 * radau)
    if order != 1:
        stderr = stderr / jnp.abs(value * (1 - order))
    rounding = 10 * jnp.finfo(value.dtype).eps * math.log(n)
    estimate = LanczosEntropy(
        value=in_nats(value),
        stderr=stderr,
        lower=jnp.maximum(jnp.min(ends) - rounding, 0),
        upper=jnp.minimum(jnp.max(ends) + rounding, math.log(n)),
        trace=total,
    )
    estimate = jax.tree.map(lambda x: jnp.where(total == 0, 0, x), estimate)
    valid = definite & (total >= 0)
    return jax.tree.map(lambda x: jnp.where(valid, x, jnp.nan), estimate)
