r"""What classes tell about points, from the entropies of subsets of the points.

Two quantities answer it. The entropy that a subset loses when it is a class,

$$I = \sum_c w_c \big(\overline{H}_{n_c} - H_c\big), \qquad w_c = n_c / n,$$

compares each class with random subsets of its size; it is the one that was published. Its greatest
value depends on the points and on the sizes of the classes. The Holevo quantity of a density matrix
$\rho$ of all points and its principal blocks $\rho_c$, one for each class,

$$\chi = H(\rho) - \sum_c w_c H(\rho_c / w_c), \qquad w_c = \operatorname{tr} \rho_c,$$

lies between 0 and $H(w)$, which it reaches when the classes are as good as orthogonal. Random
classes have a $\chi_0 > 0$, so that what compares data sets is $(\chi - \chi_0) / (H(w) - \chi_0)$.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, Key

from entropax.diffusion.classes import Classes
from entropax.diffusion.classes import classes as to_classes
from entropax.diffusion.points import points
from entropax.diffusion.random_classes import Rows, at_most, published_subsets, random_partitions
from entropax.types import Array

SCHEMES = ("permutation", "compat", "holevo")
# The published code takes the entropy of at most so many points.
PUBLISHED_POINTS = 10_000
# Where random classes come so near to the maximum, nothing is left to compare.
_NO_ROOM = 0.01
# Entropies of subsets, given by their rows, and their standard errors.
Entropies = Callable[[Sequence[Rows]], tuple[np.ndarray, np.ndarray]]


class ClassTable(NamedTuple):
    """One entry for each class.

    Attributes:
      names: names of the classes.
      counts: `[c]` numbers of examples.
      weights: `[c]` the weights of the mean, which sum to 1.
      entropies: `[c]` in nats.
      null_entropies: `[c]` means over random classes of the same sizes.
      contributions: `[c]` the weight times what the entropy is below that mean. They sum to the
        value, or, for a Holevo quantity, to about what the value is above its null mean.
    """

    names: tuple[Any, ...]
    counts: Int[np.ndarray, " c"]
    weights: Float[np.ndarray, " c"]
    entropies: Float[np.ndarray, " c"]
    null_entropies: Float[np.ndarray, " c"]
    contributions: Float[np.ndarray, " c"]


class MutualInformation(NamedTuple):
    r"""How much classes tell, in nats, beside how much random classes do.

    A difference that float rounding explains counts as none. With one repetition there is no spread
    to estimate: `stderr` (of random subsets), `null_std` and `z_score` are NaN.

    Attributes:
      value: $I$, or $\chi$.
      stderr: standard error of the value, from the random subsets and from entropies that were
        sampled; 0 for a Holevo quantity whose entropies are all exact.
      adjusted: `(value - null_mean) / (maximum - null_mean)`, at most 1, and about 0 for classes
        that tell nothing; 0 where random classes come within 1 % of the maximum, which leaves no
        room: with one class, points that are all equal, or a bandwidth so small that every point is
        alone.
      maximum: the greatest value possible: $H(w)$ for a Holevo quantity; for random subsets their
        mean entropy, which only classes that are one point each would reach.
      null_mean: mean over random classes of the same sizes; 0 for random subsets by construction.
        Random classes of a Holevo quantity count as shares of their own maximum, times `maximum`.
      null_std: standard deviation over random classes.
      z_score: the distance of the value from the null mean, in standard deviations of a difference
        between one class assignment and the mean over the random ones; 0 if both are equal,
        infinite if random classes do not vary but the value is elsewhere.
      p_value: $(1 + \#\{\text{null} \ge \text{value}\}) / (1 + R)$: the probability, if classes
        told nothing, of a value this high. At least `1 / (1 + R)`.
      entropy: of all points together; None for random subsets, which do not need it.
      null: `[r]` the values of random classes, as in `null_mean`.
      classes: the table of the classes.
    """

    value: float
    stderr: float
    adjusted: float
    maximum: float
    null_mean: float
    null_std: float
    z_score: float
    p_value: float
    entropy: float | None
    null: Float[np.ndarray, " r"]
    classes: ClassTable

    def table(self) -> str:
        """The classes as lines of text, with the values on top."""
        head = (
            f"{self.value:.4f} nats (adjusted {self.adjusted:.3f}, z {self.z_score:.1f}, "
            f"p {self.p_value:.3g})"
        )
        names = [str(name) for name in self.classes.names]
        wide = max(5, *map(len, names))
        lines = [head, f"{'class':>{wide}}  count  entropy   random  contribution"]
        for name, count, _, *numbers in zip(names, *self.classes[1:], strict=True):
            entropy, null, part = numbers
            lines.append(f"{name:>{wide}} {count:6d} {entropy:8.4f} {null:8.4f} {part:13.4f}")
        return "\n".join(lines)


def random_subset_information(
    entropies: Entropies,
    classes: Classes,
    *,
    scheme: str = "permutation",
    num_repetitions: int = 5,
    key: Key[Array, ""] | None = None,
    seed: int | None = 0,
    max_points: int | None = PUBLISHED_POINTS,
    rounding: float = 0.0,
) -> MutualInformation:
    r"""The entropy that subsets lose by being a class.

    $$I = \sum_c \frac{n_c}{n} \Big(\frac1R \sum_{r=1}^R H(s_{rc}) - H_c\Big), \qquad
      |s_{rc}| = n_c.$$

    In the scheme "permutation" the subsets of a repetition are a partition, like the classes, so
    that what one of them has in excess another lacks. In "compat", the published code's, the
    subsets of every class are drawn anew from the same seed: those of equal classes are the same,
    and the value varies eight times as much.

    Args:
      entropies: subsets to entropies and their standard errors, `[s]` each.
      classes: the classes.
      scheme: "permutation" or "compat".
      num_repetitions: random subsets `R` for each class.
      key: for the partitions; `jax.random.key(0)` by default.
      seed: of Python's generator in "compat"; None is a different one each time.
      max_points: in "compat", the most points whose entropy is taken: of a larger subset, that many
        are drawn with the seed 0, from where the subsets of the class that follow go on.
      rounding: differences in entropy that mean nothing.

    Returns:
      The information, with its null distribution and a table of the classes.

    Raises:
      ValueError: if the scheme is unknown or there are no repetitions.
    """
    check_repetitions(num_repetitions)
    members = classes.members()
    if scheme == "permutation":
        subsets = random_partitions(classes, num_repetitions, key)
    elif scheme == "compat":
        subsets = published_subsets(
            classes.counts, num_repetitions=num_repetitions, seed=seed, max_points=max_points
        )
        members = [at_most(rows, max_points)[0] for rows in members]
    else:
        raise ValueError(f"`scheme` must be 'permutation' or 'compat' here, got {scheme!r}.")
    values, errors = entropies([*members, *(rows for drawn in subsets for rows in drawn)])
    values = values.reshape(num_repetitions + 1, -1)
    weights = classes.counts / classes.counts.sum()
    means = values @ weights  # of the classes, then of the random ones
    above = np.mean(means[1:])
    spread = _std(means[1:])
    sampled = np.square(errors).reshape(values.shape) @ np.square(weights)
    noise = math.sqrt(sampled[0] + np.mean(sampled[1:]) / num_repetitions)
    return _summary(
        value=float(above - means[0]),
        stderr=math.hypot(spread / math.sqrt(num_repetitions), noise),
        maximum=float(above),
        null=above - means[1:],
        entropy=None,
        table=_table(classes, weights, values),
        rounding=rounding,
    )


def holevo_information(
    entropy: float,
    stderr: float,
    row_weights: Float[np.ndarray, " n"],
    entropies: Entropies,
    classes: Classes,
    *,
    num_repetitions: int = 5,
    key: Key[Array, ""] | None = None,
    bounded: bool = True,
    rounding: float = 0.0,
) -> MutualInformation:
    r"""The Holevo quantity of the blocks of a density matrix, one for each class.

    $$\chi = H(\rho) - \sum_c w_c H(\rho_c / w_c), \qquad 0 \le \chi \le H(w).$$

    Args:
      entropy: of the whole matrix.
      stderr: its standard error, 0 if it is exact.
      row_weights: `[n]` the diagonal of the matrix; it sums to 1.
      entropies: subsets to the entropies of their blocks and standard errors, `[s]` each.
      classes: the classes.
      num_repetitions: permutations of the labels that make random classes.
      key: for the permutations; `jax.random.key(0)` by default.
      bounded: whether the bounds hold; errors of sampling and rounding are cut off there then.
      rounding: differences in entropy that mean nothing.

    Returns:
      The information, with its null distribution and a table of the classes.

    Raises:
      ValueError: if there are no repetitions.

    Reference: A. S. Holevo, "Bounds for the quantity of information transmitted by a quantum
    communication channel" (1973); M. A. Nielsen and I. L. Chuang, "Quantum computation and quantum
    information" (2000), section 12.1.1.
    """
    check_repetitions(num_repetitions)
    partitions = [classes.members(), *random_partitions(classes, num_repetitions, key)]
    values, errors = entropies([rows for partition in partitions for rows in partition])
    values = values.reshape(len(partitions), -1)
    errors = errors.reshape(values.shape)
    weights = np.array(
        [[math.fsum(row_weights[rows]) for rows in partition] for partition in partitions]
    )
    chi = entropy - np.sum(weights * values, axis=1)
    highest = np.array([_shannon(row) for row in weights])
    if bounded:
        chi = np.clip(chi, 0, highest)
    # Where some points weigh more than others, random classes differ from the real ones in what
    # they could reach at most; what they do reach counts as a share of that.
    shares = np.divide(chi[1:], highest[1:], where=highest[1:] > 0, out=np.zeros(len(chi) - 1))
    noise = math.sqrt(np.sum(np.square(weights[0] * errors[0])))
    return _summary(
        value=float(chi[0]),
        stderr=math.hypot(stderr, noise),
        maximum=float(highest[0]),
        null=shares * highest[0],
        entropy=entropy,
        table=_table(classes, weights[0], values),
        rounding=rounding,
    )


def check_scheme(scheme: str) -> None:
    """Raise a ValueError unless there is such a scheme."""
    if scheme not in SCHEMES:
        raise ValueError(f"`scheme` must be one of {SCHEMES}, got {scheme!r}.")


def points_and_classes(z: Any, y: Any) -> tuple[Float[Array, "n d"], Classes]:
    """Points, and as many labels as classes.

    Raises:
      ValueError: if they differ in length, a number is not finite, or a label is missing.
    """
    data = points(z)
    groups = to_classes(y)
    if len(groups.labels) != len(data):
        raise ValueError(
            f"`z` and `y` must have one row for each example, got {len(data)} and "
            f"{len(groups.labels)}."
        )
    return data, groups


def rounding_of(data: Float[Array, "n d"]) -> float:
    """Differences of means of entropies that rounding explains."""
    return 16 * float(jnp.finfo(data.dtype).eps) * max(1.0, math.log(len(data)))


def check_repetitions(num_repetitions: int) -> None:
    """Raise a ValueError unless there is at least one repetition."""
    if num_repetitions < 1:
        raise ValueError(f"`num_repetitions` must be at least 1, got {num_repetitions}.")


def _shannon(weights: Float[np.ndarray, " c"]) -> float:
    positive = weights[weights > 0]
    return max(0.0, -math.fsum(positive * np.log(positive)))


def _std(values: np.ndarray) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else math.nan


def _table(classes: Classes, weights: np.ndarray, values: np.ndarray) -> ClassTable:
    random_ones = values[1:].mean(axis=0)
    return ClassTable(
        names=classes.names,
        counts=classes.counts,
        weights=weights,
        entropies=values[0],
        null_entropies=random_ones,
        contributions=weights * (random_ones - values[0]),
    )


def _summary(
    *,
    value: float,
    stderr: float,
    maximum: float,
    null: Float[np.ndarray, " r"],
    entropy: float | None,
    table: ClassTable,
    rounding: float,
) -> MutualInformation:
    null_mean, null_std = float(np.mean(null)), _std(null)
    excess = value - null_mean
    room = maximum - null_mean
    spread = null_std * math.sqrt(1 + 1 / len(null))
    if abs(excess) <= rounding:
        z_score = math.nan if math.isnan(spread) else 0.0
    else:
        z_score = math.copysign(math.inf, excess) if spread <= rounding else excess / spread
    return MutualInformation(
        value=value,
        stderr=stderr,
        adjusted=excess / room if room > max(rounding, _NO_ROOM * maximum) else 0.0,
        maximum=maximum,
        null_mean=null_mean,
        null_std=null_std,
        z_score=z_score,
        p_value=(1 + int(np.sum(null >= value - rounding))) / (1 + len(null)),
        entropy=entropy,
        null=null,
        classes=table,
    )
