"""From quadrature rules to a number that depends on traces of functions of the operator."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import scipy.special
from jaxtyping import Float

from entropax.spectra.quadrature import Quadrature
from entropax.types import Array

# Where the truth lies from the Gauss to the Gauss-Radau rule if their last step does not tell.
_USUAL = 0.25


class SpectralEstimate(NamedTuple):
    """A number with its uncertainty.

    Attributes:
      value: the estimate.
      stderr: its standard error over the probes.
      lower: lower end of an interval that holds the number with 95 % probability.
      upper: upper end. Where `upper - lower` is much wider than four `stderr`, more steps narrow
        it; otherwise more probes do.
    """

    value: Float[Array, ""]
    stderr: Float[Array, ""]
    lower: Float[Array, ""]
    upper: Float[Array, ""]


class _Control(NamedTuple):
    """A polynomial of which the trace is known.

    Attributes:
      heights: its values at the nodes of the probes.
      forms: what each probe says.
      rest: what they should say on average.
      rounding: how far rounding may have moved the latter.
    """

    heights: Float[Array, "p t"]
    forms: Float[Array, " p"]
    rest: Float[Array, ""]
    rounding: Float[Array, ""]

    def minus(self, amount: Array, other: "_Control") -> "_Control":
        """Subtract a multiple of another one."""
        heights, forms, rest, _ = (x - amount * y for x, y in zip(self, other, strict=True))
        return _Control(heights, forms, rest, self.rounding + jnp.abs(amount) * other.rounding)


def _controls(
    quadrature: Quadrature, moments: Sequence[float | Float[Array, ""]] | Float[Array, " m"]
) -> tuple[list[_Control], Float[Array, "p t"]]:
    """Polynomials that are orthonormal in the measure that the probes have seen; the measure."""
    nodes, weights, lengths = quadrature.gauss_nodes, quadrature.gauss_weights, quadrature.lengths
    probes = slice(len(nodes) - len(lengths), None)
    eps = jnp.finfo(nodes.dtype).eps
    measure = lengths[:, None] * weights[probes] / jnp.sum(lengths)
    scale = jnp.max(nodes[probes])
    scale = jnp.where(scale > 0, scale, 1)

    def inner(x: Array, y: Array) -> Array:
        return jnp.sum(measure * x * y)

    controls: list[_Control] = []
    for power, moment in enumerate([quadrature.n, *moments]):
        total = jnp.asarray(moment, nodes.dtype)
        for _ in range(power):
            total = total / scale
        heights = (nodes / scale) ** power
        forms = jnp.sum(weights * heights, axis=1)
        known = jnp.sum(forms[: probes.start])
        # Of products with vectors, and of a trace summed up elsewhere.
        rounding = 10 * eps * (jnp.abs(total) + known) if power else jnp.zeros_like(total)
        control = _Control(heights[probes], lengths * forms[probes], total - known, rounding)
        before = inner(control.heights, control.heights)
        for _ in range(2):
            for other in controls:
                control = control.minus(inner(control.heights, other.heights), other)
        # Equal eigenvalues differ by rounding, and a fit to rounding is noise.
        after = inner(control.heights, control.heights)
        new = after > jnp.square(100 * eps) * before
        norm = jnp.sqrt(jnp.where(new, after, 1))
        controls.append(_Control(*(jnp.where(new, x / norm, 0) for x in control)))
    return controls, measure


def _share(
    quadrature: Quadrature, heights: Callable[[Float[Array, "k t"]], Float[Array, "f k t"]]
) -> Float[Array, " f"]:
    """Where in the bracket of each trace, from 0 at Gauss to 1 at Gauss-Radau, to take its value.

    There the brackets before and after the last Lanczos step are divided in the same ratio.
    """
    probes = len(quadrature.lengths)

    def trace(nodes: Float[Array, "k t"], weights: Float[Array, "k t"]) -> Float[Array, " f"]:
        forms = jnp.sum(weights * heights(nodes), axis=2)
        random = quadrature.lengths * forms[:, -probes:]
        return jnp.sum(forms[:, :-probes], axis=1) + jnp.mean(random, axis=1)

    gauss = trace(quadrature.gauss_nodes, quadrature.gauss_weights)
    radau = trace(quadrature.radau_nodes, quadrature.radau_weights)
    before = jax.vmap(trace)(quadrature.shorter_nodes, quadrature.shorter_weights)
    moved, radau_moved = jnp.abs(gauss - before[0]), jnp.abs(radau - before[1])
    both = moved + radau_moved
    tells = both > 100 * jnp.finfo(both.dtype).eps * (jnp.abs(gauss) + jnp.abs(radau))
    return jnp.where(tells, moved / jnp.where(tells, both, 1), _USUAL)


def spectral_estimate(
    quadrature: Quadrature,
    functions: Sequence[Callable[[Array], Array]],
    combine: Callable[[Float[Array, " f"]], Float[Array, ""]],
    *,
    moments: Sequence[float | Float[Array, ""]] | Float[Array, " m"] = (),
) -> SpectralEstimate:
    r"""A number made of traces of functions of an operator, with its uncertainty.

    $$h\big(\operatorname{tr} f_1(A), \operatorname{tr} f_2(A), \dots\big), \qquad
      \operatorname{tr} f(A) = \sum_i q_i^\top f(A)\, q_i
      + \sum_j c_j \Big(\operatorname{tr} A^j - \sum_i q_i^\top A^j q_i\Big)
      + \mathbb{E} \Big[g^\top \Big(f(A) - \sum_j c_j A^j\Big) g\Big].$$

    The vectors $q_i$ of the quadrature are treated exactly and the probes $g$ are averaged. The
    polynomial, of a degree as high as traces are known, is the best fit to $f$ in the spectrum that
    the probes have seen: what is left of $f$ varies little. A trace that says less than the probes,
    because what the $q_i$ leave of it is lost in rounding, is used accordingly less.

    The two rules bracket each trace if the derivatives of $f$ alternate in sign, as those of
    $\lambda^t$ and $\lambda^t \ln \lambda$ do from the order $t$ on. The value in it divides the
    brackets before and after the last Lanczos step in the same ratio, since their ends approach the
    trace at about the same rate: near the Gauss-Radau rule where many eigenvalues are 0, and near
    the other where none is close to 0. On 20 spectra of kernels, with and without equal points, and
    of random matrices, it was off by at most 15 % of the bracket with 16 steps, and 33 % with 7.
    The error over the probes follows from the derivatives of $h$.

    Args:
      quadrature: the rules, from `quadrature`.
      functions: the functions $f$, which act on each number of an array. They are called with
        positive numbers; at 0 they are taken to be 0.
      combine: $h$, from the traces `[f]` to a number, differentiable.
      moments: the traces of $A$, $A^2$, and so on, as far as they are known exactly; at most twice
        as many as there were Lanczos steps, less 2.

    Returns:
      The estimate with its standard error and an interval, which joins the gap between the two
      rules with Student's t over the probes. NaN for an operator that showed itself not to be
      positive semi-definite, or gave NaN.

    Raises:
      ValueError: if there are more moments than the rules are exact for.

    Reference: R. A. Meyer et al., "Hutch++: optimal stochastic trace estimation" (2021), algorithm
    1, for the exact part; G. H. Golub and G. Meurant, "Matrices, moments and quadrature with
    applications" (2010), chapter 6, for the bracket.

    >>> from entropax.spectra.quadrature import quadrature
    >>> eigvals = jnp.arange(1.0, 101.0)
    >>> rules = quadrature(jax.random.key(0), lambda x: eigvals * x, 100)
    >>> root = spectral_estimate(rules, [jnp.sqrt], lambda sums: sums[0], moments=[5050.0])
    >>> bool(root.lower < jnp.sum(jnp.sqrt(eigvals)) < root.upper)
    True
    """
    num_probes, num_steps = len(quadrature.lengths), quadrature.gauss_nodes.shape[1]
    if len(moments) > 2 * num_steps - 2:
        raise ValueError(
            f"Rules of {num_steps} steps are exact for {2 * num_steps - 2} `moments`, got "
            f"{len(moments)}."
        )
    start = len(quadrature.gauss_nodes) - num_probes
    controls, measure = _controls(quadrature, moments)

    def heights(nodes: Float[Array, "k t"]) -> Float[Array, "f k t"]:
        safe = jnp.where(nodes > 0, nodes, 1)
        return jnp.stack([jnp.where(nodes > 0, f(safe), 0) for f in functions])

    at_gauss, at_radau = heights(quadrature.gauss_nodes), heights(quadrature.radau_nodes)
    fits = []
    for control in controls:
        noise = jnp.var(control.forms, ddof=1) / num_probes
        doubt = noise + jnp.square(control.rounding)
        trust = jnp.where(doubt > 0, noise / jnp.where(doubt > 0, doubt, 1), 1)
        fits.append(trust * jnp.sum(measure * control.heights * at_gauss[:, start:], axis=(1, 2)))

    def known_and_random(at_nodes: Array, weights: Array) -> tuple[Array, Array]:
        forms = jnp.sum(weights * at_nodes, axis=2)
        known, random = jnp.sum(forms[:, :start], axis=1), quadrature.lengths * forms[:, start:]
        for fit, control in zip(fits, controls, strict=True):
            known = known + fit * control.rest
            random = random - fit[:, None] * control.forms
        return known + jnp.mean(random, axis=1), random

    gauss, gauss_random = known_and_random(at_gauss, quadrature.gauss_weights)
    radau, radau_random = known_and_random(at_radau, quadrature.radau_weights)

    def error(random: Float[Array, " p"]) -> Float[Array, ""]:
        return jnp.std(random, ddof=1) / math.sqrt(num_probes)

    share = _share(quadrature, heights)
    value, slopes = jax.value_and_grad(combine)((1 - share) * gauss + share * radau)
    between = (1 - share[:, None]) * gauss_random + share[:, None] * radau_random
    stderr = error(slopes @ between)
    student = float(scipy.special.stdtrit(num_probes - 1, 0.975))

    def end(side: int) -> Float[Array, ""]:
        """The lower (-1) or upper (1) end: of each trace the rule that leads there, and further.

        Further means the change of the traces which the probes allow and which moves `h` most.
        """
        nearest = (side * slopes * gauss) > (side * slopes * radau)
        middle = jnp.where(nearest, gauss, radau)
        random = jnp.where(nearest[:, None], gauss_random, radau_random)
        random = random - jnp.mean(random, axis=1, keepdims=True)
        along = slopes @ random
        deviation = jnp.sqrt(jnp.sum(jnp.square(along)) / (num_probes * (num_probes - 1)))
        covariance = random @ along / (num_probes * (num_probes - 1))
        shift = covariance / jnp.where(deviation > 0, deviation, 1)
        rounding = 10 * jnp.finfo(middle.dtype).eps * jnp.abs(middle) * jnp.sign(slopes)
        return combine(middle + side * (student * shift + rounding))

    lower, upper = end(-1), end(1)
    estimate = SpectralEstimate(value, stderr, jnp.minimum(lower, value), jnp.maximum(upper, value))
    return jax.tree.map(lambda x: jnp.where(quadrature.definite, x, jnp.nan), estimate)
